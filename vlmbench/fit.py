"""A cell's training: what `auto` chooses, and less at once where the GPU's memory is full after all."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmbench import check, processes, pruning
from vlmbench.backbones import resident
from vlmbench.backbones.gpu import FullMemoryError
from vlmbench.cell import Cell, build, experiment_of
from vlmbench.config import AUTO, Engine, StoreConfig, TrainerConfig
from vlmbench.evaluate import predict
from vlmbench.experiment import Experiment
from vlmbench.metrics import accuracy
from vlmbench.tracking import Tracker

if TYPE_CHECKING:
    from vlmbench.backbones.base import Backbone
    from vlmbench.train import TrainSummary

log = logging.getLogger(__name__)

TOO_MANY = "too_many_at_once"  # in a run's choices: records at once that did not fit


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A trained backbone, the records of its run, what these cost, and how training went."""

    backbone: Backbone
    experiment: Experiment
    cost: check.Cost
    summary: TrainSummary


def fit(cell: Cell, engine: Engine, tracker: Tracker, *, content: str, started: float) -> Fitted:
    """Train the cell's adapter, from its last checkpoint where there is one.

    With `trainer.batch_size=auto`, what does not fit after all is tried again with fewer records at once, as often as
    makes the same step: the learning is the same.
    Raises FullMemoryError where that does not help, or was not asked for.
    """
    while True:
        backbone, experiment = prepared(cell, engine)
        settings = _trainer_settings(cell, backbone, experiment)
        cost = cost_of(backbone, experiment, settings=settings, store=cell.config.store)
        announce(experiment, cost)
        try:
            summary = _train(
                cell, backbone, experiment, tracker, content=content, cost=cost, settings=settings, started=started
            )
        except FullMemoryError as error:
            fewer = _fewer_at_once(cell.folder.read_choices(), settings)
            if cell.config.trainer.batch_size != AUTO or fewer is None or processes.count() > 1:
                raise
            cell.folder.write_choices(fewer)
            log.warning("%s\n%s", error, " ".join(notes(cell)))
        else:
            return Fitted(backbone=backbone, experiment=experiment, cost=cost, summary=summary)
        del backbone, experiment  # and with them what fills the memory
        resident.release()


def prepared(cell: Cell, engine: Engine, *, adapter: Any = None) -> tuple[Backbone, Experiment]:
    """The backbone and the records of the run."""
    backbone = build(cell, engine, adapter=adapter)
    with processes.leader_first():  # it processes the pictures
        return backbone, experiment_of(cell, backbone)


def cost_of(backbone: Backbone, experiment: Experiment, *, settings: TrainerConfig, store: StoreConfig) -> check.Cost:
    """What the run costs with these settings."""
    return check.cost_of(
        backbone,
        experiment.train,
        num_test=len(experiment.held_out),
        data=experiment.data,
        settings=settings,
        store=store,
        counts=experiment.counts,
    )


def announce(experiment: Experiment, cost: check.Cost) -> None:
    """Say what the run costs, and what the report will repeat."""
    for line in cost.lines():
        log.info("%s", line)
    for warning in (*experiment.data.warnings, *experiment.notes):
        log.warning("%s", warning)


def notes(cell: Cell) -> list[str]:
    """What the run changed by itself, for the report."""
    choices = cell.folder.read_choices()
    if TOO_MANY not in choices:
        return []
    tried = ", ".join(map(str, choices[TOO_MANY]))
    checkpointing = ", with gradient checkpointing" if choices["gradient_checkpointing"] else ""
    return [
        f"trainer.batch_size=auto: {choices['batch_size']} records at once, {choices['gradient_accumulation']} times a "
        f"step{checkpointing}; {tried} at once did not fit into the GPU's memory"
    ]


