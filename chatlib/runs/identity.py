"""What a run is called and where it lies: names that change with settings and content."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import chatlib
from chatlib.runs.files import RunError, read_json
from chatlib.settings.stages import StageConfig


def root() -> Path:
    """The folder of all runs: `$CHATLIB_RUNS`, or `runs/` at the repository root."""
    if os.environ.get("CHATLIB_RUNS"):
        return Path(os.environ["CHATLIB_RUNS"]).expanduser().resolve()
    repository = Path(chatlib.__file__).parents[1]
    return (repository if (repository / "pyproject.toml").is_file() else Path.cwd()) / "runs"


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def content_fingerprint(name: str) -> str:
    """What a source or model reference stands for, as a text that changes with its content.

    `shop` is the modules that write it; a file or folder is its bytes (not its place); a run
    or a hub reference is its name, which carries the hash or the revision already.
    """
    if name.startswith(("run:", "hub:")):
        return name
    path = Path(chatlib.__file__).parent / "data" if name == "shop" else Path(name)
    pattern = "shop*.py" if name == "shop" else "*"
    files = sorted(p for p in path.rglob(pattern) if p.is_file()) if path.is_dir() else [path]
    try:
        hashes = [(str(f.relative_to(path.parent)), _sha256(f)) for f in files]
    except OSError as error:
        raise RunError(f"{name} cannot be read ({error.strerror}); give its path") from error
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def models_of(config: StageConfig) -> list[str]:
    """The references to models in a configuration."""
    named = (getattr(config, field, None) for field in ("model", "reward_model"))
    return [model for model in named if isinstance(model, str)]


def fingerprints(config: StageConfig) -> dict[str, str]:
    """The fingerprint of every source and of every model that the configuration names."""
    names = [source.name for source in config.sources] + models_of(config)
    return {name: content_fingerprint(name) for name in names}


def run_name(config: StageConfig, prints: dict[str, str] | None = None) -> str:
    """`{stage}-{hash}`: equal for the same settings on the same data, wherever files lie.

    A setting that is None is not set and does not count: a new one of that kind renames no run.
    """
    prints = fingerprints(config) if prints is None else prints
    text = json.dumps(config.model_dump(mode="json", exclude_none=True), sort_keys=True)
    for name, fingerprint in prints.items():
        text = text.replace(json.dumps(name), json.dumps(fingerprint))
    return f"{config.stage}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def is_complete(directory: Path) -> bool:
    """Whether a run's manifest says that it finished; an exit code never counts."""
    return read_json(directory / "manifest.json").get("status") == "complete"


def resolve(reference: str | Path) -> Path | tuple[str, str | None]:
    """Where a model lies: the folder of `run:NAME` or of a path, or (name, revision) of a hub's.

    Raises `RunError` when the run is not finished or the folder holds no model.
    """
    text = str(reference)
    if text.startswith("hub:"):
        name, _, revision = text.removeprefix("hub:").partition("@")
        return name, revision or None
    if text.startswith("run:"):
        run = root() / text.removeprefix("run:")
        if not is_complete(run):
            raise RunError(f"{text} is no finished run in {root()}; launch it first")
        return run / "model"
    folder = Path(text).expanduser()
    if is_complete(folder):
        return folder / "model"
    if not (folder / "config.json").is_file():
        raise RunError(f"{text} holds no config.json; give a model folder, run:NAME or hub:NAME")
    return folder
