"""The folder of one run, counted up and never overwritten."""

from __future__ import annotations

import json
import re
import traceback
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console

from torchloops.errors import ConfigurationError

if TYPE_CHECKING:
    import pandas

__all__ = ["RunFolder", "to_yaml"]


class RunFolder:
    """The folder ``<out>/<recipe>/<NNN>/`` and what is said on the screen while it fills.

    Everything said goes to the terminal and to ``log.txt``; ``with`` adds warnings and the traceback of an
    error to that file. Made by :meth:`create`.

    Args:
        path: an existing, empty folder.
        quiet: ``say`` prints only what is said with ``result=True``.
        verbose: for recipes that have more to print.

    Attributes:
        terminal: the console that ``say`` prints to.
    """

    def __init__(self, path: Path, *, quiet: bool = False, verbose: bool = False) -> None:
        self.path = path
        self.quiet = quiet
        self.verbose = verbose
        self._log: TextIO | None = None
        self.terminal = Console(highlight=False)

    @classmethod
    def create(
        cls,
        out: str | Path,
        recipe: str,
        *,
        name: str | None = None,
        quiet: bool = False,
        verbose: bool = False,
    ) -> RunFolder:
        """Make the next folder; two runs that start together get two folders.

        Args:
            out: folder of all runs, made if missing.
            recipe: the sub-folder.
            name: added to the number: ``003_<name>``.

        Raises:
            ConfigurationError: ``name`` is no plain file name.
        """
        if name is not None and not re.fullmatch(r"[\w.\-]+", name):
            raise ConfigurationError(
                f'The name of a run names a folder: expected letters, digits, ".", "_" and "-", got "{name}".'
            )
        parent = Path(out) / recipe
        parent.mkdir(parents=True, exist_ok=True)
        return cls(_make_next_folder(parent, name), quiet=quiet, verbose=verbose)

    def file(self, *parts: str) -> Path:
        """The path of a file in the folder; the folders above it are made."""
        path = self.path.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def describe(self, options: Mapping[str, Any], command: str) -> None:
        """Write ``config.yaml`` (to run it again), ``command.txt`` and ``env.json``."""
        from torchloops.report.environment import collect_environment

        self.file("config.yaml").write_text(to_yaml(options), encoding="utf-8")
        self.file("command.txt").write_text(command + "\n", encoding="utf-8")
        self.write_json("env.json", collect_environment())

    def write_json(self, name: str, values: Mapping[str, Any]) -> Path:
        """Write plain values and return the path."""
        path = self.file(name)
        path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
        return path

    def write_table(self, name: str, table: pandas.DataFrame) -> Path:
        """Write a table as CSV, without its index, and return the path."""
        path = self.file(name)
        table.to_csv(path, index=False)
        return path

    def say(self, what: Any, *, result: bool = False) -> None:
        """Print a text or a rich table; ``result=True`` also where ``quiet`` was asked for."""
        if result or not self.quiet:
            self.terminal.print(what, markup=False, soft_wrap=isinstance(what, str))
        if self._log is not None:
            Console(file=self._log, width=120, highlight=False).print(
                what, markup=False, soft_wrap=isinstance(what, str)
            )

    def __enter__(self) -> RunFolder:
        self._log = self.file("log.txt").open("w", encoding="utf-8", buffering=1)
        self._show_warning = warnings.showwarning
        warnings.showwarning = self._warn
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        warnings.showwarning = self._show_warning
        if error is not None and self._log is not None:
            self._log.writelines(traceback.format_exception(kind, error, trace))
            self.terminal.print(f"What was done so far is in {self.path}", markup=False, soft_wrap=True)
        if self._log is not None:
            self._log.close()
            self._log = None

    def _warn(
        self,
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if self._log is not None:
            self._log.write(warnings.formatwarning(message, category, filename, lineno, line))
        if not self.quiet:
            self.terminal.print(f"Warning: {message}", markup=False, soft_wrap=True)


def _make_next_folder(parent: Path, name: str | None) -> Path:
    taken = [int(match[0]) for path in parent.iterdir() if (match := re.match(r"\d+", path.name))]
    number = max(taken, default=0) + 1
    while True:
        path = parent / (f"{number:03d}_{name}" if name else f"{number:03d}")
        try:
            path.mkdir()
        except FileExistsError:  # another run started at the same moment
            number += 1
        else:
            return path


def to_yaml(options: Mapping[str, Any]) -> str:
    """Options as YAML that ``torchloops run RECIPE -c FILE`` reads again."""
    import yaml

    return yaml.safe_dump({key: _plain(value) for key, value in options.items()}, sort_keys=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
