"""What set-up needs of the machine, each with a sentence on what to install when it is missing.

Runs under the machine's own Python, before there is an environment; standard library only.
"""

import importlib.util
import sys

VERSION = sys.version_info[:2]


def missing() -> list:
    """One sentence for each thing that is not there."""
    here = ".".join(map(str, VERSION))
    wants = [
        (
            (3, 10) <= VERSION <= (3, 13),
            f"python3 is {here}; Python 3.10 to 3.13 is needed: make PYTHON=python3.12 ...",
        ),
        (
            importlib.util.find_spec("ensurepip"),
            f"no module ensurepip in Python {here}; on Debian: apt install python{here}-venv",
        ),
    ]
    return [sentence for found, sentence in wants if not found]


if __name__ == "__main__":
    sys.exit("\n".join(missing()) or 0)
