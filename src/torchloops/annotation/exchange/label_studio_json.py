"""Labels as Label Studio's JSON: a task a picture, with annotations and predictions."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from torchloops.annotation.exchange.rows import Row, decided, relative_to_pool, text_of
from torchloops.annotation.store import LabelStore
from torchloops.errors import AnnotationError
from torchloops.files import given_path, write_whole

__all__ = [
    "SAMPLE_KEY",
    "address_of",
    "changed_at",
    "choice_of",
    "choice_result",
    "export_label_studio",
    "prediction",
    "rows_of_json",
]

SAMPLE_KEY = "torchloops_sample"
"""Key of a task's data that holds the name of the sample, so that a task is known again."""

ImageUrl = str | Callable[[Path], str] | None


def rows_of_json(path: Path) -> Iterator[Row]:
    """The labels of a file that Label Studio has exported; a task that nobody has answered says nothing.

    Raises:
        AnnotationError: it is no such file; the message names the task.
    """
    try:
        tasks = json.loads(text_of(path))
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path} is no JSON: {error}.") from error
    if not isinstance(tasks, list):
        raise AnnotationError(f"{path} is not what Label Studio exports: expected a list of tasks (format JSON).")
    for index, task in enumerate(tasks):
        named = task.get("id", index) if isinstance(task, dict) else index
        row = _row(task, f"{path}, task {named}")
        if row is not None:
            yield row


def _row(task: Any, place: str) -> Row | None:
    """What the last annotation of a task says."""
    data = task.get("data") if isinstance(task, dict) else None
    if not isinstance(data, dict):
        raise AnnotationError(
            f"{place}: no task of Label Studio, it has no data. Export the project as JSON, not as JSON-MIN."
        )
    annotations = [entry for entry in _list(task.get("annotations")) if isinstance(entry, dict)]
    if not annotations:
        return None
    try:
        action, label = choice_of(max(annotations, key=changed_at))
    except AnnotationError as error:
        raise AnnotationError(f"{place}: {error} Nothing was imported.") from None
    if action == "later":
        return None
    keys = _keys(data)
    if not keys:
        raise AnnotationError(f"{place}: its data name no picture.")
    return Row(place, keys, label, action)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def changed_at(annotation: dict[str, Any]) -> str:
    """When an annotation was changed last; ISO 8601, so that text sorts as time does."""
    return str(annotation.get("updated_at") or annotation.get("created_at") or "")


def choice_of(annotation: dict[str, Any], control: str | None = None) -> tuple[str, str | None]:
    """What an annotation says: an action, and with "label" the choice; "later" where nothing was chosen.

    Args:
        annotation: as Label Studio has it.
        control: name of the control whose choices count. Default: all.

    Raises:
        AnnotationError: there are several choices.
    """
    if annotation.get("was_cancelled"):
        return "skip", None
    values = [
        result["value"]
        for result in _list(annotation.get("result"))
        if isinstance(result, dict) and isinstance(result.get("value"), dict)
        if control is None or result.get("from_name") == control
    ]
    choices = [choice for value in values for choice in _list(value.get("choices"))]
    if len(choices) > 1:
        raise AnnotationError(f"There are {len(choices)} choices {choices}; expected one class a picture.")
    return ("label", str(choices[0]).strip()) if choices else ("later", None)


def _keys(data: dict[str, Any]) -> tuple[str, ...]:
    """What may name the picture of a task: our own mark, else the address of the picture and the file name in it."""
    if isinstance(data.get(SAMPLE_KEY), str):
        return (data[SAMPLE_KEY],)
    image = data.get("image")
    addresses = [image] if isinstance(image, str) else [value for value in data.values() if isinstance(value, str)]
    return tuple(dict.fromkeys(key for address in addresses for key in _keys_of(address) if key))


def _keys_of(address: str) -> Iterator[str]:
    yield address
    parts = urlsplit(address)
    path = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]  # local files are at "/data/local-files/?d=..."
    yield path
    name = path.rpartition("/")[2]
    yield name
    yield re.sub(r"^[0-9a-f]{8}-", "", name)  # an upload has a mark before its name


def choice_result(label: str, control: str = "choice", image: str = "image") -> dict[str, Any]:
    """A chosen class as Label Studio writes it."""
    return {"from_name": control, "to_name": image, "type": "choices", "value": {"choices": [label]}}


def prediction(guess: str, score: float | None, version: str, **names: str) -> dict[str, Any]:
    """What the model says. Label Studio takes scores from 0 to 1 only; another one is left out."""
    known = {} if score is None or not 0 <= score <= 1 else {"score": score}
    return {"model_version": version, **known, "result": [choice_result(guess, **names)]}


def address_of(file: Path, image_url: str | Callable[[Path], str]) -> str:
    """The address at which Label Studio finds a picture."""
    return image_url.format(path=file, name=file.name) if isinstance(image_url, str) else image_url(file)


def export_label_studio(store: LabelStore, path: str | os.PathLike[str], image_url: ImageUrl = None) -> Path:
    """Write the samples that are labelled or skipped as tasks that Label Studio imports, with what the model said.

    They fit its template for image classification: an image called "image" and choices called "choice". What was
    flagged is left out, for Label Studio knows nothing like it.

    Args:
        store: has the labels.
        path: of the file.
        image_url: where Label Studio finds a picture: a function of its path, or a text with ``{path}`` or ``{name}``
            in it, such as ``"/data/local-files/?d={path}"``. Default: the path within the pool.
    """
    tasks = []
    for event, file in decided(store):
        if event.action == "flag":
            continue
        where = "" if file is None else address_of(file, image_url) if image_url else relative_to_pool(file, store)
        result = [] if event.label is None else [choice_result(event.label)]
        task: dict[str, Any] = {
            "data": {"image": where, SAMPLE_KEY: event.sample},
            "annotations": [{"result": result, "was_cancelled": event.action == "skip"}],
        }
        if event.guess is not None:
            task["predictions"] = [prediction(event.guess, event.score, "torchloops")]
        tasks.append(task)
    return write_whole(given_path(path, "path"), json.dumps(tasks, ensure_ascii=False, indent=1))
