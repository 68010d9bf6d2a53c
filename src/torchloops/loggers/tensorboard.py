"""TensorBoardLogger, by pytorch-lightning's arguments."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from lightning_fabric.loggers import TensorBoardLogger as FabricTensorBoardLogger

from torchloops.files import given_path
from torchloops.loggers.hparams_file import as_dict, is_first_process, write_hparams

__all__ = ["TensorBoardLogger"]


class TensorBoardLogger(FabricTensorBoardLogger):
    """Writes event files for TensorBoard, by Lightning Fabric's logger; needs the package tensorboard.

    Args:
        save_dir: folder of all experiments; files lie in ``save_dir/name/version_N``.
        name: folder of the experiment.
        version: the folder inside: a number N for ``version_N``, or its name; None: the next number that is free.
        log_graph: draw the graph of the module when a fit starts; it needs ``example_input_array``.
        default_hp_metric: write a value "hp_metric" with hyper-parameters, without which TensorBoard shows none.
        prefix: before every name, with a ``-`` between.
        sub_dir: folder inside that of the version.
        kwargs: further arguments of ``SummaryWriter``.
    """

    def __init__(
        self,
        save_dir: str | Path,
        name: str | None = "lightning_logs",
        version: int | str | None = None,
        log_graph: bool = False,
        default_hp_metric: bool = True,
        prefix: str = "",
        sub_dir: str | Path | None = None,
        **kwargs: Any,
    ) -> None:
        root = str(given_path(save_dir, "save_dir"))
        super().__init__(root, name, version, default_hp_metric, prefix, sub_dir, **kwargs)
        self._draws_graph = log_graph
        self._given: dict[str, Any] = {}

    @property
    def save_dir(self) -> str:
        """Folder of all experiments."""
        return self._root_dir

    def log_hyperparams(self, params: Any = None, metrics: Any = None, step: int | None = None, **kwargs: Any) -> None:
        """Write hyper-parameters for TensorBoard, and to ``hparams.yaml``."""
        self._given |= as_dict(params, kwargs)
        super().log_hyperparams(dict(self._given), metrics, step)
        if is_first_process():
            try:
                write_hparams(self.log_dir, self._given)
            except OSError as error:
                warnings.warn(f"Training goes on, but hparams.yaml cannot be written: {error}.", stacklevel=2)

    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Draw the graph of ``model``, if the logger was told to."""
        if not self._draws_graph or not is_first_process():
            return
        inputs = getattr(model, "example_input_array", None) if input_array is None else input_array
        if inputs is None:
            warnings.warn(
                "TensorBoardLogger(log_graph=True) needs an input: set self.example_input_array in the module.",
                stacklevel=2,
            )
            return
        device = next((tensor.device for tensor in model.parameters()), "cpu")
        inputs = tuple(one.to(device) for one in inputs) if isinstance(inputs, tuple) else inputs.to(device)
        was_training = model.training
        try:
            self.experiment.add_graph(model.eval(), inputs)
        finally:
            model.train(was_training)
