"""Devices, precision, processes: everything that comes from Lightning Fabric, and the only file that imports it."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric import seed_everything as seed_everything
from lightning_fabric.plugins.precision import Precision
from lightning_fabric.strategies import SingleDeviceStrategy
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from torchloops.errors import ConfigurationError
from torchloops.trainer.combined import CombinedLoader
from torchloops.trainer.shares import share_of

__all__ = ["Engine", "seed_everything"]


class Engine:
    """One Fabric object and what the loops need of it.

    On one device with plain 32-bit precision nothing stands between a loop and the module: steps, ``backward``
    and optimizers are the bare ones. Elsewhere they go through Fabric.

    Args:
        accelerator, devices, num_nodes, strategy, precision, plugins: as Fabric takes them.
        sync_batchnorm: on several devices, have batch norm see the batches of all of them.
    """

    def __init__(
        self,
        accelerator: Any,
        devices: Any,
        num_nodes: int,
        strategy: Any,
        precision: Any,
        plugins: Any = None,
        sync_batchnorm: bool = False,
    ) -> None:
        self.fabric = Fabric(
            accelerator=accelerator,
            devices=devices,
            num_nodes=num_nodes,
            strategy=strategy,
            precision=precision,
            plugins=plugins,
        )
        self.num_nodes = num_nodes
        self._sync_batchnorm = sync_batchnorm
        self._wrapped: Any = None
        self._unscaled: set[int] = set()
        self._module: nn.Module | None = None
        self._parameters: list[nn.Parameter] = []

    @property
    def is_plain(self) -> bool:
        """One device and 32-bit precision: nothing of Fabric is needed on a step."""
        return self.is_single and type(self.fabric._precision) is Precision

    @property
    def is_single(self) -> bool:
        """One process that drives one device."""
        return isinstance(self.fabric.strategy, SingleDeviceStrategy)

    @property
    def precision(self) -> str:
        """Name of the precision, such as "32-true" or "bf16-mixed"."""
        return self.fabric._precision.precision

    @property
    def device(self) -> torch.device:
        return self.fabric.device

    @property
    def world_size(self) -> int:
        return self.fabric.world_size

    @property
    def global_rank(self) -> int:
        return self.fabric.global_rank

    @property
    def local_rank(self) -> int:
        return self.fabric.local_rank

    @property
    def is_global_zero(self) -> bool:
        return self.fabric.is_global_zero

    def launch(self) -> None:
        """Start the processes, where there are several.

        Raises:
            ConfigurationError: the strategy runs a function in new processes instead of this script.
        """
        try:
            self.fabric.launch()
        except TypeError as error:
            raise ConfigurationError(
                f"Strategy {type(self.fabric.strategy).__name__} starts its processes from a function and cannot "
                'hand the trained module back. Use strategy="ddp", which runs this script once per device.'
            ) from error

    def setup_module(self, module: nn.Module, training: bool) -> None:
        """Move ``module`` to the device and, to train on several devices, wrap it."""
        self._module = module
        if training and self._sync_batchnorm and self.world_size > 1:
            nn.SyncBatchNorm.convert_sync_batchnorm(module)
        self._parameters = list(module.parameters())
        if training or not self.is_single:
            trainable = any(parameter.requires_grad for parameter in module.parameters())
            self._wrapped = self.fabric.setup_module(module) if training and trainable else None
        if self._wrapped is None:
            self.fabric._precision.convert_module(module)
            self.fabric.to_device(module)
        if hasattr(module, "_fabric"):  # a LightningModule that Fabric took for its own
            module._fabric = None  # type: ignore[assignment]

    def place_module(self) -> None:
        """Move to the device what a hook has added to the module since it was set up, and share its gradients."""
        module = self._module
        if module is None:
            return
        if not self.is_single and not _are_the_same(self._parameters, module):
            self.setup_module(module, training=True)
        elif any(tensor.device != self.device for tensor in module.parameters()):
            self.fabric._precision.convert_module(module)
            self.fabric.to_device(module)

    def release_module(self) -> None:
        """Forget the module; it stays on its device."""
        self._module = self._wrapped = None
        self._parameters = []

    def setup_optimizers(self, optimizers: list[Optimizer]) -> list[Any]:
        """The optimizers to step with: the same ones in the plain case, Fabric's wrappers elsewhere."""
        if self.is_plain or not optimizers:
            return list(optimizers)
        wrapped = self.fabric.setup_optimizers(*optimizers)
        return list(wrapped) if isinstance(wrapped, tuple) else [wrapped]

    def setup_loader(self, loader: Any, use_distributed_sampler: bool, evaluates: bool = False) -> Any:
        """Give every process its share of a ``DataLoader``.

        Args:
            loader: the loader.
            use_distributed_sampler: False: it gives shares by itself.
            evaluates: have each sample once, if some processes then have a batch less; else as many in each.
        """
        if self.world_size == 1:
            return loader
        if isinstance(loader, CombinedLoader):
            return loader.mapped(lambda one: self.setup_loader(one, use_distributed_sampler))
        if not isinstance(loader, DataLoader):
            return loader
        if evaluates and use_distributed_sampler:
            share = share_of(loader, self.global_rank, self.world_size)
            if share is not None:
                return share
        return self.fabric.setup_dataloaders(
            loader, use_distributed_sampler=use_distributed_sampler, move_to_device=False
        )

    def step_function(self, name: str, synced: bool = False) -> Callable[..., Any]:
        """``module.<name>`` under the run's precision.

        Args:
            name: ``"training_step"``, ``"validation_step"`` and so on.
            synced: gradients of a backward pass outside of the step are to be averaged over the processes.
        """
        module = self._module
        if synced and self._wrapped is not None and not self.is_single:
            if name not in self._wrapped._forward_methods:
                self._wrapped.mark_forward_method(name)
            return getattr(self._wrapped, name)
        return self.under_precision(getattr(module, name))

    def under_precision(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``function`` with its inputs and computations in the run's precision; its output is as it comes."""
        precision = self.fabric._precision
        if type(precision) is Precision:
            return function

        def step(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = precision.convert_input((args, kwargs))
            with precision.forward_context():
                return function(*args, **kwargs)

        return step

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Backward pass of ``loss``, scaled where the precision asks for it."""
        if self.is_plain:
            loss.backward(*args, **kwargs)
        else:
            self._unscaled.clear()
            self.fabric.backward(loss, *args, **kwargs)

    def scaled(self, backward: Callable[..., None]) -> Callable[..., None]:
        """A module's own ``backward``, which gets losses that are scaled where the precision asks for it."""
        if self._scaler is None:
            return backward

        def scale_first(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            self._unscaled.clear()
            backward(self._scaler.scale(loss), *args, **kwargs)

        return scale_first

    @staticmethod
    def needs_closure(optimizer: Any) -> bool:
        """Whether ``optimizer.step`` cannot do without a closure (LBFGS)."""
        closure = inspect.signature(type(optimizer).step).parameters.get("closure")
        return closure is not None and closure.default is inspect.Parameter.empty

    @classmethod
    def takes_closure(cls, optimizer: Any) -> bool:
        """Whether ``optimizer.step`` is given a closure: it needs one, or it is not torch's and reads it (SAM)."""
        step = inspect.unwrap(type(optimizer).step)
        is_torchs = f"{step.__module__}.".startswith("torch.optim.")
        return cls.needs_closure(optimizer) or (not is_torchs and _reads(step, "closure"))

    def average_gradients(self, parameters: Iterable[Tensor] | None = None) -> None:
        """Average the gradients of parameters, by default the module's, over the processes.

        For backward passes that the strategy does not see, such as those inside a step.
        """
        if self.world_size == 1 or self._module is None:
            return
        for parameter in self._module.parameters() if parameters is None else parameters:
            if parameter.grad is not None:
                parameter.grad = self.all_reduce(parameter.grad, "mean")

    def no_sync(self, skip: bool) -> AbstractContextManager[Any]:
        """Leave out the averaging of gradients while gradients accumulate."""
        if not skip or self._wrapped is None or self.world_size == 1:
            return nullcontext()
        return self.fabric.no_backward_sync(self._wrapped)

    def clip_gradients(self, optimizer: Any, value: float, algorithm: str) -> None:
        """Clip the gradients of the parameters of ``optimizer`` by ``"norm"`` or by ``"value"``."""
        module: Any = self._wrapped or self._module
        by_value = algorithm == "value"
        if self.is_plain or self._scaler is not None:
            self.unscale_gradients(optimizer)
            clip = nn.utils.clip_grad_value_ if by_value else nn.utils.clip_grad_norm_
            clip([parameter for group in optimizer.param_groups for parameter in group["params"]], value)
        elif by_value:
            self.fabric.clip_gradients(module, optimizer, clip_val=value)
        else:
            self.fabric.clip_gradients(module, optimizer, max_norm=value, error_if_nonfinite=False)

    @property
    def _scaler(self) -> Any:
        return getattr(self.fabric._precision, "scaler", None)

    def unscale_gradients(self, optimizer: Any) -> None:
        """Undo the loss scaling on the gradients of an optimizer, once a step, where the precision scales."""
        optimizer = getattr(optimizer, "optimizer", optimizer)  # Fabric's wrapper has it inside
        if self._scaler is not None and id(optimizer) not in self._unscaled:
            self._unscaled.add(id(optimizer))
            self.fabric._precision.unscale_gradients(optimizer)

    def precision_state(self) -> dict[str, Any]:
        """The state of the loss scaler, if the precision has one."""
        return self.fabric._precision.state_dict()

    def load_precision_state(self, state: dict[str, Any]) -> None:
        """Take back what `precision_state` returned."""
        if state:
            self.fabric._precision.load_state_dict(state)

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of the precision."""
        return self.fabric.autocast()

    def to_device(self, batch: Any) -> Any:
        """``batch`` (a tensor or a nested collection) on the device."""
        return self.fabric.to_device(batch)

    def batch_mover(self, hook_owners: Iterable[Any], is_overridden: Callable[[Any, str], bool]) -> Callable | None:
        """What brings a batch to the device, with the transfer hooks around it; None where nothing is to do."""
        hooks = {}
        for name in _TRANSFER_HOOKS:
            for owner in hook_owners:
                if owner is not None and is_overridden(owner, name):
                    hooks[name] = getattr(owner, name)
        if not hooks:
            return None if self.device.type == "cpu" else lambda batch, index: self.to_device(batch)
        before, transfer, after = (hooks.get(name) for name in _TRANSFER_HOOKS)

        def move(batch: Any, index: int) -> Any:
            batch = before(batch, index) if before else batch
            batch = transfer(batch, self.device, index) if transfer else self.to_device(batch)
            return after(batch, index) if after else batch

        return move

    def all_reduce(self, value: Any, op: str = "mean") -> Any:
        """``value`` reduced over all processes."""
        return self.fabric.all_reduce(value, reduce_op=op) if self.world_size > 1 else value

    def all_gather_objects(self, value: Any) -> list[Any]:
        """The ``value`` of every process, by rank and on the CPU, in all of them."""
        gathered: list[Any] = [None] * self.world_size
        torch.distributed.all_gather_object(gathered, move_data_to_device(value, "cpu"))
        return gathered

    def all_gather(self, value: Any, group: Any = None, sync_grads: bool = False) -> Any:
        return self.fabric.all_gather(value, group=group, sync_grads=sync_grads)

    def gather_objects(self, value: Any) -> list[Any] | None:
        """The ``value`` of every process, by rank and on the CPU, in the first process; None in the others."""
        gathered: list[Any] | None = [None] * self.world_size if self.is_global_zero else None
        torch.distributed.gather_object(move_data_to_device(value, "cpu"), gathered)
        return gathered

    def broadcast(self, value: Any) -> Any:
        return self.fabric.broadcast(value) if self.world_size > 1 else value

    def barrier(self) -> None:
        if self.world_size > 1:
            self.fabric.barrier()


_TRANSFER_HOOKS = ("on_before_batch_transfer", "transfer_batch_to_device", "on_after_batch_transfer")


def _reads(function: Any, argument: str) -> bool:
    """Whether the code of ``function`` uses its argument of that name at all."""
    code = getattr(function, "__code__", None)
    if code is None or argument not in inspect.signature(function).parameters:
        return False
    loads = [one.argval for one in dis.get_instructions(code) if one.opname.startswith("LOAD")]
    return any(argument in (value if isinstance(value, tuple) else (value,)) for value in loads)


def _are_the_same(parameters: list[nn.Parameter], module: nn.Module) -> bool:
    now = list(module.parameters())
    return len(now) == len(parameters) and all(one is other for one, other in zip(parameters, now, strict=True))
