"""Unpack wheels into an environment: ``python -I -S -c`` of this text, PYTHON, the environment's place.

The wheels come over stdin, each as lengths, name and content; the environment goes out over stdout as one
tar stream, nothing of it is written here. No code of a package is run. Wheels are laid out as the binary
distribution format says (https://packaging.python.org/en/latest/specifications/binary-distribution-format).
"""

from __future__ import annotations

import configparser
import hashlib
import io
import os
import platform
import re
import stat
import struct
import sys
from typing import IO, Dict, Iterable, Iterator, List, NamedTuple, Optional, Set, Tuple

HEAD = struct.Struct("!HQ")  # lengths of a wheel's name and content; two zeros end the wheels
REFUSED = 65  # exit code when stderr says what is wrong, sysexits' EX_DATAERR
BATCH = 64  # sources compiled at once by one process
# Finds the interpreter beside it, wherever the environment is.
SCRIPT = """\
#!/bin/sh
'''exec' "$(dirname -- "$(realpath -- "$0")")"/python3 "$0" "$@"
' '''
"""
ENTRY = """\
import sys
from {module} import {first}
if __name__ == "__main__":
    sys.exit({attribute}())
"""
GLIBC_OF = {"manylinux1": (2, 5), "manylinux2010": (2, 12), "manylinux2014": (2, 17)}  # PEP 600
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*")


class Refused(Exception):
    """A wheel that cannot be installed here; the message says why."""


class File(NamedTuple):
    """One file of the environment."""

    path: str
    content: bytes
    executable: bool


class Here(NamedTuple):
    """What wheels have to fit; ``glibc`` is None for another C library."""

    python: Tuple[int, int]
    system: str
    machine: str
    glibc: Optional[Tuple[int, int]]

    @classmethod
    def this(cls) -> Here:
        """This interpreter, and what it runs on."""
        glibc = None
        try:
            name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
            if name == "glibc":
                major, minor = version.split(".")[:2]
                glibc = (int(major), int(minor))
        except (ValueError, OSError):
            glibc = None  # musl knows no such name
        return cls(sys.version_info[:2], platform.system(), platform.machine(), glibc)

    def __str__(self) -> str:
        library = "glibc %d.%d, " % self.glibc if self.glibc else ""
        return "%s %s, %sPython %d.%d" % (self.system, self.machine, library, *self.python)


def main(words: List[str]) -> int:
    """Return the exit code."""
    # Here, because the launcher imports this module for its constants.
    import tarfile

    python, place = words
    here = Here.this()
    if python != "%d.%d" % here.python:
        raise Refused("the packages are for Python %s and the sandbox has %s" % (python, here))
    site = "lib/python%s/site-packages" % python
    seen: Set[str] = set()
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|") as archive:
        # sys.executable is empty in some containers; what was started is then on the search path.
        base = os.path.realpath(sys.executable)
        add(archive, File("pyvenv.cfg", configuration(base), False))
        for name in ("python", "python3", "python" + python):
            link = tarfile.TarInfo("bin/" + name)
            link.type, link.linkname = tarfile.SYMTYPE, base
            archive.addfile(link)
        seen.update(("pyvenv.cfg", "bin/python", "bin/python3", "bin/python" + python))
        for name, content in frames(sys.stdin.buffer):
            check(name, here)
            modules = []
            for file in unpacked(name, content, site):
                # Of packages that share a file, the first one's is kept; some bring bytecode of their own.
                if file.path not in seen and "/__pycache__/" not in file.path:
                    seen.add(file.path)
                    add(archive, file)
                    # The others may be large, and are not held.
                    if file.path.endswith(".py"):
                        modules.append(file)
            for file in compiled(modules, site, place):
                add(archive, file)
    return 0


def configuration(base: str) -> bytes:
    """What makes the directory a virtual environment of the interpreter."""
    lines = ["home = " + os.path.dirname(base), "include-system-site-packages = false"]
    return "".join(line + "\n" for line in [*lines, "version = %d.%d.%d" % sys.version_info[:3]]).encode()


def add(archive: object, file: File) -> None:
    """Append a file."""
    import tarfile

    member = tarfile.TarInfo(file.path)
    member.size, member.mode = len(file.content), 0o755 if file.executable else 0o644
    archive.addfile(member, io.BytesIO(file.content))  # type: ignore[attr-defined]


