"""Every hook, in the order it runs, and the question whether somebody defined it.

Each ``on_*`` below is called on every callback that has it, as ``callback.on_x(trainer, module, ...)``, then on
the module, as ``module.on_x(...)``. `Trainer.call_hook` calls any other name in the same way.

    fit
        prepare_data                          data module, module; one process
        setup(stage)                          data module, callbacks, module
        configure_callbacks, configure_model  module
        on_fit_start
        on_sanity_check_start ... on_sanity_check_end     a few validation batches
        on_train_start
        while not done:                       FitLoop
            train_dataloader                  first epoch, or every n epochs on request
            on_train_epoch_start
            configure_optimizers              module; earlier if somebody asks for the optimizers
            for batch in data:                TrainingEpochLoop
                on_before_batch_transfer, transfer_batch_to_device, on_after_batch_transfer
                on_train_batch_start          returns -1: the epoch ends here
                for split in time splits:     TrainingBatchLoop
                    for optimizer in due:     OptimizerLoop (ManualLoop: training_step only)
                        training_step
                        on_before_zero_grad, optimizer_zero_grad
                        on_before_backward, backward, on_after_backward
                        on_before_optimizer_step, configure_gradient_clipping
                        optimizer_step
                lr_scheduler_step             schedulers with interval "step"
                on_train_batch_end
                validation, when due          EvaluationLoop
                    on_validation_model_zero_grad  where the module defines it, and no gradients accumulate
                    on_validation_model_eval, on_validation_start, on_validation_epoch_start
                    for each data loader, for each batch:   EvaluationEpochLoop
                        on_validation_batch_start, validation_step, on_validation_batch_end
                    on_validation_epoch_end, on_validation_end, on_validation_model_train
            on_train_epoch_end                checkpoint callbacks last, after the schedulers
            lr_scheduler_step                 schedulers with interval "epoch"
        on_train_end
        on_fit_end
        teardown(stage)

    An isolated inner run, its data in place, fires setup("fit"), on_fit_start, on_train_start ... on_train_end,
    on_fit_end and teardown("fit") for the module and its own callbacks.
    validate, test and predict fire setup, the hooks of their loop (with "test" or "predict" in the names) and
    teardown.

| what ends a run | what still fires |
| --- | --- |
| ``trainer.should_stop = True`` | everything: the batch ends, validation if due, the epoch-end and run-end hooks |
| ``StopIteration`` raised by a loop | that loop's ``on_run_end``; the loop above goes on |
| an exception | ``on_exception``, ``teardown``; modes, gradients and bound methods are restored |
| Ctrl-C (``KeyboardInterrupt``) | as an exception, then it is raised again |
"""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["is_overridden", "number_of_parameters"]

ANY_NUMBER = 100  # stands for ``*args``
_BASE_CLASSES: set[type] = set()
_LIGHTNING = ("pytorch_lightning.core.", "lightning.pytorch.core.", "pytorch_lightning.callbacks.callback",
              "lightning.pytorch.callbacks.callback")  # fmt: skip


def base_class(cls: type) -> type:
    """Mark a class whose hooks are only defaults: they do not count as defined."""
    _BASE_CLASSES.add(cls)
    return cls


def is_overridden(owner: Any, name: str) -> bool:
    """Whether ``owner`` defines the hook ``name``, in its class or as an attribute of its own."""
    if name in getattr(owner, "__dict__", {}):
        return callable(owner.__dict__[name])
    for cls in type(owner).__mro__:
        if name in cls.__dict__:
            if cls.__dict__[name] is None:  # a subclass that takes a hook back
                return False
            return cls not in _BASE_CLASSES and not is_of_lightning(cls)
    return False


def is_of_lightning(cls: type) -> bool:
    """Whether a class is one of those of Lightning whose hooks are only defaults."""
    return f"{cls.__module__}.".startswith(_LIGHTNING)


def number_of_parameters(function: Any, required: bool = False) -> int:
    """How many positional arguments ``function`` takes, or needs; a ``*args`` counts as many, and is not needed."""
    parameters = inspect.signature(function).parameters.values()
    if not required and any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return ANY_NUMBER
    return sum(
        parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and not (required and parameter.default is not parameter.empty)
        for parameter in parameters
    )
