"""The table of contents of a run: prepare, check, train, evaluate, report."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmbench import check, metrics, stats, tracking
from vlmbench.config import BuildRequest, Engine, RunConfig, Stage
from vlmbench.data.dataset import (
    RAW,
    Subset,
    Viewer,
    limit_records,
    open_sample,
    reference_pictures,
    without_pictures,
)
from vlmbench.data.load import Data, load_data
from vlmbench.data.manifest import open_manifest
from vlmbench.data.pictures import open_picture
from vlmbench.data.probes import make_probes
from vlmbench.data.prompts import Wording
from vlmbench.evaluate import predict
from vlmbench.metrics import accuracy
from vlmbench.rundir import RunDir, State, SweepDir
from vlmbench.types import ImageRef, Prediction, Probe, Record, Sample, Split, Task, UserError

if TYPE_CHECKING:
    from vlmbench.backbones.base import Backbone

log = logging.getLogger(__name__)

JUDGING = (Task.JUDGE_PAIR, Task.JUDGE_SINGLE)
VERSIONS = ("torch", "transformers", "trl", "peft", "accelerate", "datasets", "numpy")
# What a cell's results do not depend on.
NOT_CONTENT = ("stage", "name", "sweep", "cell", "data_dir", "cache_dir", "tracking", "run", "images")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What the steps of one run share."""

    config: RunConfig
    plain: Mapping[str, Any]  # the resolved config as plain values
    folder: RunDir
    choices: Mapping[str, str]  # config group -> chosen yaml
    overrides: Sequence[str]

    @property
    def title(self) -> str:
        return self.folder.path.name

    @property
    def cache(self) -> Path:
        return Path(self.config.cache_dir)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """The data of a run, ready to be opened."""

    data: Data
    train: Subset
    watched: Subset
    held_out: list[Record]
    viewer: Viewer
    wording: Wording

    def open(self, record: Record) -> Sample:
        return open_sample(record, viewer=self.viewer, wording=self.wording)

    def shown(self, image: ImageRef) -> str:
        path = self.viewer.path(image)
        return "" if path is None else str(path.resolve())


def run(cell: Cell) -> None:
    """Do what `stage` says. Raises UserError for everything that the user can mend."""
    steps: dict[Stage, Callable[[Cell], None]] = {
        Stage.prepare: prepare,
        Stage.check: check_only,
        Stage.train: partial(train_and_evaluate, evaluates=False),
        Stage.evaluate: partial(train_and_evaluate, trains=False),
        Stage.report: report_only,
        Stage.predict: predict_pictures,
        Stage.run: train_and_evaluate,
    }
    steps[cell.config.stage](cell)


def prepare(cell: Cell) -> None:
    """Write the source's pictures and manifest."""
    path = cell.config.source.prepare(Path(cell.config.data_dir))
    log.info("%s", path)


