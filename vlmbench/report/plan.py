"""The plan of a sweep, its outcome, and the looks at it: sentences for a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlmbench.config import HeldOut, Primary
from vlmbench.report.figures import list_names, percent, plain
from vlmbench.report.folds import pool_folds
from vlmbench.report.runs import RunResult
from vlmbench.runs.folder import State
from vlmbench.runs.ledger import MAX_NAMED, Scored, count_scored, ledger_of
from vlmbench.runs.looks import Look, evidence_of, register_look
from vlmbench.runs.plan import (
    MISSING,
    Extension,
    Plan,
    PlannedRun,
    PlannedState,
    missing_runs,
    planned_runs,
    read_plan,
    unplanned_runs,
)
from vlmbench.stats.compare import LEVEL
from vlmbench.types import UserError

NO_PLAN = (
    "This sweep has no plan: its runs were made without one, or plan.json was removed. "
    "So nobody can tell what was asked before the answers were known."
)
# State of a planned run -> what became of it, after "seed 2 ".
STATES = {
    str(State.FAILED): "failed",
    str(State.PRUNED): "was pruned",
    str(State.STOPPED): "was stopped",
    str(State.RUNNING): "is not finished",
    MISSING: "did not start",
}
PLANNED = 0.04  # the share of LEVEL that the look at the planned seeds may spend
ORDINALS = {1: "first", 2: "second", 3: "third"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFacts:
    """The plan of a sweep and what came of it; `sentences` says it in words.

    `plan` is None if there is none or it cannot be read. `look` is None if there is no verdict.
    `scored` is None if the test split is not known.
    """

    plan: Plan | None
    states: tuple[PlannedState, ...]
    look: Look | None
    scored: Scored | None
    sentences: tuple[str, ...]

    def to_row(self) -> dict[str, Any]:
        """Return plain values for verdicts.json."""
        return {
            "planned_on": None if self.plan is None else self.plan.date,
            "primary": None if self.plan is None else str(self.plan.primary),
            "runs": [_state_row(state) for state in self.states],
            "look": None if self.look is None else asdict(self.look),
            "scored": None if self.scored is None else asdict(self.scored),
            "sentences": list(self.sentences),
        }


def _state_row(state: PlannedState) -> dict[str, Any]:
    row = state._asdict()
    if state.fold is None:
        del row["fold"]
    return row


def look_at(sweep: Path, runs: Sequence[RunResult]) -> Look | None:
    """Register that a report shows verdicts on these runs; None if no run has answers."""
    answered = [run for run in pool_folds(runs) if run.finished and run.predictions]
    if not answered:
        return None
    return register_look(sweep, evidence_of(answered))


def level_of(sweep: Path, look: Look | None) -> float:
    """Return the share of false verdicts that this look may spend; all looks share LEVEL.

    The look at exactly the planned seeds may spend PLANNED of it. Look k at other seeds may spend
    1 / (k (k + 1)) of the rest; the shares of all such looks add up to 1. Without a plan of two
    variants, looks share all of LEVEL in this way. So no rule of when to stop gives more false
    verdicts than LEVEL (union bound).
    """
    if look is None:
        return LEVEL

    try:
        plan = read_plan(sweep)
    except UserError:
        plan = None
    is_planned = plan is not None and len({run.variant_hash for run in plan.runs}) > 1
    if is_planned and look.planned:
        return PLANNED

    rest = LEVEL - PLANNED if is_planned else LEVEL
    return rest / (look.number * (look.number + 1))


def missing_of(sweep: Path, runs: Sequence[RunResult]) -> list[PlannedRun]:
    """Return the planned runs that did not start; none without a plan that can be read."""
    try:
        plan = read_plan(sweep)
    except UserError:
        return []
    return [] if plan is None else missing_runs(plan, runs)


def plan_facts(sweep: Path, runs: Sequence[RunResult], *, look: Look | None) -> PlanFacts:
    """Return the facts about the plan of a sweep. A damaged plan becomes a sentence."""
    problem = NO_PLAN
    plan: Plan | None = None
    try:
        plan = read_plan(sweep)
    except UserError as error:
        problem = f"{str(error)[:1].upper()}{str(error)[1:]}."

    ledger = ledger_of(sweep)
    scored = count_scored(ledger, plan.test_hash) if plan is not None and plan.test_hash else None
    states = tuple(planned_runs(plan, runs)) if plan is not None else ()
    sentences = [
        *([problem] if plan is None else _plan_sentences(plan, states, runs)),
        *([] if look is None else _look_sentences(look, has_plan=plan is not None)),
        *([] if scored is None else _scored_sentences(scored)),
    ]
    return PlanFacts(
        plan=plan,
        states=states,
        look=look,
        scored=scored,
        sentences=tuple(sentences),
    )


def _plan_sentences(
    plan: Plan, states: Sequence[PlannedState], runs: Sequence[RunResult]
) -> Iterator[str]:
    yield f"Planned on {_day(plan.date)}: {_question_words(plan)}, by {_primary_words(plan)}."
    if plan.runs_before:
        yield (
            f"The plan is younger than {_count(plan.runs_before, 'run')} of this sweep, "
            "so it proves nothing about these."
        )
    for extension in plan.extensions:
        yield _extension_words(plan, extension)

    yield _states_words(plan, states)
    others = unplanned_runs(plan, runs)
    if others:
        yield f"{_count(len(others), 'run')} of this sweep {_is(len(others))} not in the plan."
    yield from _test_sentences(plan)


def _question_words(plan: Plan) -> str:
    """Return what was asked, such as "with_comparison against without_comparison, seeds 0, 1"."""
    question = plan.question
    if plan.is_search:
        trials = _count(plan.trials or 0, "trial") if plan.trials else "trials"
        return f"a search of {trials} over {question.axis}"

    others = [value for value in question.values if value != question.baseline]
    if len(question.values) < 2:
        words = f"{question.axis} {list_names(question.values)}"
    else:
        words = f"{list_names(others)} against {question.baseline}"
        words = words if question.axis == "data" else f"{question.axis} {words}"

    models = list(dict.fromkeys(run.model for run in plan.runs))
    if len(models) > 1 and question.axis != "model":
        words += f", for {list_names(models)}"
    return f"{words}, {_seed_plan_words(plan, plan.runs)}"


def _seed_plan_words(plan: Plan, runs: Sequence[PlannedRun]) -> str:
    """Return the seeds of each variant; once, if all variants have the same."""
    seeds: dict[str, list[int]] = {}
    for run in runs:
        own = seeds.setdefault(plan.label(run), [])
        own += [] if run.seed in own else [run.seed]

    folds = len({run.fold for run in runs} - {None})
    return f"{_list_seeds(seeds)}, {folds} folds" if folds else _list_seeds(seeds)


def _list_seeds(seeds: Mapping[str, Sequence[int]]) -> str:
    if len({tuple(values) for values in seeds.values()}) <= 1:
        values = next(iter(seeds.values()), [])
        each = " each" if len(seeds) > 1 else ""
        return f"{_seed_words(values)}{each}"
    return "; ".join(f"{_seed_words(values)} of {label}" for label, values in seeds.items())


def _primary_words(plan: Plan) -> str:
    names = {Primary.auroc: "AUROC", Primary.cost: "expected cost"}
    words = names.get(plan.primary, str(plan.primary).replace("_", " "))
    if plan.cost_miss is None or plan.cost_overkill is None:
        return words

    words += f" (a miss costs {plain(plan.cost_miss)}, overkill {plain(plan.cost_overkill)}"
    if plan.prevalence is not None:
        words += f"; {percent(plan.prevalence)} of the parts are abnormal"
    return f"{words})"


def _extension_words(plan: Plan, extension: Extension) -> str:
    added = []
    if extension.runs:
        variants = list(dict.fromkeys(plan.label(run) for run in extension.runs))
        by_variant = len({run.seed for run in extension.runs}) > 1 or len(variants) <= MAX_NAMED
        seeds = _seed_plan_words(plan, extension.runs)
        added.append(f"{list_names(variants)}, {seeds}" if by_variant else seeds)
    if extension.trials is not None:
        added.append(f"trials up to {extension.trials}")
    return f"Added to the plan on {_day(extension.date)}: {'; '.join(added)}."


def _states_words(plan: Plan, states: Sequence[PlannedState]) -> str:
    """Return what became of every planned run."""
    finished = [one for one in states if one.state == State.FINISHED]
    if plan.is_search:
        counts = Counter(one.state for one in states)
        words = ", ".join(f"{number} {state}" for state, number in counts.items())
        return f"The search made {_count(len(states), 'run')}{f': {words}' if words else ''}."

    if len(finished) == len(states):
        few = {1: "The planned run finished.", 2: "Both planned runs finished."}
        return few.get(len(states), f"All {len(states)} planned runs finished.")

    others: dict[str, list[str]] = {}
    for one in states:
        if one.state != State.FINISHED:
            others.setdefault(one.variant, []).append(
                f"seed {one.seed}{'' if one.fold is None else f' fold {one.fold}'} "
                f"{STATES[one.state]}"
            )
    words = "; ".join(f"{variant}: {', '.join(what)}" for variant, what in others.items())
    return f"{len(finished)} of {_count(len(states), 'planned run')} finished. {words}."


def _test_sentences(plan: Plan) -> Iterator[str]:
    if plan.test == HeldOut.open:
        return

    if not plan.reveals:
        yield (
            "The test split is sealed: no test record was answered. "
            "Figures are of validation records; stage=reveal answers the test split."
        )
        return

    days = list(dict.fromkeys(map(_day, plan.reveals)))
    yield f"The test split was sealed until it was revealed on {days[0]}."
    if len(plan.reveals) > 1:
        yield f"It was revealed {len(plan.reveals)} times, last on {days[-1]}."


def _look_sentences(look: Look, *, has_plan: bool) -> Iterator[str]:
    if look.number == 1 and not has_plan:
        yield "This is the first look at the answers."
    elif look.planned and look.number == 1:
        yield "This is the first look at the answers, with exactly the planned seeds."
    elif look.number == 1:
        yield "This is the first look at the answers, with other seeds than planned."
    else:
        before = ORDINALS.get(look.number - 1, f"{look.number - 1}th")
        seeds = "now exactly the planned ones" if look.planned else "not the planned ones"
        changed = f" of {list_names(look.changed)}" if 0 < len(look.changed) <= 2 else ""
        planned = f" They are {seeds}." if has_plan else ""
        yield (
            f"This is look {look.number}: the seeds{changed} changed after the {before} look."
            f"{planned}"
        )
    if look.unknown_before:
        yield "The list of looks (looks.json) was removed, so earlier looks are unknown."


def _scored_sentences(scored: Scored) -> Iterator[str]:
    if scored.runs:
        were = "was" if scored.runs == 1 else "were"
        yield (
            f"{_count(scored.runs, 'run')} of {_count(scored.sweeps, 'sweep')} {were} scored on "
            f"this test split so far, with {_count(scored.configurations, 'configuration')}."
        )
    if scored.damaged:
        lines = ", ".join(map(str, scored.damaged[:MAX_NAMED]))
        more = " and more" if len(scored.damaged) > MAX_NAMED else ""
        yield f"Damaged lines of ledger.jsonl were not counted: {lines}{more}."


def _seed_words(seeds: Sequence[int]) -> str:
    return f"{'seed' if len(seeds) == 1 else 'seeds'} {list_names(map(str, seeds))}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _is(number: int) -> str:
    return "is" if number == 1 else "are"


def _day(date: str) -> str:
    return date[:10]
