"""The page of stage=serve, in Gradio. The only import of Gradio.

Gradio answers much more than this page asks: other people's URLs, its own tools, files. A gate before it lets through
what the page needs and nothing else, so that no picture comes from anywhere but an upload, and nothing goes out.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import socket
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before the import

import gradio
from gradio.data_classes import ImageData
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from vlmbench.config import JudgeConfig
from vlmbench.judge.evidence import CONTROLS, Evidence
from vlmbench.types import LABELS, UserError

MAX_REQUEST = 100_000  # bytes of a request that is no upload
DELETED = 600  # seconds after which uploads are deleted
GET = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/(assets|static|svelte)/[\w./@-]*"
    r"|/gradio_api/(info|startup-events|upload_progress|queue/data|heartbeat/\w+|call/judge/\w+)"
    r"|/gradio_api/file=/?(?!\w+:)[^?]*"
)
POST = re.compile(r"/gradio_api/(upload|queue/join|call/judge|cancel|reset)")
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Gate:
    """An ASGI middleware: only the requests of the page, only uploaded files, nothing loaded from elsewhere."""

    def __init__(self, app: Any, *, upload_bytes: int) -> None:
        self.app, self.upload_bytes = app, upload_bytes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        known = {"GET": GET, "HEAD": GET, "POST": POST}.get(method)
        if known is None or not known.fullmatch(path):
            await _refuse(send, 404, "there is no such page")
        elif not _is_own(dict(scope["headers"])):
            await _refuse(send, 403, "another site's page may not use this one")
        elif method != "POST":
            await self.app(scope, receive, _with_headers(send))
        elif path.endswith("/upload"):
            # A little more than the file: what a form wraps around it.
            await self._limited(scope, receive, send, self.upload_bytes + MAX_REQUEST)
        else:
            await self._checked(scope, receive, send)

    async def _limited(self, scope: MutableMapping[str, Any], receive: Receive, send: Send, most: int) -> None:
        """Refuse what says that it is too long, and stop reading what turns out to be."""
        length = dict(scope["headers"]).get(b"content-length", b"")
        if not length.isdigit() or int(length) > most:
            megabytes = self.upload_bytes / 1e6
            await _refuse(send, 413, f"a file may have {megabytes:g} MB (judge.upload_mb), and has to say its length")
            return
        await self.app(scope, receive, _with_headers(send))

    async def _checked(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Refuse requests that name a file which is no path, such as a URL: Gradio would fetch it."""
        body, more = b"", True
        while more and len(body) <= MAX_REQUEST:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if len(body) > MAX_REQUEST:
            await _refuse(send, 413, f"a request may have {MAX_REQUEST} bytes")
            return
        if not _names_only_paths(body):
            await _refuse(send, 400, "pictures have to be uploaded")
            return
        given = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> MutableMapping[str, Any]:
            return next(given, None) or await receive()

        await self.app(scope, replay, _with_headers(send))


def _dropped(label: str) -> Any:
    """A place for a picture, which is handed over as the file that it is: Gradio would open it first, in any format
    that Pillow knows. (A subclass would do as well, but for the stub file that Gradio writes beside one.)"""
    made = gradio.Image(type="filepath", label=label, sources=["upload", "clipboard"], image_mode=None, height=320)

    def path_of(payload: ImageData | None) -> str | None:
        return None if payload is None else payload.path

    made.preprocess = path_of
    return made


