"""The command line: ``torchloops ls | run | env``. Importing it imports no torch."""

from torchloops.cli.app import main

__all__ = ["main"]
