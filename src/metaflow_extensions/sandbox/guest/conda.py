"""Make a conda environment: ``python -I -S -c`` of this text, the environment's id and platform.

What it is made of comes over stdin as in ``install``: program/install.py, program/micromamba, conda packages
as conda/CHANNEL/FILE, and wheels as pypi/FILE. The environment goes out over stdout as one tar stream, its
place in the file PREFIX: the working directory's metaflow/PLATFORM/ID, where Metaflow looks for its name.
The calls of micromamba are those of Metaflow's own bootstrap.
"""

from __future__ import annotations

import io
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from typing import IO, Dict, List

HEAD = struct.Struct("!HQ")  # as in install
REFUSED = 65
PREFIX = ".metaflow-sandbox-prefix"
CHUNK = 1 << 20  # bytes
PYTHON = "import sys; sys.stdout.write('%d.%d' % sys.version_info[:2])"
FLAGS = ["--yes", "--offline", "--no-deps", "--safety-checks=disabled", "--no-extra-safety-checks"]


class Refused(Exception):
    """It can't be made; the message says why."""


def main(words: List[str]) -> int:
    """Return the exit code."""
    import tarfile

    id_, platform = words
    prefix = os.path.join(os.getcwd(), "metaflow", platform, id_)
    with tempfile.TemporaryDirectory(dir=os.getcwd()) as place:
        files = take(sys.stdin.buffer, place)
        create(prefix, place, files)
        python = os.path.join(prefix, "bin", "python")
        if not os.access(python, os.X_OK):
            raise Refused("the environment has no Python: add python to its packages")
        compiled = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-x", "/tests?/"]
        subprocess.call([python, "-I", *compiled, os.path.join(prefix, "lib")], stdout=sys.stderr)
        if files["pypi"]:
            add_wheels(python, place, prefix, files["pypi"])
        with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
            text = tarfile.TarInfo(PREFIX)
            text.size = len(os.fsencode(prefix))
            archive.addfile(text, io.BytesIO(os.fsencode(prefix)))
            for folder, folders, names in os.walk(prefix):
                links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
                for name in names + links:
                    path = os.path.join(folder, name)
                    member = archive.gettarinfo(path, os.path.relpath(path, prefix))
                    if member.issym():
                        archive.addfile(member)
                        continue
                    # A file of several names is sent under each.
                    member.type, member.size = tarfile.REGTYPE, os.path.getsize(path)
                    with open(path, "rb") as content:
                        archive.addfile(member, content)
    return 0


def take(source: IO[bytes], place: str) -> Dict[str, List[str]]:
    """Keep what comes below ``place``; the paths by kind."""
    found: Dict[str, List[str]] = {"program": [], "conda": [], "pypi": []}
    while True:
        head = source.read(HEAD.size)
        if len(head) < HEAD.size:
            raise Refused("what was sent ended early")
        length, size = HEAD.unpack(head)
        if not length:
            return found
        name = source.read(length).decode()
        path = os.path.join(place, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            while size:
                part = source.read(min(size, CHUNK))
                if not part:
                    raise Refused("the launcher has gone")
                size -= len(part)
                file.write(part)
        found[name.partition("/")[0]].append(path)


def create(prefix: str, place: str, files: Dict[str, List[str]]) -> None:
    """Run micromamba, the one that came or the image's own."""
    own = os.path.join(place, "program", "micromamba")
    program = own if os.path.exists(own) else shutil.which("micromamba")
    if program is None:
        raise Refused(
            "there is no micromamba in the image: METAFLOW_SANDBOX_MICROMAMBA_PATH names one to take along"
        )
    if program == own:
        os.chmod(program, 0o700)
    explicit = os.path.join(place, "explicit")
    with open(explicit, "w") as file:
        file.writelines(line + "\n" for line in ["@EXPLICIT", *files["conda"]])
    variables = {
        **os.environ,
        "CONDA_PKGS_DIRS": os.path.join(place, "pkgs"),
        "MAMBA_ROOT_PREFIX": os.path.join(place, "root"),
        "MAMBA_NO_BANNER": "1",
        "MAMBA_NO_PROGRESS_BARS": "1",
    }
    command = [program, "create", *FLAGS, "--prefix", prefix, "--file", explicit, "--no-pyc", "--no-rc"]
    done = subprocess.run(
        [*command, "--always-copy"],
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode:
        said = done.stdout.decode(errors="replace").strip()[-2000:]
        raise Refused("micromamba can't make the environment (%d): %s" % (done.returncode, said))


def add_wheels(python: str, place: str, prefix: str, wheels: List[str]) -> None:
    """Unpack wheels by the environment's own Python, over what conda has installed, as pip would."""
    import tarfile

    version = subprocess.check_output([python, "-I", "-S", "-c", PYTHON]).decode()
    frames = os.path.join(place, "wheels")
    with open(frames, "wb") as file:
        for path in sorted(wheels):
            name = os.path.basename(path).encode()
            file.write(HEAD.pack(len(name), os.path.getsize(path)) + name)
            with open(path, "rb") as wheel:
                shutil.copyfileobj(wheel, file)
        file.write(HEAD.pack(0, 0))
    with open(os.path.join(place, "program", "install.py")) as file:
        program = file.read()
    with open(frames, "rb") as source:
        command = [python, "-I", "-S", "-c", program, version, prefix]
        child = subprocess.Popen(command, stdin=source, stdout=subprocess.PIPE)
    assert child.stdout is not None
    with tarfile.open(fileobj=child.stdout, mode="r|") as installed:
        installed.extraction_filter = getattr(tarfile, "fully_trusted_filter", None)  # of our own program
        for member in installed:
            if member.isreg() and member.name != "pyvenv.cfg":
                installed.extract(member, prefix)
    child.stdout.read()
    if child.wait():
        raise Refused("the wheels can't be installed (%d)" % child.returncode)


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except Refused as error:
        sys.stderr.write("%s\n" % error)
        status = REFUSED
    sys.stdout.flush()
    sys.exit(status)
