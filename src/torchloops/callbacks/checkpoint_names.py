"""Paths of checkpoints: made from a template and the values of a run, and found again after a move."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from torchloops.errors import ConfigurationError, did_you_mean

__all__ = ["checkpoint_name", "state_moved_to"]

_FIELD = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")


def checkpoint_name(template: str, values: Mapping[str, Any], with_names: bool) -> str:
    """Fill ``{name}`` and ``{name:.2f}`` in a template.

    Args:
        template: for instance ``"{epoch}-{val/loss:.2f}"``.
        values: numbers or tensors of one element, by name.
        with_names: write ``epoch=3-val_loss=0.25`` instead of ``3-0.25``.

    Raises:
        ConfigurationError: a name has no value, or a format does not fit it.
    """

    def fill(field: re.Match[str]) -> str:
        name, form = field[1], field[2] or ""
        if name not in values:
            raise ConfigurationError(
                f"ModelCheckpoint(filename={template!r}) names {name!r}, which was not logged; there are "
                f"{sorted(values)}." + did_you_mean(name, values)
            )
        value = values[name]
        try:
            text = format(value.item() if isinstance(value, Tensor) else value, form)
        except ValueError as error:
            raise ConfigurationError(f"ModelCheckpoint(filename={template!r}): {name}: {error}.") from error
        return f"{name.replace('/', '_')}={text}" if with_names else text

    return _FIELD.sub(fill, template)


def state_moved_to(folder: Path, state: dict[str, Any]) -> dict[str, Any]:
    """The state of a `ModelCheckpoint` with the paths that its files have in ``folder``.

    Where the old folder is the same by another name, or is gone and its files are in the new one, all paths change.
    Where it is another one, nothing changes but that files which are gone from it are forgotten.

    Args:
        folder: where the run keeps its checkpoints now.
        state: what ``state_dict`` returned; its "folder" is where they were.
    """
    old = Path(state["folder"])
    if old == folder:
        return state

    def moved(path: str) -> str:
        return str(folder / Path(path).relative_to(old)) if path and old in Path(path).parents else path

    scores = {moved(path): score for path, score in state["best_k_models"].items()}
    others = {name: moved(state.get(name, "")) for name in ("best_model_path", "last_model_path", "driven_out")}
    is_same = os.path.abspath(old) == os.path.abspath(folder)
    was_moved = not old.is_dir() and any(path and Path(path).is_file() for path in (*scores, *others.values()))
    if not is_same and not was_moved:
        kept = {path: score for path, score in state["best_k_models"].items() if Path(path).is_file()}
        return {**state, "best_k_models": kept}
    written = {"written": [moved(path) for path in state["written"]]} if "written" in state else {}
    return {**state, **others, **written, "best_k_models": scores, "folder": str(folder)}
