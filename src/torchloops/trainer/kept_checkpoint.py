"""What stands for a ModelCheckpoint where a Trainer has none and keeps its last state by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchloops.trainer.keeper import Keeper

__all__ = ["KeptCheckpoint"]


class KeptCheckpoint:
    """``trainer.checkpoint_callback`` of a Trainer without a `ModelCheckpoint`: it shows ``checkpoints/last.ckpt``.

    As Lightning's default, it watches no value: what is best is what came last.

    Attributes:
        monitor, best_model_score, current_score: None: no value is watched.
        save_top_k: 1: one file is kept.
        best_k_models: empty: no file has a score.
    """

    monitor = best_model_score = current_score = None
    save_top_k = 1
    save_last = True

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self.best_k_models: dict[str, Any] = {}

    @property
    def dirpath(self) -> str | None:
        """Folder of the file; None before the first fit."""
        path = self._keeper.path
        return None if path is None else str(path.parent)

    @property
    def last_model_path(self) -> str:
        """The file; empty where none is written yet."""
        path = self._keeper.path
        return str(path) if path is not None and path.is_file() else ""

    best_model_path = last_model_path
