"""``python -m torchloops``: the same as the command ``torchloops``."""

import sys

from torchloops.cli import main

if __name__ == "__main__":
    sys.exit(main())
