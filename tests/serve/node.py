"""A page's scripts in node: the same classic scripts, the same engine as Chromium's."""

import json
import shutil
import subprocess
from pathlib import Path

import playwright
import pytest

from chatlib.serve.browser import RUNTIME

# The browser's driver brings one, so that nothing is left out where the system has none.
DRIVERS = Path(playwright.__file__).parent / "driver" / "node"
NODE = shutil.which("node") or (str(DRIVERS) if DRIVERS.exists() else None)
needs_node = pytest.mark.skipif(NODE is None, reason="no node here: apt-get install nodejs")
PAGE = Path(__file__).with_name("page.cjs")


def page(pack, job, **what):
    """What a job of `page.cjs` gives on a written pack."""
    done = subprocess.run(
        [NODE, PAGE, RUNTIME, pack],
        input=json.dumps({"job": job, **what}),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)
