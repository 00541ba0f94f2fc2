"""stage=serve: a local page where pictures are dropped and judged by a finished run."""

from __future__ import annotations

import logging
import tempfile
from importlib.util import find_spec
from pathlib import Path

from vlmbench.cell import Cell
from vlmbench.data.dataset import RAW
from vlmbench.judge.evidence import evidence_of
from vlmbench.judge.finished import learnt_tasks, load_finished
from vlmbench.rundir import RunDir
from vlmbench.types import Task, UserError

log = logging.getLogger(__name__)


def serve(cell: Cell) -> None:
    """Open the page and wait until it is stopped. Only this machine can reach it, unless judge.host says otherwise."""
    if find_spec("gradio") is None:
        raise UserError("stage=serve takes Gradio: pip install -c constraints.txt 'vlmbench[serve]'")
    from vlmbench.judge.page import Page, free_port

    settings = cell.config.judge
    if settings.view not in (RAW, cell.config.view.name):
        names = f"{RAW} and {cell.config.view.name}"
        raise UserError(f"judge.view={settings.view}: the run has the views {names}; name one of them")
    free_port(settings)  # before the model is loaded
    task, *_ = learnt_tasks(RunDir(Path(cell.config.run or "")))
    with tempfile.TemporaryDirectory(prefix="vlmbench-uploads-") as uploads:
        kinds = [(task, settings.view)]
        finished = load_finished(cell, kinds=kinds, inside=Path(uploads))
        page = Page(
            title=finished.folder.path.name,
            pair=task is Task.JUDGE_PAIR,
            notes=finished.decider.notes(kinds),
            answer=lambda paths: evidence_of(finished, paths, view=settings.view),
            settings=settings,
            uploads=Path(uploads),
            run=finished.folder.path,
        )
        with page:
            log.info("open %s in a browser; Ctrl-C stops it", page.url)
            if settings.host not in ("127.0.0.1", "localhost", "::1"):
                log.warning("judge.host=%s: whoever reaches this machine can use the page", settings.host)
            page.wait()