class Page:
    """The page, served while it is entered. `answer` judges the files of the dropped pictures; it is called by one
    request at a time, and may raise UserError."""

    def __init__(
        self,
        *,
        title: str,
        pair: bool,
        notes: Sequence[str],
        answer: Callable[[Sequence[Path]], Evidence],
        settings: JudgeConfig,
        uploads: Path,
        run: Path,
    ) -> None:
        self._title, self._pair, self._notes = title, pair, notes
        self._answer, self._settings, self._uploads, self._run = answer, settings, uploads, run
        self._templates = Environment(
            loader=PackageLoader("vlmbench.judge"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._blocks: Any = None
        self.url = ""

    def __enter__(self) -> Page:
        settings = self._settings
        os.environ["GRADIO_TEMP_DIR"] = str(self._uploads)
        logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio looks whether it can be reached
        upload_bytes = int(settings.upload_mb * 1e6)
        hosts = ["127.0.0.1", "localhost", "::1"] if settings.host in ("127.0.0.1", "localhost", "::1") else ["*"]
        self._blocks = self._built()
        self._blocks.queue(max_size=settings.queue, default_concurrency_limit=1)
        self._blocks.launch(
            server_name=settings.host,
            server_port=free_port(settings),
            share=False,
            inbrowser=False,
            quiet=True,
            show_error=False,  # of our own errors the words are shown, of others none
            prevent_thread_lock=True,
            max_file_size=upload_bytes,
            max_threads=4,
            allowed_paths=[],
            blocked_paths=[str(self._run.resolve())],
            enable_monitoring=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            footer_links=[],
            theme=gradio.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
            app_kwargs={
                "docs_url": None,
                "redoc_url": None,
                "middleware": [
                    Middleware(TrustedHostMiddleware, allowed_hosts=hosts),
                    Middleware(Gate, upload_bytes=upload_bytes),
                ],
            },
        )
        self.url = self._blocks.local_url
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._blocks.close(verbose=False)

    def wait(self) -> None:
        """Until the process is interrupted."""
        self._blocks.block_thread()

    def judged(self, *files: str | None) -> tuple[str, dict[str, Any]]:
        """What the page shows of the dropped files, and the same for programs."""
        if any(file is None for file in files):
            raise gradio.Error(
                "drop both pictures first" if self._pair else "drop a picture first", print_exception=False
            )
        try:
            evidence = self._answer([Path(str(file)) for file in files])
        except UserError as error:
            words = str(error).replace("record 'dropped': ", "")
            for file in files:
                words = words.replace(str(file), Path(str(file)).name)
            raise gradio.Error(words.replace(str(self._uploads), ""), print_exception=False) from error
        template = self._templates.get_template("evidence.html.j2")
        labels = LABELS[evidence.judgement.task]
        said = template.render(
            one=evidence.judgement, controls=list(zip(CONTROLS, evidence.controls, strict=False)), labels=labels
        )
        return said, evidence.to_json()

    def _built(self) -> Any:
        names = ("Reference: a good part", "The part to judge") if self._pair else ("The part to judge",)
        with gradio.Blocks(
            title=f"{self._title} · vlmbench", analytics_enabled=False, delete_cache=(600, 600)
        ) as blocks:
            gradio.HTML(self._templates.get_template("head.html.j2").render(title=self._title, pair=self._pair))
            with gradio.Row():
                pictures = [_dropped(name) for name in names]
            button = gradio.Button("Judge", variant="primary")
            said = gradio.HTML(label="Answer")
            with gradio.Accordion("For programs", open=False):
                plain = gradio.JSON(label="The same answer as JSON")
            gradio.HTML(self._templates.get_template("notes.html.j2").render(notes=self._notes))
            button.click(self.judged, inputs=pictures, outputs=[said, plain], api_name="judge", concurrency_limit=1)
        return blocks


def _names_only_paths(body: bytes) -> bool:
    """Whether no value under a "path" of a JSON body has a scheme."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return False
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            path = one.get("path")
            if isinstance(path, str) and re.match(r"\s*[A-Za-z][\w+.-]*:", path):
                return False
            waiting.extend(one.values())
        elif isinstance(one, list):
            waiting.extend(one)
    return True


def _is_own(headers: dict[bytes, bytes]) -> bool:
    """Whether a browser sends the request for this page itself; what is no browser does not say."""
    origin = headers.get(b"origin")
    return origin is None or origin.partition(b"://")[2] == headers.get(b"host")


async def _refuse(send: Send, status: int, words: str) -> None:
    headers = [(b"content-type", b"application/json"), *_encoded(HEADERS)]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps({"error": words}).encode()})


def _with_headers(send: Send) -> Send:
    async def sent(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *_encoded(HEADERS)]
        await send(message)

    return sent


def _encoded(headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]


def free_port(settings: JudgeConfig) -> int:
    """judge.port, or any that is free where it is 0. Raises UserError where it cannot be listened on."""
    host, port = settings.host, settings.port
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: a port just left is free
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = "another program has this port; stop it, or take any free one with judge.port=0"
        else:
            why = f"it cannot be listened on ({error.strerror}); take judge.host=127.0.0.1 and judge.port=0"
        raise UserError(f"judge.host={host} judge.port={port}: {why}") from error
