"""Pictures of what a generator makes, one grid an epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torchloops.report.plots import _draw_image, _new_figure, _save

if TYPE_CHECKING:
    import numpy

__all__ = ["SampleGrids", "plot_samples_by_epoch", "write_grid"]

_SIZE = 480
"""Pixels of a grid's longer side, about."""


class SampleGrids:
    """A callback that writes ``samples/epoch_NNN.png`` after every epoch, always from the same noise.

    A checkpoint holds what is kept, so that a resumed run has the images of its earlier epochs too.

    Args:
        folder: of the pictures.
        generate: images ``(n, height, width)`` from the module, values 0 to 1.
        columns: images in a row of the grid.

    Attributes:
        kept: the first images of every epoch by epoch, ``(columns, height, width)``.
    """

    def __init__(self, folder: Path, generate: Callable[[Any], numpy.ndarray], columns: int = 10) -> None:
        self.folder, self.generate, self.columns = folder, generate, columns
        self.kept: dict[int, numpy.ndarray] = {}

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Called after every epoch."""
        images = self.generate(module)
        write_grid(images, self.folder / f"epoch_{trainer.current_epoch:03d}.png", self.columns)
        self.kept[trainer.current_epoch] = images[: self.columns]

    def fresh(self) -> SampleGrids:
        """The same object for inner runs."""
        return self

    def state_dict(self) -> dict[str, Any]:
        """The images of every epoch so far."""
        return {"kept": dict(self.kept)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the images of the epochs before; they come back as tensors."""
        import numpy

        self.kept = {epoch: numpy.asarray(images) for epoch, images in state["kept"].items()}


def write_grid(images: numpy.ndarray, path: Path, columns: int) -> Path:
    """Write grey images as one PNG, dark ink on white, enlarged without smoothing.

    Args:
        images: ``(n, height, width)``, 0 (paper) to 1 (ink).
        path: the file to write.
        columns: images in a row.
    """
    import numpy
    from PIL import Image

    count, height, width = images.shape
    rows = -(-count // columns)
    sheet = numpy.zeros((rows * (height + 1) + 1, columns * (width + 1) + 1))
    for index, image in enumerate(images):
        top, left = index // columns * (height + 1) + 1, index % columns * (width + 1) + 1
        sheet[top : top + height, left : left + width] = image
    picture = Image.fromarray((255 * (1 - sheet.clip(0, 1))).round().astype("uint8"))
    zoom = max(1, round(_SIZE / max(sheet.shape)))
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.NEAREST).save(path)
    return path


def plot_samples_by_epoch(
    kept: dict[int, numpy.ndarray],
    path: Path,
    *,
    real: numpy.ndarray | None = None,
    max_rows: int = 8,
    title: str = "Generated images by epoch, always from the same noise",
) -> Path:
    """Draw a row of images for some epochs, and a row of real ones below them.

    Args:
        kept: images ``(n, height, width)`` by epoch, values 0 to 1.
        path: the PNG file to write.
        real: images for the last row.
        max_rows: epochs drawn at most, evenly spread; the first and the last are among them.
        title: above the picture.
    """
    epochs = sorted(kept)
    if len(epochs) > max_rows:
        epochs = sorted({epochs[round(place * (len(epochs) - 1) / (max_rows - 1))] for place in range(max_rows)})
    rows = [(f"epoch {epoch}", kept[epoch]) for epoch in epochs] + ([("real", real)] if real is not None else [])
    n_columns = max((len(images) for _, images in rows), default=1)
    figure = _new_figure(1.2 + 0.62 * n_columns, 0.6 + 0.62 * len(rows))
    axes = figure.add_subplot(xlim=(-1.5, n_columns), ylim=(len(rows), 0), aspect="equal")
    axes.set_axis_off()
    axes.set_title(title)
    for row, (label, images) in enumerate(rows):
        axes.text(-0.2, row + 0.5, label, ha="right", va="center", fontsize=9)
        for column, image in enumerate(images):
            _draw_image(axes, image, "", column, row + 1)
    return _save(figure, path)