def check(name: str, here: Here) -> None:
    """Raise Refused for a wheel whose name says that it is for another place."""
    python, abi, places = name[: -len(".whl")].split("-")[-3:]
    fits = any(
        fits_python(tag, kind, here.python) for tag in python.split(".") for kind in abi.split(".")
    ) and any(fits_place(tag, here) for tag in places.split("."))
    if not fits:
        raise Refused("%s is not for this sandbox (%s)" % (name, here))


def fits_python(tag: str, abi: str, python: Tuple[int, int]) -> bool:
    """Whether such a wheel runs on that version of CPython."""
    found = re.fullmatch(r"(py|cp)(\d)(\d*)", tag)
    if not found or int(found.group(2)) != python[0]:
        return False
    minor = int(found.group(3) or 0)
    if found.group(1) == "py" or abi == "abi3":
        return minor <= python[1]
    return minor == python[1]


def fits_place(tag: str, here: Here) -> bool:
    """Whether such a wheel runs on that machine."""
    if tag == "any":
        return True
    if here.system == "Darwin":
        return tag.startswith("macosx") and tag.endswith(("_" + here.machine, "_universal2"))
    kind, ours, rest = tag.partition("_" + here.machine)
    if not ours or rest:
        return False
    if kind.startswith("musllinux"):
        return here.glibc is None
    if not kind.startswith("manylinux"):
        return kind == "linux"
    if here.glibc is None:
        return False
    newer = re.fullmatch(r"manylinux_(\d+)_(\d+)", kind)
    needed = (int(newer.group(1)), int(newer.group(2))) if newer else GLIBC_OF.get(kind)
    return needed is not None and needed <= here.glibc


