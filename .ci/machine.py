"""What set-up needs of the machine, each with a sentence on what to install when it is missing.

Runs under the machine's own Python, before there is an environment; standard library only.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig

VERSION = sys.version_info[:2]


def missing() -> list:
    """One sentence for each thing that is not there."""
    here = ".".join(map(str, VERSION))
    header = os.path.join(sysconfig.get_paths()["include"], "Python.h")
    compiler = os.environ.get("CXX") or "c++"
    wants = [
        (
            (3, 10) <= VERSION <= (3, 13),
            f"python3 is {here}; Python 3.10 to 3.13 is needed: make PYTHON=python3.12 ...",
        ),
        (
            importlib.util.find_spec("ensurepip"),
            f"no module ensurepip in Python {here}; on Debian: apt install python{here}-venv",
        ),
        (
            os.path.exists(header),
            f"no Python.h of Python {here}; on Debian: apt install python{here}-dev",
        ),
        (shutil.which(compiler), f"no C++ compiler {compiler!r}; on Debian: apt install g++"),
    ]
    return [sentence for found, sentence in wants if not found]


if __name__ == "__main__":
    sys.exit("\n".join(missing()) or 0)
