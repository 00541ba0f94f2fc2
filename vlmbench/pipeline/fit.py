"""The training of a run: what `auto` chooses, and smaller batches if the GPU's memory is full."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmbench.backbones import resident
from vlmbench.backbones.devices import FullMemoryError
from vlmbench.config import AUTO, TrainerConfig
from vlmbench.data.run_records import RunRecords, load_records
from vlmbench.metrics import accuracy
from vlmbench.pipeline import prune
from vlmbench.pipeline.attempt import Attempt
from vlmbench.pipeline.cost import Cost, cost_of, vision_cost
from vlmbench.pipeline.run import Run
from vlmbench.pipeline.split_needs import data_needs
from vlmbench.runs.folder import RunDir
from vlmbench.system import load, phases, processes
from vlmbench.system.phases import phase
from vlmbench.types import UserError

if TYPE_CHECKING:
    from vlmbench.backbones.contract import Backbone
    from vlmbench.train import TrainJob, TrainSummary

log = logging.getLogger(__name__)

TOO_MANY = "too_many_at_once"  # in choices.json: batch sizes that did not fit


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A trained backbone, the records of its run, and what these cost.

    `summary` tells how training went; None if the adapter was trained earlier.
    """

    backbone: Backbone
    records: RunRecords
    cost: Cost
    summary: TrainSummary | None = None

    @property
    def is_pruned(self) -> bool:
        """Whether training was stopped because the sweep's other runs did better."""
        return self.summary is not None and self.summary.pruned


def fit(run: Run, attempt: Attempt) -> Fitted:
    """Train the run's adapter, from its last checkpoint if there is one.

    With `trainer.batch_size=auto`, a batch that does not fit into the GPU's memory is tried again
    in smaller batches that make the same step. Raise FullMemoryError if that does not help, or was
    not asked for.
    """
    while True:
        backbone, records = load_model_and_records(run, attempt)
        with phase("batch size"):
            settings = resolve_batch_size(run, backbone, records)
        cost = log_cost(run, backbone, records, settings)

        try:
            summary = _train(run, attempt, backbone, records, cost=cost, settings=settings)
        except FullMemoryError as error:
            smaller = _smaller_batches(run.folder.read_choices(), settings)
            is_auto = run.config.trainer.batch_size == AUTO
            if not is_auto or smaller is None or processes.count() > 1:
                raise
            run.folder.write_choices(smaller)
            log.warning("%s\n%s", error, " ".join(batch_notes(run.folder)))
        else:
            return Fitted(
                backbone=backbone,
                records=records,
                cost=cost,
                summary=summary,
            )

        del backbone, records  # and with them what fills the memory
        resident.release()


def require_adapter(folder: RunDir) -> None:
    """Raise UserError if the run was not trained yet."""
    if not folder.adapter.exists():
        raise UserError(
            f"{folder.path}: the folder holds no adapter to evaluate; train first with stage=train"
        )


def load_fitted(run: Run, attempt: Attempt) -> Fitted:
    """Return the adapter that the run trained earlier, and its records."""
    backbone, records = load_model_and_records(run, attempt, adapter=run.folder.adapter)
    cost = log_cost(run, backbone, records, run.config.trainer)
    return Fitted(
        backbone=backbone,
        records=records,
        cost=cost,
    )


def load_model_and_records(
    run: Run, attempt: Attempt, *, adapter: Path | None = None
) -> tuple[Backbone, RunRecords]:
    """Return the run's backbone, with fresh adapters or those of `adapter`, and its records."""
    with phase("model"):
        backbone = run.build(attempt.engine, adapter=adapter)
    with phase("data"), processes.leader_first():  # the leader processes the images
        return backbone, load_records(run.config, backbone)


def log_cost(run: Run, backbone: Backbone, records: RunRecords, settings: TrainerConfig) -> Cost:
    """Log what the run costs and what its data warn of; return the cost."""
    cost = cost_of(backbone, records, settings=settings, store=run.config.store)
    for line in cost.lines():
        log.info("%s", line)
    needs = data_needs(records.data, run.config)
    for warning in (*records.data.warnings, *records.notes, *needs):
        log.warning("%s", warning)
    return cost


def resolve_batch_size(run: Run, backbone: Backbone, records: RunRecords) -> TrainerConfig:
    """Return the trainer's settings with the batch size that `auto` chose.

    A resumed run keeps the batch size that it had.
    """
    settings = run.config.trainer
    if settings.batch_size != AUTO:
        return settings

    choices = _read_choices(run.folder)
    if "batch_size" not in choices:
        choices = _choose_batch_size(settings, backbone, records)
        run.folder.write_choices(choices)

    checkpointing = choices.get("gradient_checkpointing", settings.gradient_checkpointing)
    accumulation = choices.get("gradient_accumulation", settings.gradient_accumulation)
    return replace(
        settings,
        batch_size=choices["batch_size"],
        gradient_checkpointing=checkpointing,
        gradient_accumulation=accumulation,
    )