def unpacked(name: str, content: bytes, site: str) -> Iterator[File]:
    """The files of a wheel, where an environment has them."""
    import zipfile

    try:
        wheel = zipfile.ZipFile(io.BytesIO(content))
    except zipfile.BadZipFile as error:
        raise Refused("%s is no wheel: %s" % (name, error)) from error
    own = "-".join(name.split("-")[:2])
    info = next((each for each in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/WHEEL", each)), None)
    if info is None:
        raise Refused("%s is no wheel: it has no .dist-info/WHEEL" % name)
    info = os.path.dirname(info)
    data = info[: -len(".dist-info")] + ".data"
    record = []
    for member in wheel.infolist():
        parts = member.filename.split("/")
        if member.filename.startswith("/") or ".." in parts or "\\" in member.filename:
            raise Refused("%s holds the path %r, which leads out of it" % (name, member.filename))
        if member.is_dir() or (os.path.dirname(member.filename) == info and parts[-1].startswith("RECORD")):
            continue
        if stat.S_ISLNK(member.external_attr >> 16):
            raise Refused("%s holds the link %r" % (name, member.filename))
        body = wheel.read(member)
        executable = bool(member.external_attr >> 16 & 0o111)
        path = site + "/" + member.filename
        if parts[0] == data:
            path, body, executable = spread(name, parts[1:], body, executable, site, own)
        file = File(path, body, executable)
        record.append(recorded(file, site))
        yield file
    for file in scripts(name, wheel, info):
        record.append(recorded(file, site))
        yield file
    yield File("%s/%s/INSTALLER" % (site, info), b"metaflow-sandbox\n", False)
    record.append("%s/INSTALLER,,\n%s/RECORD,,\n" % (info, info))
    yield File("%s/%s/RECORD" % (site, info), "".join(record).encode(), False)


def spread(
    name: str, parts: List[str], body: bytes, executable: bool, site: str, own: str
) -> Tuple[str, bytes, bool]:
    """Where a file below .data goes: (path, content, whether it can be run)."""
    scheme, rest = parts[0], "/".join(parts[1:])
    if scheme in ("purelib", "platlib"):
        return site + "/" + rest, body, executable
    if scheme == "scripts":
        line, _, script = body.partition(b"\n")
        if re.match(rb"#!pythonw?\b", line):
            body = SCRIPT.encode() + script
        return "bin/" + rest, body, True
    if scheme == "headers":
        return "include/site/%s/%s" % (own.partition("-")[0], rest), body, executable
    if scheme == "data":
        return rest, body, executable
    raise Refused("%s holds %r, for which there is no place" % (name, "/".join(parts)))


def scripts(name: str, wheel: object, info: str) -> Iterator[File]:
    """The commands that a wheel names as entry points."""
    try:
        text = wheel.read(info + "/entry_points.txt").decode()  # type: ignore[attr-defined]
    except KeyError:
        return
    entries = configparser.ConfigParser(delimiters=("=",), interpolation=None, strict=False)
    entries.optionxform = str  # type: ignore[assignment,method-assign]
    entries.read_string(text)
    for section in ("console_scripts", "gui_scripts"):
        for script, target in entries.items(section) if entries.has_section(section) else ():
            module, _, attribute = target.partition("[")[0].replace(" ", "").partition(":")
            if "/" in script or not IDENTIFIER.fullmatch(module) or not IDENTIFIER.fullmatch(attribute):
                raise Refused("%s names the command %r as %r" % (name, script, target))
            code = ENTRY.format(module=module, first=attribute.partition(".")[0], attribute=attribute)
            yield File("bin/" + script, (SCRIPT + code).encode(), True)


def recorded(file: File, site: str) -> str:
    """The file's line in RECORD."""
    import base64

    digest = base64.urlsafe_b64encode(hashlib.sha256(file.content).digest()).rstrip(b"=").decode()
    path = os.path.relpath(file.path, site)
    return "%s,sha256=%s,%d\n" % ('"%s"' % path if "," in path else path, digest, len(file.content))


def compiled(files: Iterable[File], site: str, place: str) -> Iterator[File]:
    """Bytecode of the modules: where the environment is read-only, no import could keep it."""
    sources = [
        (file.path, "%s/%s" % (place, file.path), file.content)
        for file in files
        if file.path.startswith(site)
    ]
    batches = [sources[start : start + BATCH] for start in range(0, len(sources), BATCH)]
    for batch in in_parallel(batches):
        for path, code in batch.items():
            folder, name = os.path.split(path)
            cached = "%s/__pycache__/%s.%s.pyc" % (folder, name[: -len(".py")], sys.implementation.cache_tag)
            yield File(cached, code, False)


def in_parallel(batches: List[List[Tuple[str, str, bytes]]]) -> Iterator[Dict[str, bytes]]:
    """The bytecode of each batch, made by a process for each core.

    Forks without threads: a pool's could hold locks that its workers wait for.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [share for share in (batches[start::cores] for start in range(cores)) if share]
    workers = [started(share) for share in shares] if len(shares) > 1 else []
    for (pid, reader), share in zip(workers, shares):  # noqa: B905 -- Python 3.8 has no strict=
        with os.fdopen(reader, "rb") as source:
            try:
                yield dict(frames(source))
            except Refused:
                # Killed, where memory is short: once more, one after the other.
                yield from map(bytecode, share)
        os.waitpid(pid, 0)
    if not workers:
        yield from map(bytecode, batches)


def started(batches: List[List[Tuple[str, str, bytes]]]) -> Tuple[int, int]:
    """A process that compiles the batches: (its id, what it writes them to)."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writer)
        return pid, reader
    status = 1
    try:
        os.close(reader)
        with os.fdopen(writer, "wb") as target:
            for batch in batches:
                for path, code in bytecode(batch).items():
                    name = path.encode()
                    target.write(HEAD.pack(len(name), len(code)) + name + code)
            target.write(HEAD.pack(0, 0))
        status = 0
    finally:
        os._exit(status)


def frames(source: IO[bytes]) -> Iterator[Tuple[str, bytes]]:
    """(name, content) of each, until an empty name. Raises Refused when it ends before that."""
    while True:
        head = source.read(HEAD.size)
        if len(head) < HEAD.size:
            raise Refused("what was sent ended early")
        name, size = HEAD.unpack(head)
        if not name:
            return
        yield source.read(name).decode(), source.read(size)


def bytecode(sources: List[Tuple[str, str, bytes]]) -> Dict[str, bytes]:
    """What importing each source would leave in __pycache__, to be taken without looking at the source."""
    import importlib.util
    import marshal
    from importlib.machinery import SourceFileLoader

    found = {}
    for path, place, content in sources:
        try:
            code = SourceFileLoader("", place).source_to_code(content, place)
        except (SyntaxError, ValueError, RecursionError):
            continue  # a template, or for another Python: whoever imports it is told
        head = importlib.util.MAGIC_NUMBER + struct.pack("<I", 1) + importlib.util.source_hash(content)
        found[path] = head + marshal.dumps(code)
    return found


if __name__ == "__main__":
    try:
        status = main(sys.argv[1:])
    except Refused as error:
        sys.stderr.write("%s\n" % error)
        status = REFUSED
    sys.stdout.flush()
    sys.exit(status)
