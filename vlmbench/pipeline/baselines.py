"""Baselines of a run: asked on its records before it trains, shared by the runs of a sweep."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vlmbench.backbones.devices import release_cache
from vlmbench.baselines.contract import Answer, BaselineConfig, Given, HeatMap, Method
from vlmbench.baselines.features import TowerFeatures
from vlmbench.config import HeldOut, TrackingMode
from vlmbench.data.defect_masks import Mask, read_defect_masks
from vlmbench.data.load import data_hash
from vlmbench.data.run_records import RunRecords, load_records
from vlmbench.pipeline.answer import Asker, tile_meta
from vlmbench.pipeline.attempt import Attempt
from vlmbench.pipeline.run import Run
from vlmbench.report.baselines import summary_figures
from vlmbench.runs.baselines import (
    BaselineDir,
    BaselineFacts,
    HeatKey,
    baseline_dir,
    to_bytes,
)
from vlmbench.runs.identity import view_settings
from vlmbench.system import processes
from vlmbench.types import JUDGING, LABELS, LazyImage, Prediction, Probe, Record, Task, UserError

if TYPE_CHECKING:
    from vlmbench.backbones.contract import Backbone

log = logging.getLogger(__name__)

REVISION = 2  # raise it when a baseline answers differently
TaskView = tuple[Task, str]


@dataclass(slots=True, kw_only=True)
class _Answers:
    """The answers of one baseline so far."""

    validation: list[Prediction] = field(default_factory=list)
    predictions: list[Prediction] = field(default_factory=list)
    heat: dict[HeatKey, NDArray[np.uint8]] = field(default_factory=dict)
    marked: dict[HeatKey, Mask] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    hottest: dict[str, float] = field(default_factory=dict)
    fit_s: float = 0.0
    answer_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Questioner:
    """Asks baselines on the records of a run. The asker's model is not trained yet."""

    run: Run
    asker: Asker
    records: RunRecords
    features: TowerFeatures

    @property
    def is_sealed(self) -> bool:
        """Whether no record of the test split may be answered."""
        return self.run.config.eval.test is HeldOut.sealed

    def ask(self, name: str, config: BaselineConfig) -> dict[str, str]:
        """Return the key of the baseline's answers, or the error that left it out."""
        folder = baseline_dir(self.run.folder.path.parent, self._key(name, config))
        if not folder.damage():
            return {"key": folder.key}

        started, encoded = time.perf_counter(), self.features.seconds
        try:
            self._write(folder, name, config)
        except Exception as error:  # noqa: BLE001 - whatever it is, the run is worth more
            reason = str(error) or type(error).__name__
            log.warning("baseline %s is left out: %s", name, reason)
            return {"error": reason}

        log.info(
            "baseline %s: %.1f s, %.1f s of them for features",
            name,
            time.perf_counter() - started,
            self.features.seconds - encoded,
        )
        return {"key": folder.key}

    def _write(self, folder: BaselineDir, name: str, config: BaselineConfig) -> None:
        encoded = self.features.seconds
        answers = self._answer(config)
        if not (answers.predictions or answers.validation):
            reasons = dict.fromkeys(answers.errors.values())
            raise UserError("; ".join(reasons) or "the run trains on no task that it answers")

        features_s = self.features.seconds - encoded
        facts = BaselineFacts(
            name=name,
            title=config.title or name,
            seconds={
                "features": features_s,
                "fit": answers.fit_s,
                "answers": answers.answer_s,
            },
            notes=answers.notes,
            errors=answers.errors,
            hottest=answers.hottest,
        )
        folder.write(
            facts,
            validation=answers.validation,
            predictions=answers.predictions,
            heat=answers.heat,
            marked=answers.marked,
        )

    def _answer(self, config: BaselineConfig) -> _Answers:
        """Answer each task and view that the run trains on."""
        answers = _Answers()
        for task, view in sorted(self.records.train.kinds(JUDGING & config.tasks)):
            try:
                self._answer_kind(config, (task, view), answers)
            except UserError as error:
                answers.errors[f"{task} {view}"] = str(error)
        return answers

    def _answer_kind(self, config: BaselineConfig, kind: TaskView, answers: _Answers) -> None:
        task, view = kind
        given = Given(
            task=task,
            view=view,
            train=_of_kind(self.records.train, kind),
            features=self.features,
            open_images=self.features.open_images,
            ask_untuned=self._ask_untuned,
        )
        method, seconds = self._timed_fit(config, given)
        answers.fit_s += seconds

        validation = _of_kind(self.records.validation, kind)
        held_out = [] if self.is_sealed else _of_kind(self.records.held_out, kind)
        started, encoded = time.perf_counter(), self.features.seconds
        replies, metas = self._ask_joined(method, [*validation, *held_out])
        answers.answer_s += time.perf_counter() - started - (self.features.seconds - encoded)

        predictions = [
            replace(self._prediction(record, reply), meta=meta)
            for record, reply, meta in zip([*validation, *held_out], replies, metas, strict=True)
        ]
        answers.validation += predictions[: len(validation)]
        answers.predictions += predictions[len(validation) :]
        heat, hottest = _heat_of(held_out, replies[len(validation) :])
        answers.heat |= heat
        if heat:
            answers.hottest[f"{task} {view}"] = hottest
            answers.marked |= self._marked_of(held_out)
        if method.note:
            answers.notes[f"{task} {view}"] = method.note

    def _ask_joined(
        self, method: Method, records: Sequence[Record]
    ) -> tuple[list[Answer], list[dict[str, str]]]:
        """Return the answer to each record and its `meta`: that of its most suspicious tile.

        An answer that joins tiles has no heat map.
        """
        tiler = self.records.tiler
        cut = [[record] if tiler is None else tiler.cut(record) for record in records]
        answers = iter(method.answer([tile for tiles in cut for tile in tiles]))

        joined: list[Answer] = []
        metas: list[dict[str, str]] = []
        for record, tiles in zip(records, cut, strict=True):
            replies = [next(answers) for _ in tiles]
            margins = [reply.margin for reply in replies]
            chosen = margins.index(max(margins))
            is_cut = len(tiles) > 1
            joined.append(Answer(margin=margins[chosen]) if is_cut else replies[0])
            metas.append(tile_meta(record, tiles, chosen) if is_cut else dict(record.meta))
        return joined, metas

    def _marked_of(self, records: Sequence[Record]) -> dict[HeatKey, Mask]:
        """Return the small mask of each record whose query has a marked defect."""
        masks = read_defect_masks(self.records.data.manifest.path)
        return {
            (record.id, record.task, record.view): masks[record.images[-1].path]
            for record in records
            if record.images[-1].path in masks
        }

    def _timed_fit(self, config: BaselineConfig, given: Given) -> tuple[Method, float]:
        """Return the method, and the seconds of its fit without those of the features."""
        started, encoded = time.perf_counter(), self.features.seconds
        method = config.fit(given)
        return method, time.perf_counter() - started - (self.features.seconds - encoded)

    def _ask_untuned(self, records: Sequence[Record]) -> list[Answer]:
        predictions = self.asker.score(records, progress="ask the untuned model")
        return [Answer(margin=prediction.margin or 0.0) for prediction in predictions]

    def _prediction(self, record: Record, answer: Answer) -> Prediction:
        if not np.isfinite(answer.margin):
            raise UserError(f"record {record.id!r}: the baseline gave the margin {answer.margin}")

        viewer, wording = self.asker.viewer, self.asker.wording
        paths = [viewer.path(image) for image in record.images]
        return Prediction(
            id=record.id,
            task=record.task,
            group=record.group,
            view=record.view,
            expected=record.label,
            predicted=LABELS[record.task][int(answer.margin > 0)],
            scores=answer.scores(record.task),
            question=wording.question(record),
            answer=wording.answer(record),
            images=tuple("" if path is None else str(path.resolve()) for path in paths),
            meta=dict(record.meta),
            component=self.asker.component_of(record.task, record.group),
        )

    def _key(self, name: str, config: BaselineConfig) -> str:
        """Return a hash of everything that the baseline's answers depend on."""
        settings, data = self.run.settings, self.records.data
        model = {key: value for key, value in settings["model"].items() if key != "lora"}
        train = _ids(record for record in self.records.train if record.task in JUDGING)
        in_fp16 = ["fp16"] if self.run.choose_precision()[0] == "fp16" else []

        parts = {
            "revision": REVISION,
            "baseline": [name, settings["baseline"][name]],
            "data": data_hash(data.manifest, data.facts),
            "model": [self.run.choices["model"], model],
            "view": view_settings(settings["view"]),
            "prompt": settings["prompt"],
            "engine": [settings["trainer"]["engine"], settings["trainer"]["vision"], *in_fp16],
            "kinds": sorted(map(list, self.records.train.kinds(JUDGING))),
            "train": train if config.learns else [],
            "asked": [_ids(self.records.validation), _ids(self.records.held_out), self.is_sealed],
        }
        text = json.dumps(parts, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def ask_baselines(run: Run, attempt: Attempt) -> None:
    """Ask the baselines of a run, and write which answers it has.

    The model is built before its first step, also for a run that continues. Training afterwards
    finds the same model with new adapters. A baseline that fails does not stop the run: the report
    names it with its reason.
    """
    if not run.config.baseline or not processes.is_leader():
        return

    owners = _owners(run, attempt)
    if not _has_all(run, owners):
        questioner = make_questioner(run, run.build(attempt.engine))
        rows = {name: questioner.ask(name, config) for name, config in run.config.baseline.items()}
        run.folder.write_baselines({name: row | {"of": owners[name]} for name, row in rows.items()})
        release_cache(questioner.asker.backbone.model)

    if run.config.tracking.mode is not TrackingMode.off:
        sweep, seed = run.folder.path.parent, run.config.data.split_seed
        attempt.tracker.summary(summary_figures(sweep, run.folder.read_baselines(), seed=seed))


def make_questioner(run: Run, backbone: Backbone) -> Questioner:
    """Return what asks the baselines of a run whose model is not trained yet."""
    backbone.model.eval()
    records = load_records(run.config, backbone)

    def open_images(record: Record) -> Sequence[LazyImage]:
        return [records.viewer.lazy_image(image, of=record.id) for image in record.images]

    return Questioner(
        run=run,
        asker=run.asker(backbone, records),
        records=records,
        features=TowerFeatures(backbone, open_images),
    )


def _owners(run: Run, attempt: Attempt) -> dict[str, str]:
    """Return a hash of the run and of each baseline's settings, by the baseline's name."""
    texts = {
        name: json.dumps(
            [attempt.run_hash, settings, run.config.eval.test], sort_keys=True, default=str
        )
        for name, settings in run.settings["baseline"].items()
    }
    return {name: hashlib.sha256(text.encode()).hexdigest()[:32] for name, text in texts.items()}


def _has_all(run: Run, owners: Mapping[str, str]) -> bool:
    """Return whether an earlier attempt of this run has the answers of all its baselines."""
    try:
        rows = run.folder.read_baselines()
        return all(
            isinstance(rows.get(name), dict)
            and rows[name].get("of") == owner
            and not baseline_dir(run.folder.path.parent, rows[name].get("key")).damage()
            for name, owner in owners.items()
        )
    except UserError:  # damaged: the baselines are asked again
        return False


def _of_kind(records: Iterable[Record], kind: TaskView) -> list[Record]:
    """Return the ordinary records of a task and view, each once."""
    return list(
        {
            record.id: record
            for record in records
            if (record.task, record.view) == kind and record.probe is Probe.NONE
        }.values()
    )


def _ids(records: Iterable[Record]) -> list[str]:
    return sorted({record.id for record in records if record.probe is Probe.NONE})


def _heat_of(
    records: Sequence[Record], answers: Sequence[Answer]
) -> tuple[dict[HeatKey, NDArray[np.uint8]], float]:
    """Return the heat maps in bytes, and the hottest value of all these records."""
    maps: dict[HeatKey, HeatMap] = {
        (record.id, record.task, record.view): answer.heat
        for record, answer in zip(records, answers, strict=True)
        if answer.heat is not None
    }
    hottest = max((float(each.max()) for each in maps.values()), default=0.0)
    return {key: to_bytes(each, hottest) for key, each in maps.items()}, hottest