def batch_notes(folder: RunDir) -> list[str]:
    """Return what the report says about batches that were made smaller."""
    choices = folder.read_choices()
    if TOO_MANY not in choices:
        return []

    tried = ", ".join(map(str, choices[TOO_MANY]))
    checkpointing = ", with gradient checkpointing" if choices["gradient_checkpointing"] else ""
    return [
        f"trainer.batch_size=auto took batches of {choices['batch_size']} records, "
        f"{choices['gradient_accumulation']} batches a step{checkpointing}; batches of {tried} did "
        "not fit into the GPU's memory"
    ]


@processes.from_leader
def _read_choices(folder: RunDir) -> dict[str, Any]:
    return folder.read_choices()


def _choose_batch_size(
    settings: TrainerConfig, backbone: Backbone, records: RunRecords
) -> dict[str, Any]:
    from vlmbench.train.batch_size import choose_batch_size

    _, vision = vision_cost(backbone, records.train, data=records.shown.data)
    choice = choose_batch_size(
        backbone,
        records.longest_sample(),
        checkpointing=settings.gradient_checkpointing,
        vision_bytes=vision.num_bytes,
        precision=settings.precision,
    )
    log.info("trainer.batch_size=auto: %d records a step (%s)", choice.batch_size, choice.reason)

    rows = processes.count() * choice.batch_size
    return {"batch_size": rows, "gradient_checkpointing": choice.gradient_checkpointing}


def _smaller_batches(choices: Mapping[str, Any], settings: TrainerConfig) -> dict[str, Any] | None:
    """Return choices that make the same step of smaller batches; None if none is left to try."""
    rows = settings.num_rows
    if rows == 1 and settings.gradient_checkpointing:
        return None

    parts = next((number for number in range(2, rows + 1) if rows % number == 0), 1)
    return {
        TOO_MANY: [*choices.get(TOO_MANY, ()), rows],
        "batch_size": rows // parts,
        "gradient_accumulation": settings.gradient_accumulation * parts,
        "gradient_checkpointing": settings.gradient_checkpointing or rows == 1,
    }


def _train(
    run: Run,
    attempt: Attempt,
    backbone: Backbone,
    records: RunRecords,
    *,
    cost: Cost,
    settings: TrainerConfig,
) -> TrainSummary:
    from vlmbench.train import train

    job = _train_job(run, attempt, backbone, records, cost=cost, settings=settings)
    others = load.describe_others()
    if others and not next(backbone.model.parameters()).is_cuda:
        log.info("%s so far; while they run, training takes longer than stage=check says", others)
    with phase(phases.FIRST_STEP):
        summary = train(backbone, job)

    kept = (
        ""
        if summary.best_step is None
        else f"; step {summary.best_step} was the best on validation records"
    )
    log.info("trained %d steps%s", summary.steps, kept)
    if summary.first_step_at is not None:
        seconds = summary.first_step_at - phases.began()
        log.info("the first step was done %.1f s after the start of the run", seconds)
    return summary


def _train_job(
    run: Run,
    attempt: Attempt,
    backbone: Backbone,
    records: RunRecords,
    *,
    cost: Cost,
    settings: TrainerConfig,
) -> TrainJob:
    from vlmbench.train import TrainJob

    return TrainJob(
        samples=records.samples(records.train),
        validation=records.samples(records.loss_records),
        settings=settings,
        seed=run.config.seed,
        folder=run.folder,
        run_hash=attempt.run_hash,
        title=run.title,
        tracker=attempt.tracker,
        prompt_lengths=cost.prompt_lengths,
        validate=partial(_validate, run, backbone, records),
        should_prune=partial(_should_prune, run),
    )


@processes.from_leader
def _should_prune(run: Run) -> bool:
    settings = run.config.pruner
    if not settings.enabled:
        return False
    curve = run.folder.validation_curve()
    return prune.should_prune(curve, prune.finished_curves(run.folder), settings)


@processes.from_leader
def _validate(run: Run, backbone: Backbone, records: RunRecords) -> dict[str, float]:
    """Return the balanced accuracy on the validation records that training follows."""
    predictions = run.asker(backbone, records).answer(records.monitored)

    balanced = accuracy.measure(predictions).get("balanced_accuracy")
    if not isinstance(balanced, float):  # all have one label: its recall is the accuracy
        balanced = float(np.mean([prediction.correct for prediction in predictions]))
    return {"balanced_accuracy": balanced}
