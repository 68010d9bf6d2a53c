"""The constructor's arguments of an ImageClassifier as plain data for a checkpoint, and back."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from torchloops.errors import ConfigurationError
from torchloops.vision.layers import build_layer, describe_layer
from torchloops.vision.output import Labels, Logits, Probabilities

__all__ = ["plain_hyperparameters", "refuse_own", "restore_head", "restore_output"]

_OUTPUTS: dict[str, type] = {"Probabilities": Probabilities, "Labels": Labels, "Logits": Logits}


def plain_hyperparameters(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return a plain value for every argument that needs one.

    A head of common layers is described; a module or function of the user's own becomes a note of its name,
    which `load_from_checkpoint` answers with a request to hand it over again. Weights of the backbone are
    dropped: the checkpoint has them.
    """
    plain: dict[str, Any] = {}
    for name in ("backbone", "optimizer", "lr_scheduler"):
        value = arguments.get(name)
        if value is not None and not isinstance(value, str | dict):
            plain[name] = {"own": name, "name": getattr(value, "__name__", type(value).__name__)}
    head = arguments.get("head")
    if isinstance(head, nn.Module):
        plain["head"] = describe_layer(head) or {"own": "head", "name": type(head).__name__}
    output = arguments.get("output")
    if type(output) in _OUTPUTS.values():
        plain["output"] = {"output": type(output).__name__, "arguments": dict(vars(output))}
    elif output is not None and not isinstance(output, dict):
        plain["output"] = {"own": "output", "name": type(output).__name__}
    for name in ("weights", "metrics"):
        if name in arguments:
            plain[name] = None
    if isinstance(arguments.get("backbone_options"), Mapping):
        plain["backbone_options"] = dict(arguments["backbone_options"])
    return plain


def restore_head(head: Any) -> nn.Module | None:
    """Return the head itself, or the one a checkpoint describes."""
    if not isinstance(head, Mapping):
        return head
    refuse_own(head)
    return build_layer(dict(head))


def restore_output(output: Any) -> Any:
    """Return the output itself, or the one a checkpoint describes."""
    if not isinstance(output, Mapping):
        return output
    refuse_own(output)
    return _OUTPUTS[output["output"]](**output["arguments"])


def refuse_own(value: Any) -> None:
    """Raise ConfigurationError for an argument that a checkpoint could only note by name."""
    if isinstance(value, Mapping) and "own" in value:
        raise ConfigurationError(
            f"The checkpoint was made with a {value['own']} of your own, {value['name']}, which it does not "
            "hold. "
            f"Give it again: load_from_checkpoint(path, {value['own']}=...)."
        )
