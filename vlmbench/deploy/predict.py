"""stage=predict: judge images, a folder of them or a manifest with a finished run."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from vlmbench.config import ViewConfig
from vlmbench.data.photos.value_range import warn_of_dark_images
from vlmbench.deploy.drift import find_drifts
from vlmbench.deploy.join import Joiner, load_joiner
from vlmbench.deploy.loaded import LoadedRun, finished_folder, load_run, trained_tasks
from vlmbench.deploy.outputs import row_of, write_judgements
from vlmbench.deploy.requests import Request, read_request, unreadable_images
from vlmbench.metrics import by_task_and_view, decision_metrics, describe
from vlmbench.pipeline.run import Run
from vlmbench.report.answers import judgement_page
from vlmbench.report.drift import ScoreDrift
from vlmbench.runs.folder import RunDir
from vlmbench.stats import estimate
from vlmbench.system.reading import refuse_odd_file
from vlmbench.system.text import counted
from vlmbench.types import LOOK, Estimate, Judgement, Record, Task, UserError

log = logging.getLogger(__name__)

MAX_UNREAD_LINES = 10


def predict_images(run: Run) -> None:
    """Judge what the command names; write answers.jsonl, answers.csv and a page."""
    request = read_request(run.config)
    paths = dict.fromkeys(image.path for record in request.records for image in record.images)
    warn_of_dark_images(paths, getattr(run.config.source, "range", "16"))
    folder, settings = finished_folder(run), run.config.predict
    _require_trained(folder, request)

    target = target_of(folder, settings.out)
    errors = {} if request.strict else unreadable_images(request.records, request.inside)
    _require_readable(request, errors)
    joiner = _joiner(run, folder, request, errors)
    loaded = load_run(run, settings, kinds=request.kinds, inside=request.inside)
    judgements = _judge(loaded, request, errors)
    drifts = find_drifts(loaded.decider, judgements, seed=run.config.data.split_seed)
    notes = loaded.decider.notes(request.kinds)
    if joiner is not None:
        judgements = joiner.join(request.records, judgements)
        notes = [*joiner.notes(), *(f"single records: {note}" for note in notes)]

    page = _write(loaded, judgements, target, notes=notes, drifts=drifts)
    for each in drifts:
        if each.has_drifted:
            log.warning("%s", each.sentence)
    _log_summary(loaded, request, judgements, page, notes=notes)


def _require_trained(folder: RunDir, request: Request) -> None:
    """Raise UserError for a task that the run did not train on.

    A manifest names its tasks itself, so that only a warning is logged.
    """
    trained = trained_tasks(folder)
    for task in {task for task, _ in request.kinds} - set(trained):
        if request.inside is not None:
            log.warning("the run did not train on %s; its answers to it mean little", task)
            continue
        cure = "give the reference too" if task is Task.JUDGE_SINGLE else "leave the reference out"
        raise UserError(
            f"run={folder.path}: the run trained on {', '.join(trained)}, not on {task}; {cure}"
        )


def target_of(folder: RunDir, out: str | None) -> Path:
    """Return the folder to write: `out`, or a new one in the run's folder.

    Raise UserError if the run's `answers` are a link, which leads out of its folder.
    """
    if out is not None:
        return Path(out)

    answers = folder.path / "answers"
    refuse_odd_file(answers)
    return answers / time.strftime("%Y-%m-%d_%H-%M-%S")


def _require_readable(request: Request, errors: Mapping[Path, str]) -> None:
    """Raise UserError if no record can be read, as with a damaged reference."""
    reasons = [
        [errors[image.path] for image in record.images if image.path in errors]
        for record in request.records
    ]
    if reasons and all(reasons):
        raise UserError(f"none of {counted(len(reasons), 'record')} can be judged: {reasons[0][0]}")


def _joiner(
    run: Run, folder: RunDir, request: Request, errors: Mapping[Path, str]
) -> Joiner | None:
    """Return the rules that join the records of a part, from before the model is loaded.

    A part with an image that cannot be read needs none.
    """
    how = run.config.predict.join
    if how is None:
        return None

    unread = {
        record.group
        for record in request.records
        if any(image.path in errors for image in record.images)
    }
    readable = [record for record in request.records if record.group not in unread]
    return load_joiner(folder, run.config, readable, how)


def _judge(loaded: LoadedRun, request: Request, errors: Mapping[Path, str]) -> list[Judgement]:
    """Return a judgement of each record, with an error for those that cannot be read."""

    reasons = [_why_not(loaded, record, errors) for record in request.records]
    if request.strict and reasons[0] is not None:
        raise UserError(f"images: {reasons[0]}")

    readable = [
        record for record, reason in zip(request.records, reasons, strict=True) if reason is None
    ]
    progress = "judge" if len(request.records) > 1 else None
    sentence = loaded.run.config.predict.sentence
    judged = iter(loaded.judge(readable, sentence=sentence, progress=progress))

    return [
        next(judged) if reason is None else _unread(record, reason)
        for record, reason in zip(request.records, reasons, strict=True)
    ]


def _why_not(loaded: LoadedRun, record: Record, errors: Mapping[Path, str]) -> str | None:
    """Return why a record cannot be judged; None if it can."""
    reasons = [errors[image.path] for image in record.images if image.path in errors]
    if reasons:
        return "; ".join(reasons)

    tiler = loaded.asker.tiler
    return None if tiler is None else tiler.misfit(record)


def _unread(record: Record, reason: str) -> Judgement:
    return Judgement(
        id=record.id,
        task=record.task,
        images=tuple(str(image.path) for image in record.images),
        error=reason,
    )


def _write(
    loaded: LoadedRun,
    judgements: Sequence[Judgement],
    target: Path,
    *,
    notes: Sequence[str],
    drifts: Sequence[ScoreDrift],
) -> Path:
    config, status = loaded.run.config, loaded.folder.read_status()
    from_manifest = config.predict.manifest is not None
    facts = [
        ("Run", loaded.folder.path.name),
        ("Model", str(status.get("model", ""))),
        ("Trained on", str(status.get("data", ""))),
        ("Images shown", "as the manifest says" if from_manifest else config.predict.view),
        *_tile_facts(config.view),
    ]
    page = judgement_page(
        loaded.folder.path.name,
        judgements,
        facts=facts,
        notes=notes,
        figures=decision_figures(judgements, seed=config.data.split_seed),
        most=config.predict.gallery,
        alarms=loaded.alarms,
        drifts=drifts,
    )
    return write_judgements(target, judgements, page=page)


def _tile_facts(view: ViewConfig) -> list[tuple[str, str]]:
    if view.tile is None:
        return []
    return [
        (
            "Tiles",
            f"{view.tile} pixels, overlap {view.overlap:.0%}; the most suspicious one decides",
        )
    ]


def decision_figures(judgements: Sequence[Judgement], *, seed: int) -> dict[str, Estimate]:
    """Return accuracy, misses and overkill of the decisions whose true label is known.

    Records that somebody has to look at are no decisions. The figures' names carry the task and the
    view if there are several.
    """
    decisions = [
        replace(judgement.prediction, predicted=judgement.decision)
        for judgement in judgements
        if judgement.prediction is not None
        and judgement.expected is not None
        and judgement.decision != LOOK
    ]

    figures: dict[str, Estimate] = {}
    kinds = by_task_and_view(decisions)
    for (task, view), subset in kinds.items():
        prefix = f"{task}, {view}: " if len(kinds) > 1 else ""
        for measure in decision_metrics().values():
            estimates = estimate(measure, subset, seed=seed)
            figures |= {
                prefix + name: figure
                for name, figure in estimates.items()
                if describe(name).of_decisions
            }
    return figures


def _log_summary(
    loaded: LoadedRun,
    request: Request,
    judgements: Sequence[Judgement],
    page: Path,
    *,
    notes: Sequence[str],
) -> None:
    for alarm in loaded.alarms:
        log.warning("failed control: %s", alarm.text)
    for note in notes:
        log.info("%s", note)

    unread = [judgement for judgement in judgements if judgement.error is not None]
    for judgement in unread[:MAX_UNREAD_LINES]:
        log.warning("not judged: %s", judgement.error)
    if unread:
        unit = "parts" if loaded.run.config.predict.join else "records"
        log.warning("%d of %d %s could not be judged", len(unread), len(judgements), unit)

    num_judged = len(judgements) - len(unread)
    unit = "part" if loaded.run.config.predict.join else "record"
    num_stopped = sum(judgement.stopped for judgement in judgements)
    num_looked = sum(judgement.decision == LOOK for judgement in judgements)
    looked = f", {num_looked} to be looked at" if loaded.decider.promises else ""
    judged = counted(num_judged, unit)
    log.info("%s judged, %d rejected%s: %s", judged, num_stopped, looked, page)
    if request.strict:
        log.info("%s", json.dumps(row_of(judgements[0]), ensure_ascii=False))
