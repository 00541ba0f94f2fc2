"""A finished run, loaded: what it says of records."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from vlmbench.cell import Cell, build, engine_of, manifest_of, require_machine, wording_of
from vlmbench.config import RunConfig, ScoreMethod
from vlmbench.data.dataset import RAW, Viewer, open_sample
from vlmbench.data.load import load_data
from vlmbench.data.manifest import open_manifest
from vlmbench.data.prompts import Wording
from vlmbench.evaluate import predict
from vlmbench.experiment import make_viewer
from vlmbench.judge.decide import Decider, decider_of
from vlmbench.rundir import RunDir
from vlmbench.types import ImageRef, Judgement, Prediction, Record, Sample, Split, Task

if TYPE_CHECKING:
    from vlmbench.backbones.base import Backbone


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A finished run as a judge."""

    folder: RunDir
    backbone: Backbone
    decider: Decider
    wording: Wording
    viewer: Viewer
    cell: Cell

    def scores(self, records: Sequence[Record], *, title: str | None = None) -> list[Prediction]:
        """The labels' log-probabilities of each record, whatever eval.method is."""
        return predict(
            self.backbone,
            records,
            open_sample=self.open,
            shown=self.shown,
            wording=self.wording,
            settings=replace(self.cell.config.eval, method=ScoreMethod.score),
            title=title,
        )

    def sentences(self, records: Sequence[Record], *, title: str | None = None) -> list[str]:
        """What the model writes of each record."""
        settings = replace(self.cell.config.eval, method=ScoreMethod.generate)
        said = predict(
            self.backbone,
            records,
            open_sample=self.open,
            shown=self.shown,
            wording=self.wording,
            settings=settings,
            title=title,
        )
        return [one.text or "" for one in said]

    def judge(self, records: Sequence[Record], *, sentence: bool, title: str | None = None) -> list[Judgement]:
        """What is said of each record, in their order."""
        if self.backbone.store is not None:
            self.backbone.store.begin_run()
        scored = self.scores(records, title=title)
        said: Sequence[str | None] = [None] * len(records)
        if sentence:
            said = self.sentences(records, title=None if title is None else "sentences")
        return [
            self.decider.decide(record, prediction, text)
            for record, prediction, text in zip(records, scored, said, strict=True)
        ]

    def open(self, record: Record) -> Sample:
        return open_sample(record, viewer=self.viewer, wording=self.wording)

    def shown(self, image: ImageRef) -> str:
        """The file of a picture as the model sees it, "" for a blank one."""
        path = self.viewer.path(image)
        return "" if path is None else str(path.resolve())


def learnt_tasks(folder: RunDir) -> list[Task]:
    """The judging tasks that the run was trained on; both where it does not say."""
    counts = folder.read_metrics().get("data", {}).get("by_task", {})
    both = (Task.JUDGE_PAIR, Task.JUDGE_SINGLE)
    return [task for task in both if counts.get(task, 0)] or list(both)


def learnt_wording(config: RunConfig, folder: RunDir) -> Wording:
    """The run's words, each task's question as its training records asked it: they may have had their own."""
    wording = wording_of(config)
    asked = folder.read_metrics().get("data", {}).get("questions", {})
    texts = {task: text for task, text in asked.items() if isinstance(text, str)}
    return replace(wording, questions={**wording.questions, **texts})


def load_finished(cell: Cell, *, kinds: Iterable[tuple[Task, str]], inside: Path | None = None) -> Finished:
    """The run that `cell.config.run` names, ready to judge records of these tasks and views whose pictures lie in
    `inside` (None: anywhere). Nothing heavy is loaded before settings and machine are known to do."""
    kinds = list(kinds)
    folder = RunDir(Path(cell.config.run or ""))
    decider = decider_of(folder, cell.config.judge, seed=cell.config.data.split_seed)
    decider.require(kinds)
    require_machine(cell)
    viewer = viewer_for(cell, {part for _, view in kinds for part in view.split("+")}, inside)
    engine, _ = engine_of(cell)
    return Finished(
        folder=folder,
        backbone=build(cell, engine, adapter=folder.adapter),
        decider=decider,
        wording=learnt_wording(cell.config, folder),
        viewer=viewer,
        cell=cell,
    )


def viewer_for(cell: Cell, views: Iterable[str], inside: Path | None) -> Viewer:
    """What shows pictures in these views. The processed one is made from the run's own training pictures, so that it
    takes the run's data to be there."""
    config = cell.config
    if set(views) <= {RAW}:
        untouched: Callable[[Image.Image], Image.Image] = partial(Image.Image.copy)
        return Viewer(inside, name=config.view.name, process=untouched, fingerprint=RAW, cache=cell.cache)
    manifest = open_manifest(manifest_of(cell), labels=config.source.labels, views={RAW, config.view.name})
    data = load_data(
        manifest,
        {split: getattr(config.data.split, split) for split in Split},
        split_seed=config.data.split_seed,
        allow_leak=config.data.allow_leak,
        cache_dir=cell.cache,
    )
    return make_viewer(inside, data.train, view=config.view, cache_dir=cell.cache)
