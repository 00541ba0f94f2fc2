"""The table of contents of a run: prepare, check, train, evaluate, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmbench import check, dashboard, metrics, processes, stats, tracking
from vlmbench.backbones import resident
from vlmbench.cell import Cell, build, engine_of, experiment_of, manifest_of, require_machine
from vlmbench.config import AUTO, Engine, EvalConfig, ScoreMethod, Stage, TrackingConfig, TrackingMode, TrainerConfig
from vlmbench.data.pictures import open_picture
from vlmbench.evaluate import predict
from vlmbench.experiment import Experiment
from vlmbench.judge.decide import write_calibration
from vlmbench.judge.export import export
from vlmbench.judge.predict import judge_pictures
from vlmbench.judge.serve import serve
from vlmbench.metrics import accuracy
from vlmbench.provenance import content_hash, environment
from vlmbench.rundir import State, SweepDir
from vlmbench.types import Prediction, Probe, Record, UserError

if TYPE_CHECKING:
    from vlmbench.backbones.base import Backbone

log = logging.getLogger(__name__)


def run(cell: Cell) -> None:
    """Do what `stage` says. Raises UserError for everything that the user can mend."""
    steps: dict[Stage, Callable[[Cell], None]] = {
        Stage.prepare: prepare,
        Stage.check: check_only,
        Stage.train: partial(train_and_evaluate, evaluates=False),
        Stage.evaluate: partial(train_and_evaluate, trains=False),
        Stage.report: report_only,
        Stage.dashboard: dashboard_only,
        Stage.predict: judge_pictures,
        Stage.export: export,
        Stage.serve: serve,
        Stage.run: train_and_evaluate,
    }
    steps[cell.config.stage](cell)


def prepare(cell: Cell) -> None:
    """Write the source's pictures and manifest."""
    log.info("%s", manifest_of(cell))


