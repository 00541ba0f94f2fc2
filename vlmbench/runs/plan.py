"""The plan of a sweep: what it asks, by which figure, and which runs were to answer.

<sweep>/plan.json is written before the first run begins. Later starts add to it and change nothing.
It may come from strangers: each value is checked when it is read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Protocol

import msgspec
from msgspec import Meta

from vlmbench.config import HeldOut, Primary
from vlmbench.runs.folder import State, to_json
from vlmbench.runs.identity import NOT_HASHED, PLAN_SETTINGS, figure_settings, fold_of
from vlmbench.system.files import write_whole
from vlmbench.system.reading import exists, read_regular
from vlmbench.types import UserError

PLAN_FILE = "plan.json"
MAX_BYTES = 20_000_000
MAX_SHOWN = 1000  # characters of an override or a name; a hash tells variants apart
BASELINE = "without_comparison"
MISSING = "missing"  # the state of a planned run without a folder
NAMED = ("model", "data", "seed", "data.fold")  # overrides that a planned run has as fields

RunKey = tuple[str, int] | tuple[str, int, int]
Text = Annotated[str, Meta(max_length=2000)]
Date = Annotated[str, Meta(max_length=40, pattern=r"^\d{4}-\d\d-\d\dT[\d:.+\-Z]+$")]
Seed = Annotated[int, Meta(ge=0, le=2**32 - 1)]
Count = Annotated[int, Meta(ge=0, le=1_000_000_000)]
Positive = Annotated[float, Meta(gt=0, le=1e300)]


class AnyRun(Protocol):
    """A run as it was read from its folder: its settings and its status."""

    @property
    def config(self) -> Mapping[str, Any]: ...

    @property
    def status(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """A run that was to be made.

    `variant_hash` is of its settings without the seed and the fold. `fold` is None without folds.
    """

    model: Text
    data: Text
    seed: Seed
    variant_hash: Text
    overrides: tuple[Text, ...] = ()
    fold: Count | None = None

    @property
    def key(self) -> RunKey:
        own = (self.variant_hash, self.seed)
        return own if self.fold is None else (*own, self.fold)


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """The setting that a sweep varies: its name `axis`, its values, and the one to compare with.

    A search by a sweeper such as Optuna has no baseline; its values are search spaces.
    """

    axis: Text
    values: tuple[Text, ...]
    baseline: Text = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    """Runs or trials that a later start added. Looks after it are not planned."""

    date: Date
    runs: tuple[PlannedRun, ...] = ()
    trials: Count | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The plan of a sweep.

    `primary` is the figure that verdicts are about, never `auto`. `trials` are those of a search,
    whose `runs` nobody knows before. `runs_before` counts runs that were there before the plan.
    `test_hash` is "" until the first run has read its data. `looks` counts the entries of
    looks.json, so that a removed one is noticed.
    """

    date: Date
    version: Text
    question: Question
    primary: Primary
    cost_miss: Positive | None = None
    cost_overkill: Positive | None = None
    prevalence: Annotated[float, Meta(gt=0, lt=1)] | None = None
    test: HeldOut = HeldOut.open
    runs: tuple[PlannedRun, ...] = ()
    trials: Count | None = None
    runs_before: Count = 0
    test_hash: Text = ""
    extensions: tuple[Extension, ...] = ()
    reveals: tuple[Date, ...] = ()
    looks: Count = 0

    def __post_init__(self) -> None:
        if self.primary == Primary.auto:
            raise ValueError("primary must be a figure, got auto")
        if (self.cost_miss is None) != (self.cost_overkill is None):
            raise ValueError("cost_miss and cost_overkill must be set together")
        if self.primary == Primary.cost and self.cost_miss is None:
            raise ValueError("primary is cost, and there are no costs")

    @property
    def all_runs(self) -> tuple[PlannedRun, ...]:
        """Return the planned runs, then those of the extensions."""
        later = chain.from_iterable(extension.runs for extension in self.extensions)
        return (*self.runs, *later)

    @property
    def is_search(self) -> bool:
        """Whether a sweeper chooses the runs."""
        return self.trials is not None

    @property
    def all_trials(self) -> int | None:
        """Return the trials of the search after its last extension; None without a search."""
        later = [extension.trials for extension in self.extensions if extension.trials is not None]
        return later[-1] if later else self.trials

    def seeds(self, variant_hash: str) -> tuple[int, ...]:
        """Return the seeds that were planned for a variant at first, without extensions."""
        seeds = (run.seed for run in self.runs if run.variant_hash == variant_hash)
        return tuple(dict.fromkeys(seeds))

    def label(self, run: PlannedRun) -> str:
        """Return the name of a run's variant: only what differs within the plan is in it."""
        return variant_label(run, self.all_runs)


class PlannedState(NamedTuple):
    """The outcome of a planned run: finished, failed, pruned, stopped, running or missing."""

    variant: str
    seed: int
    state: str
    fold: int | None = None


def read_plan(sweep: Path) -> Plan | None:
    """Return the plan of a sweep; None if it has none. Raise UserError if it is damaged."""
    path = sweep / PLAN_FILE
    if not exists(path):
        return None

    try:
        return msgspec.json.decode(read_regular(path, limit=MAX_BYTES), type=Plan)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise UserError(
            f"{path}: the plan is damaged ({error}); bring the file back from a copy, "
            "or remove it: the sweep's command then writes a new plan with today's date"
        ) from error


def write_plan(sweep: Path, plan: Plan) -> None:
    """Write the plan, whole. Hold `lock_plan` while you read, change and write it."""
    write_whole(sweep / PLAN_FILE, to_json(msgspec.to_builtins(plan)) + "\n")


