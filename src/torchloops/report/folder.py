"""The folder of one run, counted up, never overwritten by another run."""

from __future__ import annotations

import json
import re
import shlex
import traceback
import warnings
from collections.abc import Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO, cast

from rich.console import Console

from torchloops.errors import ConfigurationError, ResumeWarning, WaitingForLabels
from torchloops.files import given_path, readable, write_whole
from torchloops.folders import make_next_folder, working_in
from torchloops.report.log import Log
from torchloops.schema import read_json

if TYPE_CHECKING:
    import pandas

__all__ = ["RunFolder", "to_yaml"]


class RunFolder:
    """The folder ``<out>/<recipe>/<NNN>/`` and what is said on the screen while it fills.

    Everything said goes to the terminal and to ``log.txt``; ``with`` adds warnings and the traceback of an
    error to that file, and sees to it that one process at a time works in the folder. Made by :meth:`create`.

    Args:
        path: an existing folder: an empty one, or one to go on in.
        quiet: ``say`` prints only what is said with ``result=True``; of warnings, those about resuming are printed.
        verbose: for recipes that have more to print.
        resumed: go on with the run that began there: see `ckpt_path`.
        resume_command: what to type to go on; said when the run is cut.

    Attributes:
        terminal: the console that ``say`` prints to.

    Raises:
        ConfigurationError: on ``with``: another process works in the folder.
    """

    def __init__(
        self,
        path: Path,
        *,
        quiet: bool = False,
        verbose: bool = False,
        resumed: bool = False,
        resume_command: str | None = None,
    ) -> None:
        self.path = path
        self.quiet = quiet
        self.verbose = verbose
        self.resumed = resumed
        self.resume_command = resume_command
        self._log: Log | None = None
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
            ConfigurationError: ``name`` is no plain file name, or ``out`` is empty.
        """
        if name is not None and not re.fullmatch(r"[\w.\-]+", name):
            raise ConfigurationError(
                f'The name of a run names a folder: expected letters, digits, ".", "_" and "-", got "{name}".'
            )
        return cls(make_next_folder(given_path(out, "out") / recipe, 1, name), quiet=quiet, verbose=verbose)

    def file(self, *parts: str) -> Path:
        """The path of a file in the folder; the folders above it are made."""
        path = self.path.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def ckpt_path(self, root: Path) -> str | None:
        """What to give to ``trainer.fit(ckpt_path=...)``: "last" where there is a training to go on with, else None.

        Args:
            root: the ``default_root_dir`` of the Trainer.
        """
        names = ("last.ckpt", "last.previous.ckpt")
        began = any((root / "checkpoints" / name).is_file() for name in names)
        return "last" if self.resumed and began else None

    def describe(self, options: Mapping[str, Any], command: str) -> None:
        """Write ``config.yaml`` (to run it again) and ``command.txt``, to which a resumed run adds its line."""
        commands = self.path / "command.txt"
        before = commands.read_text(encoding="utf-8") if self.resumed and commands.is_file() else ""
        write_whole(self.file("config.yaml"), to_yaml(options))
        write_whole(commands, f"{before}{command}\n")

    def describe_environment(self) -> None:
        """Write ``env.json``; a resumed run keeps it and warns where the environment has changed since."""
        from torchloops.report.environment import collect_environment, environment_changes

        now, path = collect_environment(), self.path / "env.json"
        if not (self.resumed and path.is_file()):
            self.write_json("env.json", now)
            return
        before = read_json(path, {str: Any}, ConfigurationError, "Correct it, or remove it.")
        changes = environment_changes(before, now)
        if changes:
            warnings.warn(
                f"Since this run began, {changes}: what comes now may differ in the last digits.",
                ResumeWarning,
                stacklevel=2,
            )

    def write_json(self, name: str, values: Mapping[str, Any]) -> Path:
        """Write plain values and return the path."""
        return write_whole(self.file(name), json.dumps(values, indent=2) + "\n")

    def write_table(self, name: str, table: pandas.DataFrame) -> Path:
        """Write a table as CSV, without its index, and return the path."""
        return write_whole(self.file(name), table.to_csv(index=False))

    def say(self, what: Any, *, result: bool = False) -> None:
        """Print a text or a rich table; ``result=True`` also where ``quiet`` was asked for."""
        what = readable(what) if isinstance(what, str) else what
        if result or not self.quiet:
            self.terminal.print(what, markup=False, soft_wrap=isinstance(what, str))
        if self._log is not None:
            Console(file=cast(TextIO, self._log), width=120, highlight=False).print(
                what, markup=False, soft_wrap=isinstance(what, str)
            )

    def __enter__(self) -> RunFolder:
        with ExitStack() as stack:
            stack.enter_context(working_in(self.path))
            self._log = stack.enter_context(closing(Log(self.file("log.txt"), new=not self.resumed)))
            self._opened = stack.pop_all()
        self._show_warning = warnings.showwarning
        warnings.showwarning = self._warn
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        warnings.showwarning = self._show_warning
        if error is not None and self._log is not None:
            self._log.write(_in_the_log(error))
            self._say_where(is_waiting=isinstance(error, WaitingForLabels))
        self._log = None
        self._opened.close()

    def _say_where(self, is_waiting: bool) -> None:
        """Where a run that was cut has left its files, and what to type to go on; also where it is quiet."""
        self.say(f"What was done so far is in {self.path}", result=True)
        if is_waiting:
            self.say(f"label  {shlex.join(['torchloops', 'label', str(self.path)])}", result=True)
        if self.resume_command is not None:
            self.say(f"resume {self.resume_command}", result=True)

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
        if not self.quiet or issubclass(category, ResumeWarning):
            self.terminal.print(readable(f"Warning: {message}"), markup=False, soft_wrap=True)


def _in_the_log(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt | SystemExit):
        return "Interrupted.\n"
    if isinstance(error, WaitingForLabels):
        return f"Waiting for labels: {error}\n"
    return "".join(traceback.format_exception(error))


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
