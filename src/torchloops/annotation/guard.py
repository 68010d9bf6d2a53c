"""Who may speak to the labelling page: this machine, or whoever has the token; and no page of another site."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from torchloops.annotation.web import LOOPBACK

__all__ = ["Guard", "TooLarge", "read_body"]

COOKIE = "torchloops_token"
_LARGEST_BODY = 64 * 1024
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class TooLarge(Exception):
    """A body that no answer of the page has."""


class Guard:
    """Middleware that lets through what may pass, and hides what went wrong inside.

    Args:
        app: what is guarded.
        token: that a request must bring, in the address (``?token=...``, once) or as the cookie that follows; None on
            loopback, where the name of the host must be this machine's, so that no other name leads here.
    """

    def __init__(self, app: Any, token: str | None) -> None:
        self.app = app
        self.token = token

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        refusal = self._refusal(request)
        if refusal is not None:
            await self._with_headers(refusal, request)(scope, receive, send)
            return
        started = False

        async def sending(message: Any) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message["headers"], *self._headers(request)]
            await send(message)

        try:
            await self.app(scope, receive, sending)
        except Exception:
            if not started:
                failed = PlainTextResponse("Something went wrong here. Nothing that was saved is lost.", 500)
                await self._with_headers(failed, request)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        if self.token is None and _name_of(request.headers.get("host", "")) not in LOOPBACK:
            return PlainTextResponse("This page is for this machine: open it as 127.0.0.1 or localhost.", 403)
        if self.token is not None and not self._has_token(request):
            return PlainTextResponse("Open the whole address that was printed, with its token.", 403)
        if request.method not in ("GET", "HEAD") and not _is_same_origin(request):
            return PlainTextResponse("Only the labelling page itself may change labels.", 403)
        return None

    def _has_token(self, request: Request) -> bool:
        given = (request.query_params.get("token"), request.cookies.get(COOKIE))
        wanted = (self.token or "").encode()
        return any(secrets.compare_digest(text.encode("utf-8", "replace"), wanted) for text in given if text)

    def _headers(self, request: Request) -> list[tuple[bytes, bytes]]:
        headers = [(name.lower().encode(), value.encode()) for name, value in _HEADERS.items()]
        if self.token is not None and request.query_params.get("token"):
            cookie = f"{COOKIE}={self.token}; HttpOnly; SameSite=Strict; Path=/"
            headers.append((b"set-cookie", cookie.encode()))
        return headers

    def _with_headers(self, response: Response, request: Request) -> Response:
        response.headers.update(_HEADERS)
        return response


def _name_of(host: str) -> str:
    """The name in a Host header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if ":" in host else host


def _is_same_origin(request: Request) -> bool:
    """Whether a write comes from this page, or from a program that is no browser."""
    origin, site = request.headers.get("origin"), request.headers.get("sec-fetch-site")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        return False
    if site not in (None, "same-origin", "none"):
        return False
    return request.headers.get("content-type", "").partition(";")[0].strip() == "application/json"


async def read_body(request: Request) -> bytes:
    """The body of a request.

    Raises:
        TooLarge: it has more than 64 KiB.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _LARGEST_BODY:
            raise TooLarge
    return body
