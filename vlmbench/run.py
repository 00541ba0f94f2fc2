"""The table of contents of a run: prepare, check, train, evaluate, report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmbench import check, dashboard, energy, fit, metrics, processes, pruning, stats, tracking
from vlmbench.backbones import resident
from vlmbench.backbones.gpu import naming_faults
from vlmbench.cell import Cell, build, data_of, engine_of, experiment_of, manifest_of, require_machine
from vlmbench.config import Engine, EvalConfig, ScoreMethod, Stage, TrackingConfig, TrackingMode
from vlmbench.data.census import census, questions, validation_counts
from vlmbench.data.dataset import RAW
from vlmbench.data.pictures import open_picture
from vlmbench.evaluate import predict
from vlmbench.experiment import Experiment
from vlmbench.files import no_room
from vlmbench.interrupt import Stopped
from vlmbench.judge.decide import write_calibration
from vlmbench.judge.export import export
from vlmbench.judge.predict import judge_pictures
from vlmbench.judge.serve import serve
from vlmbench.provenance import content_hash, environment
from vlmbench.rundir import State, SweepDir
from vlmbench.types import Prediction, Probe, Record, Split, UserError

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
    """Write the source's pictures and manifest, and a datasheet beside it."""
    from vlmbench.report.datasheet import doubts, write_datasheet

    config, manifest = cell.config, manifest_of(cell)
    page, sheet = write_datasheet(
        manifest,
        labels=config.source.labels,
        views={RAW, config.view.name},
        shares={split: getattr(config.data.split, split) for split in Split},
        split_seed=config.data.split_seed,
        allow_leak=config.data.allow_leak,
        cache_dir=cell.cache,
    )
    log.info("%d records of %d groups, %d pictures", sheet["records"], sheet["groups"], sheet["pictures"])
    for line in doubts(sheet):
        log.warning("%s", line)
    log.info("datasheet: %s\n%s", page, manifest)  # the manifest last and alone: for scripts


def check_only(cell: Cell) -> None:
    """Read everything that the run would read, show what the model would learn, and say what it would cost."""
    pruning.require(cell.config.pruner, cell.config.trainer)
    engine, reason = engine_of(cell)
    backbone = build(cell, engine, weights=False)
    experiment = experiment_of(cell, backbone)
    for line in check.describe_sides(experiment.data):
        log.info("%s", line)
    for record in check.telling_records(experiment.train, experiment.counts):
        log.info("record %s, the part that is learnt between >>> and <<<:", record.id)
        log.info("%s\n", check.loss_mask(backbone, experiment.open(record)))
    for line in fit.cost_of(backbone, experiment, settings=cell.config.trainer, store=cell.config.store).lines():
        log.info("%s", line)
    log.info("engine            %s (%s), trainer.vision=%s", engine, reason, cell.config.trainer.vision)
    kinds = ((record.task, record.view) for record in experiment.train)
    doubts = stats.uncalibrated(validation_counts(experiment.validation, kinds))
    for warning in (*experiment.data.warnings, *experiment.notes, *doubts):
        log.warning("%s", warning)
    for sentence in cell.config.model.requirements():
        log.warning("model=%s cannot run on this machine: %s", cell.choices["model"], sentence)
    log.info("nothing stands in the way; stage=run starts it")


def train_and_evaluate(cell: Cell, *, trains: bool = True, evaluates: bool = True) -> None:
    """One cell, from pictures to figures. A cell that is finished already is left as it is."""
    require_machine(cell)
    pruning.require(cell.config.pruner, cell.config.trainer)
    with processes.leader_first():  # it makes the data
        content = content_hash(cell.plain, data_of(cell))
    with cell.folder.lock():
        reached = processes.from_leader(lambda: _reached(cell, content))
        if reached == State.PRUNED and not trains:
            raise UserError(f"{cell.folder.path}: this cell was pruned; train it to the end with stage=run pruner=off")
        done = {State.FINISHED, State.PRUNED} if cell.config.pruner.enabled else {State.FINISHED}
        if reached in done and trains:
            log.info("%s is %s already; nothing to do", cell.title, reached)
            cell.folder.forget_error()
            return
        _run_cell(cell, content, trains=trains, evaluates=evaluates)


def _reached(cell: Cell, content: str) -> str | None:
    """The cell's state, if it is this very cell and nothing of what it has reached is damaged.

    Raises UserError where the folder holds something else that was worth keeping.
    """
    status = cell.folder.read_status()
    if "hash" not in status:  # none, or a damaged one: the checkpoints say themselves whose they are
        return None
    if status["hash"] != content:
        if not (cell.folder.checkpoints.exists() or cell.folder.adapter.exists()):
            return None
        raise UserError(
            f"{cell.folder.path}: the folder holds a run with another configuration or other data (its manifest or a "
            "picture has changed since); bring the data back, or give this one a folder of its own with name=<a name>, "
            "or remove that folder"
        )
    why = cell.folder.damage() if status["state"] in (State.FINISHED, State.PRUNED) else ""
    if why:
        log.warning("%s; it is made again from the last checkpoint", why)
        return None
    return str(status["state"])