def planned_runs(plan: Plan, runs: Iterable[AnyRun]) -> list[PlannedState]:
    """Return what became of each planned run, in the order of the plan, extensions last.

    The plan of a search names no runs: then every run that was made is in the list.
    """
    made: list[PlannedRun] = []
    states: dict[RunKey, str] = {}
    for run in runs:
        made.append(made_run(run))
        states[made[-1].key] = str(run.status.get("state", ""))

    wanted = made if plan.is_search else plan.all_runs
    return [
        PlannedState(variant_label(run, wanted), run.seed, _state(states.get(run.key)), run.fold)
        for run in wanted
    ]


def missing_runs(plan: Plan, runs: Iterable[AnyRun]) -> list[PlannedRun]:
    """Return the planned runs that did not start; none for a search."""
    made = {made_run(run).key for run in runs}
    return [] if plan.is_search else [run for run in plan.all_runs if run.key not in made]


def unplanned_runs(plan: Plan, runs: Iterable[AnyRun]) -> list[AnyRun]:
    """Return the runs that the plan does not name, but failed ones; none for a search.

    A run that was refused is no longer planned, and it has no figures.
    """
    if plan.is_search:
        return []

    known = {run.key for run in plan.all_runs}
    answering = [run for run in runs if run.status.get("state") != State.FAILED]
    return [
        run
        for run, made in ((run, made_run(run)) for run in answering)
        if made.key not in known or made.seed != run.status.get("seed")
    ]


def made_run(run: AnyRun) -> PlannedRun:
    """Return a run that was made as a planned one."""
    status = run.status
    overrides = status.get("overrides", ())
    seed = status.get("seed")
    fold = fold_of(run.config)
    return PlannedRun(
        model=str(status.get("model", "")),
        data=str(status.get("data", "")),
        seed=seed if type(seed) is int and 0 <= seed < 2**32 else 0,
        variant_hash=variant_hash_of(run),
        overrides=answer_overrides(overrides if isinstance(overrides, list | tuple) else ()),
        fold=None if fold is None else fold.index,
    )


def variant_hash_of(run: AnyRun) -> str:
    """Return the hash of a run's settings without the seed."""
    status = run.status
    return variant_hash(
        run.config, model=str(status.get("model", "")), data=str(status.get("data", ""))
    )


def variant_hash(config: Mapping[str, Any], *, model: str, data: str) -> str:
    """Return the SHA-256 of what all seeds and folds of a variant share.

    Settings alone are not enough: two choices of `model` or `data` may have the same ones.
    """
    settings = figure_settings(config)
    settings.pop("seed", None)
    if isinstance(settings.get("data"), Mapping):
        settings["data"] = {key: it for key, it in settings["data"].items() if key != "fold"}

    content = [settings, model, data]
    try:
        text = json.dumps(content, sort_keys=True, default=str)
    except (TypeError, ValueError, RecursionError):  # keys of several types, or a circle
        text = repr(content)
    return hashlib.sha256(text.encode()).hexdigest()


def answer_overrides(overrides: Iterable[Any]) -> tuple[str, ...]:
    """Return the overrides that answers depend on, besides model, data and seed; sorted."""
    ignored = {*NOT_HASHED, *NAMED, "experiment", *(f"eval.{name}" for name in PLAN_SETTINGS)}
    kept = []
    for override in map(str, overrides):
        name = override.lstrip("+~").partition("=")[0]
        group = name.partition(".")[0].partition("/")[0]
        if name not in ignored and group not in NOT_HASHED and group != "hydra":
            kept.append(override[:MAX_SHOWN])
    return tuple(sorted(kept))


def variant_label(run: PlannedRun, runs: Sequence[PlannedRun]) -> str:
    """Return the name of a run's variant among `runs`: only what differs is in it."""
    several_models = len({other.model for other in runs}) > 1
    several_data = len({other.data for other in runs}) > 1
    own = differing_overrides(run, runs)

    names = [run.model] if several_models else []
    if several_data or not (names or own):
        names.append(run.data)
    return " · ".join([*names, " ".join(own)] if own else names)


def differing_overrides(run: PlannedRun, runs: Sequence[PlannedRun]) -> list[str]:
    """Return the overrides of a run that not all of `runs` share."""
    shared = set.intersection(*(set(other.overrides) for other in runs)) if runs else set()
    return [override for override in run.overrides if override not in shared]


def question_of(runs: Sequence[PlannedRun]) -> Question:
    """Return what differs among runs: the data variant, or else the model, or else a setting."""
    data = tuple(dict.fromkeys(run.data for run in runs))
    models = tuple(dict.fromkeys(run.model for run in runs))
    if len(data) > 1 or not runs:
        return Question(
            axis="data",
            values=data,
            baseline=_baseline(data),
        )

    settings: dict[str, list[str]] = {}
    for run in runs:
        for override in differing_overrides(run, runs):
            name, _, value = override.lstrip("+").partition("=")
            settings.setdefault(name, []).append(value)
    if len(models) == 1 and settings:
        axis, found = next(iter(settings.items()))
        values = tuple(dict.fromkeys(found))
        return Question(
            axis=axis,
            values=values,
            baseline=values[0],
        )

    if len(models) > 1:
        return Question(
            axis="model",
            values=models,
            baseline=models[0],
        )
    return Question(
        axis="data",
        values=data,
        baseline=BASELINE,
    )


def _baseline(values: Sequence[str]) -> str:
    if BASELINE in values or not values:
        return BASELINE
    return values[0]


def _state(state: str | None) -> str:
    """Return the state of a planned run whose status says `state`; None: there is no status."""
    with suppress(ValueError):
        known = State(state or "")
        if known not in (State.CHECKED, State.DONE):
            return str(known)
    return MISSING
