"""`python -m chatlib`, the same as `chatlib`."""

import sys

from chatlib.cli import main

if __name__ == "__main__":
    sys.exit(main())
