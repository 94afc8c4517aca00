"""What a run is called and where it lies: names that change with settings and content."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.util
import json
import os
import re
from pathlib import Path

import chatlib
from chatlib.runs import code, pretrained
from chatlib.runs.files import RunError, read_json, sha256
from chatlib.settings.corpora import CORPORA
from chatlib.settings.stages import StageConfig


def root() -> Path:
    """The folder of all runs: `$CHATLIB_RUNS`, or `runs/` at the repository root."""
    if os.environ.get("CHATLIB_RUNS"):
        return Path(os.environ["CHATLIB_RUNS"]).expanduser().resolve()
    repository = Path(chatlib.__file__).parents[1]
    return (repository if (repository / "pyproject.toml").is_file() else Path.cwd()) / "runs"


CODE = "code:"  # the key under which `fingerprints` has the code's; no source is called so
COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_SECONDS = 3.0  # for the hub to say which commit a name stands for


@functools.cache
def _sha256(path: Path, *version: int) -> str:
    """The hash of one version of a file, read once in a process."""
    return sha256(path)


def _content(path: Path) -> str:
    """The hash of a file as it is now; of Python, of what it does (`runs.code`)."""
    if path.suffix == ".py":
        return code.source_hash(path)
    found = os.stat(path)
    return _sha256(path, found.st_size, found.st_mtime_ns, found.st_ino)


def content_fingerprint(name: str, kind: str = "model") -> str:
    """What a source or model reference stands for, as a text that changes with its content.

    A corpus of the book's own is the modules that write it; a file or folder is its bytes (not its
    place); a run is its name, which carries the hash already; a hub reference is its commit, or its
    name where the hub cannot be asked. `kind` is `model` or `dataset`.
    """
    if name.startswith("run:"):
        return name
    if name.startswith("hub:"):
        return hub_commit(name, kind)
    if name.startswith(pretrained.PREFIXES):
        return pretrained.digest(name)
    path = code.PACKAGE / "data" if name in CORPORA else Path(name)
    if name in CORPORA:
        files = code.corpus_files(name)
    else:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    try:
        hashes = [(str(f.relative_to(path.parent)), _content(f)) for f in files]
    except OSError as error:
        raise RunError(f"{name} cannot be read ({error.strerror}); give its path") from error
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


@functools.cache
def hub_commit(reference: str, kind: str = "model") -> str:
    """`hub:NAME@COMMIT...` of `hub:NAME@BRANCH...`; the reference as it is where nobody answers.

    Asked once in a process, so that a run keeps its name while it is made.
    """
    found = re.fullmatch(r"hub:([^@#]+)(?:@([^#]+))?(#.*)?", reference)
    if not found or COMMIT.fullmatch(found[2] or ""):
        return reference
    with contextlib.suppress(Exception):  # no network, no such name: the rank that loads it says so
        from huggingface_hub import HfApi

        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        ask = api.dataset_info if kind == "dataset" else api.model_info
        commit = ask(found[1], revision=found[2], timeout=HUB_SECONDS).sha
        return f"hub:{found[1]}@{commit}{found[3] or ''}"
    return reference


def models_of(config: StageConfig) -> list[str]:
    """The references to models in a configuration."""
    fields = ("model", "reward_model", "reference", "teacher")
    named = (getattr(config, field, None) for field in fields)
    return [model for model in named if isinstance(model, str)]


def corpora_of(config: StageConfig) -> list[str]:
    """The sources of a configuration that are corpora of the book's own."""
    return [source.name for source in config.sources if source.name in CORPORA]


def checkers_of(config: StageConfig) -> list[str]:
    """The checker, `MODULE:FUNCTION`, that pays answers, if one does."""
    reward = getattr(config, "reward", "")
    return [reward] if ":" in reward else []


def checker_fingerprint(name: str) -> str:
    """What a checker's module does, as a text that changes with it. Raises `RunError`."""
    module, _, _ = name.partition(":")
    with contextlib.suppress(ImportError, ValueError):
        found = importlib.util.find_spec(module)
        if found and found.origin and Path(found.origin).is_file():
            return f"{module} {_content(Path(found.origin))}:{name.partition(':')[2]}"
    raise RunError(f"reward {name}: python finds no module {module}; name one, as MODULE:FUNCTION")


def fingerprints(config: StageConfig) -> dict[str, str]:
    """The fingerprint of every source and model that a configuration names, and of its code."""
    prints = {source.name: content_fingerprint(source.name, "dataset") for source in config.sources}
    prints |= {name: content_fingerprint(name) for name in models_of(config)}
    prints |= {name: checker_fingerprint(name) for name in checkers_of(config)}
    return prints | {CODE: code.digest(code.code_of(config.stage, corpora_of(config)))}


def without_code(prints: dict[str, str]) -> dict[str, str]:
    """`fingerprints` of the data and the models alone."""
    return {name: fingerprint for name, fingerprint in prints.items() if name != CODE}


def run_name(config: StageConfig, prints: dict[str, str] | None = None) -> str:
    """`{stage}-{hash}`: equal for the same settings, data and code, wherever files lie.

    A setting that is None is not set and does not count: a new one of that kind renames no run.
    """
    prints = fingerprints(config) if prints is None else prints
    text = json.dumps(config.model_dump(mode="json", exclude_none=True), sort_keys=True)
    for name, fingerprint in without_code(prints).items():
        text = text.replace(json.dumps(name), json.dumps(fingerprint))
    text += prints.get(CODE, "")
    return f"{config.stage}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def is_complete(directory: Path) -> bool:
    """Whether a run's manifest says that it finished; an exit code never counts."""
    return read_json(directory / "manifest.json").get("status") == "complete"


def resolve(reference: str | Path) -> Path | tuple[str, str | None]:
    """Where a model lies: the folder of `run:NAME` or of a path, or (name, revision) of a hub's.

    A GGUF file, `gguf:PATH` or `pypi:NAME`, is converted to a folder first. Raises `RunError` when
    the run is not finished or the folder holds no model.
    """
    text = str(reference)
    if text.startswith("hub:"):
        name, _, revision = text.removeprefix("hub:").partition("@")
        return name, revision or None
    if text.startswith(pretrained.PREFIXES):
        return pretrained.folder(text)
    if text.startswith("run:"):
        run = root() / text.removeprefix("run:")
        if not is_complete(run):
            raise RunError(f"{text} is no finished run in {root()}; launch it first")
        if not (run / "model").is_dir():
            raise RunError(f"{text} has lost its folder model in {root()}; launch it again")
        return run / "model"
    folder = Path(text).expanduser()
    if is_complete(folder):
        return folder / "model"
    if not (folder / "config.json").is_file():
        raise RunError(
            f"{text} holds no config.json; give a model folder, run:NAME, hub:NAME or gguf:FILE"
        )
    return folder
