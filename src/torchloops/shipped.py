"""Find and load the recipes and data sets that ship with torchloops.

In a wheel they stand beside the package, under ``_shipped/``; in a checkout (also an editable install)
they are the folders ``recipes/`` and ``datasets/`` at its root. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from torchloops.errors import ConfigurationError, did_you_mean
from torchloops.files import given_path

if TYPE_CHECKING:
    from torchloops.vision import ImageClassificationData

__all__ = ["load_dataset", "load_file", "shipped_folder", "shipped_names"]

_PACKAGE = Path(__file__).resolve().parent
_MAIN_FILE = {"recipes": "recipe.py", "datasets": "loader.py"}


def shipped_folder(kind: str) -> Path:
    """The folder that holds the shipped ``"recipes"`` or ``"datasets"``.

    Raises:
        ConfigurationError: neither an installed package nor a checkout has it.
    """
    candidates = [_PACKAGE / "_shipped" / kind, _PACKAGE.parents[1] / kind]
    for folder in candidates:
        if folder.is_dir():
            return folder
    looked = " and ".join(str(folder) for folder in candidates)
    raise ConfigurationError(f"No folder of {kind} found (looked at {looked}). Install torchloops again.")


def shipped_names(kind: str) -> list[str]:
    """The names of the shipped ``"recipes"`` or ``"datasets"``, sorted."""
    return sorted(path.parent.name for path in shipped_folder(kind).glob(f"*/{_MAIN_FILE[kind]}"))


def load_file(path: Path) -> ModuleType:
    """Import the Python file at ``path`` and register it in ``sys.modules``, once per file.

    The registered name holds the folder's and the file's name and a hash of the whole path, so that two
    files of one name do not meet.
    """
    path = path.resolve()
    digest = hashlib.sha256(str(path).encode()).hexdigest()[:8]
    name = f"torchloops_file_{path.parent.name}_{path.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigurationError(f"{path} cannot be imported: expected a Python file that ends in .py.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def load_dataset(name: str, data_dir: str | Path | None = None, **options: Any) -> ImageClassificationData:
    """Load a shipped data set by name: ``load_dataset("digits", batch_size=32)``.

    Args:
        name: a folder of ``datasets/``: ``"digits"`` needs nothing else, the others read files.
        data_dir: the folder that holds the files; default ``$TORCHLOOPS_DATA_DIR``, else ``data/`` in the
            working directory.
        options: passed on to the data set's ``load`` function: ``batch_size``, ``seed``, ``download`` ...

    Raises:
        ConfigurationError: no data set has this name, or ``data_dir`` is empty.
        DataError: the files are not where they were looked for.
    """
    names = shipped_names("datasets")
    if name not in names:
        raise ConfigurationError(
            f'No data set is named "{name}".{did_you_mean(name, names)} There are: {", ".join(names)}.'
        )
    if data_dir is not None:
        data_dir = given_path(data_dir, "data_dir")
    loader = load_file(shipped_folder("datasets") / name / _MAIN_FILE["datasets"])
    return loader.load(data_dir, **options)
