"""Arguments of the Trainer by name: None for the default, and what to do instead of those that are not there."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec

from torchloops.errors import ConfigurationError, did_you_mean

__all__ = ["NOT_HERE", "takes_none_and_explains"]

_P = ParamSpec("_P")

NOT_HERE = {
    "barebones": "leave out what costs time by name: logger=False, enable_checkpointing=False, "
    "enable_progress_bar=False, num_sanity_val_steps=0",
    "model_registry": "keep the files of a ModelCheckpoint: the registry is part of Lightning's cloud service",
    "amp_backend": 'give precision="16-mixed" or "bf16-mixed"',
    "amp_level": 'give precision="16-mixed" or "bf16-mixed"',
    "auto_lr_find": "fit with a few learning rates, each in trainer.isolated(...) of an outer loop",
    "auto_scale_batch_size": "choose the batch size of the loader, and accumulate_grad_batches for larger steps",
    "auto_select_gpus": 'give devices="auto" or a list of numbers',
    "checkpoint_callback": "give enable_checkpointing=True or False, and a ModelCheckpoint among the callbacks",
    "flush_logs_every_n_steps": "give a logger that has it",
    "gpus": 'give accelerator="gpu" and devices=',
    "ipus": "give accelerator= and devices=",
    "log_gpu_memory": "log torch.cuda.max_memory_allocated() in a callback",
    "move_metrics_to_cpu": "leave it out: logged values stay on their device until they are read",
    "multiple_trainloader_mode": "give CombinedLoader({...}, mode) as the training loader",
    "num_processes": "give devices=",
    "prepare_data_per_node": "set the attribute of that name on the module or data module",
    "process_position": "give a RichProgressBar among the callbacks",
    "progress_bar_refresh_rate": "give RichProgressBar(refresh_rate=seconds) among the callbacks",
    "reload_dataloaders_every_epoch": "give reload_dataloaders_every_n_epochs=1",
    "replace_sampler_ddp": "give use_distributed_sampler=",
    "resume_from_checkpoint": "give trainer.fit(..., ckpt_path=...)",
    "stochastic_weight_avg": "keep a torch.optim.swa_utils.AveragedModel in a callback",
    "terminate_on_nan": "give EarlyStopping(check_finite=True) among the callbacks",
    "tpu_cores": 'give accelerator="tpu" and devices=',
    "track_grad_norm": "log the norm in on_before_optimizer_step",
    "truncated_bptt_steps": "set the attribute of that name on the module",
    "weights_save_path": "give default_root_dir=, or ModelCheckpoint(dirpath=...)",
    "weights_summary": "give enable_model_summary=",
}
"""Arguments of Lightning's Trainer, of 2.x and before, that this one has not, and what to write instead."""


def takes_none_and_explains(*meant: str) -> Callable[[Callable[_P, None]], Callable[_P, None]]:
    """A decorator for ``__init__``: None stands for an argument's default, and an unknown one is explained.

    Args:
        meant: arguments for which None means something else.
    """

    def decorate(init: Callable[_P, None]) -> Callable[_P, None]:
        parameters = inspect.signature(init).parameters
        has_default = {name for name, one in parameters.items() if one.default is not None} - {*meant}

        @wraps(init)
        def with_defaults(*args: _P.args, **kwargs: _P.kwargs) -> None:
            for name in kwargs:
                if name not in parameters:
                    raise ConfigurationError(_explained(name, parameters))
            given: Any = {name: value for name, value in kwargs.items() if value is not None or name not in has_default}
            init(*args, **given)

        return with_defaults

    return decorate


def _explained(name: str, known: Any) -> str:
    if name in NOT_HERE:
        return f"Trainer({name}=...) is not an argument of this Trainer. Instead, {NOT_HERE[name]}."
    return f"Trainer has no argument {name!r}.{did_you_mean(name, known)} It has {', '.join([*known][1:])}."
