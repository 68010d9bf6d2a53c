"""Which files in a folder a run has written itself, known also after it was killed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from torchloops.files import sync_folder

__all__ = ["WrittenFiles"]


class WrittenFiles:
    """Names of the files that a run writes to a folder which others may write to, noted before each is written.

    A checkpoint cannot say which files were written after it, so a resumed run could not tell them from somebody
    else's. The notes lie in the run's own folder, one name a line.

    Args:
        run_folder: folder of the run's checkpoints.
        owner: who writes; each owner has notes of its own.
    """

    def __init__(self, run_folder: Path, owner: str) -> None:
        self.path = run_folder / f".written-{hashlib.sha256(owner.encode()).hexdigest()[:12]}"

    def read(self) -> set[str]:
        """The paths noted; a last line cut by a crash is left out."""
        if not self.path.is_file():
            return set()
        return set(self.path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1])

    def note(self, path: str) -> None:
        """Note that ``path`` is written next; it is on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab+") as file:
            if file.tell() and not self._ends_a_line():
                file.write(b"\n")
            file.write(f"{path}\n".encode())
            file.flush()
            os.fsync(file.fileno())
        sync_folder(self.path.parent)

    def forget(self) -> None:
        """Begin anew, as a run does that is not resumed."""
        self.path.unlink(missing_ok=True)

    def _ends_a_line(self) -> bool:
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
