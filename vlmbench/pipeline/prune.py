"""Pruning: is a run worth training on, given what the sweep's finished runs had at the same step?

Only the folders of the sweep are read: the same command finds them again, whatever sweeper and
launcher ran it.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from vlmbench.config import PrunerConfig, TrainerConfig
from vlmbench.runs.folder import RunDir, State
from vlmbench.runs.identity import figure_settings
from vlmbench.runs.sweep import SweepDir
from vlmbench.types import UserError

log = logging.getLogger(__name__)

Curve = Mapping[int, float]  # step -> balanced accuracy


def check_pruner(settings: PrunerConfig, trainer: TrainerConfig) -> None:
    """Raise UserError if pruning is on and cannot work."""
    if not settings.enabled:
        return
    if trainer.eval_steps is None:
        raise UserError(
            "the pruner compares evaluations, and trainer.eval_steps is null; "
            "set trainer.eval_steps=50, or pruner=off"
        )
    if importlib.util.find_spec("optuna") is None:
        raise UserError(
            "the pruner needs Optuna; run pip install -c constraints.txt 'vlmbench[sweep]', "
            "or set pruner=off"
        )


def should_prune(curve: Curve, finished: Iterable[Curve], settings: PrunerConfig) -> bool:
    """Return what Optuna's pruner decides about a curve, given those of finished runs."""
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)  # it would log a line for every decision
    pruner = optuna.pruners.PercentilePruner(
        settings.percentile,
        n_startup_trials=settings.startup_trials,
        n_warmup_steps=settings.warmup_steps,
    )
    study = optuna.create_study(direction="maximize", pruner=pruner)

    for other in finished:
        study.tell(_report(study.ask(), other), max(other.values()))
    return bool(_report(study.ask(), curve).should_prune())


def finished_curves(folder: RunDir) -> list[dict[int, float]]:
    """Return the validation curves of the sweep's finished runs that are comparable with this run.

    Comparable runs differ only in settings of the model and the trainer: their values are of the
    same records.
    """
    comparable = _comparable_settings(folder)
    others = [run for run in SweepDir(folder.path.parent).runs() if run.path != folder.path]
    finished = [run for run in others if run.read_status()["state"] == State.FINISHED]

    curves = []
    for run in finished:
        try:
            if _comparable_settings(run) == comparable:
                curves.append(run.validation_curve())
        except UserError as error:
            log.warning("%s; the pruner leaves this run out", error)
    return [curve for curve in curves if curve]


def _report(trial: Any, curve: Curve) -> Any:
    for step, value in curve.items():
        trial.report(value, step)
    return trial


def _comparable_settings(folder: RunDir) -> dict[str, Any]:
    status = folder.read_status()
    settings = figure_settings(folder.read_config())
    settings.pop("model", None)
    trainer = settings.pop("trainer", None)
    eval_records = trainer.get("eval_records") if isinstance(trainer, dict) else None
    return settings | {
        "model": status.get("model"),
        "data": (status.get("data"), settings.get("data")),
        "eval_records": eval_records,
    }
