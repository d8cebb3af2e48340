"""A stand-in for micromamba where no binary can be had, and a channel on this machine for it.

It answers the calls that Metaflow makes, and the one that makes an environment inside, for packages that are
plain archives. An environment's Python is a copy of the one that the stand-in runs in. It solves nothing: a
package's exact version has to be in the channel, and nothing comes along with it.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping
from pathlib import Path

PROGRAM = """#!/usr/bin/env python3
import glob, json, os, re, shutil, subprocess, sys, tarfile, urllib.request

ROOT = os.environ.get("MAMBA_ROOT_PREFIX", "")
PLATFORM = "linux-64" if os.uname().machine == "x86_64" else "linux-aarch64"
ENVS, PKGS = os.path.join(ROOT, "envs"), os.environ.get("CONDA_PKGS_DIRS") or os.path.join(ROOT, "pkgs")


def fail(problem):
    print(json.dumps({"solver_problems": [problem]}))
    sys.exit(1)


def solve(channel, specs):
    found = []
    for spec in specs:
        name, _, version = re.match(r"([a-z0-9_.-]+?)([<>=!]+)(.*)", spec).groups()
        files = sorted(glob.glob("%s/*/%s-*.tar.bz2" % (channel, name)))
        exact = [file for file in files if file.endswith("/%s-%s-0.tar.bz2" % (name, version))]
        if not (exact or (files and ">" in spec)):
            fail("nothing provides requested %s" % spec)
        found.append({"url": "file://" + (exact or files)[0]})
    return found


def fetch(urls):
    os.makedirs(PKGS, exist_ok=True)
    for url in urls:
        kept = os.path.join(PKGS, os.path.basename(url))
        draft = "%s.%d" % (kept, os.getpid())
        urllib.request.urlretrieve(url, draft)
        os.replace(draft, kept)


def create(prefix, archives, pip):
    os.makedirs(os.path.join(prefix, "bin"))
    for path in archives:
        with tarfile.open(path) as archive:
            archive.extractall(prefix)
    if not os.path.exists(os.path.join(prefix, "needs-python")):
        return
    base, name = os.path.realpath(sys.executable), "python%d.%d" % sys.version_info[:2]
    if pip:
        shutil.rmtree(os.path.join(prefix, "bin"))
        subprocess.check_call([base, "-m", "venv", "--copies", prefix], stdout=sys.stderr)
    else:
        shutil.copy(base, os.path.join(prefix, "bin", name))
        for link in ("python", "python3"):
            os.symlink(name, os.path.join(prefix, "bin", link))
        with open(os.path.join(prefix, "pyvenv.cfg"), "w") as file:
            file.write("home = %s\\ninclude-system-site-packages = false\\n" % os.path.dirname(base))
    site = os.path.join(prefix, "lib", name, "site-packages")
    os.makedirs(site, exist_ok=True)
    for entry in glob.glob(os.path.join(prefix, "site-packages", "*")):
        shutil.copytree(entry, os.path.join(site, os.path.basename(entry)))


def main(words):
    options = dict(word.lstrip("-").split("=", 1) for word in words if word.startswith("--") and "=" in word)
    for name in ("--prefix", "--file"):
        if name in words:
            options[name.strip("-")] = words[words.index(name) + 1]
    plain = [word for word in words[1:] if not word.startswith("-") and word not in options.values()]
    if words[:2] == ["config", "list"]:
        channels = os.environ["CONDA_CHANNELS"].split(",")
        answer = {"channels": channels, "envs_dirs": [ENVS], "pkgs_dirs": [PKGS], "platform": PLATFORM}
        print(json.dumps(answer))
    elif words[:2] == ["env", "list"]:
        print(json.dumps({"envs": glob.glob(ENVS + "/metaflow/*/*")}))
    elif words[0] == "list":
        print(json.dumps([{"name": "python", "version": "%d.%d.%d" % sys.version_info[:3]}]))
    elif words[0] == "run":
        program, *arguments = words[words.index("--prefix") + 2:]
        os.execv(os.path.join(options["prefix"], "bin", program), [program, *arguments])
    elif "--dry-run" in words:
        print(json.dumps({"actions": {"LINK": solve(options["channel"], plain)}}))
    elif "--download-only" in words:
        fetch(plain)
    elif "--offline" in words:
        with open(options["file"]) as file:
            create(options["prefix"], file.read().split()[1:], pip=False)
    else:
        create(options["prefix"], [os.path.join(PKGS, os.path.basename(url)) for url in plain], pip=True)


main(sys.argv[1:])
"""


def stand_in(directory: Path) -> Path:
    """The program, in a directory for PATH."""
    place = directory / "bin"
    place.mkdir()
    program = place / "micromamba"
    program.write_text(PROGRAM)
    program.chmod(0o755)
    return place


def channel(directory: Path, python: str, packages: Mapping[str, Mapping[str, str]]) -> Path:
    """A channel of noarch packages NAME-VERSION, each of files below site-packages, and a Python."""
    place = directory / "channel" / "noarch"
    place.mkdir(parents=True)
    add(place, f"python-{python}", {"needs-python": ""})
    for name, files in packages.items():
        add(place, name, {f"site-packages/{path}": content for path, content in files.items()})
    return place.parent


def add(place: Path, name: str, files: Mapping[str, str]) -> None:
    """One package."""
    whole = {**files, f"conda-meta/{name}-0.json": json.dumps({"name": name.rpartition("-")[0]})}
    with tarfile.open(place / f"{name}-0.tar.bz2", "w:bz2") as archive:
        for path, content in whole.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content.encode()))
