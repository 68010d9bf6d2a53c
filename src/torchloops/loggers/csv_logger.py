"""CSVLogger: a CSV file with one row an epoch."""

from __future__ import annotations

import csv
import io
import os
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torchloops.errors import ConfigurationError
from torchloops.files import given_path, sync_folder, write_whole
from torchloops.loggers.experiment import Experiment
from torchloops.loggers.hparams_file import as_dict, is_first_process, write_hparams
from torchloops.schema import Either, check

__all__ = ["CSVLogger"]

_FIRST_COLUMNS = ("epoch", "step")
_STATE = {
    "columns": [str], "settled": str, "last": Either({str: str | float | bool | None}, None), "continues": bool,
}  # fmt: skip


class CSVLogger:
    """Writes what is logged to a CSV file, **one row an epoch**.

    Everything logged in an epoch goes to one row, the latest value of each name wins, and ``step`` is the latest
    step. Values without an epoch (those of ``trainer.test`` after a fit) go to the last row, as far as
    it has none of that name. On a step nothing is
    written: a row goes to the file when ``save`` or ``finalize`` is called or the next epoch begins, so a crash
    loses no more than the running epoch. The file is written anew only when a column comes in.

    A file that is already there is continued: the first epoch logged replaces its rows of that epoch and later
    ones. A run that starts at epoch 0 thus replaces all rows. A run that goes on from a checkpoint takes rows and
    columns from that, and writes the file anew from them, whatever has become of the file since.

    Args:
        save_dir: folder of the file ``metrics.csv``, unless a name or a version says otherwise; it is made when there
            is something to write.
        name: folder inside ``save_dir``, with a folder ``version_0``, ``version_1``, ... for each logger.
        version: the folder inside: a number N for ``version_N``, or its name. None: the next number that is free,
            where there is a name.
        prefix: before every name in the file, with a ``-`` between.
        flush_logs_every_n_steps: also write whenever that many steps have passed; None: once an epoch.

    Attributes:
        row_an_epoch: True: what is logged per step comes at the end of an epoch too, as it was last.
        rows: all rows, as dicts by column; those read from a file or a checkpoint hold text.
    """

    row_an_epoch = True

    def __init__(
        self,
        save_dir: str | Path,
        name: str | None = None,
        version: int | str | None = None,
        prefix: str = "",
        flush_logs_every_n_steps: int | None = None,
    ) -> None:
        self._save_dir = str(given_path(save_dir, "save_dir"))
        self._find: Callable[[], Path] | None = None
        self.name = name or ""
        self.prefix = prefix
        self.flush_logs_every_n_steps = flush_logs_every_n_steps
        if flush_logs_every_n_steps is not None and flush_logs_every_n_steps < 1:
            raise ConfigurationError(
                f"CSVLogger(flush_logs_every_n_steps=...) is a number of steps or None, got {flush_logs_every_n_steps}."
            )
        if self.name.endswith(".csv"):
            raise ConfigurationError(
                f"CSVLogger(name={name!r}): the file is always metrics.csv; the name is that of a folder around it."
            )
        self._version = version
        self._has_version = name is not None or version is not None
        self._flushed_at = 0
        self._experiment: Experiment | None = None
        self._rows: list[dict[str, Any]] | None = None
        self._columns: list[str] = []
        self._columns_on_disk: list[str] = []
        self._settled_rows = 0  # rows on disk that need not be written again,
        self._settled_bytes = 0  # and where the first other one begins
        self._lines = b""  # rows that cannot change any more, as in the file;
        self._lines_columns: list[str] = []  # the columns they were written with,
        self._lines_rows = 0  # and how many they are
        self._continues = True
        self._changed = self._has_warned = False
        self._running_epoch: Any = None  # the epoch logged last, and its row
        self._running_row: dict[str, Any] = {}

    @classmethod
    def found_by(cls, find: Callable[[], Path]) -> CSVLogger:
        """A logger whose folder ``find`` gives as soon as somebody asks for it, unless `settle` names it before."""
        logger = cls(".")
        logger._find = find
        return logger

    def settle(self, folder: Path) -> None:
        """Name the folder, if nobody has asked for it yet."""
        if self._find is not None:
            self._save_dir, self._find = str(folder), None

    @property
    def save_dir(self) -> str:
        """Folder of all names and versions."""
        if self._find is not None:
            self.settle(self._find())
        return self._save_dir

    @property
    def path(self) -> Path:
        """The CSV file."""
        return Path(self.log_dir, "metrics.csv")

    @property
    def version(self) -> int | str:
        """The number or name of the version; empty where there is neither name nor version."""
        if self._version is None:
            self._version = _next_version(Path(self.root_dir)) if self._has_version else ""
        return self._version

    @property
    def root_dir(self) -> str:
        """Folder of all versions."""
        return os.path.join(self.save_dir, self.name) if self.name else self.save_dir

    @property
    def log_dir(self) -> str:
        """Folder of the file."""
        version = f"version_{self.version}" if isinstance(self.version, int) else self.version
        return os.path.join(self.root_dir, version) if version else self.root_dir

    @property
    def experiment(self) -> Experiment:
        """What takes pictures and the like beside the file, as of TensorBoard's ``SummaryWriter``."""
        if self._experiment is None:
            self._experiment = Experiment(self)
        return self._experiment

    @property
    def rows(self) -> list[dict[str, Any]]:
        if self._rows is None:
            self._rows = self._read()
        return self._rows

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Keep values for the row of their epoch.

        Args:
            metrics: numbers by name. ``"epoch"`` says which row; without it they go to the last row.
            step: optimizer step; a column of its own.
        """
        if self.prefix:
            metrics = {name if name == "epoch" else f"{self.prefix}-{name}": metrics[name] for name in metrics}
        epoch = metrics.get("epoch")
        if epoch is None or epoch != self._running_epoch:
            self._running_row = self._row_of(None if epoch is None else int(epoch))
            self._running_epoch = epoch
        row = self._running_row
        row.update(metrics if epoch is not None else {k: v for k, v in metrics.items() if k not in row})
        if step is not None:
            row["step"] = step
        self._changed = True
        every = self.flush_logs_every_n_steps
        if every is not None and step is not None and (step + 1) // every != self._flushed_at:
            self._flushed_at = (step + 1) // every
            self.save()

    def log_hyperparams(self, params: Any = None, *args: Any, **kwargs: Any) -> None:
        """Write hyper-parameters to ``hparams.yaml``; what YAML does not know is written as text."""
        if not is_first_process():
            return
        try:
            write_hparams(self.log_dir, as_dict(params, kwargs))
        except OSError as error:
            self._warn(error)

    def log_graph(self, *args: Any, **kwargs: Any) -> None:
        """A CSV file holds no graph: nothing happens."""

    def state_dict(self) -> dict[str, Any]:
        """Rows and columns, as plain data that costs little however many rows there are."""
        rows = self.rows
        return {
            "columns": list(self._columns),
            "settled": self._settled_lines().decode("utf-8"),
            "last": {name: _cell(value) for name, value in rows[-1].items()} if rows else None,
            "continues": self._continues,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take back what `state_dict` returned; the next `save` writes the file anew from it."""
        check(state_dict, _STATE, "CSVLogger: state")
        self._columns = list(state_dict["columns"])
        text = state_dict["settled"]
        self._rows, _ = _parse(_csv_line(self._columns).decode("utf-8") + text)
        self._lines, self._lines_columns, self._lines_rows = text.encode("utf-8"), [*self._columns], len(self._rows)
        if state_dict["last"] is not None:
            self._rows.append(dict(state_dict["last"]))
        self._continues = state_dict["continues"]
        self._columns_on_disk, self._settled_rows, self._settled_bytes = [], 0, 0
        self._running_epoch, self._running_row = None, {}
        self._changed = bool(self._rows)

    def save(self) -> None:
        """Write what is not written yet."""
        if not self._changed:
            return
        self._add_columns()
        if not is_first_process():
            return
        try:
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            if self._columns != self._columns_on_disk or not self._file_is_as_left():
                self._write_all()
            else:
                self._write_rest()
        except OSError as error:
            self._warn(error)
        else:
            self._changed = self._has_warned = False

    def _warn(self, error: OSError) -> None:
        if not self._has_warned:
            what = f"{error.filename or self.path}: {error.strerror}"
            warnings.warn(f"Training goes on, but its metrics cannot be written: {what}.", stacklevel=3)
        self._has_warned = True

    def finalize(self, status: str = "success") -> None:
        """Write what is not written yet, so that it outlives a power cut; more may be logged after."""
        self.save()
        if self._columns_on_disk and is_first_process() and self.path.is_file():
            try:
                _flush_to_disk(self.path)
            except OSError as error:
                self._warn(error)
        if self._experiment is not None:
            self._experiment.flush()

    # rows

    def _row_of(self, epoch: int | None) -> dict[str, Any]:
        rows = self.rows
        if epoch is None:
            return rows[-1] if rows else self._new_row()
        last = _epoch_of(rows[-1]) if rows else -1
        if self._continues or epoch < last:
            self._continues = False
            self._drop_from(epoch)
            return self._new_row()
        if epoch == last:
            return rows[-1]
        self.save()
        return self._new_row()

    def _new_row(self) -> dict[str, Any]:
        self.rows.append({})
        return self.rows[-1]

    def _drop_from(self, epoch: int) -> None:
        """Forget the rows of ``epoch`` and later."""
        kept = [row for row in self.rows if _epoch_of(row) < epoch]
        self._rows = kept
        self._columns = self._columns if kept else []
        self._columns_on_disk = []  # the file is to be written anew
        self._lines, self._lines_columns, self._lines_rows = b"", [], 0

    # the file

    def _read(self) -> list[dict[str, Any]]:
        """The rows of the file that is there; a last line cut by a crash is left out."""
        if not self.path.is_file():
            return []
        text = self.path.read_bytes().decode("utf-8", "replace")
        rows, self._columns = _parse(text[: text.rfind("\n") + 1])
        return rows

    def _add_columns(self) -> None:
        """Note new columns; those of settled rows are known."""
        known = dict.fromkeys((*_FIRST_COLUMNS, *self._columns))
        for row in self.rows[self._lines_rows :]:
            known.update(dict.fromkeys(row))
        self._columns = list(known)

    def _settled_lines(self) -> bytes:
        """All rows but the last, as in the file."""
        if self._lines_columns != self._columns:
            self._lines, self._lines_columns, self._lines_rows = b"", list(self._columns), 0
        settled = self.rows[self._lines_rows : -1]
        if settled:
            self._lines += b"".join(map(self._line, settled))
            self._lines_rows += len(settled)
        return self._lines

    def _file_is_as_left(self) -> bool:
        return self.path.is_file() and self.path.stat().st_size >= self._settled_bytes

    def _write_all(self) -> None:
        header, settled = _csv_line(self._columns), self._settled_lines()
        last = b"".join(map(self._line, self.rows[-1:]))
        write_whole(self.path, header + settled + last, durable=False)
        self._columns_on_disk = list(self._columns)
        self._settled_rows, self._settled_bytes = self._lines_rows, len(header) + len(settled)

    def _write_rest(self) -> None:
        first = min(self._settled_rows, len(self.rows))
        lines = [self._line(row) for row in self.rows[first:]]
        start = self._settled_bytes
        with self.path.open("r+b") as file:
            file.seek(start)
            file.write(b"".join(lines))
            file.truncate()
        self._settled_rows = first + max(len(lines) - 1, 0)  # only the last row may still change
        self._settled_bytes = start + sum(map(len, lines[:-1]))

    def _line(self, row: Mapping[str, Any]) -> bytes:
        return _csv_line(_as_text(row.get(name)) for name in self._columns)


def _next_version(folder: Path) -> int:
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return max([-1, *(int(found[1]) for name in names if (found := re.fullmatch(r"version_(\d+)", name)))]) + 1


def _epoch_of(row: Mapping[str, Any]) -> int:
    try:
        return int(row["epoch"])
    except (KeyError, ValueError):
        return -1


def _as_text(value: Any) -> str:
    """A number with the digits that single precision has; an empty text for a missing one."""
    if value is None:
        return ""
    if isinstance(value, str | bool | int):
        return str(value)
    number = float(value)
    return f"{number:.8g}"


def _cell(value: Any) -> Any:
    """A value as plain data that is written with the same text."""
    return value if type(value) in (type(None), str, bool, int, float) else _as_text(value)


def _parse(text: str) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows of a CSV text, as dicts that lack empty cells, and its columns."""
    reader = csv.DictReader(io.StringIO(text, newline=""))
    rows = [{name: value for name, value in row.items() if name and value} for row in reader]
    return rows, list(reader.fieldnames or [])


def _csv_line(values: Iterable[str]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue().encode("utf-8")


def _flush_to_disk(path: Path) -> None:
    """Have a file and its name written to the disk, not only handed to the system."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    sync_folder(path.parent)