def check_only(cell: Cell) -> None:
    """Read everything that the run would read, show what the model would learn, and say what it would cost."""
    engine, reason = _engine(cell)
    backbone = _build(cell, engine, weights=False)
    prepared = _prepare_data(cell, backbone)
    for line in check.describe_sides(prepared.data):
        log.info("%s", line)
    for record in (prepared.train[0], prepared.train[len(prepared.train) // 2]):
        log.info("record %s, the part that is learnt between >>> and <<<:", record.id)
        log.info("%s\n", check.loss_mask(backbone, prepared.open(record)))
    for line in _cost(cell, backbone, prepared).lines():
        log.info("%s", line)
    log.info("engine            %s (%s), trainer.vision=%s", engine, reason, cell.config.trainer.vision)
    for warning in prepared.data.warnings:
        log.warning("%s", warning)
    for sentence in cell.config.model.requirements():
        log.warning("model=%s cannot run on this machine: %s", cell.choices["model"], sentence)
    log.info("nothing stands in the way; stage=run starts it")


def train_and_evaluate(cell: Cell, *, trains: bool = True, evaluates: bool = True) -> None:
    """One cell, from pictures to figures. A cell that is finished already is left as it is."""
    _require_machine(cell)
    content = _content_hash(cell)
    with cell.folder.lock():
        if _is_finished(cell, content) and trains:
            log.info("%s is finished already; nothing to do", cell.title)
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
    engine, reason = _engine(cell)
    log.info("engine %s: %s; trainer.vision=%s", engine, reason, cell.config.trainer.vision)
    identity = _identity(cell)
    cell.folder.write_status(State.RUNNING, content_hash=content, **identity)
    cell.folder.write_env(_environment(cell, engine, reason))
    started = time.monotonic()
    tracker = tracking.start_tracker(
        cell.config.tracking,
        folder=cell.folder.path,
        sweep=Path(cell.config.sweep).name,
        name=cell.title,
        config=cell.plain,
    )
    try:
        _run_steps(cell, engine, tracker, trains=trains, evaluates=evaluates)
    except BaseException as error:
        seconds, message = time.monotonic() - started, str(error) or type(error).__name__
        cell.folder.write_status(State.FAILED, content_hash=content, error=message, seconds=seconds, **identity)
        tracker.finish(failed=True)
        raise
    if evaluates:
        seconds = time.monotonic() - started
        cell.folder.write_status(State.FINISHED, content_hash=content, seconds=seconds, **identity)
    tracker.finish(failed=False)


def report_only(cell: Cell) -> None:
    """Write the report of a sweep's folder."""
    print_report(SweepDir(Path(cell.config.sweep)))


def print_report(sweep: SweepDir) -> None:
    """Write the report and say where it is and what it says."""
    from vlmbench import report

    index = report.write_report(sweep)
    log.info("\n%s\n", report.comparison_table(sweep))
    log.info("report: %s", index)
    log.info("next:   open it in a browser; add seeds with `seed=0,1,2`, your pictures with `source=manifest`")


def predict_pictures(cell: Cell) -> None:
    """Judge the pictures of `images` with the finished cell of `run`: a reference and a query, or one picture."""
    config = cell.config
    if not config.images or len(config.images) > 2:
        raise UserError(
            f"images={config.images}: give the reference and the query, or one picture: images=[a.png,b.png]"
        )
    finished = RunDir(Path(config.run or ""))
    if config.run is None or not finished.adapter.exists():
        raise UserError(
            f"run={config.run}: there is no finished run in this folder; name one with run=runs/<sweep>/<cell>"
        )
    _require_machine(cell)
    engine, _ = _engine(cell)
    backbone = _build(cell, engine, adapter=finished.adapter)
    wording = _wording(config)
    sample = _loose_sample(config.images, wording)
    (prediction,) = predict(
        backbone,
        [sample.record],
        open_sample=lambda record: sample,
        shown=lambda image: str(image.path),
        wording=wording,
        settings=config.eval,
        title=None,
    )
    sentence = backbone.generate([sample], max_new_tokens=config.eval.max_new_tokens)[0]
    scores = {label: round(float(np.exp(score)), 4) for label, score in prediction.scores.items()}
    log.info("%s", json.dumps({"label": prediction.predicted, "probabilities": scores, "answer": sentence}))


def _loose_sample(paths: Sequence[str], wording: Wording) -> Sample:
    """A sample of pictures that belong to no manifest; the label is not known."""
    task = Task.JUDGE_PAIR if len(paths) == 2 else Task.JUDGE_SINGLE
    record = Record(id="+".join(paths), task=task, images=(), answer="normal", label="normal", group="")
    images = tuple(open_picture(Path(path)) for path in paths)
    return Sample(record=record, images=images, question=wording.question(record), answer=wording.answer(record))


def _run_steps(cell: Cell, engine: Engine, tracker: tracking.Tracker, *, trains: bool, evaluates: bool) -> None:
    if not trains and not cell.folder.adapter.exists():
        raise UserError(f"{cell.folder.path}: there is no adapter to evaluate; train first with stage=train")
    backbone = _build(cell, engine, adapter=None if trains else cell.folder.adapter)
    prepared = _prepare_data(cell, backbone)
    cost = _cost(cell, backbone, prepared)
    for line in cost.lines():
        log.info("%s", line)
    for warning in prepared.data.warnings:
        log.warning("%s", warning)
    if trains:
        _train(cell, backbone, prepared, tracker)
        tracker.adapter(cell.folder.adapter)
    if evaluates:
        _evaluate(cell, backbone, prepared, tracker, cost=cost)


def _prepare_data(cell: Cell, backbone: Backbone) -> Prepared:
    config = cell.config
    path = config.source.prepare(Path(config.data_dir))
    manifest = open_manifest(path, labels=config.source.labels, views={RAW, config.view.name})
    data = load_data(
        manifest,
        {split: getattr(config.data.split, split) for split in Split},
        split_seed=config.data.split_seed,
        allow_leak=config.data.allow_leak,
        cache_dir=cell.cache,
    )
    wording = _wording(config)
    sides = (data.train, data.val, data.test)
    check.check_lengths(backbone, sides, data=data, wording=wording, max_tokens=config.trainer.max_tokens)
    chosen = config.data.select(
        data.train,
        cost=partial(_answer_tokens, backbone, wording),
        seed=config.seed,
    )
    train = Subset(manifest, data.train.indices[chosen])
    test = limit_records(data.test, config.eval.limit)
    held_out = [*test, *(make_probes(test) if config.eval.probes else [])]
    references = reference_pictures(data.train)
    viewer = Viewer(
        manifest.folder,
        name=config.view.name,
        process=config.view.build(references),
        fingerprint=config.view.fingerprint(_hashes(references)),
        cache=cell.cache,
    )
    return Prepared(
        data=data,
        train=train,
        watched=_watched(data.val, train, config.trainer.eval_records),
        held_out=held_out,
        viewer=viewer,
        wording=wording,
    )


def _answer_tokens(backbone: Backbone, wording: Wording, record: Record) -> int:
    return backbone.count_tokens(without_pictures(record, wording=wording), [(1, 1)] * len(record.images)).trained


def _hashes(paths: Sequence[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def _watched(val: Subset, train: Subset, most: int) -> Subset:
    """The validation records that are followed while training: those of the judging tasks that train."""
    tasks = set(train.tasks()) & set(JUDGING)
    positions = [i for i, record in enumerate(val) if record.task in tasks and record.view in _views(train)]
    if len(positions) > most:
        positions = [positions[int(i)] for i in np.linspace(0, len(positions) - 1, most).round()]
    return Subset(val.manifest, val.indices[positions])


def _views(records: Subset) -> set[str]:
    return {record.view for record in records}


def _train(cell: Cell, backbone: Backbone, prepared: Prepared, tracker: tracking.Tracker) -> None:
    from vlmbench.train import train

    config = cell.config
    watched = list(prepared.watched)

    def judge() -> dict[str, float]:
        predictions = predict(
            backbone,
            watched,
            open_sample=prepared.open,
            shown=lambda image: "",
            wording=prepared.wording,
            settings=config.eval,
            title=None,
        )
        measured = accuracy.measure(predictions)
        return {"balanced_accuracy": float(measured.get("balanced_accuracy", 0.0))}  # type: ignore[arg-type]

    summary = train(
        backbone,
        num_records=len(prepared.train),
        open_record=lambda index: prepared.open(prepared.train[index]),
        watched=[partial(prepared.open, record) for record in watched],
        judge=judge,
        settings=config.trainer,
        seed=config.seed,
        cell=cell.folder,
        tracker=tracker,
        title=cell.title,
    )
    log.info(
        "trained %d steps%s", summary.steps, "" if summary.best_step is None else f", kept step {summary.best_step}"
    )


def _evaluate(
    cell: Cell, backbone: Backbone, prepared: Prepared, tracker: tracking.Tracker, *, cost: check.Cost
) -> None:
    predictions = predict(
        backbone,
        prepared.held_out,
        open_sample=prepared.open,
        shown=prepared.shown,
        wording=prepared.wording,
        settings=cell.config.eval,
        title=f"evaluate {cell.title}",
    )
    cell.folder.write_predictions(predictions)
    scores = measure(predictions, seed=cell.config.data.split_seed)
    cell.folder.write_metrics({"scores": scores, "data": _data_summary(prepared, cost), "notes": []})
    tracker.summary(
        {
            f"{task}/{view}/{name}": figure["value"]
            for task, views in scores.items()
            for view, figures in views.items()
            for name, figure in figures.items()
        }
    )
    plain = [prediction for prediction in predictions if prediction.probe is Probe.NONE]
    tracker.predictions(plain, lambda path: open_picture(Path(path)))


def measure(predictions: Sequence[Prediction], *, seed: int) -> dict[str, dict[str, dict[str, Any]]]:
    """Every metric of every task and view with its interval: task -> view -> name -> {value, low, high, n, ...}."""
    scores: dict[str, dict[str, dict[str, Any]]] = {}
    for (task, view), some in metrics.by_task_and_view(predictions).items():
        figures = scores.setdefault(str(task), {}).setdefault(view, {})
        for function in metrics.all_metrics().values():
            for name, estimate in stats.estimate(function, some, seed=seed).items():
                figures[name] = asdict(estimate)
    return scores


def _data_summary(prepared: Prepared, cost: check.Cost) -> dict[str, Any]:
    data = prepared.data
    return {
        "train_records": cost.train_records,
        "train_tokens": cost.trained_tokens,
        "steps": cost.steps,
        "by_task": dict(cost.by_task),
        "groups": {"train": data.train.groups(), "val": data.val.groups(), "test": data.test.groups()},
        "warnings": list(data.warnings),
    }


def _cost(cell: Cell, backbone: Backbone, prepared: Prepared) -> check.Cost:
    return check.cost_of(
        backbone,
        prepared.train,
        num_test=len(prepared.held_out),
        data=prepared.data,
        wording=prepared.wording,
        settings=cell.config.trainer,
    )


def _wording(config: RunConfig) -> Wording:
    prompt = config.prompt
    return Wording(questions=prompt.questions, labels=prompt.labels, phrases=prompt.phrases)


def _engine(cell: Cell) -> tuple[Engine, str]:
    from vlmbench.backbones.base import choose_engine

    engine, reason = choose_engine(cell.config.trainer.engine)
    if engine is Engine.unsloth and cell.config.trainer.engine is Engine.auto and not cell.config.model.unsloth:
        return Engine.transformers, f"model={cell.choices['model']} is not made for Unsloth"
    return engine, reason


def _build(cell: Cell, engine: Engine, *, adapter: Path | None = None, weights: bool = True) -> Backbone:
    request = BuildRequest(
        seed=cell.config.seed,
        engine=engine,
        vision=cell.config.trainer.vision,
        cache_dir=cell.cache,
        adapter=adapter,
        weights=weights,
    )
    backbone: Backbone = cell.config.model.build(request)
    return backbone


def _require_machine(cell: Cell) -> None:
    """Refuse a model that this machine cannot run, before anything is downloaded."""
    from vlmbench.config import runnable_models

    lacking = cell.config.model.requirements()
    if lacking:
        raise UserError(
            f"model={cell.choices['model']} cannot run on this machine: {'; '.join(lacking)}. "
            f"These can: {', '.join(f'model={name}' for name in runnable_models())}"
        )


def _content_hash(cell: Cell) -> str:
    content = {key: value for key, value in cell.plain.items() if key not in NOT_CONTENT}
    manifest = cell.config.source.prepare(Path(cell.config.data_dir))
    if not manifest.is_file():
        raise UserError(f"{manifest}: there is no such manifest; give an existing JSON-lines file as source.path")
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode())
    with manifest.open("rb") as file:
        digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _identity(cell: Cell) -> dict[str, Any]:
    return {
        "model": cell.choices["model"],
        "data": cell.choices["data"],
        "seed": cell.config.seed,
        "overrides": list(cell.overrides),
    }


def _environment(cell: Cell, engine: Engine, reason: str) -> dict[str, Any]:
    import torch

    gpu = torch.cuda.is_available()
    device = f"cuda: {torch.cuda.get_device_name(0)}" if gpu else f"cpu: {platform.processor() or platform.machine()}"
    return {
        "command": " ".join(["python -m vlmbench", *sys.argv[1:]]),
        "engine": engine,
        "engine_reason": reason,
        "vision": cell.config.trainer.vision,
        "device": device,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in VERSIONS},
    }
