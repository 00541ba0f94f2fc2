"""The road of one run, top to bottom: records, cost, fit, answer, calibrate, measure."""

from __future__ import annotations

import logging
from importlib import import_module
from pathlib import Path

from vlmbench.backbones.devices import explain_gpu_errors
from vlmbench.config import Engine
from vlmbench.data.images import open_image
from vlmbench.data.lines import changed_error
from vlmbench.data.load import data_hash as hash_data
from vlmbench.data.run_records import RunRecords, run_data_hash, start_data_hash
from vlmbench.pipeline.attempt import Attempt, start_attempt
from vlmbench.pipeline.baselines import ask_baselines
from vlmbench.pipeline.calibrate import mark_followed, write_calibration
from vlmbench.pipeline.fit import Fitted, batch_notes, fit, load_fitted, require_adapter
from vlmbench.pipeline.held_out import answer_held_out, record_scores
from vlmbench.pipeline.measure import data_summary, flatten, measure
from vlmbench.pipeline.precision import settle_precision
from vlmbench.pipeline.prune import check_pruner
from vlmbench.pipeline.run import Run
from vlmbench.runs.earlier import is_done
from vlmbench.runs.folder import State
from vlmbench.runs.identity import run_hash
from vlmbench.system import load, phases, processes
from vlmbench.system.phases import phase
from vlmbench.types import Probe

log = logging.getLogger(__name__)

# Every training needs them, and they take seconds to import: transformers, peft, TRL.
LIBRARIES = ("transformers.models.auto.modeling_auto", "peft", "vlmbench.train.trainer")


def execute(run: Run, *, trains: bool = True, evaluates: bool = True) -> None:
    """Go from records to figures. A run that is finished already stays as it is.

    Raise UserError for everything that the user can mend.
    """
    phases.begin()
    load.begin()
    run = settle_precision(run)
    run.require_machine()
    check_pruner(run.config.pruner, run.config.trainer)
    data_hash = _read_data(run)
    with phase("data"), processes.leader_first():
        base_hash = run.base_hash()
    run.config.model.check_precision(run.config.trainer.precision)  # its config.json is here now
    precision, _ = run.choose_precision()
    own_hash = run_hash(run.settings, f"{data_hash} {base_hash}".strip(), precision)

    with run.folder.lock():
        prunes = run.config.pruner.enabled
        if is_done(
            run.folder,
            own_hash,
            name=run.config.name,
            trains=trains,
            prunes=prunes,
        ):
            run.folder.clear_error()
            return

        if not trains:
            require_adapter(run.folder)
        with start_attempt(run, own_hash) as attempt, processes.explain_lost_process():
            with phase("baselines"):
                ask_baselines(run, attempt)
            fitted = fit(run, attempt) if trains else load_fitted(run, attempt)
            if fitted.is_pruned:
                attempt.end(State.PRUNED, note=_pruned_note(run))
                _log_time()
                return
            if trains:
                attempt.tracker.adapter(run.folder.adapter)

            if evaluates and processes.is_leader():
                evaluate(run, attempt, fitted, data_hash)
            elif processes.is_leader():
                check_data(fitted.records, data_hash)

            store = fitted.backbone.store
            log.info("vision tokens: %s", "not stored" if store is None else store.report())
            attempt.end(State.FINISHED if evaluates else State.RUNNING)
    _log_time()


def _log_time() -> None:
    others = load.describe_others()
    log.info("time: %s%s", phases.describe(), f"; {others}" if others else "")


def _read_data(run: Run) -> str:
    """Return the hash of the data, read while the libraries of the run are imported."""
    if processes.count() > 1:
        with phase("data"), processes.leader_first():  # the leader makes the data
            return run_data_hash(run.config)

    with phase("data"):
        wait = start_data_hash(run.config)
    if run.folder.read_status().get("state") != State.FINISHED:
        with phase("imports"):
            _import_libraries(run)
    with phase("data"):
        return wait()


def _import_libraries(run: Run) -> None:
    engine, _ = run.choose_engine()
    first = ["vlmbench.backbones._unsloth"] if engine is Engine.unsloth else []
    for name in (*first, *LIBRARIES):
        import_module(name)


def evaluate(run: Run, attempt: Attempt, fitted: Fitted, data_hash: str) -> None:
    """Answer validation and held-out records; write calibration, predictions and figures.

    Raise UserError if the data are not those of `data_hash`. Then no figures are written.
    """
    records = fitted.records
    asker = run.asker(fitted.backbone, records)

    batch = asker.settings.num_rows()
    full = f"with {batch} records at once; lower eval.batch_size"
    with phase("answers"), explain_gpu_errors(lambda: f"evaluate {run.title}", full=full):
        answered = asker.score(records.validation, progress="validate")
        validation = mark_followed(answered, run, records)
        write_calibration(run.folder, validation)
        answers = answer_held_out(run, asker, records, validation)

    check_data(records, data_hash)
    scores = measure(answers.predictions, seed=run.config.data.split_seed)
    summary = data_summary(records, fitted.cost)
    notes = [*answers.notes, *records.notes, *batch_notes(run.folder)]
    run.folder.write_metrics({**answers.metrics(scores), "data": summary, "notes": notes})
    record_scores(run, attempt.run_hash, records, answers=answers, scores=scores)

    ordinary = [one for one in answers.predictions if one.probe is Probe.NONE]
    attempt.tracker.summary(flatten(scores, prefix=answers.prefix))
    attempt.tracker.predictions(ordinary, lambda path: open_image(Path(path)))


def check_data(records: RunRecords, expected: str) -> None:
    """Raise UserError if the run's data changed while it ran. `expected` is their hash."""
    data = records.data
    data.files.check_all()
    if hash_data(data.manifest, data.facts) != expected:
        raise changed_error(data.manifest.path)


def _pruned_note(run: Run) -> str:
    step, value = list(run.folder.validation_curve().items())[-1]
    note = f"at step {step}: balanced accuracy {value:.3f} on the followed validation records"
    log.info("pruned %s; finished runs of the sweep had more; pruner=off trains it fully", note)
    return note
