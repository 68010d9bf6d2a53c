"""The file of a checkpoint: written atomically, read safely."""

from __future__ import annotations

import os
import pickle
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch

from torchloops.errors import CheckpointError

__all__ = ["FORMAT", "read_checkpoint", "write_checkpoint"]

FORMAT = 1


def write_checkpoint(checkpoint: dict[str, Any], path: str | Path) -> Path:
    """Write a checkpoint so that ``path`` holds the old file or the new one, never a part of one."""
    path = Path(path).expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def read_checkpoint(path: str | Path, map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint, refusing anything but plain data.

    Raises:
        CheckpointError: no such file, not a checkpoint, unsafe, or written by a newer version.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise CheckpointError(f"There is no checkpoint {path}. Give the path of a file that save_checkpoint wrote.")
    try:
        with warnings.catch_warnings(action="ignore"):  # about the pickle protocol of files torch did not write
            checkpoint = torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} holds more than plain data, so loading it could run code and is refused: "
            f"{str(error).splitlines()[0]}"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged or is no checkpoint: {error}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise CheckpointError(f'{path} is no checkpoint: it has no "state_dict".')
    if checkpoint.get("format", FORMAT) > FORMAT:
        raise CheckpointError(
            f"{path} has format {checkpoint['format']}; this version reads up to {FORMAT}. Upgrade torchloops."
        )
    return checkpoint