def _trainer_settings(cell: Cell, backbone: Backbone, experiment: Experiment) -> TrainerConfig:
    """The trainer's settings with what `auto` chose: a run that goes on keeps what it found."""
    settings = cell.config.trainer
    if settings.batch_size != AUTO:
        return settings
    chosen = processes.from_leader(cell.folder.read_choices)
    if "batch_size" not in chosen:
        from vlmbench.train.batch import choose_batch_size

        longest = max(range(len(experiment.train)), key=lambda index: experiment.counts[index].total)
        sample = experiment.open(experiment.train[longest])
        _, vision = check.vision_cost(backbone, experiment.train, data=experiment.data)
        found = choose_batch_size(
            backbone, sample, checkpointing=settings.gradient_checkpointing, vision_bytes=vision.num_bytes
        )
        log.info("trainer.batch_size=auto: %d records a step (%s)", found.batch_size, found.why)
        rows = processes.count() * found.batch_size
        chosen = {"batch_size": rows, "gradient_checkpointing": found.gradient_checkpointing}
        cell.folder.write_choices(chosen)
    return replace(
        settings,
        batch_size=chosen["batch_size"],
        gradient_checkpointing=chosen.get("gradient_checkpointing", settings.gradient_checkpointing),
        gradient_accumulation=chosen.get("gradient_accumulation", settings.gradient_accumulation),
    )


def _fewer_at_once(chosen: Mapping[str, Any], settings: TrainerConfig) -> dict[str, Any] | None:
    """Choices that make the same step of smaller batches; None where one record with checkpointing is too much."""
    rows, accumulation = settings.num_rows, settings.gradient_accumulation
    tried = {TOO_MANY: [*chosen.get(TOO_MANY, ()), rows]}
    if rows == 1 and settings.gradient_checkpointing:
        return None
    parts = next((number for number in range(2, rows + 1) if rows % number == 0), 1)
    return {
        **tried,
        "batch_size": rows // parts,
        "gradient_accumulation": accumulation * parts,
        "gradient_checkpointing": settings.gradient_checkpointing or rows == 1,
    }


def _train(
    cell: Cell,
    backbone: Backbone,
    experiment: Experiment,
    tracker: Tracker,
    *,
    content: str,
    cost: check.Cost,
    settings: TrainerConfig,
    started: float,
) -> TrainSummary:
    from vlmbench.train import train

    watched = list(experiment.watched)
    summary = train(
        backbone,
        num_records=len(experiment.train),
        open_record=lambda index: experiment.open(experiment.train[index]),
        watched=[partial(experiment.open, record) for record in watched],
        judge=partial(_judge, cell, backbone, experiment),
        should_prune=partial(_should_prune, cell),
        settings=settings,
        seed=cell.config.seed,
        cell=cell.folder,
        content=content,
        tracker=tracker,
        title=cell.title,
        lengths=cost.prompt_lengths,
    )
    kept = "" if summary.best_step is None else f", kept step {summary.best_step}"
    log.info("trained %d steps%s", summary.steps, kept)
    if summary.first_step_at is not None:
        log.info("the first was done %.1f s after the run began", summary.first_step_at - started)
    return summary


def _should_prune(cell: Cell) -> bool:
    settings = cell.config.pruner
    return settings.enabled and pruning.should_prune(
        cell.folder.watched(), pruning.finished_curves(cell.folder), settings
    )


def _judge(cell: Cell, backbone: Backbone, experiment: Experiment) -> dict[str, float]:
    """The balanced accuracy on the validation records that training follows."""
    predictions = predict(
        backbone,
        list(experiment.watched),
        open_sample=experiment.open,
        shown=lambda image: "",
        wording=experiment.wording,
        settings=cell.config.eval,
        title=None,
    )
    balanced = accuracy.measure(predictions).get("balanced_accuracy")
    if not isinstance(balanced, float):  # one label among them: the recall of that label is the accuracy
        balanced = float(np.mean([prediction.correct for prediction in predictions]))
    return {"balanced_accuracy": balanced}
