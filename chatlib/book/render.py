"""Render pages with their stored outputs as HTML, with Jupyter Book."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from chatlib.book import pages

JUPYTER_BOOK = Path(sys.executable).with_name("jupyter-book")


def render(source: Path = pages.NOTEBOOKS, build: Path = pages.BUILD, strict: bool = True) -> Path:
    """Build `build`/html from the pages in `source`; the path of its index.html.

    `strict` turns every warning into an error: a broken reference, an unknown citation, a page
    that is in no table of contents. Raises `RuntimeError` when the build fails.
    """
    work = build / "render"
    shutil.rmtree(work, ignore_errors=True)
    command = [str(JUPYTER_BOOK), "build", str(source), "--all", "--quiet"]
    command += ["--config", str(pages.ROOT / "_config.yml"), "--toc", str(pages.TOC)]
    command += ["--path-output", str(work)]
    command += ["-W", "-n", "--keep-going"] if strict else []
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        raise RuntimeError("the book has warnings or errors; the lines above name page and line")
    shutil.rmtree(build / "html", ignore_errors=True)
    shutil.move(work / "_build" / "html", build / "html")
    shutil.rmtree(work)
    return build / "html" / "index.html"
