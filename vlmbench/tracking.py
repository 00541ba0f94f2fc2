"""Weights & Biases, or nothing in its place. The only import of wandb."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from vlmbench.config import TrackingConfig, TrackingMode
from vlmbench.types import Prediction

log = logging.getLogger(__name__)

BY_TOKENS = ("loss", "eval_loss", "eval_balanced_accuracy")  # curves that are also drawn over trained tokens
VERDICTS = (  # columns
    *("model", "setting", "variant", "baseline", "task", "view", "verdict", "difference", "low", "high"),
    *("p_value", "p_holm", "n_records", "n_groups", "n_seeds", "sentence"),
)


class Tracker(Protocol):
    """Where a run's figures go beside its own folder."""

    def log(self, row: Mapping[str, float]) -> None:
        """One row of the training log: `step`, `num_tokens` and figures."""

    def predictions(self, predictions: Sequence[Prediction], open_picture: Callable[[str], Any]) -> None:
        """A table of sample predictions with their pictures; `open_picture` opens a shown picture's file."""

    def summary(self, figures: Mapping[str, Mapping[str, float]]) -> None:
        """The run's final figures, each with `value`, `low`, `high` and `n`."""

    def adapter(self, folder: Path) -> None:
        """The trained adapter."""

    def finish(self, *, failed: bool) -> None:
        """End the run, marked failed or not."""


class NoTracker:
    """Tracks nothing."""

    def log(self, row: Mapping[str, float]) -> None: ...
    def predictions(self, predictions: Sequence[Prediction], open_picture: Callable[[str], Any]) -> None: ...
    def summary(self, figures: Mapping[str, Mapping[str, float]]) -> None: ...
    def adapter(self, folder: Path) -> None: ...
    def finish(self, *, failed: bool) -> None: ...


class WandbTracker:
    """A W&B run. Whatever breaks in W&B is said once and ends the tracking, never the training."""

    def __init__(self, run: Any, settings: TrackingConfig) -> None:
        self._run: Any = run
        self._settings = settings
        self._tokens = 0.0  # trained so far: evaluations do not count them

    def log(self, row: Mapping[str, float]) -> None:
        self._tokens = row.get("num_tokens", self._tokens)
        again = {f"by_tokens/{name}": row[name] for name in BY_TOKENS if name in row}
        self._try(lambda run: run.log({**row, **again, "num_tokens": self._tokens}))

    def predictions(self, predictions: Sequence[Prediction], open_picture: Callable[[str], Any]) -> None:
        shown = predictions[: self._settings.sample_predictions]
        self._try(lambda run: run.log({"predictions": _prediction_table(shown, open_picture)}))

    def summary(self, figures: Mapping[str, Mapping[str, float]]) -> None:
        flat = {name: figure["value"] for name, figure in figures.items()}
        for part in ("low", "high", "n"):
            flat |= {f"{name}_{part}": figure[part] for name, figure in figures.items()}
        self._try(lambda run: run.summary.update(flat))

    def report(self, folder: Path) -> None:
        """A sweep's report: the page, its files as an artifact, and the verdicts as a table."""
        self._try(lambda run: run.log({"report": _page(folder), "verdicts": _verdict_table(folder)}))
        self._try(lambda run: run.log_artifact(_report_artifact(run.id, folder)))

    def adapter(self, folder: Path) -> None:
        if self._settings.adapter:
            self._try(lambda run: run.log_artifact(_adapter_artifact(run.id, folder)))

    def finish(self, *, failed: bool) -> None:
        self._try(lambda run: run.finish(exit_code=1 if failed else 0))

    def _try(self, send: Callable[[Any], Any]) -> None:
        if self._run is None:
            return
        try:
            send(self._run)
        except Exception as error:  # noqa: BLE001  whatever W&B raises, a training run is worth more than its log
            log.warning("W&B broke (%s: %s); the run goes on without it", type(error).__name__, error)
            self._run = None


