"""Changes of a sweep's plan: its first start, later starts, reveals. Each happens under a lock."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import Timeout

from vlmbench.runs.folder import RunDir, State
from vlmbench.runs.plan import (
    PLAN_FILE,
    Extension,
    Plan,
    RunKey,
    question_of,
    read_plan,
    write_plan,
)
from vlmbench.system.locks import cure_of, hold
from vlmbench.system.text import typed_setting
from vlmbench.types import UserError

log = logging.getLogger(__name__)

LOCK_FILE = ".plan.lock"
PATIENCE_S = 60.0  # a process holds the lock for milliseconds
# Field of a plan -> its setting. A later start must not change these.
FIXED = {
    "primary": "eval.primary",
    "cost_miss": "eval.cost_miss",
    "cost_overkill": "eval.cost_overkill",
    "prevalence": "eval.prevalence",
    "test": "eval.test",
}


def now() -> str:
    """Return the local time with its zone, such as 2026-11-27T09:30:00+09:00."""
    return datetime.now().astimezone().isoformat(timespec="seconds")


@contextmanager
def lock_plan(sweep: Path) -> Iterator[None]:
    """Hold the plan and the looks of a sweep. Raise UserError if another process does not end."""
    sweep.mkdir(parents=True, exist_ok=True)
    try:
        with hold(sweep / LOCK_FILE, timeout=PATIENCE_S):
            yield
    except Timeout as error:
        raise UserError(
            f"{sweep}: another process has held the plan for {PATIENCE_S:g} s; "
            f"wait for it, then run the same command again{cure_of(error)}"
        ) from error


def start_sweep(sweep: Path, wanted: Plan) -> Plan:
    """Write the plan at the first start of a sweep; return the plan that holds.

    A later start adds its new runs and trials as an extension. Raise UserError if it would change
    the primary figure, the costs or the test split.
    """
    with lock_plan(sweep):
        planned = read_plan(sweep)
        if planned is None:
            plan = replace(wanted, runs_before=_count_runs(sweep))
            write_plan(sweep, plan)
            return plan

        _refuse_changes(sweep, planned, wanted)
        plan = _extend(planned, wanted)
        if plan != planned:
            write_plan(sweep, plan)
            log.info("%s", _extension_note(sweep, plan.extensions[-1]))
        return plan


def withdraw(sweep: Path, refused: Collection[RunKey]) -> None:
    """Take the runs of the last start out of the plan, if all of them are in `refused`.

    A run is refused if it ended with an error before its training began. Nothing was learnt from
    it, and the corrected command plans a run of its own. If a part of a start went on, the plan
    keeps all of it: a report must account for each of them. A plan without runs is removed.
    """
    with lock_plan(sweep):
        planned = read_plan(sweep)
        if planned is None or planned.is_search:
            return

        *before, last = [planned.runs, *(extension.runs for extension in planned.extensions)]
        if not last or not {run.key for run in last} <= set(refused):
            return

        path = sweep / PLAN_FILE
        if before:
            write_plan(sweep, _without_last(planned))
        elif planned.looks or planned.reveals:
            return
        else:
            path.unlink()
    log.info("%s: what was refused is no longer planned", path)


def _without_last(planned: Plan) -> Plan:
    plan = replace(planned, extensions=planned.extensions[:-1])
    if len(plan.runs) > 1:
        return plan
    return replace(plan, question=question_of(plan.all_runs))


def set_test_hash(sweep: Path, test_hash: str) -> None:
    """Write the hash of the test split into a plan that has none. Without a plan, do nothing."""
    _change(sweep, lambda plan: plan if plan.test_hash else replace(plan, test_hash=test_hash))


def add_reveal(sweep: Path) -> Plan | None:
    """Write into the plan that the test split is answered from now on; return the plan."""
    return _change(sweep, lambda plan: replace(plan, reveals=(*plan.reveals, now())))


def _change(sweep: Path, change: Callable[[Plan], Plan]) -> Plan | None:
    with lock_plan(sweep):
        planned = read_plan(sweep)
        if planned is None:
            return None

        plan = change(planned)
        if plan != planned:
            write_plan(sweep, plan)
        return plan


def was_refused(run: RunDir) -> bool:
    """Return whether a run ended with an error before its training began."""
    status = run.read_status()
    is_damaged = "run_hash" not in status  # nobody knows what the file said
    is_failed = status.get("state") == State.FAILED and not is_damaged
    return is_failed and not run.train_log.exists()


def _count_runs(sweep: Path) -> int:
    return sum(not was_refused(RunDir(path.parent)) for path in sweep.glob("*/status.json"))


def _refuse_changes(sweep: Path, planned: Plan, wanted: Plan) -> None:
    differing = [name for name in FIXED if getattr(planned, name) != getattr(wanted, name)]
    if not differing:
        return

    asked = ", ".join(_setting(name, wanted) for name in differing)
    cure = " ".join(_setting(name, planned) for name in differing)
    another = typed_setting("sweep", f"{sweep}_2")
    message = (
        f"{sweep / PLAN_FILE}: this sweep was planned on {planned.date[:10]} with other settings "
        f"than {asked}; set {cure}, or start another sweep with {another}"
    )
    if differing == ["test"] and not planned.reveals and planned.test == "sealed":
        reveal = f"stage=reveal {typed_setting('sweep', sweep)}"
        message += f". To answer the test split now, run vlmbench {reveal}"
    raise UserError(message)


def _setting(name: str, plan: Plan) -> str:
    value: Any = getattr(plan, name)
    return f"{FIXED[name]}={'null' if value is None else value}"


def _extend(planned: Plan, wanted: Plan) -> Plan:
    """Return the plan with what `wanted` adds to it; the same plan if there is nothing."""
    known = {run.key for run in planned.all_runs}
    runs = tuple(run for run in wanted.runs if run.key not in known)

    trials = wanted.trials
    if trials is not None and trials <= (planned.all_trials or 0):
        trials = None
    if not runs and trials is None:
        return planned

    extension = Extension(
        date=wanted.date,
        runs=runs,
        trials=trials,
    )
    plan = replace(planned, extensions=(*planned.extensions, extension))
    if len(planned.question.values) > 1:
        return plan
    return replace(plan, question=question_of(plan.all_runs))  # one run asked nothing yet


def _extension_note(sweep: Path, extension: Extension) -> str:
    added = []
    if extension.runs:
        added.append("1 run" if len(extension.runs) == 1 else f"{len(extension.runs)} runs")
    if extension.trials is not None:
        added.append(f"trials up to {extension.trials}")
    return f"{sweep / PLAN_FILE}: {' and '.join(added)} added to the plan"
