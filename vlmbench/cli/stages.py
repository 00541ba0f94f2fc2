"""The stages of the command line, and what is printed when a sweep ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

from vlmbench import report
from vlmbench.cli.reveal import reveal_sweep
from vlmbench.config import Stage
from vlmbench.deploy.export import export_model
from vlmbench.deploy.predict import predict_images
from vlmbench.deploy.serve import serve_page
from vlmbench.pipeline.check import check
from vlmbench.pipeline.execute import execute
from vlmbench.pipeline.prepare import prepare
from vlmbench.pipeline.run import Run
from vlmbench.runs.sweep import SweepDir
from vlmbench.system.text import typed_setting
from vlmbench.tracking import workspace

log = logging.getLogger(__name__)


def do_stage(run: Run) -> None:
    """Do what the setting `stage` names. Raise UserError for everything that the user can mend."""
    steps: dict[Stage, Callable[[Run], None]] = {
        Stage.prepare: prepare,
        Stage.check: check,
        Stage.train: partial(execute, evaluates=False),
        Stage.evaluate: partial(execute, trains=False),
        Stage.reveal: _reveal,
        Stage.run: execute,
        Stage.report: _report,
        Stage.dashboard: _dashboard,
        Stage.predict: predict_images,
        Stage.export: export_model,
        Stage.serve: serve_page,
    }
    steps[run.config.stage](run)


OWN_PHOTOS = "; for your own photos, add name=photos source=folder source.path=photos"


def log_states(sweep: SweepDir) -> None:
    """Log how far each run of a sweep has come."""
    log.info("\n%s\n", report.state_table(sweep))


def log_report(sweep: SweepDir) -> None:
    """Write a sweep's report; log its main figures and its path."""
    read = report.read_sweep(sweep)
    index = report.write_report(sweep, read)
    log.info("\n%s\n", report.comparison_table(sweep, read))
    log.info("report: %s", index)
    has_own_data = any("path" in run.config.get("source", {}) for run in read.runs)
    log.info(
        "next:   open it in a browser; repeat the command with %s and further seeds, such as "
        "seed=3,4 (a later look must be surer)%s",
        typed_setting("sweep", sweep.path),
        "" if has_own_data else OWN_PHOTOS,
    )


def _reveal(run: Run) -> None:
    sweep = SweepDir(Path(run.config.sweep))
    reveal_sweep(sweep, run.config)
    log_report(sweep)


def _report(run: Run) -> None:
    log_report(SweepDir(Path(run.config.sweep)))


def _dashboard(run: Run) -> None:
    url = workspace.save(run.config.tracking, SweepDir(Path(run.config.sweep)))
    log.info("%s", url)
