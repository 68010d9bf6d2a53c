"""Folds in parallel, through joblib: on the cores of this machine, or on a cluster by joblib's other backends."""

from __future__ import annotations

import copy
import os
import pickle
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torchloops.advanced.kfold.fold_run import FoldPlan
from torchloops.advanced.kfold.records import FoldResult
from torchloops.advanced.kfold.worker import run_elsewhere
from torchloops.errors import ConfigurationError
from torchloops.loops.loop import Loop
from torchloops.module import attach_module, release_module
from torchloops.orphans import Sender

__all__ = ["number_of_jobs", "run_in_parallel"]

_EVALUATION_LOOPS = ("validate_loop", "test_loop")


def number_of_jobs(n_jobs: int | None) -> int:
    """Folds to run at once: ``n_jobs`` as joblib reads it (-1: a fold a core); None: what `parallel_config` says, or 1.

    Raises:
        ConfigurationError: joblib's current backend runs threads, which share torch's random generators.
    """
    if n_jobs == 1:
        return 1
    from joblib import effective_n_jobs
    from joblib.parallel import get_active_backend

    backend = get_active_backend()[0]
    if getattr(backend, "supports_sharedmem", False):
        if n_jobs is None or getattr(backend, "nesting_level", None):
            return 1
        raise ConfigurationError(
            f"n_jobs={n_jobs} needs processes, but joblib's current backend ({type(backend).__name__}) runs threads: "
            "folds in threads share one module and torch's random generators. Use parallel_config(backend='loky')."
        )
    return int(effective_n_jobs(n_jobs))


def run_in_parallel(
    trainer: Any,
    fit_loop: Loop,
    data: Any,
    plan: FoldPlan,
    folds: list[tuple[int, int]],
    n_jobs: int,
) -> Iterator[FoldResult]:
    """Results of folds that run in other processes, each as soon as it is there.

    Args:
        folds: indices of folds, each with the repeat it belongs to.
        n_jobs: folds at once; GPUs are shared out among them.

    Raises:
        ConfigurationError: something to send cannot be pickled, or this run has several processes already.
    """
    if trainer.world_size > 1:
        raise ConfigurationError(
            f"n_jobs={n_jobs} runs each fold in a process of its own, but this Trainer drives {trainer.world_size} "
            "processes. Use devices=1, or n_jobs=1."
        )
    from joblib import Parallel, delayed
    from joblib.parallel import get_active_backend

    plan.start.restore(trainer.module)  # attributes are not pickled with the start: the module is to hold its own
    payload = _pack(trainer, fit_loop, data, plan)
    backend = get_active_backend()[0]
    sender = Sender(os.getpid(), platform.node(), are_children=type(backend).__name__ == "LokyBackend")
    streams = getattr(backend, "supports_return_generator", False)
    parallel = Parallel(n_jobs=n_jobs, return_as="generator_unordered" if streams else "list")
    outputs = parallel(
        delayed(run_elsewhere)(payload, sender, fold, repeat, position) for position, (fold, repeat) in enumerate(folds)
    )
    for output in outputs:
        yield FoldResult.from_state_dict(pickle.loads(output))


def _pack(trainer: Any, fit_loop: Loop, data: Any, plan: FoldPlan) -> bytes:
    """Everything a fold needs, as bytes; module, loops and data are sent without this Trainer."""
    from torchloops.callbacks import RichProgressBar

    callbacks = [callback for callback in trainer.fresh_callbacks() if not isinstance(callback, RichProgressBar)]
    parts = {
        "arguments": {**trainer.arguments, "callbacks": callbacks, "enable_progress_bar": False,
                      "default_root_dir": trainer.run_dir.absolute()},
        "is_on_gpu": trainer.engine.device.type == "cuda",
        "limits": copy.copy(trainer.state.limits),
        "module": trainer.module, "fit_loop": fit_loop, "data": data, "plan": plan,
        "loops": {name: getattr(trainer, name) for name in _EVALUATION_LOOPS},
    }  # fmt: skip
    dumps = _pickler()
    with _detached(trainer, [fit_loop, *parts["loops"].values()], data):
        try:
            return dumps(parts)
        except Exception as error:
            for name, part in parts.items():
                try:
                    dumps(part)
                except Exception as reason:
                    raise ConfigurationError(
                        f"Folds in parallel run in other processes, and the {name.replace('_', ' ')} cannot be sent "
                        f"there: {type(reason).__name__}: {reason}. Make it picklable (no open files, locks or "
                        "lambdas kept in attributes), or use n_jobs=1."
                    ) from reason
            raise ConfigurationError(f"Folds cannot be sent to other processes: {error}") from error


def _pickler() -> Callable[[Any], bytes]:
    """cloudpickle, which joblib brings: it sends classes and functions of a script too."""
    try:
        from cloudpickle import dumps
    except ImportError:
        try:
            from joblib.externals.cloudpickle import dumps
        except ImportError:
            from pickle import dumps
    return dumps


@contextmanager
def _detached(trainer: Any, loops: list[Loop], data: Any) -> Iterator[None]:
    """A context in which module, loops and data do not hold the Trainer."""
    stage = trainer.state.stage
    holders = _trainer_holders(data)
    try:
        release_module(trainer.module)
        for loop in loops:
            loop.trainer = None
        for holder in holders:
            holder.trainer = None
        yield
    finally:
        for holder in holders:
            holder.trainer = trainer
        for loop in loops:
            loop.trainer = trainer
        attach_module(trainer.module, trainer)
        trainer.run.enter_stage(stage)


def _trainer_holders(data: Any) -> list[Any]:
    found: list[Any] = []
    while data is not None and all(data is not other for other in found):
        if vars(data).get("trainer") is not None:
            found.append(data)
        inner = vars(data).get("datamodule")
        data = inner if inner is not None else vars(data).get("labelled")
    return found
