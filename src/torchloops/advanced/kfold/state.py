"""What a KFoldLoop is made of between two folds, as plain data for a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torchloops.advanced.kfold.records import RESULT, FoldResult
from torchloops.advanced.kfold.splits import SPLITS, Splits
from torchloops.data.fingerprint import fingerprint
from torchloops.errors import CheckpointError
from torchloops.schema import COUNT, Either, Whole
from torchloops.trainer.checkpoint_schema import LIMITS, MEANING, SNAPSHOT, random_states

if TYPE_CHECKING:
    from torchloops.advanced.kfold.export import KFoldFolder

__all__ = ["KFOLD_STATE", "KFoldState"]

_PLAIN = (
    "unfinished", "data", "random", "meaning", "job_threads", "threads", "ensemble_scores", "is_tested",
    "is_refitted",
)  # fmt: skip


KFOLD_STATE = {
    "results": [RESULT], "arrived?": [RESULT], "missing_folds": [COUNT], "start": Either(SNAPSHOT, None),
    "splits": Either(SPLITS, None), "unfinished?": Either(COUNT, None), "data?": {str: Any},
    "random?": Either(random_states, None), "meaning?": MEANING, "job_threads?": Either(Whole(1), None),
    "ensemble_scores?": {str: float}, "is_tested?": bool, "is_refitted?": bool, "limits?": LIMITS,
    "made_by?": {str: Any},
}  # fmt: skip


@dataclass
class KFoldState:
    """Everything that a run of a KFoldLoop has gathered.

    Args:
        count: number of folds there are.
        results: of finished folds, by fold.
        arrived: of folds that ended in other processes before one whose turn is earlier.
        unfinished: the fold that is running in this process.
        splits: the folds; None where the data module makes them.
        on_disk: hash of the weights of each fold whose weights ``export_path`` holds; checkpoints leave those out.
        data: what identifies the data.
        random: generators at the start, for a data module that splits at random.
        meaning: how the answers of all folds are read, as the arguments of a `Meaning`; None: not found yet.
        job_threads: torch threads a fold computes with, once folds ran in other processes.
        threads: torch threads the folds so far were computed with; None: not known.
        ensemble_scores: of the ensemble on the test set.
        is_tested, is_refitted: the ensemble was scored, and a last model trained, after the last fold.
    """

    count: int = 0
    results: dict[int, FoldResult] = field(default_factory=dict)
    arrived: dict[int, FoldResult] = field(default_factory=dict)
    unfinished: int | None = None
    splits: Splits | None = None
    on_disk: dict[int, str] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)
    random: Any = None
    meaning: dict[str, str] | None = None
    job_threads: int | None = None
    threads: int | None = None
    ensemble_scores: dict[str, float] = field(default_factory=dict)
    is_tested: bool = False
    is_refitted: bool = False

    @property
    def missing(self) -> list[int]:
        """Folds without a result."""
        return [fold for fold in range(self.count) if fold not in self.results]

    def add(self, result: FoldResult) -> None:
        """Take in a fold that ended; what was made of those before is no longer the last word."""
        self.results[result.fold] = result
        self.is_tested = self.is_refitted = False

    def note_written(self, result: FoldResult) -> None:
        """Note that the folder of results holds the fold's weights."""
        self.on_disk[result.fold] = fingerprint(result.weights)

    def read_weights(self, found: dict[int, FoldResult], folder: KFoldFolder | None) -> None:
        """Take the weights that a checkpoint left on the disk from the results found there.

        Raises:
            CheckpointError: they are not there, or have changed.
        """
        for fold, digest in self.on_disk.items():
            place = "export_path, which was not given" if folder is None else str(folder.path / f"fold_{fold}")
            if fold not in found:
                raise CheckpointError(
                    f"The checkpoint has left the weights of fold {fold} to the folder of the run's results, and there "
                    f"are none in {place}. Put the folder back, or give the export_path that the run had."
                )
            if fingerprint(found[fold].weights) != digest:
                raise CheckpointError(
                    f"The weights of fold {fold} in {place} are others than when the checkpoint was taken. Put the "
                    "file back, or start the cross-validation anew with another export_path."
                )
            self.results[fold].weights = found[fold].weights

    def state_dict(self) -> dict[str, Any]:
        """The state as plain data."""
        return {
            "results": [self._state_of(self.results[fold]) for fold in sorted(self.results)],
            "arrived": [result.state_dict() for result in self.arrived.values()],
            "missing_folds": self.missing,
            "splits": None if self.splits is None else self.splits.to_dict(),
            **{name: getattr(self, name) for name in _PLAIN},
        }

    def _state_of(self, result: FoldResult) -> dict[str, Any]:
        state, digest = result.state_dict(), self.on_disk.get(result.fold)
        return state if digest is None else {**state, "weights": {}, "weights_hash": digest}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> KFoldState:
        """The state that `state_dict` described; format 1 had less."""
        splits, results = state["splits"], state["results"]
        numbers = sorted([each["row"]["fold"] for each in results] + state["missing_folds"])
        if numbers != list(range(len(numbers))) or state.get("unfinished") not in (None, *numbers):
            raise CheckpointError(
                f"The checkpoint knows the folds {numbers} and is inside fold {state.get('unfinished')}; expected "
                "folds from 0 on, each once. It was edited: resume from one that was not."
            )
        return cls(
            len(results) + len(state["missing_folds"]),
            _by_fold(results),
            _by_fold(state.get("arrived", [])),
            splits=None if splits is None else Splits.from_dict(splits),
            on_disk={each["row"]["fold"]: each["weights_hash"] for each in results if "weights_hash" in each},
            **{name: state[name] for name in _PLAIN if name in state},
        )


def _by_fold(states: list[dict[str, Any]]) -> dict[int, FoldResult]:
    return {state["row"]["fold"]: FoldResult.from_state_dict(state) for state in states}
