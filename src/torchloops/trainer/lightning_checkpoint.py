"""Checkpoints that pytorch-lightning resumes, and those of it that are resumed here."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from torchloops.errors import CheckpointError, ResumeWarning, taking_back
from torchloops.loops import FitLoop, TrainingEpochLoop
from torchloops.schema import COUNT, check
from torchloops.trainer.arguments import callback_key
from torchloops.trainer.run_state import restore_optimizers, show_callbacks

if TYPE_CHECKING:
    from torchloops.trainer.lifecycle import Lifecycle

__all__ = ["is_lightnings", "loops_for_lightning", "restore_lightnings"]

_ALONE = {"torchloops": "this checkpoint is resumed by torchloops alone"}
"""What pytorch-lightning finds no ``fit_loop`` in, so that it does not begin at epoch 0 with weights of a later one."""


def loops_for_lightning(trainer: Lifecycle) -> dict[str, Any]:
    """The progress of a fit as pytorch-lightning 2 has it under the key ``loops``, if it has such a place."""
    loop, state = trainer.fit_loop, trainer.state
    epoch_loop: Any = getattr(loop, "epoch_loop", None)
    is_plain = type(loop) is FitLoop and type(epoch_loop) is TrainingEpochLoop and not trainer.outer_runs
    ended = loop._ending.finished if is_plain else []
    if not is_plain or (ended and "close" not in ended):
        return _ALONE
    epochs, inside = state.current_epoch, state.in_epoch
    begun, processed = epochs + inside, epochs + (inside and bool(ended))
    batches, total = epoch_loop.progress.current, epoch_loop.progress.total
    automatic = getattr(trainer.module, "automatic_optimization", True)
    steps, by_hand = (state.global_step, 0) if automatic else (0, state.global_step)
    fit_loop = {
        "state_dict": {},
        "epoch_loop.state_dict": {"_batches_that_stepped": state.batches_that_stepped or 0},
        "epoch_loop.batch_progress": {
            "current": _progress(batches), "total": _progress(total), "is_last_batch": state.is_last_batch,
        },
        "epoch_loop.scheduler_progress": {"total": _step(0), "current": _step(0)},
        "epoch_loop.automatic_optimization.state_dict": {},
        "epoch_loop.automatic_optimization.optim_progress": {
            "optimizer": {
                "step": {"total": _step(steps), "current": _step(0)},
                "zero_grad": {"total": {**_step(steps), "started": steps}, "current": {**_step(0), "started": 0}},
            }
        },
        "epoch_loop.manual_optimization.state_dict": {},
        "epoch_loop.manual_optimization.optim_step_progress": {"total": _step(by_hand), "current": _step(0)},
        "epoch_loop.val_loop.state_dict": {},
        "epoch_loop.val_loop.batch_progress": _NO_BATCHES,
        "epoch_progress": {
            name: {"ready": begun, "started": begun, "processed": processed, "completed": epochs}
            for name in ("total", "current")
        },
    }  # fmt: skip
    others = {
        "validate_loop": {"state_dict": {}, "batch_progress": _NO_BATCHES},
        "test_loop": {"state_dict": {}, "batch_progress": _NO_BATCHES},
        "predict_loop": {"state_dict": {}, "batch_progress": {"total": _progress(0), "current": _progress(0)}},
    }
    return {"fit_loop": fit_loop, **others}


def _step(number: int) -> dict[str, int]:
    return {"ready": number, "completed": number}


def _progress(number: int) -> dict[str, int]:
    return {"ready": number, "started": number, "processed": number, "completed": number}


_NO_BATCHES: dict[str, Any] = {"total": _progress(0), "current": _progress(0), "is_last_batch": False}


_LIGHTNINGS = {
    "global_step": COUNT, "optimizer_states": [{str: Any}], "lr_schedulers": [{str: Any}], "callbacks?": {str: Any},
    "loops": {
        "fit_loop": {
            "epoch_progress": {"total": {"ready": COUNT, "processed": COUNT}},
            "epoch_loop.batch_progress": {"current": {"ready": COUNT}},
            "epoch_loop.state_dict": {"_batches_that_stepped?": COUNT},
        }
    },
}  # fmt: skip


def is_lightnings(checkpoint: dict[str, Any]) -> bool:
    """Whether a checkpoint was written by pytorch-lightning, with the state of a fit."""
    return (
        "format" not in checkpoint and {"pytorch-lightning_version", "loops", "optimizer_states"} <= checkpoint.keys()
    )


def restore_lightnings(trainer: Lifecycle, checkpoint: dict[str, Any]) -> None:
    """Go on with a fit of pytorch-lightning 2 where an epoch of it had ended.

    Weights, optimizers, schedulers, counters, the loss scaler, and the states of the data module and of callbacks that
    have the same key are as they were. The file holds neither generators nor where its data were.

    Raises:
        CheckpointError: it was taken inside an epoch, or is of another module.
    """
    from torchloops.trainer.checkpoint import load_weights

    check(checkpoint, _LIGHTNINGS, "Lightning's checkpoint")
    progress = checkpoint["loops"]["fit_loop"]
    epochs, batches = progress["epoch_progress"]["total"], progress["epoch_loop.batch_progress"]
    ready, processed = epochs["ready"], epochs["processed"]
    stepped = progress["epoch_loop.state_dict"].get("_batches_that_stepped")
    if ready != processed:
        raise CheckpointError(
            f"The checkpoint was written by pytorch-lightning in epoch {processed}, behind batch "
            f"{batches['current']['ready']}, and does not hold which samples were left. Take one of the end of an "
            "epoch, or begin a new fit from its weights: load_from_checkpoint."
        )
    show_callbacks(trainer, checkpoint)
    load_weights(trainer, checkpoint)
    state = trainer.state
    state.current_epoch, state.global_step = processed, checkpoint["global_step"]
    state.batches_that_stepped = stepped
    with taking_back("the loss scaler cannot take back its state"):
        trainer.engine.load_precision_state(checkpoint.get("MixedPrecision") or {})
    datamodule = trainer.sources.outermost
    own = checkpoint.get(type(datamodule).__qualname__)
    if own and hasattr(datamodule, "load_state_dict"):
        with taking_back(f"{type(datamodule).__name__} cannot take back its state"):
            datamodule.load_state_dict(own)
    restore_optimizers(trainer, checkpoint)
    left = _restore_callbacks(trainer, checkpoint.get("callbacks") or {})
    warnings.warn(
        f"The checkpoint was written by pytorch-lightning: the fit goes on with epoch {processed}. It holds no "
        "generators of random numbers, so what is drawn from now on is other than in a run that was not stopped."
        + (f" These callbacks begin anew: {', '.join(left)}." if left else ""),
        ResumeWarning,
        stacklevel=5,
    )


def _restore_callbacks(trainer: Lifecycle, saved: dict[str, Any]) -> list[str]:
    """Give callbacks their states; returns the keys of those that nobody took."""
    left = {key: state for key, state in saved.items() if state}
    for callback in trainer.callbacks:
        key = callback_key(callback)
        settings = {name: getattr(callback, name, None) for name in ("monitor", "mode")}
        theirs = f"EarlyStopping{settings}"
        if hasattr(callback, "stopped_epoch") and theirs in left and key != theirs:
            state = left.pop(theirs)
            state = {**state, "stopping_reason": state.get("stopping_reason_message")}
        elif key in left:
            state = left.pop(key)
        else:
            continue
        with taking_back(f"the callback {type(callback).__name__} cannot take back its state"):
            callback.load_state_dict(state)
    return sorted(left)
