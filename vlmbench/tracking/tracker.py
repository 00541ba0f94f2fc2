"""Weights & Biases, or nothing in its place. Only this module imports wandb."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from vlmbench.config import TrackingConfig, TrackingMode
from vlmbench.system.reading import read_regular
from vlmbench.system.working_folder import leave_working_folder
from vlmbench.tracking.sent import failures, without_home
from vlmbench.types import Prediction

log = logging.getLogger(__name__)

# Curves that are also drawn over trained tokens.
BY_TOKENS = ("loss", "eval_loss", "eval_balanced_accuracy")
VERDICT_COLUMNS = (
    *("model", "setting", "variant", "baseline", "task", "view"),
    *("verdict", "difference", "low", "high", "p_value", "p_holm"),
    *("n_records", "n_clusters", "seeds", "sentence"),
)
MAX_SENTENCES = 10  # verdicts in the summary of a report; the table holds all
MAX_REPORT = 200_000_000  # bytes of a file
REPORT_FILES = ("index.html", "report.md", "verdicts.json")


class Tracker(Protocol):
    """The target of a run's figures beside its own folder."""

    def log(self, row: Mapping[str, float]) -> None:
        """Log one row of the training log: `step`, `num_tokens` and figures."""

    def predictions(
        self, predictions: Sequence[Prediction], open_image: Callable[[str], Any]
    ) -> None:
        """Log a table of sample predictions; `open_image` opens the file of a shown image."""

    def summary(self, figures: Mapping[str, Mapping[str, float]]) -> None:
        """Log the run's final figures, each with `value`, `low`, `high` and `n`."""

    def adapter(self, folder: Path) -> None:
        """Log the trained adapter."""

    def finish(self, *, failed: bool) -> None:
        """End the run, marked failed or not."""


def import_wandb() -> Any:
    """Return W&B with the settings of the environment and the user's home.

    Settings of the working folder are not read: they could send the user's key to another server.
    """
    with leave_working_folder():
        import wandb

        wandb.setup()
    return wandb


class NoTracker:
    """Tracks nothing."""

    def log(self, row: Mapping[str, float]) -> None: ...
    def predictions(
        self, predictions: Sequence[Prediction], open_image: Callable[[str], Any]
    ) -> None: ...
    def summary(self, figures: Mapping[str, Mapping[str, float]]) -> None: ...
    def adapter(self, folder: Path) -> None: ...
    def finish(self, *, failed: bool) -> None: ...


class WandbTracker:
    """A W&B run. An error of W&B is logged once and ends the tracking, never the training."""

    def __init__(
        self, run: Any, settings: TrackingConfig, logged: Iterable[tuple[float, bool]] = ()
    ) -> None:
        self._run: Any = run
        self._settings = settings
        self._logged = frozenset(logged)  # rows that an earlier attempt sent
        self._position = len(self._logged)  # of the next row: W&B refuses what goes back
        self._tokens = 0.0  # trained so far

    def log(self, row: Mapping[str, float]) -> None:
        self._tokens = row.get("num_tokens", self._tokens)
        if row_key(row) in self._logged:
            return
        by_tokens = {f"by_tokens/{name}": row[name] for name in BY_TOKENS if name in row}
        values = {**row, **by_tokens, "num_tokens": self._tokens}
        self._send(lambda run: run.log(values, step=self._position))
        self._position += 1

    def predictions(
        self, predictions: Sequence[Prediction], open_image: Callable[[str], Any]
    ) -> None:
        shown = predictions[: self._settings.sample_predictions]
        self._send(lambda run: run.log({"predictions": _prediction_table(shown, open_image)}))

    def summary(self, figures: Mapping[str, Mapping[str, float]]) -> None:
        values = {name: figure["value"] for name, figure in figures.items()}
        for part in ("low", "high", "n"):
            values |= {f"{name}_{part}": figure[part] for name, figure in figures.items()}
        self._send(lambda run: run.summary.update(values))

    def report(self, folder: Path) -> None:
        """Log a sweep's report: the page, its files as an artifact, the verdicts as a table."""
        self._send(
            lambda run: run.log({"report": _page(folder), "verdicts": _verdict_table(folder)})
        )
        self._send(lambda run: run.summary.update(verdict_summary(folder)))
        self._send(lambda run: run.log_artifact(_report_artifact(run.id, folder)))

    def adapter(self, folder: Path) -> None:
        if self._settings.adapter:
            self._send(lambda run: run.log_artifact(_adapter_artifact(run.id, folder)))

    def finish(self, *, failed: bool) -> None:
        self._send(lambda run: _finish(run, exit_code=1 if failed else 0))

    def _send(self, action: Callable[[Any], Any]) -> None:
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # noqa: BLE001 - whatever W&B raises, a run is worth more
            kind = type(error).__name__
            log.warning("W&B failed (%s: %s); the run goes on without it", kind, error)
            self._run = None


def row_key(row: Mapping[str, Any]) -> tuple[float, bool]:
    """Return what tells a row of the training log apart: its step, and whether it evaluates."""
    return row.get("step", -1), "loss" not in row


