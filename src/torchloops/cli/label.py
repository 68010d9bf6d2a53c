"""``torchloops label``: the labelling page of a run, in a process of its own."""

from __future__ import annotations

import shlex
import time
import webbrowser
from contextlib import suppress
from pathlib import Path

from torchloops.annotation import LabelStore, index_pool
from torchloops.annotation.store import STORE_NAME
from torchloops.annotation.web import LabellingServer
from torchloops.errors import AnnotationError
from torchloops.files import given_path

__all__ = ["open_page"]

_POLL = 0.5


def open_page(folder_name: str, *, host: str, port: int, open_browser: bool, double_share: float | None) -> None:
    """Show the page until Ctrl-C, and say when all questions are answered.

    Args:
        folder_name: the run folder, or the file of a label store.
        host, port: see `LabellingServer`.
        open_browser: open it in this machine's browser.
        double_share: see `LabelStore.set_double_share`; None leaves it as it is.

    Raises:
        AnnotationError: there is no label store, or it has asked nothing yet.
    """
    place = given_path(folder_name, "RUN_DIR")
    file = place / STORE_NAME if place.is_dir() else place
    if not file.is_file():
        raise AnnotationError(
            f"{place} has no label store ({STORE_NAME}). Name the folder of a run of label_your_own, or a label store."
        )
    with LabelStore(file) as store:
        if store.latest_round is None:
            raise AnnotationError(f"{file} has no questions yet. Begin the run first: torchloops run label_your_own")
        if double_share is not None:
            store.set_double_share(double_share)
        pool = store.setting("pool")
        if pool is not None and Path(pool).is_dir():
            index_pool(store, Path(pool))  # files may have been moved since
        command = shlex.join(["torchloops", "resume", str(place)]) if place.is_dir() else None
        with LabellingServer(store, host, port, next_command=command) as server:
            print(f"label  {server.address}", flush=True)
            if open_browser:
                with suppress(webbrowser.Error):
                    webbrowser.open(server.address)
            _wait(store, command)


def _wait(store: LabelStore, command: str | None) -> None:
    """Say once for each round that it is complete; until Ctrl-C."""
    said: int | None = None
    while True:
        progress = store.progress()
        if progress.complete and progress.round != said:
            said = progress.round
            rest = "" if command is None else f" Next: {command}"
            print(f"All {progress.n_asked} questions of round {said} are answered.{rest}", flush=True)
        time.sleep(_POLL)
