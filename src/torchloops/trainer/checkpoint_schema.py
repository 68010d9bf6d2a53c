"""What a checkpoint of the present format holds: the one place where a new key of it is described."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from torchloops.schema import COUNT, Either, Whole, problem, scalar
from torchloops.seeding import is_random_state

__all__ = ["CHECKPOINT", "DATA_POSITION", "LIMITS", "MEANING", "SNAPSHOT", "TENSORS", "WEIGHTS", "random_states"]


def random_states(state: Any) -> str | None:
    """What is wrong with the states of the global generators; see `random_state`."""
    return None if is_random_state(state) else "should be the states of random generators"


def _loop_tree(value: Any) -> str | None:
    """What is wrong with the states of a tree of loops by ``<path>type``, ``<path>progress`` and so on."""
    wrong = problem(value, {str: Any})
    for key in value if wrong is None else ():
        path, dot, name = key.rpartition(".")
        if name == "type":
            names = {f"{path}{dot}{part}": schema for part, schema in _LOOP.items()}
            wrong = wrong or problem(value, names)
    return wrong


_LOOP = {
    "type": str,
    "progress": {"current": COUNT, "total": COUNT, "running": bool},
    "state_dict": Any,
    "settings?": {str: Any},
    "attributes?": {str: Any},
}

# parts of the states of loops

TENSORS = {str: torch.Tensor}
SNAPSHOT = {"weights": TENSORS, "requires_grad": {str: bool}, "modes": {str: bool}}
LIMITS = Either({"own": {str: Any}, "fit": {str: Any}}, {str: None})
MEANING = Either({"kind": str, "told?": str}, None)
_BY_NAME = Either({str: Any}, None)
_OBJECTS = Either({str: {str: Any}}, None)
_EPOCH_START = {
    "random": random_states, "loader": {str: Any}, "states?": _BY_NAME, "seed?": COUNT, "objects?": _OBJECTS,
}  # fmt: skip
DATA_POSITION = {
    "epoch_start": Either(_EPOCH_START, None), "next_epoch?": COUNT, "taken?": Either(COUNT, None),
    "given?": Either(COUNT, None), "loader": {str: Any}, "ordering?": _OBJECTS, "objects?": _OBJECTS,
    "dataset?": _BY_NAME, "states?": _BY_NAME, "described?": _BY_NAME,
}  # fmt: skip
_CHANGES = {"values": {str: {str: Any}}, "unsaved": [str], "gone": [(str, str)]}
_ATTRIBUTES = Either(_CHANGES, {str: None})

# logged values

_NUMBER = {"number": Any, "dtype": torch.dtype, "shape": [Whole(1, 1)], "device": str}
_VALUE = Either(scalar, _NUMBER, None)
_ENTRY = {
    "name": str, "on_step": bool, "on_epoch": bool, "prog_bar": bool, "logger": bool, "sync": bool,
    "metric": str | None, "sizes": [(scalar, COUNT)], "per_step": Either(COUNT, None),
    "reduction": lambda name: None if name in ("mean", "sum", "min", "max") else "should be a reduction",
    "value": _VALUE, "is_new?": bool, "total": _VALUE, "weight": scalar,
    "pending": Either([_VALUE], {"stacked": torch.Tensor, "device": str}),
}  # fmt: skip
_FIRST_ENTRY = {name: _ENTRY[name] for name in _ENTRY if name not in ("name", "metric", "pending", "sizes", "per_step")}


def _is_present(value: Any) -> bool:
    """Whether logged values are of the present format, which says so."""
    return isinstance(value, Mapping) and "format" in value


_RESULTS = Either(
    {
        "format": Whole(2, 2), "loaders": [(Either(COUNT, None), {str: _ENTRY})], "loader": Either(COUNT, None),
        "size": Either(scalar, None), "batch_size": Either(COUNT, None),
    },
    lambda value: "should be logged values" if _is_present(value) else problem(value, {str: _FIRST_ENTRY}),
)  # fmt: skip

# runs

_DATA = {str: [DATA_POSITION]}
_METRICS = {str: {"state": {str: Any}, "_update_count": Any, "_forward_cache": Any}}
_GROUPS = [[[Either(str, [COUNT], None)]]]  # of each optimizer and group, the parameters
_ASKED = {
    "epoch": COUNT, "step": COUNT, "random": Either(random_states, None), "by_sanity_check?": bool,
    "owner": Either({"module?": _CHANGES, "attributes?": _CHANGES, "state?": Any}, None),
}  # fmt: skip
_RUN = {
    "name": str, "epoch": COUNT, "global_step": COUNT, "should_stop": bool, "seconds": float,
    "batches_that_stepped?": Either(COUNT, None),
    "last_batch": (COUNT, bool), "optimizer_states": [{str: Any}], "lr_schedulers": [{str: Any}],
    "optimizer_classes?": [str], "lr_scheduler_classes?": [str],
    "optimizer_groups?": Either({"frozen": [str], "made": _GROUPS, "now": _GROUPS}, {str: None}),
    "optimizer_steps?": Either({"steps": [COUNT], "seen": [COUNT]}, {str: None}),
    "asked?": {str: _ASKED},
    "callbacks": {str: Any}, "loggers": [Any], "results": {str: _RESULTS}, "metrics": {str: scalar}, "data": _DATA,
    "once": {str: Any}, "random": Either(random_states, None),
}  # fmt: skip
_PROCESS = {
    "results": _RUN["results"], "data": _DATA, "random": _RUN["random"], "torchmetrics": _METRICS, "gradients": TENSORS,
    "outer_runs": [_RUN], "attributes?": _ATTRIBUTES, "datamodule_attributes?": _ATTRIBUTES, "asked?": {str: _ASKED},
}  # fmt: skip
_STOPPING = Either({"max_epochs": int | None, "max_steps": int | None, "max_time": float | None}, {str: None})
_CHANGED = {
    "accumulate_grad_batches?": Whole(1), "check_val_every_n_epoch?": Either(Whole(1), None),
    "gradient_clip_algorithm?": str, "gradient_clip_val?": Either(float, None), "limit_train_batches?": float | None,
    "limit_val_batches?": float | None, "overfit_batches?": float, "reload_dataloaders_every_n_epochs?": COUNT,
    "val_check_interval?": float,
}  # fmt: skip


def _changed_arguments(value: Any) -> str | None:
    wrong = problem(value, _CHANGED)
    others = set(value) - {name.removesuffix("?") for name in _CHANGED} if isinstance(value, Mapping) else set()
    return wrong or (f"names {sorted(map(str, others))}, which no run changes" if others else None)


WEIGHTS = {
    "state_dict": {str: Any}, "hyper_parameters?": {str: Any}, "hparams_name?": str, "hparams_of_bases?": [str],
    "datamodule_hyper_parameters?": {str: Any}, "datamodule_hparams_name?": str, "datamodule_hparams_of_bases?": [str],
}  # fmt: skip
CHECKPOINT = {
    **WEIGHTS, **_RUN, "format": Whole(1), "outer_runs": [_RUN], "loop_tree": _loop_tree,
    "evaluation_loops": {"validate_loop?": _loop_tree, "test_loop?": _loop_tree}, "torchmetrics": _METRICS,
    "gradients": TENSORS, "buffers?": TENSORS, "attributes?": _ATTRIBUTES, "datamodule_attributes?": _ATTRIBUTES,
    "limits?": _STOPPING, "threads?": Either(Whole(1), None), "loops?": {str: Any},
    "modes": Either({"frozen": [str], "evaluating": [str]}, None),
    "precision": {str: Any}, "datamodule": Any,
    "first_batches?": Either({"random": random_states, "loader": {str: Any}}, None),
    "settings": {str: Any}, "changed_arguments?": _changed_arguments, "inside_batch": bool, "processes?": [_PROCESS],
}  # fmt: skip
