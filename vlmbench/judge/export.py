"""stage=export: a finished run as a model that others can load, once it is known to answer as the run did."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmbench import __version__
from vlmbench.backbones import resident
from vlmbench.cell import Cell, build, experiment_of, require_machine
from vlmbench.config import Engine, ScoreMethod, StoreConfig
from vlmbench.data.dataset import RAW
from vlmbench.evaluate import predict
from vlmbench.experiment import Experiment
from vlmbench.files import write_whole
from vlmbench.judge.decide import Decider, Kind, decider_of
from vlmbench.judge.finished import learnt_tasks, learnt_wording
from vlmbench.judge.parity import Parity, compare_answers, recorded_of, require_parity
from vlmbench.report.card import model_card
from vlmbench.rundir import RunDir, State, to_json
from vlmbench.types import Prediction, Probe, Record, UserError

if TYPE_CHECKING:
    from vlmbench.backbones.base import Backbone

log = logging.getLogger(__name__)
PACKED = "the run's frozen weights had 4 bits, which figures and calibration are of; the exported model has 16"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the adapter said, and the merged weights, and what the run had recorded. One model is loaded at a time."""

    records: Sequence[Record]
    experiment: Experiment
    adapter: Sequence[Prediction]
    merged: Sequence[Prediction]


def export(cell: Cell) -> None:
    """Write adapter, merged model, model card, decision rules and parity into one folder, or nothing.

    Raises UserError where the run is not evaluated, or where adapter, merged and reloaded model disagree.
    """
    folder, settings = RunDir(Path(cell.config.run or "")), cell.config.judge
    target = folder.path / "export" if settings.out is None else Path(settings.out)
    if target.exists():
        raise UserError(f"{target}: the folder is there already; remove it, or name another with judge.out=")
    if folder.read_status().get("state") != State.FINISHED or not folder.read_metrics():
        raise UserError(f"run={folder.path}: it has no figures yet; evaluate it first, by its own command again")
    trained = cell.config.model
    cell = replace(cell, config=replace(cell.config, model=trained.for_export()))
    require_machine(cell)
    decider = decider_of(folder, settings, seed=cell.config.data.split_seed)
    decider.require(_kinds(decider, folder))
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        found = _write_models(cell, folder, unfinished)
        notes = [] if cell.config.model == trained else [PACKED]
        _write_words(cell, folder, unfinished, decider, found, notes=notes)
        for path in (unfinished, *unfinished.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)  # mkdtemp and safetensors write for their owner alone
        unfinished.rename(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for name, parity in found.items():
        log.info(
            "%s: %d of %d labels are those of the adapter, scores differ by at most %.2g nats",
            *(name, parity.n - len(parity.changed), parity.n, parity.largest_difference),
        )
    log.info("exported: %s", target)


def _write_models(cell: Cell, folder: RunDir, target: Path) -> dict[str, Parity]:
    """Adapter and merged model, and how their answers compare. Raises UserError where labels differ."""
    (target / "adapter").mkdir()
    for name in ADAPTER_FILES:
        shutil.copyfile(folder.adapter / name, target / "adapter" / name)
    settings = cell.config.judge
    found = _merge(cell, folder, target / "merged")
    parities = {"merged": compare_answers(found.adapter, found.merged)}
    require_parity("merged", parities["merged"], settings)
    resident.free_memory()  # the merged model: two of them may not fit
    try:
        alone = build(cell, Engine.transformers, merged=target / "merged", store=StoreConfig(enabled=False))
        reloaded = _scores(cell, alone, found.experiment, found.records)
        del alone
    finally:
        resident.release()
    parities["reloaded"] = compare_answers(found.adapter, reloaded)
    require_parity("reloaded", parities["reloaded"], settings)
    parities["recorded"] = compare_answers(*recorded_of(folder.read_predictions(), found.adapter))
    return parities


def _merge(cell: Cell, folder: RunDir, target: Path) -> Answers:
    """Answer with the adapter, merge it in place, answer again, and write the merged model."""
    backbone = build(cell, Engine.transformers, adapter=folder.adapter)
    experiment = experiment_of(cell, backbone)
    records = _asked(experiment, cell.config.judge.parity_records, learnt=learnt_tasks(folder))
    adapter = _scores(cell, backbone, experiment, records)
    backbone.merge()
    merged = _scores(cell, backbone, experiment, records)
    backbone.save_merged(target)
    return Answers(records=records, experiment=experiment, adapter=adapter, merged=merged)


def _kinds(decider: Decider, folder: RunDir) -> list[Kind]:
    """The tasks that the run learnt, in the views that it was validated on."""
    learnt = learnt_tasks(folder)
    known = [(task, view) for task, view in (*decider.calibrations, *decider.missing) if task in learnt]
    return known or [(task, RAW) for task in learnt]


def _asked(experiment: Experiment, most: int, *, learnt: Sequence[Any]) -> list[Record]:
    """Held-out records of what the run learnt to judge, spread evenly."""
    records = [one for one in experiment.held_out if one.probe is Probe.NONE and one.task in learnt]
    if len(records) > most:
        records = [records[int(i)] for i in np.linspace(0, len(records) - 1, most).round()]
    return records


def _scores(cell: Cell, backbone: Backbone, experiment: Experiment, records: Sequence[Record]) -> list[Prediction]:
    return predict(
        backbone,
        records,
        open_sample=experiment.open,
        shown=experiment.shown,
        wording=experiment.wording,
        settings=replace(cell.config.eval, method=ScoreMethod.score),
        title=None,
    )


def _write_words(
    cell: Cell, folder: RunDir, target: Path, decider: Decider, parity: dict[str, Parity], *, notes: Sequence[str]
) -> None:
    """judge.json, for programs, and README.md, for people."""
    config, learnt = cell.config, learnt_tasks(folder)
    wording = learnt_wording(config, folder)
    rules: dict[str, Any] = {
        "vlmbench": __version__,
        "model": cell.choices["model"],
        "layout": str(getattr(config.model, "layout", "")),
        "questions": {str(task): wording.questions[task] for task in learnt},
        "labels": {str(task): wording.label_words(task) for task in learnt},
        "calibration": {
            f"{task}/{view}": asdict(one) for (task, view), one in decider.calibrations.items() if task in learnt
        },
        "threshold": {
            f"{task}/{view}": asdict(one) for (task, view), one in decider.thresholds.items() if task in learnt
        },
        "prevalence": config.judge.prevalence,
        "cost_miss": config.judge.cost_miss,
        "cost_overkill": config.judge.cost_overkill,
        "parity": {name: one.to_json() for name, one in parity.items()},
    }
    write_whole(target / "judge.json", to_json(rules) + "\n")
    card = model_card(
        folder,
        licence=config.model.licence,
        base=str(getattr(config.model, "path", "")),
        tasks=learnt,
        rules=rules,
        notes=[*notes, *decider.notes(_kinds(decider, folder))],
    )
    write_whole(target / "README.md", card)
