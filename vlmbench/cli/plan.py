"""The plan of a command: the runs that it will make, and the figure that decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from vlmbench.cli.folders import own_settings, plain_values
from vlmbench.cli.validate import AT_START
from vlmbench.cli.words import as_typed
from vlmbench.config import EvalConfig
from vlmbench.runs.plan import (
    MAX_SHOWN,
    Plan,
    PlannedRun,
    Question,
    answer_overrides,
    question_of,
    variant_hash,
)
from vlmbench.runs.planning import now, start_sweep
from vlmbench.system.version import __version__


def plan_runs(folder: Path, configs: Sequence[DictConfig]) -> None:
    """Write or extend the plan of a sweep folder with these runs.

    Raise UserError if the folder was planned with another primary figure, costs or test split.
    """
    runs = tuple(_planned_run(config) for config in configs)
    start_sweep(folder, _plan(configs[0], runs=runs, question=question_of(runs)))


def plan_search(folder: Path, config: DictConfig) -> None:
    """Write or extend the plan of a search, whose sweeper chooses the runs. Raise as `plan_runs`.

    A sweeper without a number of trials counts as 0 trials.
    """
    spaces = _search_spaces(config)
    question = Question(axis=", ".join(spaces) or "none", values=tuple(spaces.values()))
    trials = config.hydra.sweeper.get("n_trials")
    number = trials if isinstance(trials, int) and trials > 0 else 0
    start_sweep(
        folder,
        _plan(
            config,
            runs=(),
            question=question,
            trials=number,
        ),
    )


def _plan(
    config: DictConfig,
    *,
    runs: tuple[PlannedRun, ...],
    question: Question,
    trials: int | None = None,
) -> Plan:
    settings = cast("EvalConfig", OmegaConf.to_object(config.eval))
    return Plan(
        date=now(),
        version=__version__,
        question=question,
        primary=settings.primary_figure,
        cost_miss=settings.cost_miss,
        cost_overkill=settings.cost_overkill,
        prevalence=settings.prevalence,
        test=settings.test,
        runs=runs,
        trials=trials,
    )


def _planned_run(config: DictConfig) -> PlannedRun:
    choices: Mapping[str, Any] = config.hydra.runtime.choices
    model, data = str(choices["model"]), str(choices["data"])

    settings = own_settings(config)
    for name in AT_START:
        settings[name] = name
    return PlannedRun(
        model=model,
        data=data,
        seed=config.seed,
        variant_hash=variant_hash(plain_values(settings), model=model, data=data),
        overrides=answer_overrides(map(as_typed, config.hydra.overrides.task)),
        fold=config.data.fold,
    )


def _search_spaces(config: DictConfig) -> dict[str, str]:
    """Return the settings that a sweeper varies, with their search spaces as text."""
    params = config.hydra.sweeper.get("params") or {}
    given = dict(override.partition("=")[::2] for override in config.hydra.overrides.task)
    return {str(name): str(given.get(name, space))[:MAX_SHOWN] for name, space in params.items()}
