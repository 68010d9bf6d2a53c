"""The labelling page as an annotator, and as a program of its own."""

from __future__ import annotations

import secrets
import socket
import threading
import time
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

from torchloops.annotation.queries import Answer, Query
from torchloops.annotation.store import LabelStore
from torchloops.errors import AnnotationError, MissingDependencyError, WaitingForLabels

__all__ = ["LOOPBACK", "LabellingServer", "WebAnnotator"]

_POLL = 0.2
_GOODBYE = 1.5  # seconds in which an open page can learn that the study is over
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class LabellingServer:
    """The labelling page in a thread of this process.

    Args:
        store: has the questions.
        host: address to listen on. On any other than this machine's own, the page asks for a token.
        port: 0 takes a free one.
        next_command: what to type when all is answered.

    Attributes:
        address: what to open, with the token where one is needed.

    Raises:
        AnnotationError: the address cannot be listened on.
        MissingDependencyError: Starlette or uvicorn is not installed.
    """

    def __init__(
        self, store: LabelStore, host: str = "127.0.0.1", port: int = 0, next_command: str | None = None
    ) -> None:
        try:
            import uvicorn

            from torchloops.annotation.server import labelling_app
        except ModuleNotFoundError as error:
            raise MissingDependencyError(
                f'The labelling page needs {error.name}. Install it: pip install "torchloops[label]".'
            ) from error
        token = None if host in LOOPBACK else secrets.token_urlsafe(24)
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            self._socket = socket.create_server((host, port), family=family)
        except OSError as error:
            raise AnnotationError(
                f"The labelling page cannot listen on {host}, port {port}: {error.strerror}. Give another host or "
                "port; port 0 takes a free one."
            ) from error
        name = f"[{host}]" if ":" in host else socket.gethostname() if host == "0.0.0.0" else host
        query = "" if token is None else f"/?token={token}"
        self.address = f"http://{name}:{self._socket.getsockname()[1]}{query}"
        app = labelling_app(store, token=token, next_command=next_command)
        config = uvicorn.Config(app, log_level="critical", access_log=False, ws="none", lifespan="off")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._serve, name="labelling page", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        self._server.run(sockets=[self._socket])

    def close(self) -> None:
        """End the server; requests that are being answered are finished."""
        self._server.should_exit = True
        self._thread.join(timeout=5)
        with suppress(OSError):
            self._socket.close()

    def __enter__(self) -> LabellingServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class WebAnnotator:
    """People who label in a browser. The page opens with the first question and stays while the model trains.

    Args:
        host: address to listen on; default: this machine alone. Any other address has a token in it.
        port: default: a free one.
        detach: open no page; a run whose questions are not answered ends with `WaitingForLabels`, and goes on when it
            is resumed. ``torchloops label RUN_DIR`` opens the page meanwhile.
        open_browser: open the address in the browser of this machine.
        say: prints a line.

    Example:
        >>> data = ActiveLearningDataModule.from_folder(      # doctest: +SKIP
        ...     "photos", ["ant", "bee"], annotator=WebAnnotator(port=8000)
        ... )
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        *,
        detach: bool = False,
        open_browser: bool = True,
        say: Callable[[str], Any] = print,
    ) -> None:
        self.host = host
        self.port = port
        self.detach = detach
        self.open_browser = open_browser
        self.say = say
        self._store: LabelStore | None = None
        self._server: LabellingServer | None = None
        self._is_over = False

    def attach(self, store: LabelStore) -> None:
        """Take questions from this store, and put answers into it."""
        self._store = store

    def annotate(self, queries: Sequence[Query]) -> list[Answer]:
        """Wait until people have answered.

        Raises:
            WaitingForLabels: detached, and some questions are open.
            AnnotationError: it is attached to no store.
        """
        store = self._store
        if store is None:
            raise AnnotationError("WebAnnotator is attached to no label store. Call attach(store) first.")
        if not self.detach:
            self._open(store)
        while True:
            answers = store.answers(queries)
            n_open = sum(answer.action == "later" for answer in answers)
            if not n_open:
                return answers
            if self.detach:
                raise WaitingForLabels(f"{n_open} questions wait for an answer.")
            time.sleep(_POLL)

    def _open(self, store: LabelStore) -> None:
        if self._server is None:
            self._server = LabellingServer(store, self.host, self.port)
            self.say(f"label  {self._server.address}")
            if self.open_browser:
                with suppress(webbrowser.Error):
                    webbrowser.open(self._server.address)

    def note(self, phase: str, **status: Any) -> None:
        """Know when the study is over, so that an open page learns it too."""
        self._is_over = phase == "finished"

    def close(self) -> None:
        """Close the page."""
        if self._server is not None:
            if self._is_over:
                time.sleep(_GOODBYE)
            self._server.close()
            self._server = None
