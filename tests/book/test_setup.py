"""What is documented exists, and what is installed is what is pinned."""

import contextlib
import re
import subprocess
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from chatlib.book import pages

TEXTS = [pages.ROOT / name for name in ("README.md", ".github/CONTRIBUTING.md")]
MADE = re.findall(r"^([a-z]+):.*##", (pages.ROOT / "Makefile").read_text(), flags=re.M)


def pins():
    """The pin of each package that applies to this Python and system."""
    lines = (pages.ROOT / ".ci" / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if line and not line.startswith("#")]
    here = [pin for pin in found if pin.marker is None or pin.marker.evaluate()]
    return {canonicalize_name(pin.name): pin.specifier for pin in here}


def test_every_package_has_one_exact_pin():
    for name, specifier in pins().items():
        assert re.fullmatch(r"==[^,*]+", str(specifier)), name


def needed(name, extras, seen):
    """The packages that `name[extras]` needs here, directly or not."""
    for line in metadata.requires(name) or []:
        one = Requirement(line)
        wanted = [{"extra": extra} for extra in ("", *extras)]
        if one.marker is not None and not any(map(one.marker.evaluate, wanted)):
            continue
        step = canonicalize_name(one.name), frozenset(one.extras)
        if step not in seen:
            seen.add(step)
            with contextlib.suppress(metadata.PackageNotFoundError):  # other platform
                needed(*step, seen)
    return {name for name, _ in seen}


def test_installed_versions_are_the_pinned_ones():
    pinned = pins()
    for name in needed("chatlib", {"test"}, set()) - {"chatlib", "setuptools", "pip"}:
        if name.startswith(("nvidia-", "cuda-", "triton")):
            continue  # torch pins its own
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # of another platform
        assert name in pinned, f"{name} is not in .ci/constraints.txt"
        assert pinned[name].contains(version), f"{name} {version}, pinned {pinned[name]}"


def test_what_an_extra_of_chatlib_asks_for_is_among_the_needed():
    """`test` names `chatlib[serve,export]`: those packages are looked at too."""
    assert {"fastapi", "gguf", "nbval"} <= needed("chatlib", {"test"}, set())


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_make_target_named_in_a_text_exists(path):
    named = re.findall(r"(?:`| {4})make ([a-z]+)", path.read_text())
    assert set(named) <= set(MADE), set(named) - set(MADE)


def test_help_lists_the_two_commands():
    done = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=pages.ROOT, capture_output=True, text=True
    )
    assert "make book" in done.stdout and "make test" in done.stdout


def test_ci_ends_with_the_readmes_test_command():
    """What stands before it prepares a machine of root's, and leaves any other as it is."""
    lines = (pages.ROOT / ".ci" / "run").read_text().splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    as_root = commands.index('if [ "$(id -u)" = 0 ]; then'), commands.index("fi")
    assert as_root == (0, len(commands) - 2) and commands[-1] == "exec make test"
    assert "    make test " in (pages.ROOT / "README.md").read_text()
