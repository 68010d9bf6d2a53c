"""Paths that a file said. A checkpoint, a ``splits.json`` or a ``run.json`` may have been edited by anybody."""

from __future__ import annotations

from pathlib import Path

__all__ = ["is_inside"]


def is_inside(path: str | Path, *folders: str | Path | None) -> bool:
    """Whether a path lies below one of the folders, once ``..`` and the links on the way are resolved.

    The last name itself may be a link, since removing or replacing it leaves alone what it points to.
    """
    path = Path(path)
    if path.name in ("", ".."):
        return False
    try:
        parent = path.parent.resolve()
        return any(parent.is_relative_to(Path(folder).resolve()) for folder in folders if folder is not None)
    except (OSError, RuntimeError, ValueError):  # links in a circle, names too long, or with a null in it
        return False
