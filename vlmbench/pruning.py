"""Whether a cell is worth training on, by what the sweep's finished cells had reached at the same step.

The folders of the sweep are all that is asked: the same command again finds what was there, whatever sweeper and
launcher ran it.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable, Mapping
from typing import Any

from vlmbench.config import PrunerConfig, TrainerConfig
from vlmbench.provenance import content_of_config
from vlmbench.rundir import RunDir, State, SweepDir
from vlmbench.types import UserError

Curve = Mapping[int, float]  # step -> balanced accuracy


def require(settings: PrunerConfig, trainer: TrainerConfig) -> None:
    """Raise UserError where pruning is wanted and cannot be."""
    if not settings.enabled:
        return
    if trainer.eval_steps is None:
        raise UserError("pruner needs evaluations to compare; set trainer.eval_steps=<steps>, or pruner=off")
    if importlib.util.find_spec("optuna") is None:
        raise UserError(
            "pruner needs Optuna; pip install -c constraints.txt 'vlmbench[sweep]', or leave it out with pruner=off"
        )


def should_prune(own: Curve, finished: Iterable[Curve], settings: PrunerConfig) -> bool:
    """What Optuna's pruner says of a curve, by those of finished cells."""
    import optuna

    optuna.logging.set_verbosity(logging.WARNING)  # a study a decision is not worth a line
    pruner = optuna.pruners.PercentilePruner(
        settings.percentile, n_startup_trials=settings.startup_trials, n_warmup_steps=settings.warmup_steps
    )
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for curve in finished:
        study.tell(_reported(study.ask(), curve), max(curve.values()))
    return bool(_reported(study.ask(), own).should_prune())


def _reported(trial: Any, curve: Curve) -> Any:
    for step, value in curve.items():
        trial.report(value, step)
    return trial


def finished_curves(folder: RunDir) -> list[dict[int, float]]:
    """Of the finished cells in this cell's sweep that differ from it in settings of the model and the trainer alone:
    their values are of the same records."""
    own = _what_is_judged(folder)
    others = [cell for cell in SweepDir(folder.path.parent).cells() if cell.path != folder.path]
    finished = [cell for cell in others if cell.read_status()["state"] == State.FINISHED]
    curves = [cell.watched() for cell in finished if _what_is_judged(cell) == own]
    return [curve for curve in curves if curve]


def _what_is_judged(folder: RunDir) -> dict[str, Any]:
    status = folder.read_status()
    content = content_of_config(folder.read_config())
    content.pop("model", None)
    records = content.pop("trainer", {}).get("eval_records")
    return content | {
        "model": status.get("model"),
        "data": (status.get("data"), content.get("data")),
        "watched": records,
    }
