"""All that a run leaves behind, as text by name; and what of it differs between two runs."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["collect", "differences"]

CLOCK = ("seconds", "milliseconds", "started", "created", "date", "time")
"""Names that begin so hold wall-clock values, which no run repeats."""
LEFT_OUT = (".png", ".html", ".txt", "env.json", "config.yaml")


def collect(folder: Path, results: Any = None) -> dict[str, str]:
    """Every file of a run folder and every result, taken apart: tensors as hashes of their bytes, numbers exactly.

    Left out are wall-clock values, pictures and pages, the checkpoint before the last (which one that is depends on
    when was saved), and hidden files: notes on what was written, and what a killed process was writing.
    """
    found = {f"results{where}": text for where, text in _parts(_tables(results))}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file() and not path.name.startswith(".") and not name.endswith((*LEFT_OUT, ".previous.ckpt")):
            found.update({f"{name}{where}": text for where, text in _file_parts(path)})
    return {name: text.replace(str(folder.resolve()), "RUN") for name, text in found.items()}


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Lines that say what differs; none where both are the same."""
    nothing = "(nothing)"
    return [
        f"{name}: {one.get(name, nothing)[:200]} | {other.get(name, nothing)[:200]}"
        for name in sorted(one.keys() | other.keys())
        if one.get(name) != other.get(name)
    ]


def _file_parts(path: Path) -> Iterator[tuple[str, str]]:
    if path.suffix == ".ckpt":
        from torchloops.trainer.checkpoint_file import read_checkpoint

        yield from _parts(read_checkpoint(path))
    elif path.suffix == ".csv":
        yield "", _without_clock_columns(path.read_text(encoding="utf-8"))
    elif path.suffix == ".json":
        yield from _parts(json.loads(path.read_text(encoding="utf-8")))
    else:
        yield "", hashlib.sha256(path.read_bytes()).hexdigest()


def _without_clock_columns(text: str) -> str:
    rows = list(csv.reader(io.StringIO(text)))
    keep = [index for index, name in enumerate(rows[0]) if not is_clock(name)] if rows else []
    return "\n".join(",".join(row[index] for index in keep) for row in rows)


def is_clock(name: Any) -> bool:
    """Whether a key or column holds a wall-clock value."""
    return isinstance(name, str) and name.rpartition("/")[2].startswith(CLOCK)


def _tables(value: Any) -> Any:
    """DataFrames as dicts of columns."""
    if hasattr(value, "to_dict") and hasattr(value, "columns"):
        return {str(name): value[name].tolist() for name in value.columns}
    return {name: _tables(item) for name, item in value.items()} if isinstance(value, dict) else value


def _parts(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    import torch

    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        content = hashlib.sha256(value.flatten().view(torch.uint8).numpy().tobytes()).hexdigest()[:16]
        shown = value.flatten()[:3].tolist()
        yield where, f"tensor {value.dtype} {tuple(value.shape)} {content} {shown}"
    elif isinstance(value, Mapping):
        yield f"{where}.keys()", repr([key for key in value if not is_clock(key)])
        for key, item in value.items():
            if not is_clock(key):
                yield from _parts(item, f"{where}[{key!r}]")
    elif isinstance(value, list | tuple) and len(value) > 50 and all(type(item) is int for item in value):
        yield where, hashlib.sha256(repr(value).encode()).hexdigest()  # the state of a generator
    elif isinstance(value, list | tuple):
        yield where, f"{type(value).__name__} of {len(value)}"
        for index, item in enumerate(value):
            yield from _parts(item, f"{where}[{index}]")
    else:
        yield where, f"{type(value).__name__} {value!r}"
