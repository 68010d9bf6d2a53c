"""LoopModule: the model and its steps, with Lightning's hook names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from torchloops.errors import CheckpointError, ConfigurationError
from torchloops.hooks import base_class
from torchloops.hparams import collect_hyperparameters

if TYPE_CHECKING:
    from torchloops.trainer import Trainer

__all__ = ["LoopModule"]


@base_class
class LoopModule(nn.Module):
    """A model with its training, validation, test and prediction steps.

    Define ``training_step(batch, batch_idx)`` and ``configure_optimizers()``; add ``validation_step``,
    ``test_step``, ``predict_step`` and any hook of `torchloops.hooks` as needed. A ``LightningModule`` works in
    its place, and so does any ``nn.Module`` with a ``training_step``.

    Attributes:
        automatic_optimization: False: ``training_step`` calls ``self.manual_backward`` and steps
            ``self.optimizers()`` itself.
        truncated_bptt_steps: time steps a split of truncated backpropagation through time has; 0: no splits.
    """

    _paths: ClassVar[tuple[str, ...]] = ()  # hyper-parameters that name files: one in a checkpoint opens none

    automatic_optimization: bool = True
    truncated_bptt_steps: int = 0

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["_trainer"] = None
        self.__dict__["_hparams"] = _AttributeDict()

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name != "log"}
        state["_trainer"] = None
        return state

    # what a subclass defines

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """Return the loss, a dict with ``"loss"``, or None to leave the batch out."""
        raise ConfigurationError(f"{type(self).__name__} needs `training_step(batch, batch_idx)` to be fitted.")

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
    def logger(self) -> Any:
        """The first logger of the Trainer, or None."""
        return self.trainer.logger

    @property
    def loggers(self) -> list[Any]:
        """All loggers of the Trainer."""
        return self.trainer.loggers

    @property
    def hparams(self) -> Any:
        """The arguments kept by `save_hyperparameters`: a dict whose keys are attributes too.

        Change one where the module becomes what another argument would have made of it: checkpoints hold it as it is.
        """
        return self.__dict__["_hparams"]

    def save_hyperparameters(self, *names: str, ignore: Any = ()) -> None:
        """Keep the constructor's arguments in ``self.hparams`` and in checkpoints.

        Call it in ``__init__``. ``names``: only these; ``ignore``: a name or names to leave out.
        """
        self.__dict__["_hparams"] = _AttributeDict(collect_hyperparameters(self, names, ignore))

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
        """

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
        """``loss.backward()`` under the run's precision, gradients averaged over the processes."""
        self.trainer.engine.backward(loss, *args, **kwargs)
        self.trainer.engine.average_gradients()

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

    @classmethod
    def load_from_checkpoint(cls, checkpoint_path: str | Path, map_location: Any = "cpu", **kwargs: Any) -> Any:
        """A module built with the saved hyper-parameters (``kwargs`` win) and the saved weights.

        Raises:
            CheckpointError: no such file, or no checkpoint of this module.
        """
        from torchloops.trainer.checkpoint_file import read_checkpoint

        checkpoint = read_checkpoint(checkpoint_path, map_location)
        try:
            saved = checkpoint.get("hyper_parameters", {})
            module: Any = cls(**{name: saved[name] for name in saved if name not in cls._paths} | kwargs)
        except TypeError as error:
            raise CheckpointError(
                f"{cls.__name__} cannot be built from {checkpoint_path}: {error}. Give the missing arguments to "
                "load_from_checkpoint, or call self.save_hyperparameters() in __init__ before training."
            ) from error
        if hasattr(module, "on_load_checkpoint"):
            module.on_load_checkpoint(checkpoint)
        try:
            module.load_state_dict(checkpoint["state_dict"])
        except RuntimeError as error:
            raise CheckpointError(f"{checkpoint_path} holds the weights of another {cls.__name__}: {error}") from error
        return module


class _AttributeDict(dict[str, Any]):
    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"No hyper-parameter {name!r}; there are {sorted(self)}.") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value


_LENT = (
    "log_dict", "optimizers", "lr_schedulers", "manual_backward", "toggle_optimizer", "untoggle_optimizer",
    "clip_gradients", "all_gather", "print",
)  # fmt: skip
BORROWED = frozenset({"log", "__reduce_ex__", "_requires_grad_before", *_LENT})
"""Names in a module's ``__dict__`` that a run has put there; see `attach_module`."""


def attach_module(module: nn.Module, trainer: Any) -> None:
    """Connect a module to ``trainer``; one that is no `LoopModule` is lent the methods it would have."""
    for part in module.modules():
        if isinstance(part, LoopModule):
            part.trainer = trainer
        elif part is module or hasattr(type(part), "training_step"):
            for name in _LENT:
                part.__dict__[name] = MethodType(getattr(LoopModule, name), part)
            part.__dict__["__reduce_ex__"] = MethodType(_reduce_without_loans, part)
            if isinstance(getattr(type(part), "trainer", None), property):
                part.trainer = trainer
            else:
                part.__dict__["trainer"] = trainer


def _reduce_without_loans(module: nn.Module, protocol: Any) -> Any:
    """How a module that runs is copied and pickled: without what `attach_module` and `bind_log` lent it."""
    reduced: Any = type(module).__reduce_ex__(module, protocol)
    how, arguments, state, *rest = reduced
    loans = {"log", "__reduce_ex__", *_LENT}
    if not isinstance(getattr(type(module), "trainer", None), property):
        loans.add("trainer")
    return how, arguments, {name: value for name, value in state.items() if name not in loans}, *rest


def bind_log(module: nn.Module, log: Any) -> None:
    """Make ``self.log`` of the module, and of modules with steps inside it, call ``log`` without a detour."""
    for part in module.modules():
        if part is module or isinstance(part, LoopModule) or hasattr(type(part), "training_step"):
            part.__dict__["log"] = log


def release_module(module: nn.Module) -> None:
    """Take back what `attach_module` and `bind_log` lent, so that the module can be copied and pickled."""
    for part in module.modules():
        for name in ("log", "__reduce_ex__", *_LENT):
            part.__dict__.pop(name, None)
        LoopModule.untoggle_optimizer(part)  # type: ignore[arg-type]  # an error may have come between
        if not isinstance(getattr(type(part), "trainer", None), property):
            part.__dict__.pop("trainer", None)


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