def _prediction_table(predictions: Sequence[Prediction], open_picture: Callable[[str], Any]) -> Any:
    import wandb

    words: list[str | int] = ["id", "task", "view", "question", "expected", "predicted", "probability"]
    table = wandb.Table(columns=[*words, "reference", "query"])
    for one in predictions:
        pictures = [wandb.Image(open_picture(path)) if path else None for path in one.images]
        reference = pictures[0] if len(pictures) > 1 else None
        said = [one.id, str(one.task), one.view, one.question, one.expected, one.predicted]
        table.add_data(*said, one.positive_probability, reference, pictures[-1])
    return table


def _page(folder: Path) -> Any:
    import wandb

    return wandb.Html((folder / "index.html").read_text(encoding="utf-8"), inject=False)


def _verdict_table(folder: Path) -> Any:
    import wandb

    rows = json.loads((folder / "verdicts.json").read_text(encoding="utf-8"))
    return wandb.Table(columns=list(VERDICTS), data=[[row[name] for name in VERDICTS] for row in rows])


def _report_artifact(run_id: str, folder: Path) -> Any:
    import wandb

    artifact = wandb.Artifact(f"report-{run_id}", type="report")
    for name in ("index.html", "report.md", "verdicts.json"):
        artifact.add_file(str(folder / name))
    return artifact


def _adapter_artifact(run_id: str, folder: Path) -> Any:
    import wandb

    artifact = wandb.Artifact(f"adapter-{run_id}", type="model")
    artifact.add_dir(str(folder))
    return artifact


def publish_report(settings: TrackingConfig, *, folder: Path, sweep: str) -> None:
    """The closing run of a sweep, in its group: what the report in `folder` says."""
    if not settings.report:
        return
    tracker = start_tracker(settings, folder=folder, sweep=sweep, name="report", config={}, job_type="report")
    if isinstance(tracker, WandbTracker):
        tracker.report(folder)
    tracker.finish(failed=False)


def start_tracker(
    settings: TrackingConfig,
    *,
    folder: Path,
    sweep: str,
    name: str,
    config: Mapping[str, Any],
    job_type: str = "cell",
) -> Tracker:
    """A tracker for one cell, grouped by its sweep; its files go into the cell's folder.

    The run's id follows from sweep and name, so a resumed cell goes on with its run. Without a key, `online` becomes
    offline and says so.
    """
    if settings.mode is TrackingMode.off:
        return NoTracker()
    mode = settings.mode
    if mode is TrackingMode.online and not _has_key():
        log.warning("tracking=online: no W&B key on this machine (wandb login); logging offline into %s", folder)
        mode = TrackingMode.offline
    try:
        run = _start(
            mode,
            settings,
            group=sweep,
            job_type=job_type,
            name=name,
            id=hashlib.sha256(f"{sweep}/{name}".encode()).hexdigest()[:16],
            config=dict(config),
            dir=folder,
        )
        run.define_metric("step")
        run.define_metric("num_tokens", step_metric="step")
        run.define_metric("by_tokens/*", step_metric="num_tokens")
        run.define_metric("*", step_metric="step")
    except Exception as error:  # noqa: BLE001  as above
        log.warning("W&B did not start (%s: %s); the run goes on without it", type(error).__name__, error)
        return NoTracker()
    return WandbTracker(run, settings)


def _start(mode: TrackingMode, settings: TrackingConfig, **facts: Any) -> Any:
    """A W&B run; offline where its servers do not answer in time."""
    import wandb
    from wandb.errors import CommError

    limits = wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        disable_code=True,
        init_timeout=settings.timeout_s,
        finish_timeout=settings.timeout_s,
    )
    own: dict[str, Any] = {"project": settings.project, "entity": settings.entity, "resume": "allow"}
    own |= {"reinit": "create_new", **facts}
    if mode is TrackingMode.online:
        try:
            return wandb.init(mode="online", settings=limits, **own)
        except CommError as error:
            log.warning("W&B does not answer (%s); logging offline, wandb sync uploads it later", error)
            wandb.teardown()  # it still holds the run's id
    return wandb.init(mode="offline", settings=limits, **own)


def _has_key() -> bool:
    import wandb

    return bool(os.environ.get("WANDB_API_KEY") or wandb.api.api_key)
