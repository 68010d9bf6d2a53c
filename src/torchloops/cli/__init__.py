"""The command line: ``torchloops ls | run | resume | env``. Importing it imports no torch."""

from torchloops.cli.app import main

__all__ = ["main"]
