"""What is inside a task's sandbox, whichever way it gets there: paths, files, the guest's command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from .. import guest
from ..guest.credentials import FILE_VARIABLE
from ..guest.run import ADDRESS_VARIABLE, PATH_VARIABLE
from ..guest.unpack import MOUNTED_AT
from .protocol import RunSettings, TaskSettings

INSIDE = PurePosixPath(MOUNTED_AT)
CODE = "code"  # the flow's own files
LIBRARIES = "lib"  # Metaflow and its extensions, where the launcher's own environment is not visible
RELAY = "relay"  # the relay's socket
# In direct mode: boto3 and what it needs, the task's credentials, how to reach the bucket, its authorities.
S3_LIBRARIES = "s3"
CREDENTIALS = "s3.json"
CONFIGURATION = "aws.config"
CERTIFICATES = "authorities.pem"
ENVIRONMENT = "env"  # the step's packages
# Where sandboxes have them from their start, each in a directory of its own: /run is empty then.
LAYERS = PurePosixPath("/opt/metaflow-sandbox")
BOOTSTRAP = Path(guest.__file__).with_name("bootstrap.py")
PYTHON = "python3"  # of an image
# Options of Metaflow's command for a step that name a file of the launcher, and its name inside.
FILES = {"--local-config-file": "config.json", "--artifacts-module": "artifacts.py"}


def files_of(argv: Sequence[str]) -> dict[str, Path]:
    """Name inside of each file that the step's command names, and where it is on the launcher."""
    return {name: Path(argv[argv.index(option) + 1]) for option, name in FILES.items() if option in argv}


def interpreter(task: TaskSettings, argv: Sequence[str]) -> str:
    """The Python inside: the step's executable=, the launcher's own, or the image's."""
    if task.spec.python and not task.hosted:
        return str(task.spec.python.executable)
    return task.executable or (argv[0] if task.hosted else PYTHON)


def bootstrap(task: TaskSettings) -> str:
    """Path of the guest's first script, where it is mounted."""
    if task.hosted:
        return str(BOOTSTRAP)
    return str(INSIDE / LIBRARIES / "metaflow_extensions/sandbox/guest" / BOOTSTRAP.name)


def step_words(
    run: RunSettings, task: TaskSettings, argv: Sequence[str], packages: PurePosixPath | None = None
) -> list[str]:
    """The step's command line with paths as they are inside, where ``packages`` is the step's environment."""
    words = [Path(word).name if word == run.script else word for word in argv]
    for option, name in FILES.items():
        if option in words:
            words[words.index(option) + 1] = str(INSIDE / name)
    python = str(packages / "bin" / PYTHON) if packages else interpreter(task, argv)
    return [python, *words[1:]]


def step_variables(task: TaskSettings, packages: PurePosixPath | None = None) -> Mapping[str, str]:
    """The step's whole environment; ``packages`` as above."""
    variables = {**task.env, ADDRESS_VARIABLE: f"unix:{INSIDE / RELAY}"}
    if packages:
        variables[PATH_VARIABLE] = str(packages / "bin")
        variables["PYTHONNOUSERSITE"] = "1"
    if task.direct:
        variables[FILE_VARIABLE] = str(INSIDE / CREDENTIALS)
        variables["AWS_CONFIG_FILE"] = str(INSIDE / CONFIGURATION)
        if task.direct.certificates:
            variables["AWS_CA_BUNDLE"] = str(INSIDE / CERTIFICATES)
        if task.direct.libraries:
            variables["METAFLOW_SANDBOX_S3_LIBRARIES"] = str(INSIDE / S3_LIBRARIES)
    if not task.hosted:
        given = variables.get("PYTHONPATH")
        variables["PYTHONPATH"] = ":".join([str(INSIDE / LIBRARIES), *([given] if given else [])])
    return variables
