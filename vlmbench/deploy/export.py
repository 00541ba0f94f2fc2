"""stage=export: a finished run as a model that others can load, if it answers as the run did."""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vlmbench.backbones import resident
from vlmbench.config import Engine, StoreConfig, ViewConfig
from vlmbench.data.run_records import RunRecords, load_records
from vlmbench.data.viewer import RAW
from vlmbench.deploy.decide import Decider, TaskView, load_decider
from vlmbench.deploy.loaded import finished_folder, trained_tasks, trained_wording
from vlmbench.deploy.parity import Parity, compare_answers, recorded_answers, require_parity
from vlmbench.pipeline.precision import as_trained
from vlmbench.pipeline.run import Run
from vlmbench.report.alarms import Control, alarms_of_folder
from vlmbench.report.card import model_card
from vlmbench.runs.folder import RunDir, State, to_json
from vlmbench.system.files import write_whole
from vlmbench.system.reading import exists
from vlmbench.system.text import typed_setting
from vlmbench.system.version import __version__
from vlmbench.types import Prediction, Probe, Record, Task, UserError

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)

RULES_FILE = "decision_rules.json"
ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
FROM_4_BITS = (
    "the run's frozen weights had 4 bits, and its figures and calibration are of these; "
    "the exported model has 16 bits"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """Answers of the adapter and of the merged weights to the same records.

    Only one model is loaded at a time.
    """

    records: Sequence[Record]
    run_records: RunRecords
    adapter: Sequence[Prediction]
    merged: Sequence[Prediction]


def export_model(run: Run) -> None:
    """Write adapter, merged model, model card, decision rules and parity, or nothing.

    Raise UserError if the run is not evaluated, or if adapter, merged and reloaded model disagree.
    """
    folder, settings = finished_folder(run), run.config.export
    target = folder.path / "export" if settings.out is None else Path(settings.out)
    _check_target(folder, target)
    _check_controls(folder, settings.accept)

    trained_model = run.config.model
    run = as_trained(run, folder)
    run = replace(run, config=replace(run.config, model=trained_model.for_export()))
    run.require_machine()
    run.require_base(folder)
    decider = load_decider(folder, settings, seed=run.config.data.split_seed)
    decider.require(_task_views(decider, folder))

    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    try:
        parities = _write_models(run, folder, unfinished)
        notes = [] if run.config.model == trained_model else [FROM_4_BITS]
        notes += _tile_notes(run.config.view)
        _write_documents(run, folder, unfinished, decider, parities, notes=notes)
        _make_readable(unfinished)
        unfinished.rename(target)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise

    for name, parity in parities.items():
        log.info(
            "%s: %d of %d labels are those of the adapter, scores differ by at most %.2g nats",
            name,
            parity.n - len(parity.changed),
            parity.n,
            parity.largest_difference,
        )
    log.info("exported: %s", target)


def _tile_notes(view: ViewConfig) -> list[str]:
    """Return how images must be cut before the exported model sees them."""
    if view.tile is None:
        return []
    return [
        f"the model was trained on tiles of {view.tile} x {view.tile} pixels with an overlap of "
        f"{view.overlap:.0%}; cut reference and query at the same locations, the last tile shifted "
        "inward, and take the highest score of the tiles"
    ]


def _check_target(folder: RunDir, target: Path) -> None:
    if exists(target):
        another = typed_setting("export.out", f"{target}_2")
        raise UserError(f"{target}: the folder exists already; remove it, or set {another}")

    is_finished = folder.read_status().get("state") == State.FINISHED
    if not is_finished or not folder.read_metrics():
        raise UserError(
            f"run={folder.path}: the run has no figures yet; "
            "evaluate it first (its own command with stage=evaluate)"
        )


def _check_controls(folder: RunDir, accept: str | None) -> None:
    """Raise UserError for a failed control that `export.accept` does not name."""
    accepted = {word.strip() for word in (accept or "").split(",") if word.strip()}
    if unknown := accepted - set(Control):
        raise UserError(
            f"export.accept={accept}: there is no control {min(unknown)!r}; "
            f"set export.accept={Control.self_pair}"
        )

    failed = [alarm for alarm in alarms_of_folder(folder) if alarm.control not in accepted]
    if failed:
        names = sorted(accepted | {str(alarm.control) for alarm in failed})
        raise UserError(
            f"run={folder.path}: the run fails a control: "
            f"{'; '.join(alarm.text for alarm in failed)}; train it again on other data, or export "
            f"it in spite of that with {typed_setting('export.accept', ','.join(names))}"
        )


def _write_models(run: Run, folder: RunDir, target: Path) -> dict[str, Parity]:
    """Write adapter and merged model; return how their answers compare.

    Raise UserError if they differ by more than the settings allow.
    """
    (target / "adapter").mkdir()
    for name in ADAPTER_FILES:
        shutil.copyfile(folder.adapter / name, target / "adapter" / name)

    settings = run.config.export
    answers = _merge(run, folder, target / "merged")
    merged = compare_answers(answers.adapter, answers.merged)
    require_parity("merged", merged, settings)

    resident.free_memory()  # of the merged model: two of them may not fit
    reloaded = compare_answers(answers.adapter, _reload(run, target / "merged", answers))
    require_parity("reloaded", reloaded, settings)

    past = folder.read_validation() if folder.is_sealed else folder.read_predictions()
    recorded = compare_answers(*recorded_answers(past, answers.adapter))
    return {"merged": merged, "reloaded": reloaded, "recorded": recorded}


def _merge(run: Run, folder: RunDir, target: Path) -> Answers:
    """Answer with the adapter, merge it in place, answer again, and write the merged model."""
    backbone = run.build(Engine.transformers, adapter=folder.adapter)
    run_records = load_records(run.config, backbone)
    limit = run.config.export.parity_records
    # A sealed test split stays sealed: then validation records are compared.
    answered = run_records.validation if folder.is_sealed else run_records.held_out
    records = _parity_records(answered, limit, tasks=trained_tasks(folder))

    adapter = run.asker(backbone, run_records).score(records)
    backbone.merge()
    merged = run.asker(backbone, run_records).score(records)
    backbone.save_merged(target)

    return Answers(
        records=records,
        run_records=run_records,
        adapter=adapter,
        merged=merged,
    )


def _reload(run: Run, merged: Path, answers: Answers) -> list[Prediction]:
    """Answer with the merged model, loaded again from its files."""
    try:
        backbone = run.build(Engine.transformers, merged=merged, store=StoreConfig(enabled=False))
        asker = run.asker(backbone, answers.run_records)
        predictions = asker.score(answers.records)
        del backbone, asker
    finally:
        resident.release()
    return predictions


def _parity_records(
    records: Sequence[Record], limit: int, *, tasks: Sequence[Task]
) -> list[Record]:
    """Return at most `limit` of the records that the run trained to judge, evenly spread."""
    ordinary = [record for record in records if record.probe is Probe.NONE and record.task in tasks]
    if len(ordinary) <= limit:
        return ordinary
    return [ordinary[int(i)] for i in np.linspace(0, len(ordinary) - 1, limit).round()]


def _task_views(decider: Decider, folder: RunDir) -> list[TaskView]:
    """Return the tasks that the run trained on, in the views in which it was validated."""
    tasks = trained_tasks(folder)
    validated = (*decider.calibrations, *decider.missing)
    return [pair for pair in validated if pair[0] in tasks] or [(task, RAW) for task in tasks]


def _make_readable(folder: Path) -> None:
    """Let others read the files: mkdtemp and safetensors write for their owner alone."""
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def _write_documents(
    run: Run,
    folder: RunDir,
    target: Path,
    decider: Decider,
    parities: Mapping[str, Parity],
    *,
    notes: Sequence[str],
) -> None:
    """Write the decision rules, for programs, and README.md, for people."""
    rules = _decision_rules(run, folder, decider, parities)
    write_whole(target / RULES_FILE, to_json(rules) + "\n")

    model = run.config.model
    card = model_card(
        folder,
        licence=model.licence,
        base=str(getattr(model, "path", "")),
        tasks=trained_tasks(folder),
        rules=rules,
        notes=[*notes, *decider.notes(_task_views(decider, folder))],
    )
    write_whole(target / "README.md", card)


def _decision_rules(
    run: Run, folder: RunDir, decider: Decider, parities: Mapping[str, Parity]
) -> dict[str, Any]:
    tasks, settings = trained_tasks(folder), run.config.export
    wording = trained_wording(run.config, folder)
    view = run.config.view
    tiles = {} if view.tile is None else {"tiles": {"edge": view.tile, "overlap": view.overlap}}
    return {
        **tiles,
        "vlmbench": __version__,
        "model": run.choices["model"],
        "layout": str(getattr(run.config.model, "layout", "")),
        "questions": {str(task): wording.questions[task] for task in tasks},
        "labels": {str(task): wording.label_words(task) for task in tasks},
        "calibration": _by_task_view(decider.calibrations, tasks),
        "measured": {
            f"{task}/{view}": basis.summary()
            for (task, view), basis in decider.bases.items()
            if task in tasks
        },
        "rule": {
            "figure": str(decider.rule.figure),
            "limit": {
                f"{task}/{view}": decider.rule.limit_score(calibration, settings.prevalence)
                for (task, view), calibration in decider.calibrations.items()
                if task in tasks
            },
        },
        "threshold": _by_task_view(decider.thresholds, tasks),
        "promise": _by_task_view(decider.promises, tasks),
        "prevalence": settings.prevalence,
        "cost_miss": settings.cost_miss,
        "cost_overkill": settings.cost_overkill,
        "parity": {name: parity.to_json() for name, parity in parities.items()},
    }


def _by_task_view(values: Mapping[TaskView, Any], tasks: Sequence[Task]) -> dict[str, Any]:
    return {
        f"{task}/{view}": asdict(value) for (task, view), value in values.items() if task in tasks
    }
