"""The torchmetrics metrics of a module, and what they have gathered so far in the epoch."""

from __future__ import annotations

from typing import Any

import torch

from torchloops.schema import Either, check
from torchloops.trainer.plain import plain_or_none

__all__ = ["collect_metric_states", "metrics_in", "restore_metric_states"]

_STATES = {torch.Tensor: torch.Tensor, list: Either([torch.Tensor], torch.Tensor)}
_ATTRIBUTES = ("_update_count", "_forward_cache")


def metrics_in(module: Any) -> dict[str, Any]:
    """The metrics by path in the module: those of a collection, not the collection."""
    # asking a collection, too, for its metric_state brings all of its metrics up to date
    having = {name: part for name, part in module.named_modules() if hasattr(part, "metric_state")}
    return {name: part for name, part in having.items() if hasattr(part, "update_called")}


def collect_metric_states(module: Any) -> dict[str, Any]:
    """What the metrics of the module have gathered, as plain data."""
    return {
        name: {"state": dict(metric.metric_state), **{key: plain_or_none(vars(metric)[key]) for key in _ATTRIBUTES}}
        for name, metric in metrics_in(module).items()
        if metric.update_called
    }


def restore_metric_states(module: Any, states: dict[str, Any]) -> None:
    """Give metrics back what `collect_metric_states` returned, on the device where they are.

    Raises:
        DamagedCheckpointError: it is no state of theirs.
    """
    for name, metric in metrics_in(module).items():
        if name in states:
            kinds = {key: _STATES[type(value)] for key, value in metric.metric_state.items() if type(value) in _STATES}
            check(states[name]["state"], kinds, f"The metric module.{name}: state")
            for attribute in kinds:
                setattr(metric, attribute, _moved(states[name]["state"][attribute], metric.device))
            vars(metric).update({key: states[name][key] for key in _ATTRIBUTES}, _computed=None)


def _moved(value: Any, device: Any) -> Any:
    """A state on a device: a tensor, or a list of tensors."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    return [_moved(item, device) for item in value] if isinstance(value, list) else value