def start_tracker(
    settings: TrackingConfig,
    *,
    folder: Path,
    sweep: str,
    name: str,
    config: Mapping[str, Any],
    job_type: str = "run",
    logged: Sequence[Mapping[str, Any]] = (),
) -> Tracker:
    """Return a tracker for one run, in the W&B group of its sweep; its files go into `folder`.

    W&B's id follows from sweep and name, so that a resumed run continues in W&B too. Rows that its
    earlier attempts `logged` are not sent again. Without a key, tracking=online becomes offline and
    logs a warning.
    """
    if settings.mode is TrackingMode.off:
        return NoTracker()

    mode = settings.mode
    is_continued = (folder / "wandb").exists()
    if mode is TrackingMode.online and not _has_key():
        log.warning(
            "tracking=online: this machine has no W&B key (wandb login); logging offline into %s",
            folder,
        )
        mode = TrackingMode.offline

    try:
        run = _start(
            mode,
            settings,
            group=sweep,
            job_type=job_type,
            name=name,
            id=hashlib.sha256(f"{sweep}/{name}".encode()).hexdigest()[:16],
            config=without_home(dict(config)),
            dir=folder.absolute(),
        )
        run.define_metric("step")
        run.define_metric("num_tokens", step_metric="step")
        run.define_metric("by_tokens/*", step_metric="num_tokens")
        run.define_metric("*", step_metric="step")
    except Exception as error:  # noqa: BLE001 - as above
        kind = type(error).__name__
        log.warning("W&B did not start (%s: %s); the run goes on without it", kind, error)
        return NoTracker()
    return WandbTracker(run, settings, map(row_key, logged) if is_continued else ())


def publish_report(settings: TrackingConfig, *, folder: Path, sweep: str) -> None:
    """Log a sweep's report in `folder` as the closing run of its W&B group."""
    if not settings.report:
        return
    tracker = start_tracker(
        settings, folder=folder, sweep=sweep, name="report", config={}, job_type="report"
    )
    if isinstance(tracker, WandbTracker):
        tracker.report(folder)
    tracker.finish(failed=False)


def _start(mode: TrackingMode, settings: TrackingConfig, **facts: Any) -> Any:
    """Return a W&B run; offline if W&B's servers do not answer in time."""
    from wandb.errors import CommError

    wandb = import_wandb()
    limits = wandb.Settings(
        silent=True,
        console="off",
        disable_git=True,
        disable_code=True,
        x_disable_meta=True,  # the paths of Python and of the program, which name the user
        init_timeout=settings.timeout_s,
        finish_timeout=settings.timeout_s,
    )
    arguments: dict[str, Any] = {
        "project": settings.project,
        "entity": settings.entity,
        "resume": "allow",
        "reinit": "create_new",
        "settings": limits,
        **facts,
    }

    if mode is TrackingMode.online:
        try:
            return wandb.init(mode="online", **arguments)
        except CommError as error:
            log.warning(
                "W&B does not answer (%s); logging offline, wandb sync uploads it later", error
            )
            wandb.teardown()  # it still holds the run's id
            import_wandb()
    return wandb.init(mode="offline", **arguments)


def _finish(run: Any, *, exit_code: int) -> None:
    """End a W&B run; log a warning if its servers did not take all of it.

    W&B itself only says so in its own log.
    """
    own_log, is_online = Path(run.settings.log_internal), not run.offline
    run.finish(exit_code=exit_code)

    found = failures(own_log) if is_online else []
    if found:
        folder = shlex.quote(str(run.settings.sync_dir))
        log.warning(
            "W&B did not take all of the run (%s); wandb sync %s uploads it", found[-1], folder
        )


def _has_key() -> bool:
    wandb = import_wandb()
    return bool(os.environ.get("WANDB_API_KEY") or wandb.api.api_key)


def _prediction_table(predictions: Sequence[Prediction], open_image: Callable[[str], Any]) -> Any:
    import wandb

    texts: list[str | int] = ["id", "task", "view", "question", "expected", "predicted"]
    table = wandb.Table(columns=[*texts, "probability", "reference", "query"])

    for prediction in predictions:
        images = [wandb.Image(open_image(path)) if path else None for path in prediction.images]
        table.add_data(
            prediction.id,
            str(prediction.task),
            prediction.view,
            prediction.question,
            prediction.expected,
            prediction.predicted,
            prediction.positive_probability,
            images[0] if len(images) > 1 else None,
            images[-1],
        )
    return table


def _verdict_table(folder: Path) -> Any:
    import wandb

    rows = _read_verdicts(folder)["findings"]
    data = [
        [str(row[name]) if name == "seeds" else row[name] for name in VERDICT_COLUMNS]
        for row in rows
    ]
    return wandb.Table(columns=list(VERDICT_COLUMNS), data=data)


def verdict_summary(folder: Path) -> dict[str, str]:
    """Return the sentences of a report for the summary of its run."""
    verdicts = _read_verdicts(folder)
    summary = {"plan": " ".join(verdicts["plan"]["sentences"])}
    if verdicts["tuning"] is not None:
        summary["tuning"] = verdicts["tuning"]["sentence"]
    for number, row in enumerate(verdicts["findings"][:MAX_SENTENCES]):
        summary[f"verdict_{number}"] = row["sentence"]
    return summary


def _read_verdicts(folder: Path) -> Any:
    return json.loads(read_regular(folder / "verdicts.json", limit=MAX_REPORT))


def _page(folder: Path) -> Any:
    import wandb

    html = read_regular(folder / "index.html", limit=MAX_REPORT).decode()
    return wandb.Html(html, inject=False)


def _report_artifact(run_id: str, folder: Path) -> Any:
    import wandb

    artifact = wandb.Artifact(f"report-{run_id}", type="report")
    for name in REPORT_FILES:
        artifact.add_file(str(folder / name))
    return artifact


def _adapter_artifact(run_id: str, folder: Path) -> Any:
    import wandb

    artifact = wandb.Artifact(f"adapter-{run_id}", type="model")
    artifact.add_dir(str(folder))
    return artifact
