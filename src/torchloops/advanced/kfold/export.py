"""The folder of a cross-validation: splits.json, folds.csv, oof_predictions.csv, summary.json and a folder a fold.

The loop hands over what there is to keep; files are written here. Finished folds are read back from their folders, so
that a later run can add the missing ones.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchloops.advanced.kfold.records import RESULT, FoldResult, folds_table, oof_table, summary_table
from torchloops.advanced.kfold.splits import Splits
from torchloops.errors import ConfigurationError, DataError, differences
from torchloops.files import given_path, write_whole
from torchloops.schema import check

if TYPE_CHECKING:
    from torchloops.advanced.kfold.loop import KFoldLoop

__all__ = ["KFoldFolder", "find_folder"]

_RESULT = "result.ckpt"
_FOLD = re.compile(r"fold_(0|[1-9][0-9]*)")
_KEY = "kfold"
_SAVED = {_KEY: {"result": RESULT, "splits": str | None, "start": str, "settings?": {str: Any}}}


def find_folder(export_path: str | Path | None, run: Any) -> KFoldFolder | None:
    """The folder of results; the folds' runs write below it too."""
    if export_path is None:
        return None
    path = given_path(export_path, "export_path")
    if run.name:
        return KFoldFolder(run.dir / path.name)
    run.dir = path
    return KFoldFolder(path)


class KFoldFolder:
    """Writes and reads ``export_path``.

    Args:
        path: the folder; it is made when something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def splits_file(self) -> Path:
        return self.path / "splits.json"

    def read_splits(self) -> Splits | None:
        """The splits written by an earlier run, perhaps edited by hand; None where there are none.

        Raises:
            DataError: the file is damaged.
            ConfigurationError: results without splits: the folder belongs to something else.
        """
        if not self.splits_file.is_file():
            if self.finished_folds():
                raise ConfigurationError(
                    f"{self.path} holds results of folds but no splits.json, so nobody knows what they were scored on. "
                    "Give another export_path, or put the file back."
                )
            return None
        return Splits.read(self.splits_file)

    def write_splits(self, splits: Splits) -> None:
        """Write splits.json, a fold a line, so that it can be read and edited."""
        state = splits.to_dict()
        folds = state.pop("folds")
        head = json.dumps(state, indent=2).removesuffix("\n}")
        lines = ",\n".join(f"    {json.dumps(fold)}" for fold in folds)
        _write(self.splits_file, f'{head},\n  "folds": [\n{lines}\n  ]\n}}\n')

    def finished_folds(self) -> list[int]:
        """Folds that have a result here, ascending."""
        found = [_FOLD.fullmatch(path.parent.name) for path in self.path.glob(f"fold_*/{_RESULT}")]
        return sorted(int(match[1]) for match in found if match)

    def refuse_strays(self, count: int) -> None:
        """Refuse folders that look like folds and are none of the ``count`` that the run has.

        Raises:
            ConfigurationError: there are some; it names them.
        """
        own = {f"fold_{fold}" for fold in range(count)}
        others = sorted(path for path in self.path.glob("fold_*") if path.is_dir() and path.name not in own)
        strays = [path.name for path in others if path.name[5:].isdigit() or (path / _RESULT).is_file()]
        if strays:
            raise ConfigurationError(
                f"{self.path} holds {', '.join(strays)}, and this run has the folds 0 to {count - 1}. Whose results "
                "these are is not known, so they are not counted among its own. Move them away, or give another "
                "export_path."
            )

    def read_results(self, loop: KFoldLoop) -> dict[int, FoldResult]:
        """Results of finished folds, by fold.

        Raises:
            ConfigurationError: they are of another run than that of ``loop``; it names what differs.
        """
        from torchloops.trainer.checkpoint_file import read_checkpoint

        now = _origin(loop)
        results = {}
        for fold in self.finished_folds():
            checkpoint = read_checkpoint(self.path / f"fold_{fold}" / _RESULT)
            check(checkpoint, _SAVED, str(self.path / f"fold_{fold}" / _RESULT))
            state = checkpoint[_KEY]
            if state["result"]["row"]["fold"] != fold:
                raise ConfigurationError(
                    f"{self.path / f'fold_{fold}' / _RESULT} is the result of fold {state['result']['row']['fold']}. "
                    "Put the right file back, or remove it, and the fold is run again."
                )
            if other := _differences(state, now):
                raise ConfigurationError(
                    f"{self.path} belongs to another run than fold_{fold}: {'; '.join(other)}. Give "
                    "another export_path, or start from the same seed, model, data and settings to add folds."
                )
            results[fold] = FoldResult.from_state_dict({**state["result"], "weights": checkpoint["state_dict"]})
        return results

    def write_fold(self, loop: KFoldLoop, result: FoldResult) -> None:
        """Write a fold's result and weights: a checkpoint that ``load_from_checkpoint`` of the module reads."""
        from torchloops.trainer.checkpoint import collect_checkpoint
        from torchloops.trainer.checkpoint_file import write_checkpoint

        checkpoint = collect_checkpoint(loop.trainer, weights_only=True)
        state = {name: value for name, value in result.state_dict().items() if name != "weights"}
        checkpoint["state_dict"] = result.weights
        checkpoint["epoch"], checkpoint["global_step"] = result.row["epochs"], result.row["steps"]
        checkpoint[_KEY] = {"result": state, **_origin(loop)}
        folder = self.path / f"fold_{result.fold}"
        write_checkpoint(checkpoint, folder / _RESULT)
        _write_table(folder / "oof_predictions.csv", oof_table([result]))

    def write_tables(self, results: list[FoldResult], tables: dict[str, Any], state: dict[str, Any]) -> None:
        """Write the tables over all folds so far, and ``summary.json``.

        Args:
            results: of the folds.
            tables: further tables by name, each with a column ``fold``.
            state: further entries of ``summary.json``.
        """
        _write_table(self.path / "folds.csv", folds_table(results))
        _write_table(self.path / "oof_predictions.csv", oof_table(results))
        for name, table in tables.items():
            file = self.path / f"inner_{name}.csv"
            if file.parent != self.path:
                raise DataError(
                    f"A table of results is named {name!r}, and would be written outside of {self.path}. Expected a "
                    "plain name. If it is not your loop's, the checkpoint or result that it comes from was edited."
                )
            _write_table(file, table)
        rows = summary_table(results).to_dict("records")
        metrics = {
            row["metric"]: {
                **{
                    key: _number(row[key])
                    for key in ("mean", "std", "nb_low", "nb_high", "oof_low", "oof_high", "n_folds", "optimistic")
                },
                "values": [_number(result.metrics.get(row["metric"])) for result in results],
            }
            for row in rows
        }
        text = json.dumps({"metrics": metrics, **state}, indent=2)
        _write(self.path / "summary.json", text + "\n")


def _origin(loop: KFoldLoop) -> dict[str, Any]:
    """What the results of a run depend on."""
    splits, start = loop.splits, loop.start
    return {"splits": splits.hash if splits else None, "start": start.hash, "settings": loop.settings}


def _differences(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What differs between two origins, in words."""
    other = []
    if now["splits"] is not None and saved["splits"] != now["splits"]:
        other.append("other splits")
    if saved["start"] != now["start"]:
        other.append(f"another initial model (weights {saved['start']}, now {now['start']})")
    return other + differences(saved.get("settings", {}), now["settings"])


def _number(value: Any) -> Any:
    """A plain number; None for NaN, which JSON does not have."""
    value = value.item() if hasattr(value, "item") else value
    return None if value is None or value != value else value


def _write_table(path: Path, table: Any) -> None:
    _write(path, table.to_csv(index=False))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text)
