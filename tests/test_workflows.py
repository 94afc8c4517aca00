"""The workflows: their schema, what a security linter says, and the house's own rules."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from chatlib.book import pages

WORKFLOWS = sorted((pages.ROOT / ".github" / "workflows").glob("*.yml"))
PINNED = re.compile(r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")
MINUTES = 120


def tool(name, *arguments):
    """What a command-line tool of this environment answers; it asks no network."""
    command = [str(Path(sys.executable).with_name(name)), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def schema(path):
    return tool("check-jsonschema", "--builtin-schema", "vendor.github-workflows", path)


def security(path):
    return tool("zizmor", "--offline", "--no-progress", "--no-config", "--persona=pedantic", path)


def objections(text):
    """What the house asks for and neither tool does; one sentence each."""
    lines = [line.strip().removeprefix("- ") for line in text.splitlines()]
    found = [
        f"{line}: give the full commit and the release in a comment"
        for line in lines
        if line.startswith("uses:") and not PINNED.match(line)
    ]
    workflow = yaml.safe_load(text)
    if workflow.get("permissions") != {}:
        found.append("permissions: nothing is granted at the top, each job asks for its own")
    for name, job in workflow["jobs"].items():
        if not 0 < job.get("timeout-minutes", 0) <= MINUTES:
            found.append(f"{name}: timeout-minutes is missing or above {MINUTES}")
        if "permissions" not in job:
            found.append(f"{name}: say which permissions it needs")
    return found


def test_there_are_workflows_for_every_commit_every_night_and_the_readers():
    assert [path.stem for path in WORKFLOWS] == ["nightly", "publish", "test"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_follows_schema_linter_and_house(path):
    assert objections(path.read_text(encoding="utf-8")) == []
    for check in (schema, security):
        done = check(path)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_every_make_target_that_a_workflow_calls_exists(path):
    made = re.findall(r"^([a-z]+):.*##", (pages.ROOT / "Makefile").read_text(), flags=re.M)
    called = re.findall(r"run: make ([a-z]+)", path.read_text(encoding="utf-8"))
    assert called and set(called) <= set(made)


def test_both_ends_of_the_allowed_pythons_are_tested():
    jobs = yaml.safe_load((WORKFLOWS[0].parent / "test.yml").read_text())["jobs"]
    project = (pages.ROOT / "pyproject.toml").read_text()
    low, above = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', project).groups()
    tested = jobs["test"]["strategy"]["matrix"]["python"]
    assert tested == [f"3.{low}", f"3.{int(above) - 1}"]


@pytest.mark.parametrize(
    ("check", "old", "new"),
    [
        (schema, "timeout-minutes: 90", "timeout-minuts: 90"),
        (security, "persist-credentials: false", "fetch-depth: 1"),
        (security, "run: make test", 'run: echo "${{ github.event.pull_request.title }}"'),
        (security, "permissions: {}", "permissions: write-all"),
        (security, "pull_request:", "pull_request_target:"),
    ],
    ids=["schema", "credentials", "injection", "permissions", "trigger"],
)
def test_a_planted_mistake_is_found(tmp_path, check, old, new):
    text = (WORKFLOWS[0].parent / "test.yml").read_text(encoding="utf-8")
    assert old in text
    folder = tmp_path / ".github" / "workflows"
    folder.mkdir(parents=True)
    (folder / "test.yml").write_text(text.replace(old, new, 1), encoding="utf-8")
    assert check(folder / "test.yml").returncode != 0


@pytest.mark.parametrize(
    ("pattern", "new", "sentence"),
    [
        (r"@[0-9a-f]{40} # v[\d.]+", "@v7", "give the full commit"),
        (r" # v[\d.]+", "", "give the full commit"),
        (r"timeout-minutes: \d+\n    ", "", "timeout-minutes is missing"),
        (r"permissions: {}", "permissions: read-all", "nothing is granted at the top"),
        (r"    permissions:\n.*\n", "", "say which permissions"),
    ],
    ids=["tag", "comment", "timeout", "top", "job"],
)
def test_a_breach_of_the_house_rules_is_found(pattern, new, sentence):
    text = (WORKFLOWS[0].parent / "test.yml").read_text(encoding="utf-8")
    assert any(sentence in found for found in objections(re.sub(pattern, new, text, count=1)))
