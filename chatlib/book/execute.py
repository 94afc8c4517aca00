"""Execute pages in order, each in a kernel of its own, and say all the time where it stands."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from chatlib.book import pages
from chatlib.book.progress import Progress
from chatlib.lab import results

CELL_SECONDS = 900  # no cell of the book should need more than a third of this
TRACEBACK_LINES = 30


class PageFailed(RuntimeError):
    """A cell raised; the message names the page, the cell, and the error."""


def book(build: Path = pages.BUILD, names: list[str] | None = None) -> dict[str, float]:
    """Execute copies of all pages from nothing below `build`/book; seconds by page.

    Earlier copies, runs and figures of this folder are removed first. Figures go to
    `build`/book/results.json.
    """
    folder = build / "book"
    shutil.rmtree(folder, ignore_errors=True)
    copies = folder / "notebooks"
    shutil.copytree(pages.NOTEBOOKS, copies, ignore=shutil.ignore_patterns(".*"))
    return execute(_chosen(copies, names), folder)


def refresh(names: list[str] | None = None, build: Path = pages.BUILD) -> dict[str, float]:
    """Execute the tracked notebooks in place; a page is written when all of it succeeded.

    Finished runs in ``$CHATLIB_RUNS`` are reused; `make refresh` points it to an empty folder.
    """
    return execute(_chosen(pages.NOTEBOOKS, names), build / "refresh", own_runs=False)


def execute(paths: list[Path], folder: Path, own_runs: bool = True) -> dict[str, float]:
    """Execute `paths` in order and overwrite each; seconds by page. Raises `PageFailed`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").unlink(missing_ok=True)  # of an earlier execution, of other pages
    given = {
        **os.environ,
        **environment(),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # a kernel's debugger would warn of frozen modules
        "CHATLIB_PROGRESS": "none",  # nothing of it in a stored output
        "CHATLIB_PROGRESS_FILE": str(folder / "progress.txt"),
        "CHATLIB_RESULTS": str(folder / "results.json"),
    }
    if own_runs:
        given["CHATLIB_RUNS"] = str(folder / "runs")
    seconds, took = {}, last_durations()
    with Progress(folder / "progress.txt") as progress:
        for number, path in enumerate(paths, start=1):
            began = time.monotonic()
            progress.expect(time_left(paths[number - 1 :], took))
            _page(path, f"[{number}/{len(paths)}] {path.stem}", given, progress)
            seconds[path.stem] = round(time.monotonic() - began, 1)
            progress.say(f"[{number}/{len(paths)}] {path.stem}  done in {seconds[path.stem]:.0f} s")
    return seconds


def environment() -> dict[str, str]:
    """What pages are written for, unless told otherwise: on any machine, in fp32 as stored.

    OpenMP's threads sleep while they wait for work. Spinning, they take twice the processor's time
    for models as small as these, from ranks and tests that run beside them.
    """
    usual = {"CHATLIB_PROFILE": "laptop", "CHATLIB_DEVICE": "cpu", "OMP_WAIT_POLICY": "PASSIVE"}
    return {name: os.environ.get(name, value) for name, value in usual.items()}


def last_durations(figures: Path = pages.BUILD / "results.json") -> dict[str, float]:
    """Seconds that each page took when it was executed last on this machine."""
    return results.read(figures).get("book", {}).get("pages", {})


def time_left(paths: list[Path], took: dict[str, float]) -> float:
    """Seconds for these pages; one never executed counts as the mean of the others. 0: unknown."""
    mean = sum(took.values()) / len(took) if took else 0.0
    return sum(took.get(path.stem, mean) for path in paths)


def _page(path: Path, label: str, environment: dict[str, str], progress: Progress) -> None:
    """Execute one page and write it back normalised; a failed page is left as it was."""
    notebook = pages.load(path)
    code = [i for i, cell in enumerate(notebook.cells) if cell.cell_type == "code"]
    where = {index: number for number, index in enumerate(code, start=1)}
    client = NotebookClient(
        notebook,
        timeout=CELL_SECONDS,
        kernel_name=pages.KERNEL["name"],
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(path.parent)}},
        on_cell_execute=lambda cell, cell_index: progress.at(label, where[cell_index], len(code)),
    )
    progress.at(label, 0, len(code))
    try:
        client.execute(env=environment)
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise PageFailed(_failure(path, notebook, progress.cell, error)) from None
    pages.save(notebook, path)


def _failure(path: Path, notebook: NotebookNode, number: int, error: Exception) -> str:
    """Page, cell, the cell's source and the end of the error."""
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    source = code[number - 1].source if number else "(the kernel did not start)"
    shown = pages.without_colours(getattr(error, "traceback", "") or str(error))
    return "\n".join(
        [
            f"{path.name}, code cell {number} of {len(code)}:",
            *(f"    | {line}" for line in source.splitlines()),
            *shown.strip().splitlines()[-TRACEBACK_LINES:],
        ]
    )


def _chosen(folder: Path, names: list[str] | None) -> list[Path]:
    """The notebooks of `folder`, or those named, that have here what they need.

    Raises `ValueError` for an unknown name.
    """
    paths = pages.notebooks(folder)
    known = [path.stem for path in paths]
    for name in names or []:
        if name not in known:
            raise ValueError(f"no notebook {name!r} in _toc.yml; there are {', '.join(known)}")
    return pages.executable([p for p in paths if not names or p.stem in names], say=print)