def _run_cell(cell: Cell, content: str, *, trains: bool, evaluates: bool) -> None:
    engine, reason = engine_of(cell)
    log.info("engine %s: %s; trainer.vision=%s", engine, reason, cell.config.trainer.vision)
    cell.folder.write_status(State.RUNNING, content_hash=content, **cell.identity)
    cell.folder.write_env(environment(engine, reason, cell.config.trainer.vision))
    started, meter = time.monotonic(), energy.start_meter()
    tracker = tracking.start_tracker(
        cell.config.tracking if processes.is_leader() else TrackingConfig(mode=TrackingMode.off),
        folder=cell.folder.path,
        sweep=Path(cell.config.sweep).name,
        name=cell.title,
        config={**cell.plain, "backbone": cell.choices["model"], "variant": cell.choices["data"]},
    )
    try:
        state, note = _run_steps(
            cell, engine, tracker, content=content, trains=trains, evaluates=evaluates, started=started
        )
        if state != State.RUNNING:
            spent = _spent(started, meter)
            cell.folder.write_status(state, content_hash=content, **spent, **note, **cell.identity)
    except BaseException as error:
        resident.release()  # whatever state the model is in, no other run shall find it
        _note_end(cell, error, content=content, spent=_spent(started, meter))
        tracker.finish(failed=True)
        raise
    tracker.finish(failed=False)
    resident.settle()


def _spent(started: float, meter: energy.Meter) -> dict[str, float | None]:
    return {"seconds": time.monotonic() - started, "joules": meter.joules()}


def _note_end(cell: Cell, error: BaseException, *, content: str, spent: Mapping[str, Any]) -> None:
    """Write down what ended the run, where there is room for it."""
    stopped = isinstance(error, Stopped)
    state, message = State.STOPPED if stopped else State.FAILED, "" if stopped else str(error) or type(error).__name__
    if stopped:
        log.warning("%s was asked to stop; the same command goes on from its last checkpoint", cell.title)
    try:
        cell.folder.write_status(state, content_hash=content, error=message, **spent, **cell.identity)
    except OSError as reason:
        log.warning("%s", no_room(str(cell.folder.path / "status.json"), reason))


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
    cell: Cell,
    engine: Engine,
    tracker: tracking.Tracker,
    *,
    content: str,
    trains: bool,
    evaluates: bool,
    started: float,
) -> tuple[State, dict[str, str]]:
    """How far the cell has come, and what its status says of that."""
    if trains:
        fitted = fit.fit(cell, engine, tracker, content=content, started=started)
        if fitted.summary.pruned:
            return State.PRUNED, {"note": _pruned_note(cell)}
        backbone, experiment, cost = fitted.backbone, fitted.experiment, fitted.cost
        tracker.adapter(cell.folder.adapter)
    else:
        if not cell.folder.adapter.exists():
            raise UserError(f"{cell.folder.path}: there is no adapter to evaluate; train first with stage=train")
        backbone, experiment = fit.prepared(cell, engine, adapter=cell.folder.adapter)
        cost = fit.cost_of(backbone, experiment, settings=cell.config.trainer, store=cell.config.store)
        fit.announce(experiment, cost)
    if evaluates and processes.is_leader():
        full = f"with {cell.config.eval.batch_size} records at once; lower eval.batch_size"
        with naming_faults(lambda: f"evaluate {cell.title}", full=full):
            _evaluate(cell, backbone, experiment, tracker, cost=cost)
    kept = "not kept" if backbone.store is None else backbone.store.report()
    log.info("vision tokens: %s", kept)
    return State.FINISHED if evaluates else State.RUNNING, {}


def _pruned_note(cell: Cell) -> str:
    step, value = list(cell.folder.watched().items())[-1]
    note = f"at step {step}: balanced accuracy {value:.3f} on followed validation records"
    log.info("pruned %s; the sweep's finished cells had more; pruner=off trains it to the end", note)
    return note


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
        {"scores": scores, "data": _data_summary(experiment, cost), "notes": [*experiment.notes, *fit.notes(cell)]}
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
        "questions": questions(experiment.train, experiment.wording),
        "groups": {"train": data.train.groups(), "val": data.val.groups(), "test": data.test.groups()},
        **census(data),
        "warnings": list(data.warnings),
    }
