"""Freeze, FreezeUnfreeze, NoFreeze: what happens to a pretrained backbone in ``Trainer.finetune``."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from torchloops.callbacks.callback import Callback
from torchloops.callbacks.parameter_groups import set_learning_rate
from torchloops.errors import ConfigurationError, did_you_mean
from torchloops.schema import check

__all__ = ["Freeze", "FreezeUnfreeze", "NoFreeze", "resolve_finetuning"]

_STATE = {"frozen?": bool, "flags?": bytes | bytearray, "modes?": bytes | bytearray}

_STRATEGIES = ("freeze", "no_freeze", "freeze_unfreeze")


class NoFreeze(Callback):
    """Train the whole module, backbone included."""


class Freeze(Callback):
    """Keep ``module.backbone`` as it is for the whole fit and train the rest.

    Its parameters get ``requires_grad=False`` before optimizers are configured, and its batch-norm layers stay in
    eval mode, so that their statistics stay too. When the fit ends, also by an error, the flags are as they were
    before: a later plain fit trains the backbone.

    Raises:
        ConfigurationError: the module has no ``backbone``.
    """

    def __init__(self) -> None:
        self.frozen = False
        self._before: dict[nn.Parameter, bool] = {}  # flags before any freezing; shared with inner runs' copies
        self._found: list[tuple[nn.Parameter, bool]] = []
        self._modes: list[tuple[nn.Module, bool]] = []

    def fresh(self) -> Freeze:
        """A callback with the same settings, that knows which parameters were frozen before this one came."""
        twin = copy.copy(self)
        twin.frozen, twin._found, twin._modes = False, [], []
        return twin

    def setup(self, trainer: Any, module: Any, stage: str) -> None:
        if stage != "fit":
            return
        backbone = self._backbone(module)
        self._found = [(parameter, parameter.requires_grad) for parameter in backbone.parameters()]
        self._modes = [(layer, layer.training) for layer in backbone.modules() if _keeps_statistics(layer)]
        for parameter, flag in self._found:
            self._before.setdefault(parameter, flag)
            parameter.requires_grad_(False)
            parameter.grad = None  # an optimizer would still step on a gradient left over from before
        self.frozen = True

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        if self.frozen:
            for layer, _ in self._modes:
                layer.eval()

    def state_dict(self) -> dict[str, Any]:
        """What to put back at the end: an inner run that is resumed finds the module as the run left it."""
        return {
            "frozen": self.frozen,
            "flags": bytes(flag for _, flag in self._found),
            "modes": bytes(training for _, training in self._modes),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        check(state_dict, _STATE, "Finetuning: state")
        if "flags" in state_dict:
            flags, modes = map(bool, state_dict["flags"]), map(bool, state_dict["modes"])
            self._found = [(parameter, flag) for (parameter, _), flag in zip(self._found, flags, strict=True)]
            self._modes = [(layer, training) for (layer, _), training in zip(self._modes, modes, strict=True)]

    def teardown(self, trainer: Any, module: Any, stage: str) -> None:
        if stage != "fit":
            return
        self.frozen = False
        for parameter, flag in self._found:
            parameter.requires_grad_(flag)
        for layer, training in self._modes:
            layer.train(training)
        self._found, self._modes = [], []
        if not trainer.run_name:
            self._before.clear()

    def _backbone(self, module: Any) -> nn.Module:
        backbone = getattr(module, "backbone", None)
        if not isinstance(backbone, nn.Module):
            found = f"it is a {type(backbone).__name__}" if backbone is not None else "there is none"
            children = [name for name, _ in module.named_children()]
            raise ConfigurationError(
                f"{type(self).__name__} needs {type(module).__name__}.backbone, an nn.Module; {found}. The module's "
                f'parts are {children}: call the pretrained one "backbone", or finetune with strategy="no_freeze".'
            )
        return backbone


def _keeps_statistics(layer: nn.Module) -> bool:
    """Whether a layer updates running statistics in training mode."""
    return isinstance(layer, nn.modules.batchnorm._NormBase) and layer.track_running_stats


class FreezeUnfreeze(Freeze):
    """Keep ``module.backbone`` frozen for some epochs, then train everything.

    Optimizers need not know about it: backbone parameters that ``configure_optimizers`` left out because they
    were frozen are added to the first optimizer as a group named "backbone". Its learning rate is the first
    group's at that time, times ``lr_factor``. Parameters that an optimizer has from the start (`ImageClassifier`
    gives all of them) stay in their group, unless ``lr_factor`` is not 1. Schedulers take the new group along.

    Args:
        unfreeze_epoch: first epoch (from 0) that trains the backbone.
        lr_factor: learning rate of the backbone in units of the first group's, above 0.

    Raises:
        ConfigurationError: an argument makes no sense, or the module has no ``backbone``.
    """

    def __init__(self, unfreeze_epoch: int, lr_factor: float = 1.0) -> None:
        super().__init__()
        if not isinstance(unfreeze_epoch, int) or isinstance(unfreeze_epoch, bool) or unfreeze_epoch < 0:
            raise ConfigurationError(
                f'("freeze_unfreeze", epoch) takes the epoch, 0 or more, that unfreezes; got {unfreeze_epoch!r}.'
            )
        if not lr_factor > 0:
            raise ConfigurationError(f"FreezeUnfreeze(lr_factor=...) is above 0, got {lr_factor!r}.")
        self.unfreeze_epoch = unfreeze_epoch
        self.lr_factor = lr_factor

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        if self.frozen and trainer.current_epoch >= self.unfreeze_epoch:
            self._unfreeze(trainer, module)
        super().on_train_epoch_start(trainer, module)

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        """Average the backbone's gradients: DDP leaves out what was frozen when it wrapped the module."""
        if not self.frozen and trainer.engine.world_size > 1:
            own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
            for parameter, _ in self._found:
                if parameter.grad is not None and id(parameter) in own:
                    parameter.grad = trainer.engine.all_reduce(parameter.grad, "mean")

    def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        """Unfreeze before the optimizers are loaded, where the saved run had done so."""
        state = checkpoint.get("callbacks", {}).get(self.state_key, {})
        if self.frozen and not state.get("frozen", True):
            self._unfreeze(trainer, module)

    def _unfreeze(self, trainer: Any, module: Any) -> None:
        optimizers = trainer.optimizers  # configured here, if they are not yet, while the backbone is frozen
        self.frozen = False
        parameters = [parameter for parameter, _ in self._found if self._before[parameter]]
        for parameter in parameters:
            parameter.requires_grad_(True)
        for layer, training in self._modes:
            layer.train(training)
        schedulers = [config.scheduler for config in trainer.lr_scheduler_configs]
        set_learning_rate(optimizers, schedulers, parameters, self.lr_factor, "backbone")


def resolve_finetuning(strategy: Any) -> Callback:
    """The callback for a ``strategy`` of ``Trainer.finetune``.

    Args:
        strategy: "freeze", "no_freeze", ``("freeze_unfreeze", epoch)``, or a callback.

    Raises:
        ConfigurationError: none of these.
    """
    if strategy == "freeze":
        return Freeze()
    if strategy == "no_freeze":
        return NoFreeze()
    if isinstance(strategy, tuple | list) and len(strategy) == 2 and strategy[0] == "freeze_unfreeze":
        return FreezeUnfreeze(strategy[1])
    if isinstance(strategy, Callback) or hasattr(strategy, "on_train_epoch_start"):
        return strategy
    name = strategy[0] if isinstance(strategy, tuple | list) and strategy else strategy
    hint = did_you_mean(name, _STRATEGIES) if isinstance(name, str) and name not in _STRATEGIES else ""
    raise ConfigurationError(
        'trainer.finetune(strategy=...) is "freeze", "no_freeze", ("freeze_unfreeze", epoch) or a callback, got '
        f"{strategy!r}.{hint}"
    )
