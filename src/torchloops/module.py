"""LoopModule: the model and its steps, with Lightning's hook names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from torchloops.errors import CheckpointError, ConfigurationError
from torchloops.hooks import base_class, is_of_lightning, is_overridden
from torchloops.hparams import AttributeDict, HyperparametersMixin
from torchloops.module_hooks import ModuleHooks

if TYPE_CHECKING:
    from torchloops.trainer import Trainer

__all__ = ["LoopModule"]


@base_class
class LoopModule(HyperparametersMixin, ModuleHooks, nn.Module):
    """A model with its training, validation, test and prediction steps.

    Define ``training_step(batch, batch_idx)`` and ``configure_optimizers()``; add ``validation_step``,
    ``test_step``, ``predict_step`` and any hook of `torchloops.hooks` as needed. A ``LightningModule`` works in
    its place, and so does any ``nn.Module`` with a ``training_step``.

    Attributes:
        automatic_optimization: False: ``training_step`` calls ``self.manual_backward`` and steps
            ``self.optimizers()`` itself.
        truncated_bptt_steps: time steps a split of truncated backpropagation through time has; 0: no splits.
        example_input_array: an input of ``forward``, for exports and graphs; None: none.
        strict_loading: whether a checkpoint must have all weights of the module, and no others.
    """

    automatic_optimization: bool = True
    truncated_bptt_steps: int = 0
    example_input_array: Any = None
    strict_loading: bool = True

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["_trainer"] = None
        self.__dict__["_hparams"] = AttributeDict()

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name not in ("log", _LOANS)}
        state["_trainer"] = None
        return state

    # what a subclass defines

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Return the loss, a dict with ``"loss"``, or None to leave the batch out."""
        raise ConfigurationError(f"{type(self).__name__} needs `training_step(batch, batch_idx)` to be fitted.")

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        """Log what is measured of a validation batch; without one there is no validation."""

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        """Log what is measured of a test batch."""

    def configure_optimizers(self) -> Any:
        """Return an optimizer, a list of them, ``(optimizers, schedulers)``, or Lightning's dictionaries."""
        raise ConfigurationError(f"{type(self).__name__} needs `configure_optimizers()` to be fitted.")

    def predict_step(self, batch: Any, batch_idx: int = 0, dataloader_idx: int = 0) -> Any:
        """Return the predictions for a batch; by default ``self(batch)``."""
        return self(batch)

    # what it gets

    @property
    def trainer(self) -> Trainer:
        """The Trainer of the current or last run."""
        trainer = self.__dict__.get("_trainer")
        if trainer is None:
            raise ConfigurationError(f"{type(self).__name__} is not attached to a Trainer; call trainer.fit(module).")
        return trainer

    @trainer.setter
    def trainer(self, trainer: Trainer | None) -> None:
        self.__dict__["_trainer"] = trainer

    @property
    def current_epoch(self) -> int:
        """Epochs finished in the run; 0 without a Trainer."""
        trainer = self.__dict__.get("_trainer")
        return trainer.current_epoch if trainer else 0

    @property
    def global_step(self) -> int:
        """Optimizer steps taken in the run; 0 without a Trainer."""
        trainer = self.__dict__.get("_trainer")
        return trainer.global_step if trainer else 0

    @property
    def device(self) -> torch.device:
        """The device of the first parameter or buffer; the CPU where there is none."""
        for tensor in (*self.parameters(), *self.buffers()):
            return tensor.device
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """The type of the first floating-point parameter or buffer; torch's default where there is none."""
        tensors = (*self.parameters(), *self.buffers())
        return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), torch.get_default_dtype())

    @property
    def on_gpu(self) -> bool:
        """Whether the module is on a CUDA device; as of pytorch-lightning."""
        return self.device.type == "cuda"

    @property
    def global_rank(self) -> int:
        """Number of this process among all; 0 without a Trainer."""
        trainer = self.__dict__.get("_trainer")
        return trainer.global_rank if trainer else 0

    @property
    def local_rank(self) -> int:
        """Number of this process on its machine; 0 without a Trainer."""
        trainer = self.__dict__.get("_trainer")
        return trainer.local_rank if trainer else 0

    @property
    def fabric(self) -> Any:
        """The Lightning Fabric object of the Trainer; None without one."""
        trainer = self.__dict__.get("_trainer")
        return trainer.fabric if trainer else None

    @property
    def device_mesh(self) -> None:
        """None: the strategies that split a module over devices are not here."""
        return None

    @property
    def logger(self) -> Any:
        """The first logger of the Trainer, or None."""
        return self.trainer.logger

    @property
    def loggers(self) -> list[Any]:
        """All loggers of the Trainer."""
        return self.trainer.loggers

    def log(self, name: str, value: Any, **options: Any) -> None:
        """Log a number, a tensor of one element or a torchmetrics metric; outside of a run it does nothing.

        Args:
            name: as it reads in files and bars, for instance ``"val/loss"``.
            value: tensors are detached and kept where they are: no device waits on a step.
            prog_bar: show it in the progress bar.
            logger: hand it to the loggers.
            on_step, on_epoch: log the value of each step, the reduction over the epoch, or both (then as
                ``name_step`` and ``name_epoch``). Default: per step in training steps, else per epoch, so that
                ``on_epoch=True`` alone gives both in a training step.
            reduce_fx: "mean" (weighted by batch size), "sum", "min" or "max" over the epoch.
            sync_dist: reduce over all processes.
            batch_size: samples the value stands for. Default: size of the first tensor of the batch.
            add_dataloader_idx: add ``/dataloader_idx_<i>`` where there are several loaders.

        Raises:
            ConfigurationError: no single number; one name from two hooks, with two sets of options, or for two loaders.
        """
        log = self.__dict__.get(_LOANS, {}).get("log")
        if log is not None:  # a subclass overrides this method and calls it
            log(name, value, **options)

    def log_dict(self, dictionary: Any, **options: Any) -> None:
        """Log every item of a dictionary; options as in `log`."""
        for name, value in dictionary.items():
            self.log(name, value, **options)

    def optimizers(self, use_pl_optimizer: bool = True) -> Any:
        """The optimizer, or the list of them, for manual optimization."""
        found = self.trainer.stepping_optimizers if use_pl_optimizer else self.trainer.optimizers
        return found[0] if len(found) == 1 else found

    def lr_schedulers(self) -> Any:
        """The scheduler, the list of them, or None."""
        found = [config.scheduler for config in self.trainer.lr_scheduler_configs]
        return found[0] if len(found) == 1 else (found or None)

    def manual_backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """``loss.backward()`` with the hooks around it, under the run's precision, averaged over the processes."""
        self.trainer.run.manual_backward(loss, *args, **kwargs)

    def toggle_optimizer(self, optimizer: Any, optimizer_idx: int | None = None) -> None:
        """Switch off gradients of the parameters that only other optimizers own."""
        own = {id(p) for group in optimizer.param_groups for p in group["params"]}
        before = self.__dict__.setdefault("_requires_grad_before", {})
        for other in self.trainer.optimizers:
            for group in other.param_groups:
                for parameter in group["params"]:
                    if id(parameter) not in own and parameter not in before:
                        before[parameter] = parameter.requires_grad
                        parameter.requires_grad_(False)

    def untoggle_optimizer(self, optimizer: Any = None, optimizer_idx: int | None = None) -> None:
        """Undo `toggle_optimizer`."""
        for parameter, required in self.__dict__.pop("_requires_grad_before", {}).items():
            parameter.requires_grad_(required)

    @contextmanager
    def toggled_optimizer(self, optimizer: Any) -> Iterator[None]:
        """A context between `toggle_optimizer` and `untoggle_optimizer`."""
        self.toggle_optimizer(optimizer)
        try:
            yield
        finally:
            self.untoggle_optimizer(optimizer)

    def clip_gradients(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradients of an optimizer's parameters, by default as the Trainer was told."""
        trainer = self.trainer
        value = trainer.gradient_clip_val if gradient_clip_val is None else gradient_clip_val
        if value:
            algorithm = gradient_clip_algorithm or trainer.gradient_clip_algorithm
            trainer.engine.clip_gradients(optimizer, value, algorithm)

    def all_gather(self, data: Any, group: Any = None, sync_grads: bool = False) -> Any:
        """``data`` of all processes, stacked in a new first dimension."""
        return self.trainer.engine.all_gather(data, group, sync_grads)

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print on the first process only."""
        if self.trainer.is_global_zero:
            print(*args, **kwargs)

    # what is made of it

    def freeze(self) -> None:
        """Switch off the gradients of all parameters, and go into eval mode."""
        self.requires_grad_(False)
        self.eval()

    def unfreeze(self) -> None:
        """Switch on the gradients of all parameters, and go into train mode."""
        self.requires_grad_(True)
        self.train()

    def to_onnx(self, file_path: Any = None, input_sample: Any = None, **kwargs: Any) -> Any:
        """Export ``forward`` by ``torch.onnx.export``, which needs the package onnxscript.

        Args:
            file_path: the file to write, or what else torch takes.
            input_sample: an input of ``forward``, a tensor or a tuple of arguments; default ``example_input_array``.
            kwargs: further arguments of ``torch.onnx.export``.

        Raises:
            ConfigurationError: no input is known, or the package is missing.
        """
        inputs = self.example_input_array if input_sample is None else input_sample
        if inputs is None:
            raise ConfigurationError(
                f"to_onnx needs an input of {type(self).__name__}.forward: give input_sample=, or set "
                "self.example_input_array."
            )
        inputs = self.transfer_batch_to_device(inputs, self.device, 0)
        with evaluating(self), torch.inference_mode():
            try:
                return torch.onnx.export(self, inputs, file_path, **kwargs)
            except ModuleNotFoundError as error:
                raise ConfigurationError(
                    f"to_onnx needs the package {error.name!r}: pip install onnxscript."
                ) from error

    def to_torchscript(self, *args: Any, **kwargs: Any) -> Any:
        """Not here: torch and Lightning give TorchScript up.

        Raises:
            ConfigurationError: always; it says what to use.
        """
        raise ConfigurationError(
            "to_torchscript is not here, because torch gives TorchScript up. Export the module in eval mode: "
            "torch.export.save(torch.export.export(module.eval(), (inputs,)), path)."
        )

    def to_tensorrt(self, *args: Any, **kwargs: Any) -> Any:
        """Not here.

        Raises:
            ConfigurationError: always; it says what to use.
        """
        raise ConfigurationError("to_tensorrt is not here. Compile the module: torch_tensorrt.compile(module, ...).")

    @classmethod
    def load_from_checkpoint(
        cls,
        checkpoint_path: str | Path,
        map_location: Any = "cpu",
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """A module built with the saved hyper-parameters and the saved weights.

        Args:
            checkpoint_path: the file.
            map_location: where the weights go; None: the CPU.
            hparams_file: a YAML file whose hyper-parameters come in place of the saved ones.
            strict: whether module and file must have the same weights; None: as ``strict_loading`` of the module.
            weights_only: None or True: files are read as plain data only.
            kwargs: arguments of the constructor; they win.

        Raises:
            CheckpointError: no such file, or no checkpoint of this module.
            ConfigurationError: ``weights_only=False``.
        """
        checkpoint = cls._read_checkpoint(checkpoint_path, map_location, hparams_file, weights_only)
        module: Any = cls._from_hyperparameters(checkpoint, checkpoint_path, kwargs)
        if hasattr(module, "on_load_checkpoint"):
            module.on_load_checkpoint(checkpoint)
        try:
            module.load_state_dict(checkpoint["state_dict"], module.strict_loading if strict is None else strict)
        except RuntimeError as error:
            raise CheckpointError(f"{checkpoint_path} holds the weights of another {cls.__name__}: {error}") from error
        return module


_LENT = (
    "log_dict", "optimizers", "lr_schedulers", "manual_backward", "toggle_optimizer", "untoggle_optimizer",
    "toggled_optimizer", "clip_gradients", "all_gather", "print",
)  # fmt: skip
_LOANS = "_torchloops_loans"  # what `super()` is to reach in a method that a class overrides, by name
BORROWED = frozenset({"log", "__reduce_ex__", "_requires_grad_before", _LOANS, *_LENT})
"""Names in the ``__dict__`` of a module or callback that a run has put there; see `attach_module`."""


def attach_module(module: nn.Module, trainer: Any) -> None:
    """Connect a module to ``trainer``; one that is no `LoopModule` is lent the methods it would have."""
    for part in module.modules():
        if isinstance(part, LoopModule):
            part.trainer = trainer
        elif part is module or hasattr(type(part), "training_step"):
            for name in _LENT:
                _lend(part, name, MethodType(getattr(LoopModule, name), part))
            part.__dict__["__reduce_ex__"] = MethodType(_reduce_without_loans, part)
            if isinstance(getattr(type(part), "trainer", None), property):
                part.trainer = trainer
            else:
                part.__dict__["trainer"] = trainer


def _lend(part: Any, name: str, method: Any) -> None:
    """Give ``part`` a method for a run; one that its class overrides stays, and its ``super()`` reaches ours."""
    owner = next((cls for cls in type(part).__mro__ if name in cls.__dict__), None)
    if owner is None or owner is LoopModule or is_of_lightning(owner):
        part.__dict__[name] = method
        return
    base = next((cls for cls in type(part).__mro__ if name in cls.__dict__ and is_of_lightning(cls)), None)
    if base is not None or isinstance(part, LoopModule):
        part.__dict__.setdefault(_LOANS, {})[name] = method
    if base is not None and not hasattr(base.__dict__[name], _LOANS):
        setattr(base, name, _routed(base.__dict__[name], name))


def _routed(original: Any, name: str) -> Any:
    """Lightning's method, which in a module that runs here does what ours does."""

    @wraps(original)
    def method(self: Any, *args: Any, **kwargs: Any) -> Any:
        ours = self.__dict__.get(_LOANS, {}).get(name)
        return original(self, *args, **kwargs) if ours is None else ours(*args, **kwargs)

    setattr(method, _LOANS, True)
    return method


def _reduce_without_loans(owner: Any, protocol: Any) -> Any:
    """How a module or callback that runs is copied and pickled: without what a run lent it."""
    kind: Any = type(owner)
    reduced: Any = kind.__reduce_ex__(owner, protocol)
    if isinstance(reduced, str) or len(reduced) < 3 or not isinstance(reduced[2], dict):
        return reduced
    how, arguments, state, *rest = reduced
    loans = BORROWED - {"_requires_grad_before"}
    if isinstance(owner, nn.Module) and not isinstance(getattr(type(owner), "trainer", None), property):
        loans |= {"trainer"}
    return how, arguments, {name: value for name, value in state.items() if name not in loans}, *rest


def bind_log(module: nn.Module, log: Any) -> None:
    """Make ``self.log`` of the module, and of modules with steps inside it, call ``log`` without a detour."""
    for part in module.modules():
        if part is module or isinstance(part, LoopModule) or hasattr(type(part), "training_step"):
            _lend(part, "log", log)


def lend_log(callbacks: Iterable[Any], module: nn.Module) -> None:
    """Let callbacks call ``self.log`` and ``self.log_dict``, as ``module`` does; those of their own stay."""
    for callback in callbacks:
        for name in ("log", "log_dict") if hasattr(callback, "__dict__") else ():
            if is_overridden(callback, name):
                continue
            callback.__dict__[name] = partial(_log_as, module, name)
            callback.__dict__["__reduce_ex__"] = MethodType(_reduce_without_loans, callback)


def _log_as(module: Any, name: str, *args: Any, **options: Any) -> None:
    getattr(module, name)(*args, **options)


def release_log(callbacks: Iterable[Any]) -> None:
    """Take back what `lend_log` lent."""
    ours = (_log_as, _reduce_without_loans)
    for callback in callbacks:
        for name in ("log", "log_dict", "__reduce_ex__"):
            lent = getattr(callback, "__dict__", {}).get(name)
            if getattr(lent, "func", None) in ours or getattr(lent, "__func__", None) in ours:
                del callback.__dict__[name]


def release_module(module: nn.Module) -> None:
    """Take back what `attach_module` and `bind_log` lent, so that the module can be copied and pickled."""
    for part in module.modules():
        for name in ("log", "__reduce_ex__", _LOANS, *_LENT):
            part.__dict__.pop(name, None)
        LoopModule.untoggle_optimizer(part)  # type: ignore[arg-type]  # an error may have come between
        if not isinstance(getattr(type(part), "trainer", None), property):
            part.__dict__.pop("trainer", None)


def train_all_if_none_is(module: nn.Module) -> None:
    """Put a module that is in eval mode as a whole into train mode; parts in eval mode beside others stay so."""
    if not any(part.training for part in module.modules()):
        module.train()


@contextmanager
def module_modes(module: nn.Module) -> Iterator[list[tuple[nn.Module, bool]]]:
    """A context after which every part of ``module`` is in train or eval mode as before; gives parts and modes."""
    modes = [(part, part.training) for part in module.modules()]
    try:
        yield modes
    finally:
        for part, training in modes:
            part.training = training


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """A context in which ``module`` is in eval mode; every part has its own mode back after it."""
    with module_modes(module):
        module.eval()
        yield
