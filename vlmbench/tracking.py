"""Weights & Biases, or nothing in its place. The only import of wandb."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from vlmbench.config import TrackingConfig, TrackingMode
from vlmbench.types import Prediction

log = logging.getLogger(__name__)


class Tracker(Protocol):
    """Where a run's figures go beside its own folder."""

    def log(self, row: Mapping[str, float]) -> None:
        """One row of the training log: `step`, `num_tokens` and figures."""

    def predictions(self, predictions: Sequence[Prediction], open_picture: Callable[[str], Any]) -> None:
        """A table of sample predictions with their pictures; `open_picture` opens a shown picture's file."""

    def summary(self, figures: Mapping[str, float]) -> None:
        """The run's final figures."""

    def adapter(self, folder: Path) -> None:
        """The trained adapter."""

    def finish(self, *, failed: bool) -> None:
        """End the run, marked failed or not."""


class NoTracker:
    """Tracks nothing."""

    def log(self, row: Mapping[str, float]) -> None: ...
    def predictions(self, predictions: Sequence[Prediction], open_picture: Callable[[str], Any]) -> None: ...
    def summary(self, figures: Mapping[str, float]) -> None: ...
    def adapter(self, folder: Path) -> None: ...
    def finish(self, *, failed: bool) -> None: ...


class WandbTracker:
    """A W&B run. Whatever breaks in W&B is said once and ends the tracking, never the training."""

    def __init__(self, run: Any, settings: TrackingConfig) -> None:
        self._run: Any = run
        self._settings = settings

    def log(self, row: Mapping[str, float]) -> None:
        self._try(lambda run: run.log(dict(row)))

    def predictions(self, predictions: Sequence[Prediction], open_picture: Callable[[str], Any]) -> None:
        shown = predictions[: self._settings.sample_predictions]
        self._try(lambda run: run.log({"predictions": _prediction_table(shown, open_picture)}))

    def summary(self, figures: Mapping[str, float]) -> None:
        self._try(lambda run: run.summary.update(dict(figures)))

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


def _adapter_artifact(run_id: str, folder: Path) -> Any:
    import wandb

    artifact = wandb.Artifact(f"adapter-{run_id}", type="model")
    artifact.add_dir(str(folder))
    return artifact


def start_tracker(
    settings: TrackingConfig, *, folder: Path, sweep: str, name: str, config: Mapping[str, Any]
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
        import wandb

        run = wandb.init(
            project=settings.project,
            entity=settings.entity,
            group=sweep,
            name=name,
            id=hashlib.sha256(f"{sweep}/{name}".encode()).hexdigest()[:16],
            resume="allow",
            config=dict(config),
            dir=folder,
            mode="online" if mode is TrackingMode.online else "offline",
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
        )
        run.define_metric("step")
        run.define_metric("*", step_metric="step")
    except Exception as error:  # noqa: BLE001  as above
        log.warning("W&B did not start (%s: %s); the run goes on without it", type(error).__name__, error)
        return NoTracker()
    return WandbTracker(run, settings)


def _has_key() -> bool:
    import wandb

    return bool(os.environ.get("WANDB_API_KEY") or wandb.api.api_key)
