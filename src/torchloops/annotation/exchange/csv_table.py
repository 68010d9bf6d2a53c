"""Labels as a CSV table, a row a sample."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

from torchloops.annotation.exchange.rows import Row, decided, relative_to_pool, text_of
from torchloops.annotation.store import LabelStore
from torchloops.errors import AnnotationError, did_you_mean
from torchloops.files import given_path, write_whole

__all__ = ["export_csv", "rows_of_csv"]

COLUMNS = ("sample", "path", "label", "action", "annotator", "round", "seconds", "guess", "score", "time")
_SAMPLE_COLUMNS = ("sample", "sample_id", "path", "file", "filename", "image")
_LABEL_COLUMNS = ("label", "class", "target")
_ACTIONS = ("label", "skip", "flag", "later")


def rows_of_csv(path: Path) -> Iterator[Row]:
    """The labels of a table; a row without a label says nothing.

    Cells are separated by commas, or by semicolons or tabs where the first line has more of those.

    Raises:
        AnnotationError: it is no such table; the message names the line.
    """
    text = text_of(path)
    first_line = text.partition("\n")[0]
    reader = csv.DictReader(
        io.StringIO(text, newline=""), restkey="", delimiter=max(",;\t", key=first_line.count), strict=True
    )
    try:
        reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
        samples, label = _columns(path, reader.fieldnames)
        for record in reader:
            yield from _row(f"{path}, line {reader.line_num}", record, samples, label)
    except csv.Error as error:
        line = reader.reader.line_num
        raise AnnotationError(f"{path}, line {line}: no readable CSV: {error}. Mend the line.") from error


def _columns(path: Path, header: list[str]) -> tuple[list[str], str]:
    """The columns that may name a sample, and the column of labels."""
    samples = [name for name in _SAMPLE_COLUMNS if name in header]
    labels = [name for name in _LABEL_COLUMNS if name in header]
    if not samples or not labels:
        wanted = _LABEL_COLUMNS if samples else _SAMPLE_COLUMNS
        hints = (hint for name in header if (hint := did_you_mean(name, wanted)))
        raise AnnotationError(
            f"{path} " + (f"has the columns {', '.join(map(repr, header))}" if header else "is empty") + "; expected "
            f"one of {', '.join(_SAMPLE_COLUMNS)} and one of {', '.join(_LABEL_COLUMNS)} in the first line."
            + next(hints, "")
        )  # fmt: skip
    return samples, labels[0]


def _row(place: str, record: Mapping[str, str | None], samples: list[str], label_column: str) -> Iterator[Row]:
    if "" in record:  # the rest of a line that is too long
        raise AnnotationError(
            f"{place}: it has more cells than the first line. Nothing was imported: put texts that have a comma into "
            "double quotes."
        )
    cells = {name: (text or "").strip() for name, text in record.items()}
    action, label = cells.get("action") or "label", cells[label_column]
    if action not in _ACTIONS:
        raise AnnotationError(
            f"{place}: the action {action!r:.40} is none of {', '.join(_ACTIONS)}. Nothing was imported."
            + did_you_mean(action, _ACTIONS)
        )
    if action == "later" or (action == "label" and not label):
        return
    key = next((cells[name] for name in samples if cells[name]), None)
    if key is None:
        raise AnnotationError(f"{place}: no sample is named in {', '.join(samples)}. Nothing was imported.")
    yield Row(place, (key,), label if action == "label" else None, action)


def export_csv(store: LabelStore, path: str | os.PathLike[str]) -> Path:
    """Write a row for each sample that is labelled, skipped or flagged, in order of their numbers.

    Columns: sample, path (relative to the pool), label, action, annotator, round (-1: imported), seconds, guess, score
    and time (UTC, ISO 8601). Texts are written as they are, so that they come back as they were: have a spreadsheet
    read them as text, for it takes one that begins with ``=``, ``+``, ``-`` or ``@`` for a formula.
    """
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for event, file in decided(store):
        when = datetime.fromtimestamp(event.time, UTC).isoformat(timespec="seconds")
        writer.writerow(
            [event.sample, file and relative_to_pool(file, store), event.label, event.action, event.annotator,
             event.round, event.seconds, event.guess, event.score, when]
        )  # fmt: skip
    return write_whole(given_path(path, "path"), table.getvalue())
