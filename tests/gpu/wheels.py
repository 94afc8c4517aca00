"""The packages that a bare machine with a card lacks, gathered here and unpacked there.

    python tests/gpu/wheels.py FOLDER [--python 3.12] [--machine x86_64]   # with a network

`make gpu GPU="--wheels FOLDER"` on the other machine unpacks them beside its own torch and
transformers; it needs neither network nor pip. DeepSpeed is built without its ops, which it
would compile at run time anyway.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / ".ci" / "constraints.txt"
BUILT = "deepspeed"  # published as source only
LACKING = ["hjson", "pydantic", "pydantic-core", "annotated-types", "typing-inspection"]
MOST = 60 * 2**20  # bytes of the folder
PLATFORMS = ("manylinux_2_28", "manylinux_2_17", "manylinux2014")


def pinned(name: str) -> str:
    """`NAME==VERSION`, the one that the project is tested with."""
    found = re.search(rf"^{name}==\S+", CONSTRAINTS.read_text(encoding="utf-8"), re.M)
    if not found:
        raise SystemExit(f"{CONSTRAINTS} pins no {name}; add it there")
    return found.group()


def gather(folder: Path, python: str, machine: str) -> int:
    """Fill the folder with wheels for that Python and processor; returns their bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    environment = {**os.environ, "DS_BUILD_OPS": "0"}
    subprocess.run([*build, pinned(BUILT)], check=True, env=environment)
    wanted = ["--python-version", python, "--implementation", "cp", "--only-binary=:all:"]
    for platform in PLATFORMS:
        wanted += ["--platform", f"{platform}_{machine}"]
    names = map(pinned, LACKING)
    subprocess.run([*pip, "download", "--no-deps", *wanted, "--dest", folder, *names], check=True)
    size = sum(path.stat().st_size for path in folder.glob("*.whl"))
    if size > MOST:
        raise SystemExit(f"{folder} has {size / 2**20:.0f} MiB of at most {MOST / 2**20:.0f}")
    return size


def unpack(folder: Path, target: Path) -> None:
    """Lay the wheels out in ``target``, their scripts in its `bin`, for this Python."""
    wheels = sorted(folder.glob("*.whl"))
    if not wheels:
        raise SystemExit(f"{folder} holds no wheel; fill it with `python tests/gpu/wheels.py`")
    here = f"cp{sys.version_info[0]}{sys.version_info[1]}-"
    if other := [w.name for w in wheels if "-cp3" in w.name and here not in w.name]:
        raise SystemExit(f"{other[0]} is not for Python {sys.version.split()[0]}; gather --python")
    shutil.rmtree(target, ignore_errors=True)
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as packed:
            packed.extractall(target)
    (target / "bin").mkdir(exist_ok=True)
    for script in target.glob("*.data/scripts/*"):
        text = re.sub(r"\A#!.*", f"#!{sys.executable}", script.read_text(encoding="utf-8"))
        (target / "bin" / script.name).write_text(text, encoding="utf-8")
        (target / "bin" / script.name).chmod(0o755)


def main() -> None:
    """Gather, and say how much it is."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default="3.12", help="version of the other machine's Python")
    parser.add_argument("--machine", default="x86_64", help="what `uname -m` prints there")
    asked = parser.parse_args()
    size = gather(asked.folder, asked.python, asked.machine)
    print(f"{asked.folder}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
