"""import_labels: labels that somebody else has, taken into a store."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from torchloops.annotation.events import check_label
from torchloops.annotation.exchange.class_folders import rows_of_class_folders
from torchloops.annotation.exchange.csv_table import rows_of_csv
from torchloops.annotation.exchange.label_studio_json import rows_of_json
from torchloops.annotation.exchange.rows import Row, Samples, composed
from torchloops.annotation.queries import Answer
from torchloops.annotation.store import LabelStore
from torchloops.errors import AnnotationError

__all__ = ["import_labels"]


def import_labels(
    store: LabelStore,
    source: str | os.PathLike[str],
    annotator: str = "import",
    unknown: Literal["refuse", "skip"] = "refuse",
) -> int:
    """Take labels from a file or folder into a store: all of them or, on an error, none.

    A label that was imported before and that somebody has changed since stays changed, so that the same file may be
    given each time a study goes on.

    Args:
        store: has the classes, and has looked through the pool.
        source: a ``.csv`` file with a column ``sample`` or ``path`` (also ``sample_id``, ``file``, ``filename``,
            ``image``) and a column ``label`` (``class``, ``target``), such as `export_csv` writes; a folder of class
            folders, whose pictures are known by their content; or a ``.json`` file that Label Studio has exported. A
            path is relative to the pool or to the file, or a plain file name where the pool has one of that name.
        annotator: who gave the labels.
        unknown: "refuse" samples that are not in the pool, or "skip" them.

    Returns:
        Number of labels that the store did not have.

    Raises:
        AnnotationError: the file cannot be read so, a label is no class, a sample is unknown or has two labels.
    """
    if unknown not in ("refuse", "skip"):
        raise AnnotationError(f'unknown is "refuse" or "skip", got {unknown!r:.40}.')
    path = Path(source)
    answers = _answers(store, _rows_of(path, store.classes), path, annotator, skip_unknown=unknown == "skip")
    known = store.decisions()
    imported = {event.sample: event for event in store.events() if event.source == "import"}
    new = [
        answer
        for answer in answers
        if not any(
            event is not None and (event.action, event.label) == (answer.action, answer.label)
            for event in (known.get(answer.sample), imported.get(answer.sample))
        )
    ]
    store.record_all(new, source="import")
    return len(new)


def _rows_of(path: Path, classes: Sequence[str]) -> list[Row]:
    if path.is_dir():
        return rows_of_class_folders(path, classes)
    readers = {".csv": rows_of_csv, ".json": rows_of_json}
    reader = readers.get(path.suffix.lower())
    if reader is None or not path.exists():
        raise AnnotationError(
            f"{path} cannot be imported: expected a .csv or .json file, or a folder of class folders"
            + ("." if path.exists() else "; there is nothing of that name.")
        )
    return list(reader(path))


def _answers(
    store: LabelStore, rows: Sequence[Row], source: Path, annotator: str, *, skip_unknown: bool
) -> list[Answer]:
    """One answer a sample.

    Raises:
        AnnotationError: a label is no class, or a sample is unknown or has two labels.
    """
    samples, classes = Samples(store, source.parent), store.classes
    said: dict[str, Row] = {}
    strangers = []
    for row in rows:
        row = _with_class(row, classes)
        sample = samples.find(row)
        if sample is None:
            strangers.append(row)
            continue
        before = said.setdefault(sample, row)
        if before.says != row.says:
            raise AnnotationError(
                f"{row.place} says {row.label or row.action!r} of a sample that {before.place} says "
                f"{before.label or before.action!r} of. Nothing was imported: leave one of the two."
            )
    if strangers and not skip_unknown:
        raise AnnotationError(
            f"{len(strangers)} of {len(rows)} samples are not in the pool, the first is {strangers[0].keys[-1]!r:.100} "
            f"({strangers[0].place}). Nothing was imported. Put the files into the pool, mend their paths, or import "
            'with unknown="skip".'
        )
    actions: dict[str, Any] = {sample: row.action for sample, row in said.items()}
    return [Answer(sample, actions[sample], row.label, annotator) for sample, row in said.items()]


def _with_class(row: Row, classes: Sequence[str]) -> Row:
    """The row with its label as the study spells it."""
    if row.action != "label":
        return row
    alike = {composed(name): name for name in classes}
    try:
        label = check_label(alike.get(composed(row.label or ""), row.label), classes)
    except AnnotationError as error:
        raise AnnotationError(f"{row.place}: {error} Nothing was imported.") from None
    return Row(row.place, row.keys, label)
