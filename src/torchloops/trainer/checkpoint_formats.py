"""What checkpoints of each version hold, and how an older one becomes one of the present."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torchloops.errors import CheckpointError, DamagedCheckpointError
from torchloops.schema import check, check_size
from torchloops.trainer.checkpoint_schema import CHECKPOINT, WEIGHTS

__all__ = ["FORMAT", "upgraded"]

FORMAT = 2
"""The version of what the checkpoints of this version hold, under the key ``format``."""

_FIRST_WITH_CHECKSUM = 2


def upgraded(checkpoint: Any, path: Path, verified: bool) -> dict[str, Any]:
    """The checkpoint in the present format; one without the key ``format`` is not ours, and stays as it is.

    Args:
        checkpoint: what the file holds.
        path: of the file, for messages.
        verified: its checksum was there and is right.

    Raises:
        DamagedCheckpointError: it is no checkpoint, or lacks what its format has.
        CheckpointError: it is of a newer version.
    """
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise DamagedCheckpointError(f'{path} is no checkpoint: it has no "state_dict".')
    if (wrong := check_size(checkpoint)) is not None:
        raise DamagedCheckpointError(f"{path} is no checkpoint: what it holds {wrong}. Take another one.")
    check(checkpoint, WEIGHTS, f"{path}: checkpoint")
    version = checkpoint.get("format")
    if version is None:
        return checkpoint
    if type(version) is not int or version < 1:
        raise DamagedCheckpointError(
            f"{path} is no checkpoint of torchloops: its format should be a number from 1 to {FORMAT}, "
            f"and is {version!r}."
        )
    if version > FORMAT:
        raise CheckpointError(
            f"{path} has format {version}; this version reads up to {FORMAT}. Upgrade torchloops, or take a "
            "checkpoint that this version wrote."
        )
    if version >= _FIRST_WITH_CHECKSUM and not verified:
        raise DamagedCheckpointError(
            f"{path} is damaged: its checksum is missing, so it was cut or changed, or not written by torchloops. "
            "Take the checkpoint before it, or a copy."
        )
    try:
        while version < FORMAT:
            checkpoint, version = _UPGRADES[version](checkpoint), version + 1
            checkpoint["format"] = version
    except (KeyError, TypeError, AttributeError) as error:
        raise DamagedCheckpointError(f"{path} is no checkpoint of format {version}: it lacks {error}.") from error
    if "loop_tree" in checkpoint:
        check(checkpoint, CHECKPOINT, f"{path}: checkpoint")
    return checkpoint


def _from_format_1(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Format 1 knew one run, the training's values and data, and the end of an accumulation only."""
    if "loop_tree" not in checkpoint:  # weights alone
        return checkpoint
    data, metrics = checkpoint["data"], checkpoint["torchmetrics"]
    return {
        **checkpoint,
        "name": "",
        "last_batch": (0, False),
        "loggers": [],
        "once": {},
        "results": {"train": checkpoint["results"]},
        "data": {"train": [data]} if data else {},
        "torchmetrics": {
            name: {"state": one["state"], "_update_count": one["updates"], "_forward_cache": None}
            for name, one in metrics.items()
        },
        "outer_runs": [],
        "evaluation_loops": {},
        "gradients": {},
        "modes": None,
        "settings": {},
        "inside_batch": False,
    }


_UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_format_1}
"""From a format to the function that makes a checkpoint of it one of the next format."""
