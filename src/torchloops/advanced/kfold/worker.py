"""A fold in a process of its own: it chooses its device, keeps checkpoints, and ends with who sent it."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from torchloops.advanced.kfold.fold_run import FoldPlan, run_fold, threads_set_to
from torchloops.advanced.kfold.records import FoldResult
from torchloops.data.proxy import DataModuleProxy
from torchloops.errors import ConfigurationError
from torchloops.folders import working_in
from torchloops.loops.loop import Loop
from torchloops.orphans import Sender, ending_with
from torchloops.trainer.checkpoint_file import previous_path

__all__ = ["SingleFold", "find_device", "has_jobs", "remove_jobs", "run_elsewhere", "take_over_jobs"]

_JOB = "job"


class SingleFold(Loop):
    """Runs one fold in a process of its own; ``result`` is what it leaves behind."""

    def __init__(self, fit_loop: Loop, data: Any, plan: FoldPlan, fold: int, repeat: int) -> None:
        super().__init__()
        self.fit_loop = fit_loop
        self.data = data
        self.plan = plan
        self.fold = fold
        self.repeat = repeat
        self.result: FoldResult | None = None

    @property
    def done(self) -> bool:
        return self.result is not None

    def advance(self) -> None:
        self.data.trainer = self.trainer
        self.result = run_fold(self.trainer, self.fit_loop, self.data, self.plan, self.fold, self.repeat)

    def on_save_checkpoint(self) -> dict[str, Any]:
        return {"result": None if self.result is None else self.result.state_dict()}

    def on_load_checkpoint(self, state_dict: dict[str, Any]) -> None:
        state = state_dict["result"]
        self.result = None if state is None else FoldResult.from_state_dict(state)


def run_elsewhere(payload: bytes, sender: Sender, fold: int, repeat: int, position: int) -> bytes:
    """Run a fold in this process, on a Trainer like the one that sent it, from where an earlier try was cut.

    Args:
        payload: everything a fold needs, pickled.
        sender: this process ends with it.
        fold, repeat: which one.
        position: among the folds that were sent.
    """
    with ending_with(sender):
        result = _run(pickle.loads(payload), fold, repeat, position)
        return pickle.dumps(result.state_dict())


def _run(parts: dict[str, Any], fold: int, repeat: int, position: int) -> FoldResult:
    from torchloops.trainer import Trainer

    loop = SingleFold(parts["fit_loop"], parts["data"], parts["plan"], fold, repeat)
    arguments = parts["arguments"]
    trainer = Trainer(**{**arguments, **find_device(arguments["accelerator"], parts["is_on_gpu"], position)})
    trainer.state.limits = parts["limits"]
    trainer.keeper.folder = folder = arguments["default_root_dir"] / f"fold_{fold}" / _JOB
    trainer.fit_loop = loop
    for name, evaluation in parts["loops"].items():
        setattr(trainer, name, evaluation)
    parts["plan"].start.complete(parts["module"])
    data = parts["data"]
    if isinstance(data, DataModuleProxy):
        data.is_prepared = True
    else:  # folds that a user's data module makes itself
        data = DataModuleProxy(data.datamodule, is_prepared=True)
    last = folder / "checkpoints" / "last.ckpt"
    was_cut = last.is_file() or previous_path(last).is_file()
    with threads_set_to(parts["plan"].threads):
        trainer.fit(parts["module"], datamodule=data, ckpt_path=folder if was_cut else None)
    assert loop.result is not None
    return loop.result


def find_device(accelerator: Any, is_on_gpu: bool, position: int) -> dict[str, Any]:
    """Arguments of the fold's Trainer: the GPUs that this process sees are dealt out in turn.

    Args:
        accelerator: argument of the Trainer that sent the fold.
        is_on_gpu: that one computes on a GPU.
        position: of the fold among those sent.

    Raises:
        ConfigurationError: a GPU is wanted, and this process sees none.
    """
    count = torch.cuda.device_count()
    if not count and (is_on_gpu or accelerator in ("gpu", "cuda")):
        raise ConfigurationError(
            "Folds are to run on a GPU, and the process that got this one sees none. Ask the backend for it, as in "
            'joblib.parallel_config("ray", ray_remote_args={"num_gpus": 1}), or use accelerator="cpu".'
        )
    if count and (is_on_gpu or accelerator in ("auto", "gpu", "cuda")):
        return {"accelerator": "cuda", "devices": [position % count]}
    return {}


def take_over_jobs(run_folder: Path, resumed: bool) -> None:
    """Make sure that no process of an earlier run works on a fold any more, and forget its folds unless resumed.

    Raises:
        ConfigurationError: one does.
    """
    for folder in run_folder.glob(f"fold_*/{_JOB}"):
        with working_in(folder):
            if not resumed:
                shutil.rmtree(folder)


def has_jobs(run_folder: Path) -> bool:
    """Whether checkpoints of folds that ran in other processes are there still."""
    return any(run_folder.glob(f"fold_*/{_JOB}"))


def remove_jobs(run_folder: Path, folds: Iterable[int]) -> None:
    """Remove the checkpoints of folds whose results are in the run's own."""
    for fold in folds:
        shutil.rmtree(run_folder / f"fold_{fold}" / _JOB, ignore_errors=True)
