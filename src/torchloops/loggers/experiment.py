"""What `CSVLogger.experiment` takes beside numbers: pictures and the like."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from torchloops.errors import ConfigurationError
from torchloops.loggers.hparams_file import is_first_process

__all__ = ["Experiment"]


class Experiment:
    """Answers the methods of TensorBoard's ``SummaryWriter``, and those of its logger.

    Where the package tensorboard is installed, they write an event file beside the CSV file. Elsewhere
    ``add_image``, ``add_images`` and ``add_figure`` write ``images/<tag>/<step>.png``, and ``add_scalar`` and
    ``add_scalars`` a row ``tag, step, value`` to ``scalars.csv``; other ``add_...`` are an error that says what to
    install. Only the first process writes.

    Args:
        logger: the `CSVLogger`, whose ``log_dir`` is written to.
    """

    def __init__(self, logger: Any) -> None:
        self._logger = logger
        self._tensorboard: Any = None

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("add_"):
            if name.startswith("__") or name in ("_logger", "_tensorboard"):
                raise AttributeError(name)
            return getattr(self._logger, name)
        if not is_first_process():
            return _do_nothing
        writer = self._writer()
        if writer is not None:
            return getattr(writer, name)
        if name not in _WITHOUT:
            raise ConfigurationError(f"experiment.{name}() needs the package tensorboard: pip install tensorboard.")
        return partial(_WITHOUT[name], Path(self._logger.log_dir))

    def __reduce__(self) -> Any:
        return Experiment, (self._logger,)

    def flush(self) -> None:
        """Write what TensorBoard holds."""
        if self._tensorboard is not None:
            self._tensorboard.flush()

    def close(self) -> None:
        """Close the event file, if there is one."""
        if self._tensorboard is not None:
            self._tensorboard.close()
            self._tensorboard = None

    def _writer(self) -> Any:
        """TensorBoard's; None where it is not installed."""
        if self._tensorboard is None and find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._tensorboard = SummaryWriter(self._logger.log_dir)
        return self._tensorboard


def _do_nothing(*args: Any, **kwargs: Any) -> None:
    """What processes that do not write do."""


def _add_image(
    folder: Path, tag: str, img_tensor: Any, global_step: int | None = None, walltime: Any = None,
    dataformats: str = "CHW",
) -> None:  # fmt: skip
    """Write a picture: numbers from 0 to 1, or whole numbers from 0 to 255."""
    from PIL import Image

    array = np.asarray(img_tensor.detach().cpu() if hasattr(img_tensor, "detach") else img_tensor)
    if sorted(dataformats) not in (sorted("CHW"), sorted("HW")) or array.ndim != len(dataformats):
        raise ConfigurationError(
            f"add_image({tag!r}, ..., dataformats={dataformats!r}) takes an array with these dimensions, C, H and W or "
            f"H and W, got {array.ndim} of them."
        )
    array = array.transpose([dataformats.index(letter) for letter in "HWC" if letter in dataformats])
    if array.dtype != np.uint8:
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    path = _picture(folder, tag, global_step)
    Image.fromarray(array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array).save(path)


def _add_images(
    folder: Path, tag: str, img_tensor: Any, global_step: int | None = None, walltime: Any = None,
    dataformats: str = "NCHW",
) -> None:  # fmt: skip
    """Write each picture of a batch."""
    axis = dataformats.index("N")
    for index in range(img_tensor.shape[axis]):
        one = img_tensor.take(index, axis) if isinstance(img_tensor, np.ndarray) else img_tensor.select(axis, index)
        _add_image(folder, f"{tag}/{index}", one, global_step, dataformats=dataformats.replace("N", ""))


def _add_figure(
    folder: Path, tag: str, figure: Any, global_step: int | None = None, close: bool = True, walltime: Any = None
) -> None:
    """Write a figure of matplotlib."""
    figure.savefig(_picture(folder, tag, global_step))
    if close:
        from matplotlib import pyplot

        pyplot.close(figure)


def _add_scalar(
    folder: Path, tag: str, scalar_value: Any, global_step: int | None = None, *args: Any, **kwargs: Any
) -> None:
    """Write a row to ``scalars.csv``."""
    path = folder / "scalars.csv"
    folder.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if is_new:
            writer.writerow(("tag", "step", "value"))
        writer.writerow((tag, "" if global_step is None else global_step, f"{float(scalar_value):.8g}"))


def _add_scalars(
    folder: Path, main_tag: str, tag_scalar_dict: Any, global_step: int | None = None, walltime: Any = None
) -> None:
    """Write a row for each value."""
    for tag, value in tag_scalar_dict.items():
        _add_scalar(folder, f"{main_tag}/{tag}", value, global_step)


def _picture(folder: Path, tag: str, step: int | None) -> Path:
    """The file of a picture; a tag with slashes is a folder in a folder."""
    parts = [re.sub(r"[^\w.-]", "_", part).strip(".") or "_" for part in tag.split("/")]
    path = folder.joinpath("images", *parts, f"{0 if step is None else step}.png")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


_WITHOUT: dict[str, Callable[..., None]] = {
    "add_image": _add_image, "add_images": _add_images, "add_figure": _add_figure, "add_scalar": _add_scalar,
    "add_scalars": _add_scalars,
}  # fmt: skip
