"""Names of backends: found, refused and explained."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from metaflow_extensions.sandbox.backends import registry
from metaflow_extensions.sandbox.backends.interface import Isolation
from metaflow_extensions.sandbox.errors import BackendUnavailable, UnknownBackend

FAKE = "metaflow_extensions.sandbox.testing.scripted:ScriptedBackend"


def install(site: Path, distribution: str, *points: str) -> None:
    """Make a distribution with entry points, as pip leaves it behind."""
    metadata = site / f"{distribution}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("\n".join([f"[{registry.GROUP}]", *points]) + "\n")


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of installed packages."""
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_unknown_name_lists_what_there_is_and_the_closest() -> None:
    """A typo that is answered with "unknown" alone leaves the user to search."""
    with pytest.raises(
        UnknownBackend, match=r"bubblewarp.*there are: .*bubblewrap.*did you mean 'bubblewrap'"
    ):
        registry.load("bubblewarp")


def test_unknown_name_far_from_any_names_the_import_path_form() -> None:
    """A suggestion that is nothing like what was written misleads."""
    with pytest.raises(UnknownBackend, match=r"package\.module:Class"):
        registry.load("zzzzzz")


def test_import_path_is_loaded() -> None:
    """A class in the user's own package must not need a distribution around it."""
    assert registry.load(FAKE).isolation is Isolation.PROCESS


@pytest.mark.parametrize(
    ("path", "cause"),
    [
        ("no_such_package.module:Class", "no module 'no_such_package'"),
        ("metaflow_extensions.sandbox.errors:Nothing", "no class 'Nothing'"),
        ("metaflow_extensions.sandbox.errors:", "no class ''"),
        (":Class", "not a path"),
        ("collections:OrderedDict", "not a sandbox backend: it lacks features"),
    ],
)
def test_wrong_import_path_says_which_part_is_wrong(path: str, cause: str) -> None:
    """An AttributeError or a later TypeError doesn't say that the path was wrong."""
    with pytest.raises(UnknownBackend, match=cause):
        registry.load(path)


def test_entry_point_of_another_package_is_found(site: Path) -> None:
    """A third party's backend must work without a change here."""
    install(site, "other", f"mine = {FAKE}")
    assert "mine" in registry.names()
    assert registry.load("mine").isolation is Isolation.PROCESS


def test_entry_point_cannot_replace_a_built_in(site: Path) -> None:
    """A package must not silently take over the wall that the user believes in."""
    install(site, "impostor", f"bubblewrap = {FAKE}")
    with pytest.raises(BackendUnavailable, match=r"'impostor'.*'bubblewrap'.*uninstall it"):
        registry.load("bubblewrap")


def test_two_packages_with_one_name_are_refused(site: Path) -> None:
    """The order of sys.path must not decide where code runs."""
    install(site, "first", f"mine = {FAKE}")
    install(site, "second", "mine = elsewhere:Class")
    with pytest.raises(BackendUnavailable, match="'first' and the package 'second'"):
        registry.load("mine")


def test_one_package_seen_twice_is_no_conflict(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable install shows its metadata twice."""
    install(site, "twice", f"mine = {FAKE}")
    again = site / "again"
    again.mkdir()
    install(again, "twice", f"mine = {FAKE}")
    monkeypatch.syspath_prepend(str(again))
    assert registry.load("mine").isolation is Isolation.PROCESS


@pytest.mark.parametrize(
    "source",
    [
        "import the_sdk_that_is_missing\n",
        "class Backend:\n    def __init__(self):\n        import the_sdk_that_is_missing\n",
    ],
    ids=["at import", "when built"],
)
def test_missing_sdk_names_the_extra(site: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """A missing SDK reported as an unknown backend sends the user to look for a typo."""
    (site / "needs_sdk.py").write_text(source)
    monkeypatch.delitem(sys.modules, "needs_sdk", raising=False)
    built_in = registry.BuiltIn("needs_sdk:Backend", "cloud", "for this test")
    monkeypatch.setattr(registry, "BUILT_IN", {**registry.BUILT_IN, "cloud": built_in})
    with pytest.raises(
        BackendUnavailable, match=r"the_sdk_that_is_missing.*pip install 'metaflow-sandbox\[cloud\]'"
    ):
        registry.load("cloud")


def test_missing_sdk_of_an_entry_point_names_its_package(site: Path) -> None:
    """An extra of ours doesn't install another package's SDK."""
    (site / "foreign.py").write_text("import the_sdk_that_is_missing\n")
    install(site, "foreign-sandbox", "foreign = foreign:Backend")
    with pytest.raises(BackendUnavailable, match="the package 'foreign-sandbox'"):
        registry.load("foreign")


def test_built_ins_are_not_imported_by_listing_them() -> None:
    """Listing names must not cost the import of every SDK."""
    before = set(sys.modules)
    assert set(registry.BUILT_IN) <= set(registry.names())
    modules = {built_in.path.partition(":")[0] for built_in in registry.BUILT_IN.values()}
    assert not modules & (set(sys.modules) - before)


def test_default_is_chosen_by_platform() -> None:
    """A default that can't work on a platform must be a question, not a failure later on."""
    assert registry.default_name("linux") == "bubblewrap"
    with pytest.raises(BackendUnavailable, match=r"'darwin'.*bubblewrap.*METAFLOW_SANDBOX_BACKEND"):
        registry.default_name("darwin")


def test_backends_asked_for_at_once_are_imported_one_after_the_other(site: Path) -> None:
    """Guards SDKs whose modules import each other: a thread in the middle would find half a module."""
    for name in ("slow_one", "slow_two"):
        (site / f"{name}.py").write_text(
            "import sys, time\n"
            "log = sys.__dict__.setdefault('_order_of_imports', [])\n"
            "log.append(__name__)\ntime.sleep(0.1)\nlog.append(__name__)\n"
            "from metaflow_extensions.sandbox.testing.scripted import ScriptedBackend\n"
        )
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(registry.load, ["slow_one:ScriptedBackend", "slow_two:ScriptedBackend"]))
    order = vars(sys).pop("_order_of_imports")
    assert order[0] == order[1] != order[2] == order[3]
