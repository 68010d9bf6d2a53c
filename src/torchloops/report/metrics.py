"""The metrics of many inner runs as one table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

__all__ = ["join_metrics"]


def join_metrics(folder: Path) -> pandas.DataFrame:
    """Put the ``metrics.csv`` of every folder below ``folder`` into one table, in the order of their numbers.

    A table in ``folder`` itself is left out: it is where the joined one is written.

    Returns:
        The rows of all files, with the sub-folder that they come from in a first column, ``run``
        (``"bald_0/round_3"``); empty where there is no file.
    """
    import pandas

    files = sorted(folder.glob("*/**/metrics.csv"), key=lambda file: _natural(file.parent.relative_to(folder)))
    tables = [pandas.read_csv(file) for file in files]
    for file, table in zip(files, tables, strict=True):
        table.insert(0, "run", str(file.parent.relative_to(folder)))
    return pandas.concat(tables, ignore_index=True) if tables else pandas.DataFrame({"run": []})


def _natural(path: Path) -> list[tuple[str, int]]:
    parts = (part.rpartition("_") for part in path.parts)
    return [(name, int(number)) if number.isdigit() else (name + number, -1) for name, _, number in parts]
