"""stage=predict: pictures, a folder of them or a manifest, judged by a finished run."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from vlmbench.cell import Cell
from vlmbench.judge.asked import Asked, asked_of, unreadable
from vlmbench.judge.finished import Finished, learnt_tasks, load_finished
from vlmbench.judge.outputs import row_of, write_judgements
from vlmbench.metrics import accuracy, by_task_and_view, errors
from vlmbench.rundir import RunDir
from vlmbench.stats import estimate
from vlmbench.types import Estimate, Judgement, Record, Task, UserError

log = logging.getLogger(__name__)

FIGURES = ("accuracy", "miss_rate", "overkill_rate")


def judge_pictures(cell: Cell) -> None:
    """Judge what is asked with the finished run; write answers.jsonl, answers.csv and a page."""
    asked = asked_of(cell.config)
    folder, settings = RunDir(Path(cell.config.run or "")), cell.config.judge
    _require_learnt(folder, asked)
    broken = {} if asked.strict else unreadable(asked.records, asked.inside)
    readable = [record for record in asked.records if not any(image.path in broken for image in record.images)]
    finished = load_finished(cell, kinds=asked.kinds, inside=asked.inside)
    title = "judge" if len(asked.records) > 1 else None
    judged = iter(finished.judge(readable, sentence=settings.sentence, title=title))
    judgements = [
        next(judged) if not any(image.path in broken for image in record.images) else _unread(record, broken)
        for record in asked.records
    ]
    target = folder.path / "answers" / time.strftime("%Y-%m-%d_%H-%M-%S")
    page = _write(finished, asked, judgements, target if settings.out is None else Path(settings.out))
    _say(finished, asked, judgements, page)


def _require_learnt(folder: RunDir, asked: Asked) -> None:
    """Refuse pictures of a kind that the run did not learn to judge. A manifest says itself what it asks."""
    learnt = learnt_tasks(folder)
    for task in {task for task, _ in asked.kinds} - set(learnt):
        if asked.inside is not None:
            log.warning("the run did not learn %s; its answers to these records say little", task)
            continue
        cure = "give the reference too" if task is Task.JUDGE_SINGLE else "leave the reference out"
        raise UserError(f"run={folder.path}: it learnt {', '.join(learnt)}, not {task}; {cure}")


def _unread(record: Record, broken: dict[Path, str]) -> Judgement:
    images = tuple(str(image.path) for image in record.images)
    reasons = [broken[image.path] for image in record.images if image.path in broken]
    return Judgement(id=record.id, task=record.task, images=images, error="; ".join(reasons))


def _write(finished: Finished, asked: Asked, judgements: Sequence[Judgement], target: Path) -> Path:
    config, status = finished.cell.config, finished.folder.read_status()
    facts = [
        ("Run", finished.folder.path.name),
        ("Model", str(status.get("model", ""))),
        ("Trained on", str(status.get("data", ""))),
        ("Pictures shown", config.judge.view if config.judge.manifest is None else "as the manifest says"),
    ]
    return write_judgements(
        target,
        finished.folder.path.name,
        judgements,
        facts=facts,
        notes=finished.decider.notes(asked.kinds),
        figures=_figures(judgements, seed=config.data.split_seed),
        most=config.judge.gallery,
    )


def _figures(judgements: Sequence[Judgement], *, seed: int) -> dict[str, Estimate]:
    """Of the decisions whose true label is known, by task and view: how often they are right, and wrong in each of the
    two ways."""
    known = [
        replace(one.prediction, predicted=one.decision)
        for one in judgements
        if one.prediction is not None and one.expected is not None
    ]
    found: dict[str, Estimate] = {}
    kinds = by_task_and_view(known)
    for (task, view), some in kinds.items():
        about = f"{task}, {view}: " if len(kinds) > 1 else ""
        for metric in (accuracy, errors):
            estimates = estimate(metric.measure, some, seed=seed)
            found |= {about + name: one for name, one in estimates.items() if name in FIGURES}
    return found


def _say(finished: Finished, asked: Asked, judgements: Sequence[Judgement], page: Path) -> None:
    for note in finished.decider.notes(asked.kinds):
        log.info("%s", note)
    unread = [one for one in judgements if one.error is not None]
    for one in unread[:10]:
        log.warning("not judged: %s", one.error)
    if unread:
        log.warning("%d of %d records could not be judged", len(unread), len(judgements))
    stopped = sum(one.stopped for one in judgements)
    judged = len(judgements) - len(unread)
    log.info("%d %s judged, %d stopped: %s", judged, "record" if judged == 1 else "records", stopped, page)
    if asked.strict:
        log.info("%s", json.dumps(row_of(judgements[0]), ensure_ascii=False))
