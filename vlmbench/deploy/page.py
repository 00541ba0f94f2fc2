"""The page of stage=serve, in Gradio. Only this module imports Gradio."""

from __future__ import annotations

import errno
import logging
import os
import socket
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before the import

import gradio
from gradio.data_classes import ImageData
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.middleware import Middleware

from vlmbench.config import ServeConfig
from vlmbench.deploy.evidence import CONTROLS, Evidence
from vlmbench.deploy.gate import Gate
from vlmbench.report.escape import without_controls
from vlmbench.types import LABELS, UserError

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
DELETE_EVERY = DELETE_AFTER = 600  # seconds: uploads are deleted after ten minutes


class Page:
    """The page, served while the context is entered.

    `answer` judges the files of the dropped images; it handles one request at a time, and may raise
    UserError.
    """

    def __init__(
        self,
        *,
        title: str,
        pair: bool,
        notes: Sequence[str],
        answer: Callable[[Sequence[Path]], Evidence],
        settings: ServeConfig,
        uploads: Path,
        run: Path,
    ) -> None:
        self._title, self._pair, self._notes = title, pair, notes
        self._answer, self._settings = answer, settings
        self._uploads, self._run = uploads, run
        self._templates = Environment(
            loader=PackageLoader("vlmbench.deploy"),
            autoescape=True,
            finalize=without_controls,
            undefined=StrictUndefined,
            trim_blocks=True,
        )
        self._blocks: Any = None
        self._before: tuple[str | None, str | None] = (None, None)
        self.url = ""

    def __enter__(self) -> Page:
        settings = self._settings
        self._before = os.environ.get("GRADIO_TEMP_DIR"), tempfile.tempdir
        os.environ["GRADIO_TEMP_DIR"] = tempfile.tempdir = str(self._uploads)
        logging.getLogger("httpx").setLevel(logging.WARNING)  # Gradio asks whether it is reachable

        upload_bytes = int(settings.upload_mb * 1e6)
        self._blocks = self._build()
        self._blocks.queue(max_size=settings.queue, default_concurrency_limit=1)
        self._blocks.launch(
            # Gradio writes the address of an IPv6 host as it is named here.
            server_name=f"[{settings.host}]" if ":" in settings.host else settings.host,
            server_port=free_port(settings),
            share=False,
            inbrowser=False,
            quiet=True,
            show_error=False,  # users see the words of our own errors, and none of others
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
            theme=gradio.themes.Base(
                font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
            ),
            app_kwargs=_app_settings(settings, upload_bytes, self._uploads),
        )
        self.url = self._blocks.local_url
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._blocks.close(verbose=False)
        temporary, tempfile.tempdir = self._before
        if temporary is None:
            del os.environ["GRADIO_TEMP_DIR"]
        else:
            os.environ["GRADIO_TEMP_DIR"] = temporary

    def wait(self) -> None:
        """Wait until a signal stops the process."""
        self._blocks.block_thread()

    def judge(self, *files: str | None) -> tuple[str, dict[str, Any]]:
        """Return what the page shows of the dropped files, and the same for programs."""
        if any(file is None for file in files):
            message = "drop both images first" if self._pair else "drop an image first"
            raise gradio.Error(message, print_exception=False)

        paths = [Path(str(file)) for file in files]
        try:
            evidence = self._answer(paths)
        except UserError as error:
            message = self._without_paths(str(error), paths)
            raise gradio.Error(message, print_exception=False) from error

        html = self._templates.get_template("evidence.html.j2").render(
            judgement=evidence.judgement,
            controls=list(zip(CONTROLS.values(), evidence.controls, strict=False)),
            labels=LABELS[evidence.judgement.task],
            difference=evidence.difference,
        )
        return html, evidence.to_json()

    def _without_paths(self, message: str, paths: Sequence[Path]) -> str:
        """Return an error's words without the upload folder and the record's made-up name."""
        message = message.replace("record 'dropped': ", "")
        for path in paths:
            message = message.replace(str(path), path.name)
        return message.replace(str(self._uploads), "")

    def _build(self) -> Any:
        names = ["The part to judge"]
        if self._pair:
            names.insert(0, "Reference: a good part")

        head = self._templates.get_template("head.html.j2")
        notes = self._templates.get_template("notes.html.j2")
        with gradio.Blocks(
            title=f"{self._title} · vlmbench",
            analytics_enabled=False,
            delete_cache=(DELETE_EVERY, DELETE_AFTER),
        ) as blocks:
            gradio.HTML(head.render(title=self._title, pair=self._pair))
            with gradio.Row():
                images = [_drop_area(name) for name in names]
            button = gradio.Button("Judge", variant="primary")
            answer = gradio.HTML(label="Answer")
            with gradio.Accordion("For programs", open=False):
                as_json = gradio.JSON(label="The same answer as JSON")
            gradio.HTML(notes.render(notes=self._notes))

            button.click(
                self.judge,
                inputs=images,
                outputs=[answer, as_json],
                api_name="judge",
                concurrency_limit=1,
            )
        return blocks


def free_port(settings: ServeConfig) -> int:
    """Return `serve.port`; for 0, any free port. Raise UserError if it cannot be listened on."""
    host, port = settings.host, settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            # As the server does: a port that was just left is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            return int(probe.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = "another program uses this port; stop it, or set serve.port=0 for any free port"
        else:
            why = f"cannot listen there ({error.strerror}); set serve.host=127.0.0.1 serve.port=0"
        raise UserError(f"serve.host={host} serve.port={port}: {why}") from error


def _app_settings(settings: ServeConfig, upload_bytes: int, uploads: Path) -> dict[str, Any]:
    hosts = LOCAL_HOSTS if settings.host in LOCAL_HOSTS else None
    gate = Middleware(Gate, upload_bytes=upload_bytes, uploads=uploads, hosts=hosts)
    return {"docs_url": None, "redoc_url": None, "middleware": [gate]}


def _drop_area(label: str) -> Any:
    """Return a drop area that hands over the file as it is.

    Gradio would open it first, in any format that Pillow knows. (A subclass would do as well, but
    Gradio writes a stub file beside one.)
    """
    area = gradio.Image(
        type="filepath", label=label, sources=["upload", "clipboard"], image_mode=None, height=320
    )

    def path_of(payload: ImageData | None) -> str | None:
        return None if payload is None else payload.path

    area.preprocess = path_of
    return area
