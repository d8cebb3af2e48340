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

# Numbers are text until they are used: Metaflow answers one that is none with a traceback, at import.

# Seconds for which the sandbox of a failed step is kept, where it is.
SANDBOX_KEEP_SECONDS = from_conf("SANDBOX_KEEP_SECONDS", "900")
# How often a sandbox that failed before user code ran is made again.
SANDBOX_MAX_INFRA_RETRIES = from_conf("SANDBOX_MAX_INFRA_RETRIES", "2")
# Of each backend, in one run: sandboxes at once, and new ones a second; 0 for as many as it makes.
SANDBOX_MAX_SANDBOXES = from_conf("SANDBOX_MAX_SANDBOXES", "0")
SANDBOX_MAX_RATE = from_conf("SANDBOX_MAX_RATE", "0")
# "any", or "vetted": only artifacts made of allow-listed classes leave a sandbox.
SANDBOX_ARTIFACTS = from_conf("SANDBOX_ARTIFACTS", "any")
# More classes for "vetted", comma-separated: "pandas.*,mypackage.Model".
SANDBOX_ARTIFACT_GLOBALS = from_conf("SANDBOX_ARTIFACT_GLOBALS", "")
# Direct mode: a role whose sessions tasks get, where STS is when it is not AWS's, seconds of a session.
SANDBOX_S3_ROLE_ARN = from_conf("SANDBOX_S3_ROLE_ARN", "")
SANDBOX_S3_STS_ENDPOINT = from_conf("SANDBOX_S3_STS_ENDPOINT", "")
SANDBOX_S3_ROLE_DURATION = from_conf("SANDBOX_S3_ROLE_DURATION", "3600")
# "keep": give a session token on to R2, which has none of AWS's.
SANDBOX_S3_SESSION_TOKEN = from_conf("SANDBOX_S3_SESSION_TOKEN", "")
# A token of Cloudflare's API, for temporary credentials of R2; and where that API is.
SANDBOX_R2_API_TOKEN = from_conf("SANDBOX_R2_API_TOKEN", "")
SANDBOX_R2_API_URL = from_conf("SANDBOX_R2_API_URL", "")
# Limits of one task, in MiB: an artifact once inflated, everything sent, output passed on, code.
SANDBOX_MAX_ARTIFACT = from_conf("SANDBOX_MAX_ARTIFACT", "8192")
SANDBOX_MAX_UPLOAD = from_conf("SANDBOX_MAX_UPLOAD", "65536")
SANDBOX_MAX_OUTPUT = from_conf("SANDBOX_MAX_OUTPUT", "16")
SANDBOX_MAX_CODE = from_conf("SANDBOX_MAX_CODE", "256")

# `spin` would otherwise run a sandboxed step without its sandbox.
SPIN_ALLOWED_DECORATORS = [*_SPIN_ALLOWED, *(name for name, _ in _DECORATORS), "secrets"]
