"""A gate in front of Gradio, which answers much more than the page needs.

Gradio fetches other people's URLs, serves files and offers its own tools. The gate passes only what
the page needs: images come from uploads alone, and nothing goes out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

MAX_REQUEST = 100_000  # bytes of a request that is no upload
GET = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json"
    r"|/(assets|static|svelte)/[\w./@-]*"
    r"|/gradio_api/(info|startup-events|upload_progress|queue/data|heartbeat/\w+|call/judge/\w+)"
    r"|/gradio_api/file=/?(?!\w+:)[^?]*"
)
POST = re.compile(r"/gradio_api/(upload|queue/join|call/judge|cancel|reset)")
ALLOWED = {"GET": GET, "HEAD": GET, "POST": POST}
SCHEME = re.compile(r"\s*[A-Za-z][\w+.-]*:")
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "connect-src 'self'; worker-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class Gate:
    """An ASGI middleware that passes only the requests of the page, and only uploaded files."""

    def __init__(self, app: Any, *, upload_bytes: int) -> None:
        self.app, self.upload_bytes = app, upload_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        method, path = scope["method"], scope["path"]
        pattern = ALLOWED.get(method)
        if pattern is None or not pattern.fullmatch(path):
            await _refuse(send, 404, "this page does not exist")
        elif not _is_same_origin(dict(scope["headers"])):
            await _refuse(send, 403, "another site's page must not use this one")
        elif method != "POST":
            await self.app(scope, receive, _with_headers(send))
        elif path.endswith("/upload"):
            # A little more than the file: what a form adds around it.
            await self._limit_upload(scope, receive, send, self.upload_bytes + MAX_REQUEST)
        else:
            await self._check_paths(scope, receive, send)

    async def _limit_upload(
        self, scope: Message, receive: Receive, send: Send, max_bytes: int
    ) -> None:
        """Refuse an upload that is longer than the limit, or does not state its length."""
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit() or int(length) > max_bytes:
            megabytes = self.upload_bytes / 1e6
            await _refuse(
                send,
                413,
                f"a file must state its length and have at most {megabytes:g} MB (serve.upload_mb)",
            )
            return
        await self.app(scope, receive, _with_headers(send))

    async def _check_paths(self, scope: Message, receive: Receive, send: Send) -> None:
        """Refuse requests that name a file by a URL: Gradio would fetch it."""
        body, more = b"", True
        while more and len(body) <= MAX_REQUEST:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)

        if len(body) > MAX_REQUEST:
            await _refuse(send, 413, f"a request must have at most {MAX_REQUEST} bytes")
            return
        if not _names_only_paths(body):
            await _refuse(send, 400, "images must be uploaded")
            return

        messages = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Message:
            return next(messages, None) or await receive()

        await self.app(scope, replay, _with_headers(send))


def _names_only_paths(body: bytes) -> bool:
    """Whether no value under a "path" of a JSON body has a scheme."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return False

    waiting = [value]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            path = node.get("path")
            if isinstance(path, str) and SCHEME.match(path):
                return False
            waiting.extend(node.values())
        elif isinstance(node, list):
            waiting.extend(node)
    return True


def _is_same_origin(headers: dict[bytes, bytes]) -> bool:
    """Whether the request is from this page itself, or from a program that is no browser."""
    origin = headers.get(b"origin")
    return origin is None or origin.partition(b"://")[2] == headers.get(b"host")


async def _refuse(send: Send, status: int, message: str) -> None:
    headers = [(b"content-type", b"application/json"), *_encode(HEADERS)]
    body = json.dumps({"error": message}).encode()
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_encode(HEADERS)]
        await send(message)

    return send_with_headers


def _encode(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
