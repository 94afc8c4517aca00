"""The peers' environments: made once, beside the project's own, and reused."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / ".ci" / "constraints.txt"  # the same torch and transformers on both sides
TRL = {
    ".venv-bench": "trl==1.16.0",
    ".venv-trl112": "trl==1.12.0",  # the last one with a PPOTrainer
}


def python(name: str) -> Path:
    """The interpreter of one of the environments."""
    return ROOT / name / "bin" / "python"


def set_up(name: str) -> None:
    """Make an environment unless it already holds what it should. Some minutes the first time."""
    if _holds(name, TRL[name]):
        return
    print(f"--- setting up {name} with {TRL[name]}: a few minutes, once", flush=True)
    if not python(name).exists():
        subprocess.run([sys.executable, "-m", "venv", ROOT / name], check=True)
    torch = re.search(r"^torch==\S+", CONSTRAINTS.read_text(encoding="utf-8"), re.M).group()
    pip = [python(name), "-m", "pip", "install", "--quiet", "--constraint", CONSTRAINTS]
    subprocess.run([*pip, torch], check=True)  # first: an open range would take another build
    subprocess.run([*pip, TRL[name], "transformers", "datasets", "accelerate"], check=True)


def _holds(name: str, requirement: str) -> bool:
    package, version = requirement.split("==")
    check = f"import {package}; assert {package}.__version__ == {version!r}"
    found = python(name)
    return (
        found.exists() and subprocess.run([found, "-c", check], capture_output=True).returncode == 0
    )
