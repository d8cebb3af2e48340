"""Settings of the extension: METAFLOW_SANDBOX_… in the environment, SANDBOX_… in Metaflow's configuration."""

from metaflow.metaflow_config import SPIN_ALLOWED_DECORATORS as _SPIN_ALLOWED
from metaflow.metaflow_config_funcs import from_conf

from ..plugins import STEP_DECORATORS_DESC as _DECORATORS

# Defaults of the decorator's attributes of the same names.
SANDBOX_BACKEND = from_conf("SANDBOX_BACKEND")
SANDBOX_IMAGE = from_conf("SANDBOX_IMAGE")
SANDBOX_CPU = from_conf("SANDBOX_CPU")
SANDBOX_MEMORY = from_conf("SANDBOX_MEMORY")
SANDBOX_DISK = from_conf("SANDBOX_DISK")
SANDBOX_GPU = from_conf("SANDBOX_GPU")
SANDBOX_TIMEOUT = from_conf("SANDBOX_TIMEOUT")
SANDBOX_ENV = from_conf("SANDBOX_ENV")
SANDBOX_MOUNTS = from_conf("SANDBOX_MOUNTS")
SANDBOX_PACKAGES = from_conf("SANDBOX_PACKAGES")
SANDBOX_REQUIREMENTS = from_conf("SANDBOX_REQUIREMENTS")
SANDBOX_PYTHON = from_conf("SANDBOX_PYTHON")
SANDBOX_SECRETS = from_conf("SANDBOX_SECRETS")
SANDBOX_NETWORK = from_conf("SANDBOX_NETWORK")
SANDBOX_ISOLATION = from_conf("SANDBOX_ISOLATION")
SANDBOX_EXECUTABLE = from_conf("SANDBOX_EXECUTABLE")
SANDBOX_DATASTORE_ACCESS = from_conf("SANDBOX_DATASTORE_ACCESS")
SANDBOX_BACKEND_OPTIONS = from_conf("SANDBOX_BACKEND_OPTIONS")
SANDBOX_KEEP = from_conf("SANDBOX_KEEP")

# "quiet" leaves out of the tasks' logs what is no trouble, and the summary of a run.
SANDBOX_LOG = from_conf("SANDBOX_LOG", "phases")
# A file to which a JSON object a line is added for everything that happens to a sandbox.
SANDBOX_EVENTS = from_conf("SANDBOX_EVENTS", "")
# 1, or a directory: scripts, specs and frames are written there, and the sandboxes of failed steps are kept.
SANDBOX_DEBUG = from_conf("SANDBOX_DEBUG", "")

# Files that every sandbox gets: a JSON list of {"local", "remote", "mode"}.
SANDBOX_UPLOADS = from_conf("SANDBOX_UPLOADS")

# What packages are resolved for, when it is not the platform of the backend's sandboxes: "linux-aarch64".
SANDBOX_TARGET_PLATFORM = from_conf("SANDBOX_TARGET_PLATFORM")
# micromamba for @conda and @pypi, for that platform; Metaflow's own or a kept download when unset.
SANDBOX_MICROMAMBA_PATH = from_conf("SANDBOX_MICROMAMBA_PATH")
# 0: the image has its own micromamba.
SANDBOX_STAGE_MICROMAMBA = from_conf("SANDBOX_STAGE_MICROMAMBA")
# Where environments of packages are kept; in the user's cache directory when unset.
SANDBOX_CACHE = from_conf("SANDBOX_CACHE")
# MiB of them that are kept; 0 for any number.
SANDBOX_CACHE_SIZE = from_conf("SANDBOX_CACHE_SIZE", "20480")

# Numbers are text until they are used: Metaflow answers one that is none with a traceback, at import.

# Seconds for which the sandbox of a failed step is kept, where it is.
SANDBOX_KEEP_SECONDS = from_conf("SANDBOX_KEEP_SECONDS", "900")
# How often a sandbox that failed before user code ran is made again.
SANDBOX_MAX_INFRA_RETRIES = from_conf("SANDBOX_MAX_INFRA_RETRIES", "2")
# Sandboxes of a backend at once, in one run; 0 for as many as it makes. What a provider refuses is learned.
SANDBOX_MAX_SANDBOXES = from_conf("SANDBOX_MAX_SANDBOXES", "0")
# New sandboxes of a backend a second, in one run, such as `0.5`; 0 for any number.
SANDBOX_MAX_RATE = from_conf("SANDBOX_MAX_RATE", "0")
# `any`, or `vetted`: only artifacts made of allow-listed classes leave a sandbox.
SANDBOX_ARTIFACTS = from_conf("SANDBOX_ARTIFACTS", "any")
# More classes for `vetted`, comma-separated: `pandas.*,mypackage.Model`.
SANDBOX_ARTIFACT_GLOBALS = from_conf("SANDBOX_ARTIFACT_GLOBALS", "")
# A role whose sessions tasks get, with direct access to the datastore.
SANDBOX_S3_ROLE_ARN = from_conf("SANDBOX_S3_ROLE_ARN", "")
# Where STS is, when it is not AWS's: MinIO's endpoint.
SANDBOX_S3_STS_ENDPOINT = from_conf("SANDBOX_S3_STS_ENDPOINT", "")
# Seconds of such a session, 900 to 43200.
SANDBOX_S3_ROLE_DURATION = from_conf("SANDBOX_S3_ROLE_DURATION", "3600")
# `keep`: give a session token on to R2, which has none of AWS's.
SANDBOX_S3_SESSION_TOKEN = from_conf("SANDBOX_S3_SESSION_TOKEN", "")
# A token of Cloudflare's API, for temporary credentials of R2.
SANDBOX_R2_API_TOKEN = from_conf("SANDBOX_R2_API_TOKEN", "")
# Where that API is, when it is not Cloudflare's own address.
SANDBOX_R2_API_URL = from_conf("SANDBOX_R2_API_URL", "")
# MiB of one artifact, once inflated.
SANDBOX_MAX_ARTIFACT = from_conf("SANDBOX_MAX_ARTIFACT", "8192")
# MiB that one task may send.
SANDBOX_MAX_UPLOAD = from_conf("SANDBOX_MAX_UPLOAD", "65536")
# MiB of output that one task may print; the rest is dropped.
SANDBOX_MAX_OUTPUT = from_conf("SANDBOX_MAX_OUTPUT", "16")
# MiB of code.
SANDBOX_MAX_CODE = from_conf("SANDBOX_MAX_CODE", "256")

# `spin` would otherwise run a sandboxed step without its sandbox.
SPIN_ALLOWED_DECORATORS = [*_SPIN_ALLOWED, *(name for name, _ in _DECORATORS), "secrets"]
