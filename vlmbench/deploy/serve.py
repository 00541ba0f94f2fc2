"""stage=serve: a local page on which images are dropped and judged by a finished run."""

from __future__ import annotations

import logging
from importlib.util import find_spec

from vlmbench.deploy.evidence import judge_images
from vlmbench.deploy.loaded import finished_folder, load_run, trained_tasks
from vlmbench.deploy.requests import check_view
from vlmbench.deploy.uploads import private_folder
from vlmbench.pipeline.run import Run
from vlmbench.report.alarms import Alarm
from vlmbench.types import Task, UserError

log = logging.getLogger(__name__)

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")


def serve_page(run: Run) -> None:
    """Open the page, and wait until it is stopped.

    Only this machine can reach the page, unless `serve.host` says otherwise.
    """
    if find_spec("gradio") is None:
        raise UserError(
            "stage=serve needs Gradio; run pip install -c constraints.txt 'vlmbench[serve]'"
        )
    from vlmbench.deploy.page import Page, free_port

    settings = run.config.serve
    check_view("serve.view", settings.view, run.config)
    free_port(settings)  # before the model is loaded
    task, *_ = trained_tasks(finished_folder(run))

    with private_folder() as folder:
        uploads = folder / "images"
        uploads.mkdir()
        kinds = [(task, settings.view)]
        loaded = load_run(run, settings, kinds=kinds, inside=uploads, derived=folder / "derived")
        page = Page(
            title=loaded.folder.path.name,
            pair=task is Task.JUDGE_PAIR,
            notes=[*map(_alarm_note, loaded.alarms), *loaded.decider.notes(kinds)],
            answer=lambda paths: judge_images(loaded, paths, view=settings.view),
            settings=settings,
            uploads=uploads,
            run=loaded.folder.path,
        )
        with page:
            log.info("open %s in a browser; Ctrl-C stops it", page.url)
            if settings.host not in LOCAL_HOSTS:
                log.warning(
                    "serve.host=%s: everybody who reaches this machine can use the page",
                    settings.host,
                )
            page.wait()


def _alarm_note(alarm: Alarm) -> str:
    return f"The run fails a control: {alarm.text}. Do not rely on its answers"