def check_only(cell: Cell) -> None:
    """Read everything that the run would read, show what the model would learn, and say what it would cost."""
    engine, reason = engine_of(cell)
    backbone = build(cell, engine, weights=False)
    experiment = experiment_of(cell, backbone)
    for line in check.describe_sides(experiment.data):
        log.info("%s", line)
    for record in (experiment.train[0], experiment.train[len(experiment.train) // 2]):
        log.info("record %s, the part that is learnt between >>> and <<<:", record.id)
        log.info("%s\n", check.loss_mask(backbone, experiment.open(record)))
    for line in _cost(backbone, experiment, settings=cell.config.trainer).lines():
        log.info("%s", line)
    log.info("engine            %s (%s), trainer.vision=%s", engine, reason, cell.config.trainer.vision)
    for warning in (*experiment.data.warnings, *experiment.notes):
        log.warning("%s", warning)
    for sentence in cell.config.model.requirements():
        log.warning("model=%s cannot run on this machine: %s", cell.choices["model"], sentence)
    log.info("nothing stands in the way; stage=run starts it")


def train_and_evaluate(cell: Cell, *, trains: bool = True, evaluates: bool = True) -> None:
    """One cell, from pictures to figures. A cell that is finished already is left as it is."""
    require_machine(cell)
    with processes.leader_first():  # it makes the data
        content = content_hash(cell.plain, manifest_of(cell))
    with cell.folder.lock():
        if processes.from_leader(lambda: _is_finished(cell, content)) and trains:
            log.info("%s is finished already; nothing to do", cell.title)
            cell.folder.forget_error()
            return
        _run_cell(cell, content, trains=trains, evaluates=evaluates)


def _is_finished(cell: Cell, content: str) -> bool:
    """Raises UserError where the folder holds something else that was worth keeping."""
    status = cell.folder.read_status()
    if status and status["hash"] != content and (cell.folder.checkpoints.exists() or cell.folder.adapter.exists()):
        raise UserError(
            f"{cell.folder.path}: the folder holds a run with another configuration or other data; give this one a "
            "folder of its own with name=<a name>, or remove that folder"
        )
    return bool(status.get("hash") == content and status["state"] == State.FINISHED)


def _run_cell(cell: Cell, content: str, *, trains: bool, evaluates: bool) -> None:
    engine, reason = engine_of(cell)
    log.info("engine %s: %s; trainer.vision=%s", engine, reason, cell.config.trainer.vision)
    cell.folder.write_status(State.RUNNING, content_hash=content, **cell.identity)
    cell.folder.write_env(environment(engine, reason, cell.config.trainer.vision))
    started = time.monotonic()
    tracker = tracking.start_tracker(
        cell.config.tracking if processes.is_leader() else TrackingConfig(mode=TrackingMode.off),
        folder=cell.folder.path,
        sweep=Path(cell.config.sweep).name,
        name=cell.title,
        config={**cell.plain, "backbone": cell.choices["model"], "variant": cell.choices["data"]},
    )
    try:
        _run_steps(cell, engine, tracker, trains=trains, evaluates=evaluates, started=started)
    except BaseException as error:
        resident.release()  # whatever state the model is in, no other run shall find it
        seconds, message = time.monotonic() - started, str(error) or type(error).__name__
        cell.folder.write_status(State.FAILED, content_hash=content, error=message, seconds=seconds, **cell.identity)
        tracker.finish(failed=True)
        raise
    if evaluates:
        seconds = time.monotonic() - started
        cell.folder.write_status(State.FINISHED, content_hash=content, seconds=seconds, **cell.identity)
    tracker.finish(failed=False)


def report_only(cell: Cell) -> None:
    """Write the report of a sweep's folder."""
    print_report(SweepDir(Path(cell.config.sweep)))


def dashboard_only(cell: Cell) -> None:
    """Save a W&B workspace of a sweep's folder."""
    log.info("%s", dashboard.save(cell.config.tracking, SweepDir(Path(cell.config.sweep))))


def print_states(sweep: SweepDir) -> None:
    """Say how far each cell of a sweep has come."""
    from vlmbench import report

    log.info("\n%s\n", report.state_table(sweep))


def print_report(sweep: SweepDir) -> None:
    """Write the report and say where it is and what it says."""
    from vlmbench import report

    index = report.write_report(sweep)
    log.info("\n%s\n", report.comparison_table(sweep))
    log.info("report: %s", index)
    log.info("next:   open it in a browser; add seeds with `seed=0,1,2`, your pictures with `source=manifest`")


def _run_steps(
    cell: Cell, engine: Engine, tracker: tracking.Tracker, *, trains: bool, evaluates: bool, started: float
) -> None:
    if not trains and not cell.folder.adapter.exists():
        raise UserError(f"{cell.folder.path}: there is no adapter to evaluate; train first with stage=train")
    backbone = build(cell, engine, adapter=None if trains else cell.folder.adapter)
    with processes.leader_first():  # it processes the pictures
        experiment = experiment_of(cell, backbone)
    settings = _trainer_settings(cell, backbone, experiment) if trains else cell.config.trainer
    cost = _cost(backbone, experiment, settings=settings)
    for line in cost.lines():
        log.info("%s", line)
    for warning in (*experiment.data.warnings, *experiment.notes):
        log.warning("%s", warning)
    if trains:
        _train(cell, backbone, experiment, tracker, cost=cost, settings=settings, started=started)
        tracker.adapter(cell.folder.adapter)
    if evaluates and processes.is_leader():
        _evaluate(cell, backbone, experiment, tracker, cost=cost)
    kept = "not kept" if backbone.store is None else backbone.store.report()
    log.info("vision tokens: %s", kept)


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
    checkpointing = chosen.get("gradient_checkpointing", settings.gradient_checkpointing)
    return replace(settings, batch_size=chosen["batch_size"], gradient_checkpointing=checkpointing)


def _train(
    cell: Cell,
    backbone: Backbone,
    experiment: Experiment,
    tracker: tracking.Tracker,
    *,
    cost: check.Cost,
    settings: TrainerConfig,
    started: float,
) -> None:
    from vlmbench.train import train

    config = cell.config
    watched = list(experiment.watched)

    def judge() -> dict[str, float]:
        predictions = _predict(backbone, experiment, watched, config.eval, None)
        measured = accuracy.measure(predictions)
        balanced = measured.get("balanced_accuracy")
        if not isinstance(balanced, float):  # one label among them: the recall of that label is the accuracy
            balanced = float(np.mean([prediction.correct for prediction in predictions]))
        return {"balanced_accuracy": balanced}

    summary = train(
        backbone,
        num_records=len(experiment.train),
        open_record=lambda index: experiment.open(experiment.train[index]),
        watched=[partial(experiment.open, record) for record in watched],
        judge=judge,
        settings=settings,
        seed=config.seed,
        cell=cell.folder,
        tracker=tracker,
        title=cell.title,
        lengths=cost.prompt_lengths,
    )
    kept = "" if summary.best_step is None else f", kept step {summary.best_step}"
    log.info("trained %d steps%s", summary.steps, kept)
    if summary.first_step_at is not None:
        log.info("the first was done %.1f s after the run began", summary.first_step_at - started)


def _evaluate(
    cell: Cell, backbone: Backbone, experiment: Experiment, tracker: tracking.Tracker, *, cost: check.Cost
) -> None:
    settings, title = cell.config.eval, f"evaluate {cell.title}"
    scored = replace(settings, method=ScoreMethod.score)
    write_calibration(cell.folder, _predict(backbone, experiment, experiment.validation, scored, "validate"))
    predictions = _predict(backbone, experiment, experiment.held_out, settings, title)
    cell.folder.write_predictions(predictions)
    scores = measure(predictions, seed=cell.config.data.split_seed)
    cell.folder.write_metrics(
        {"scores": scores, "data": _data_summary(experiment, cost), "notes": list(experiment.notes)}
    )
    tracker.summary(
        {
            f"{task}/{view}/{name}": figure
            for task, views in scores.items()
            for view, figures in views.items()
            for name, figure in figures.items()
        }
    )
    plain = [prediction for prediction in predictions if prediction.probe is Probe.NONE]
    tracker.predictions(plain, lambda path: open_picture(Path(path)))


def _predict(
    backbone: Backbone, experiment: Experiment, records: Sequence[Record], settings: EvalConfig, title: str | None
) -> list[Prediction]:
    return predict(
        backbone,
        records,
        open_sample=experiment.open,
        shown=experiment.shown,
        wording=experiment.wording,
        settings=settings,
        title=title,
    )


def measure(predictions: Sequence[Prediction], *, seed: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Every metric of every task and view with its interval: task -> view -> name -> {value, low, high, n, ...}."""
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for (task, view), some in metrics.by_task_and_view(predictions).items():
        figures = scores.setdefault(str(task), {}).setdefault(view, {})
        for function in metrics.all_metrics().values():
            for name, estimate in stats.estimate(function, some, seed=seed).items():
                figures[name] = asdict(estimate)
    return scores


def _data_summary(experiment: Experiment, cost: check.Cost) -> dict[str, Any]:
    data = experiment.data
    return {
        "train_records": cost.train_records,
        "train_tokens": cost.trained_tokens,
        "steps": cost.steps,
        "by_task": dict(cost.by_task),
        "groups": {"train": data.train.groups(), "val": data.val.groups(), "test": data.test.groups()},
        "warnings": list(data.warnings),
    }


def _cost(backbone: Backbone, experiment: Experiment, *, settings: TrainerConfig) -> check.Cost:
    return check.cost_of(
        backbone,
        experiment.train,
        num_test=len(experiment.held_out),
        data=experiment.data,
        settings=settings,
        counts=experiment.counts,
    )
