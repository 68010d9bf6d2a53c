"""The labelling page's server: questions out, answers in. Every answer is on the disk before it is confirmed."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from torchloops.annotation.annotators import class_keys
from torchloops.annotation.guard import Guard, TooLarge, read_body
from torchloops.annotation.pictures import as_shown
from torchloops.annotation.queries import Answer
from torchloops.annotation.store import LabelStore
from torchloops.errors import AnnotationError

__all__ = ["labelling_app"]

_PAGE = Path(__file__).parent / "page"
_FILES = {"/": "index.html", "/page.js": "page.js", "/style.css": "style.css"}
_NEXT = 6
_LONGEST_NAME = 100


def labelling_app(store: LabelStore, *, token: str | None = None, next_command: str | None = None) -> Guard:
    """The page over a store, as an ASGI application.

    Args:
        store: has the questions, and takes the answers.
        token: see `Guard`; None: for this machine alone.
        next_command: what to type when all questions are answered and no run waits for them.
    """
    server = _Server(store, next_command)
    routes = [
        *(Route(address, server.file) for address in _FILES),
        Route("/favicon.ico", server.no_icon),
        Route("/api/state", server.state),
        Route("/api/answer", server.answer, methods=["POST"]),
        Route("/api/undo", server.undo, methods=["POST"]),
        Route("/api/class", server.add_class, methods=["POST"]),
        Route("/picture/{sample}", server.picture),
    ]
    handlers: dict[Any, Any] = {AnnotationError: _refused, TooLarge: _too_large}
    return Guard(Starlette(routes=routes, exception_handlers=handlers), token)


class _Server:
    """The endpoints. They use the store in the one thread of the event loop: a write takes milliseconds."""

    def __init__(self, store: LabelStore, next_command: str | None) -> None:
        self.store = store
        self.next_command = next_command

    async def file(self, request: Request) -> Response:
        return FileResponse(_PAGE / _FILES[request.url.path], headers={"Cache-Control": "no-cache"})

    async def no_icon(self, request: Request) -> Response:
        return Response(status_code=204)

    async def picture(self, request: Request) -> Response:
        sample = request.path_params["sample"]
        path = self.store.path_of(sample)
        if path is None:
            return _problem("There is no such picture in the pool.", 404)
        content, kind = await run_in_threadpool(as_shown, path)
        return Response(content, media_type=kind, headers={"Cache-Control": "private, max-age=3600"})

    async def state(self, request: Request) -> Response:
        values = request.query_params
        return JSONResponse(self._state(_name(values.get("session")), _name(values.get("annotator"))))

    async def answer(self, request: Request) -> Response:
        given = await _read_json(request)
        session, annotator = _name(given.get("session")), _name(given.get("annotator"))
        action: Any = _text(given.get("action"))
        answer = Answer(_text(given.get("sample")), action, given.get("label"), annotator, given.get("seconds"))
        event = self.store.record(answer, session)
        return JSONResponse({**self._state(session, annotator), "event": event})

    async def undo(self, request: Request) -> Response:
        given = await _read_json(request)
        session, annotator = _name(given.get("session")), _name(given.get("annotator"))
        event = self.store.undo(annotator)
        undone = None if event is None else event.sample
        return JSONResponse({**self._state(session, annotator, first=undone), "undone": undone})

    async def add_class(self, request: Request) -> Response:
        given = await _read_json(request)
        self.store.add_class(_text(given.get("name")))
        return JSONResponse(self._state(_name(given.get("session")), _name(given.get("annotator"))))

    def _state(self, session: str, annotator: str, first: str | None = None) -> dict[str, Any]:
        """All that the page shows; takes the next questions for the tab.

        Args:
            first: a sample to show first, if it is among them.
        """
        store = self.store
        queries = store.take(session, annotator, _NEXT, first=first)
        progress, classes, status = store.progress(), store.classes, store.status()
        keys = {name: key for key, name in class_keys(classes).items()}
        if status.get("seconds") is not None:
            status["seconds_left"] = max(status["seconds"] - (time.time() - status["time"]), 0.0)
        return {
            "classes": [{"name": name, "key": keys.get(name)} for name in classes],
            "may_add": len(classes) < (store.setting("max_classes") or 0),
            "round": progress.round, "n_asked": progress.n_asked, "n_decided": progress.n_decided,
            "n_labelled": progress.n_labelled, "status": status, "next_command": self.next_command,
            "next": [{"sample": query.sample, "round": query.round, "guess": query.guess} for query in queries],
            "latest": [
                {"sample": event.sample, "action": event.action, "label": event.label}
                for event in store.latest(annotator)
            ],
        }  # fmt: skip


async def _read_json(request: Request) -> dict[str, Any]:
    try:
        given = json.loads(await read_body(request))
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise AnnotationError("Expected a JSON object.")
    return given


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise AnnotationError(f"Expected text, got {type(value).__name__}.")
    return value


def _name(value: Any) -> str:
    """The name of an annotator or session."""
    name = _text(value).strip()
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise AnnotationError(f"A name has 1 to {_LONGEST_NAME} characters that can be printed.")
    return name


def _problem(message: str, code: int) -> Response:
    return JSONResponse({"problem": message}, code)


async def _refused(request: Request, error: Exception) -> Response:
    return _problem(str(error), 422)


async def _too_large(request: Request, error: Exception) -> Response:
    return _problem("The request is too large.", 413)
