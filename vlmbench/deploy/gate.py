"""A gate in front of Gradio, which answers much more than the page needs.

Gradio fetches other people's URLs, serves files and offers its own tools. The gate passes only what
the page needs: images come from uploads alone, and nothing goes out.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from pathlib import Path
from typing import Any

from vlmbench.deploy.uploads import bytes_in, remove_unfinished

log = logging.getLogger(__name__)

MAX_REQUEST = 100_000  # bytes of a request that is no upload
MAX_UPLOADS = 8  # at the same time
MAX_KEPT = 50  # files of the largest size; they are deleted after ten minutes
UPLOAD_S, REQUEST_S = 60.0, 10.0  # for the whole of an upload, and of another request's body
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

    def __init__(
        self, app: Any, *, upload_bytes: int, uploads: Path, hosts: Collection[str] | None
    ) -> None:
        self.app, self.upload_bytes, self.uploads = app, upload_bytes, uploads
        self.hosts = hosts  # names under which the page may be asked; None: any
        self._num_uploads = 0  # that are on their way

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        method, path, headers = scope["method"], scope["path"], dict(scope["headers"])
        pattern = ALLOWED.get(method)
        if self.hosts is not None and _host_of(headers) not in self.hosts:
            await _refuse(send, 400, "Invalid host header")
        elif pattern is None or not pattern.fullmatch(path):
            await _refuse(send, 404, "this page does not exist")
        elif not _is_same_origin(headers):
            await _refuse(send, 403, "another site's page must not use this one")
        elif method != "POST":
            await self.app(scope, receive, _with_headers(send))
        elif path.endswith("/upload"):
            await self._limit_upload(scope, receive, send)
        else:
            await self._check_paths(scope, receive, send)

    async def _limit_upload(self, scope: Message, receive: Receive, send: Send) -> None:
        """Refuse an upload that is too long or too slow, does not state its length, or is one of
        too many."""
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        # A little more than the file: what a form adds around it. A chunked body has any length.
        max_bytes = self.upload_bytes + MAX_REQUEST
        is_stated = length.isdigit() and b"transfer-encoding" not in headers

        if not is_stated or int(length) > max_bytes:
            megabytes = self.upload_bytes / 1e6
            await _refuse(
                send,
                413,
                f"a file must state its length and have at most {megabytes:g} MB (serve.upload_mb)",
            )
            return

        kept = bytes_in(self.uploads) + self._num_uploads * max_bytes
        if self._num_uploads >= MAX_UPLOADS or kept + int(length) > MAX_KEPT * max_bytes:
            await _refuse(send, 503, "too many images are here; try again in a few minutes")
            return
        await self._pass_upload(scope, receive, send)

    async def _pass_upload(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass an upload on; if it breaks off, leave nothing of it."""
        answer = _Answer(send)
        self._num_uploads += 1
        try:
            async with asyncio.timeout(UPLOAD_S):
                await self.app(scope, receive, answer)
        except TimeoutError:
            await answer.refuse(408, f"an upload must arrive within {UPLOAD_S:g} s")
        except OSError as error:
            log.warning(
                "%s: an upload cannot be written (%s); make room there", self.uploads, error
            )
            await answer.refuse(507, "the image cannot be stored on this machine")
        finally:
            self._num_uploads -= 1
            if self._num_uploads == 0:
                remove_unfinished(self.uploads)

    async def _check_paths(self, scope: Message, receive: Receive, send: Send) -> None:
        """Refuse requests that name a file by a URL: Gradio would fetch it."""
        body, more = b"", True
        try:
            async with asyncio.timeout(REQUEST_S):
                while more and len(body) <= MAX_REQUEST:
                    message = await receive()
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
        except TimeoutError:
            await _refuse(send, 408, f"a request must arrive within {REQUEST_S:g} s")
            return

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


class _Answer:
    """An answer of the page, which can be refused as long as it has not begun."""

    def __init__(self, send: Send) -> None:
        self._send, self._has_begun = send, False

    async def __call__(self, message: Message) -> None:
        self._has_begun = True
        await _with_headers(self._send)(message)

    async def refuse(self, status: int, message: str) -> None:
        if not self._has_begun:
            await _refuse(self._send, status, message)


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


def _host_of(headers: dict[bytes, bytes]) -> str:
    """Return the name in the Host header, without the port and the brackets of IPv6."""
    host = headers.get(b"host", b"").decode("latin-1").lower()
    name = re.sub(r":\d*$", "", host)
    return name[1:-1] if name.startswith("[") and name.endswith("]") else name


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
