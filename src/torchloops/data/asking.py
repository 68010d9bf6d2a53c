"""Asking a module for its answers to a batch: one way for pools, held-out parts, ensembles and guides."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from torchloops.data.items import label_place, number_of_rows, without_label
from torchloops.errors import ConfigurationError
from torchloops.hooks import is_overridden, number_of_parameters

__all__ = ["Asker", "UnusedEntriesWarning", "last_operation"]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class UnusedEntriesWarning(UserWarning):
    """Samples hold entries that the model's forward does not take, so it is asked without them."""


class Asker:
    """Asks a module for its answers to a batch.

    That is ``predict(module, batch)`` where it is given; else the module's own ``predict_step``, which gets the whole
    batch; else ``forward`` with all entries but the label, by keyword where a batch is a dict.

    Args:
        module: the module.
        predict: a function of module and batch, or None.
        target_key: place of the label in a batch.
        under_precision: makes a function compute in the run's precision.

    Raises:
        ConfigurationError: the module has neither ``predict_step`` nor ``forward``.
    """

    def __init__(
        self,
        module: nn.Module,
        predict: Callable[[Any, Any], Any] | None = None,
        target_key: str | int | None = None,
        under_precision: Callable[[Callable[..., Any]], Callable[..., Any]] = lambda function: function,
    ) -> None:
        self.module = module
        self.predict = predict
        self.target_key = target_key
        name = type(module).__name__
        self._shows = predict is None and is_overridden(module, "predict_step")
        if predict is not None:
            self.name = f"predict(module, batch) for {name}"
            self._call = under_precision(lambda batch, index: predict(module, batch))
        elif self._shows:
            self.name = f"{name}.predict_step"
            step: Any = module.predict_step
            with_index = number_of_parameters(step) > 1
            self._call = under_precision(step if with_index else lambda batch, index: step(batch))
        else:
            if not _has_forward(module):
                raise ConfigurationError(
                    f"{name} cannot be asked for answers: it defines neither predict_step(batch, batch_idx) nor "
                    "forward. Define one, or give predict=function of (module, batch)."
                )
            self.name = f"{name}.forward"
            self._call = self._forward(under_precision)
        self._forward_call = self._call if predict is not None or not self._shows else self._forward(under_precision)
        self.kind: str | None = None

    def __call__(self, batch: Any, index: int = 0) -> Any:
        """The answers to a batch as it reaches the module, on the module's device."""
        return self._call(batch, index)

    def try_out(self, batch: Any) -> Any:
        """Ask for a batch the first time, and settle how the module is asked; see `Asker`.

        A ``predict_step`` that shows results to people instead of tensors gives way to ``forward`` where the module
        says what that returns (``output_kind``).

        Raises:
            ConfigurationError: what is in the batch cannot be matched to ``forward``. Errors of the module itself come
                with a note on how it was asked.
        """
        if not self._shows and self.predict is None:
            self._match(batch)
        try:
            answers = self._call(batch, 0)
        except Exception as error:
            error.add_note(
                f"torchloops asked {self.name} for the answers to a batch, and gave it {_described(batch)}. If that is "
                "not what it takes, give predict=function of (module, batch), or target_key=place of the label."
            )
            raise
        declared = getattr(self.module, "output_kind", None)
        if self._shows and not isinstance(answers, Tensor) and declared is not None:
            self.name, self._call = f"{type(self.module).__name__}.forward", self._forward_call
            answers = self._call(batch, 0)
        if self.predict is None:
            self.kind = declared
        return answers

    # forward

    def _forward(self, under_precision: Callable[..., Any]) -> Callable[[Any, int], Any]:
        forward = under_precision(self.module.__call__)

        def call(batch: Any, index: int) -> Any:
            args, kwargs = self._arguments(batch)
            return forward(*args, **kwargs)

        return call

    def _arguments(self, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What ``forward`` is given of a batch."""
        inputs = without_label(batch, self.target_key)
        names, takes_any_name, most = _parameters_of(self.module)
        if isinstance(batch, Mapping):
            if takes_any_name:
                return (), inputs
            taken = {key: value for key, value in inputs.items() if key in names}
            return ((), taken) if taken or most != 1 else ((inputs,), {})
        if isinstance(batch, tuple | list):
            return tuple(inputs[:most]), {}
        return (batch,), {}

    def _match(self, batch: Any) -> None:
        """Refuse a batch whose entries cannot be matched to ``forward``, and say so where some are left out."""
        names, takes_any_name, most = _parameters_of(self.module)
        forward = f"{type(self.module).__name__}.forward"
        if isinstance(batch, Mapping):
            _, taken = self._arguments(batch)
            if not taken and not takes_any_name and most != 1:
                raise ConfigurationError(
                    f"{forward} takes {sorted(names)}, and a batch has the keys {list(batch)}. Name the keys as "
                    "forward does, or give predict=function of (module, batch)."
                )
            place = label_place(batch, self.target_key)
            left = [key for key in batch if key not in taken and key != place] if taken and not takes_any_name else []
            needed = _needed(self.module) - set(taken) if taken else set()
            if needed:
                raise ConfigurationError(
                    f"{forward} needs {sorted(needed)}, which a batch does not have: its keys are {list(batch)}. Give "
                    "predict=function of (module, batch)."
                )
        elif isinstance(batch, tuple | list):
            if len(batch) > 2 and most > 1 and self.target_key is None:
                raise ConfigurationError(
                    f"A batch has {len(batch)} entries and {forward} takes {_several(most)}, so which of them is the "
                    f"label cannot be known. Give target_key=its position, counted from 0 (target_key=1: the second, "
                    f"target_key={len(batch) - 1}: the last)."
                )
            place = label_place(batch, self.target_key)
            given = [index for index in range(len(batch)) if index != place]
            left = given[most:]
        else:
            left = []
        if left:
            warnings.warn(
                f"The model is asked without {left} of a batch ({'keys' if isinstance(batch, Mapping) else 'entries'}"
                f"; counted from 0 where they are numbers): {forward} does not take them. If it should, give "
                "predict=function of (module, batch).",
                UnusedEntriesWarning,
                stacklevel=2,
            )


def _has_forward(module: nn.Module) -> bool:
    return type(module).forward is not nn.Module.forward and is_overridden(module, "forward")


def _parameters_of(module: nn.Module) -> tuple[set[str], bool, int]:
    """Names that ``forward`` takes, whether it takes any, and how many entries by position."""
    try:
        parameters = inspect.signature(module.forward).parameters.values()
    except (TypeError, ValueError):
        return set(), False, 1
    names = {p.name for p in parameters if p.kind in (*_POSITIONAL, inspect.Parameter.KEYWORD_ONLY)}
    any_name = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return names, any_name, number_of_parameters(module.forward)


def _needed(module: nn.Module) -> set[str]:
    parameters = inspect.signature(module.forward).parameters.values()
    return {p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def _several(count: int) -> str:
    return "any number of inputs" if count >= 100 else f"{count} inputs"


def _described(batch: Any) -> str:
    if isinstance(batch, Tensor):
        return f"a tensor of shape {tuple(batch.shape)}"
    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{key}: {_described(value)}" for key, value in batch.items()) + "}"
    if isinstance(batch, tuple | list) and number_of_rows(batch) is not None and len(batch) < 6:
        return "[" + ", ".join(_described(value) for value in batch) + "]"
    return f"a {type(batch).__name__}"


# the last operation

_SAYS = {
    "sigmoid": "sigmoid", "hardsigmoid": "sigmoid", "_softmax": "softmax", "_safe_softmax": "softmax",
    "softmax": "softmax", "_log_softmax": "log_softmax", "log_softmax": "log_softmax",
    "log_sigmoid_forward": "log_sigmoid", "log_sigmoid": "log_sigmoid", "tanh": "tanh",
}  # fmt: skip
_LINEAR = {
    "addmm", "mm", "bmm", "baddbmm", "matmul", "linear", "convolution", "_convolution", "einsum", "addbmm", "dot", "mv",
    "addmv", "embedding", "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training",
    "native_layer_norm", "mkldnn_linear",
}  # fmt: skip
_PASSING = {
    "clone", "detach", "_to_copy", "contiguous", "flip", "clamp", "clamp_min", "clamp_max", "mean", "stack", "cat",
    "index", "index_select", "roll", "copy", "reshape", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_avg_pool2d",
    "upsample_bilinear2d", "upsample_nearest2d", "_upsample_bilinear2d_aa", "upsample_bicubic2d",
}  # fmt: skip
_SCALING = {"add", "sub", "mul", "div", "sum"}


class _Watch(TorchDispatchMode):
    """Notes of every piece of memory that is written whether a softmax, a sigmoid, ... or a linear operation did it.

    Views share the memory of what they show, so that they need no note.
    """

    def __init__(self) -> None:
        super().__init__()
        self._kept: list[Any] = []  # so that no piece of memory is used twice
        self._origin: dict[int, str | None] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        name = name.removesuffix("_") if not name.startswith("__") else name
        sources = {_place(tensor) for tensor in _tensors(args)}
        origin = self._origin_of(name, args)
        for tensor in _tensors((result,)):
            if _place(tensor) not in sources or name in _SAYS or function._schema.is_mutable:
                self._kept.append(tensor)
                self._origin[_place(tensor)] = origin
        return result

    def of(self, tensor: Tensor) -> str | None:
        return self._origin.get(_place(tensor))

    def _origin_of(self, name: str, args: Any) -> str | None:
        if name in _SAYS:
            return _SAYS[name]
        if name in _LINEAR:
            places = [_place(tensor) for tensor in _tensors(args)]
            weighs_probabilities = "softmax" in [self._origin.get(place) for place in places]
            is_computed = all(place in self._origin for place in places)  # no parameter among them
            return "scaled probabilities" if weighs_probabilities and is_computed else "linear"
        if name == "copy":
            args = args[1:2]  # what is written, not what is written over
        found = [self._origin.get(_place(tensor)) for tensor in _tensors(args[:1] if name in _PASSING else args)]
        if name in _PASSING:
            return found[0] if len(set(found)) == 1 else None
        if name in _SCALING and {"softmax", "scaled probabilities"} & set(found):
            return "scaled probabilities"
        only_linear = "linear" in found and set(found) <= {"linear", None}
        return "linear" if name in _SCALING and only_linear else None


def _place(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr()
    except (NotImplementedError, RuntimeError):  # sparse tensors and the like have no storage
        return id(tensor)


def _tensors(values: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


def last_operation(function: Callable[[], Any]) -> tuple[Any, str | None]:
    """What ``function`` returns, and the operation that says what it means.

    That is "softmax", "sigmoid", "log_softmax", "log_sigmoid", "tanh", or "linear" for anything without bounds; None:
    another. Operations that change neither range nor meaning (reshaping, slicing, clamping, a mean over views, a sum
    of linear parts) are looked through.
    """
    with _Watch() as watch:
        result = function()
    return result, watch.of(result) if isinstance(result, Tensor) else None
