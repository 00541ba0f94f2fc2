"""The looks at a sweep: each different set of answers that a verdict was read from.

A report that shows a verdict is a look. A verdict that is read again after each new seed is wrong
more often, so <sweep>/looks.json counts. The file only grows. It may come from strangers.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from vlmbench.runs.folder import to_json
from vlmbench.runs.plan import (
    MAX_SHOWN,
    AnyRun,
    Date,
    Plan,
    RunKey,
    Seed,
    Text,
    made_run,
    read_plan,
    write_plan,
)
from vlmbench.runs.planning import lock_plan, now
from vlmbench.system.files import write_whole
from vlmbench.system.reading import UnreadableError, exists, read_regular
from vlmbench.system.version import __version__
from vlmbench.types import Prediction

log = logging.getLogger(__name__)

LOOKS_FILE = "looks.json"
DAMAGED_FILE = "looks.damaged.json"
MAX_BYTES = 20_000_000


class AnsweredRun(AnyRun, Protocol):
    """A finished run with its answers."""

    @property
    def predictions(self) -> Sequence[Prediction]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Seeds:
    """The seeds of one variant whose answers were looked at."""

    variant_hash: Text
    variant: Text
    seeds: tuple[Seed, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The answers that a verdict rests on: their hash, and the seeds of each variant.

    `question` names what is asked of them, if looks at several questions are counted apart.
    """

    answers_hash: Text
    variants: tuple[Seeds, ...]
    question: Text = ""

    @property
    def seeds(self) -> dict[str, tuple[int, ...]]:
        """Return the hash of each variant with its seeds."""
        return {one.variant_hash: one.seeds for one in self.variants}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A look, as looks.json has it."""

    date: Date
    version: Text
    evidence: Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A look at a sweep.

    `number` counts the looks with other seeds than the look before, this one included. `planned`:
    the seeds are exactly those that the plan named at first. `unknown_before`: looks.json was
    removed, so there may have been more looks. `changed` names the variants whose seeds are others
    than at the look before.
    """

    number: int
    planned: bool
    date: str
    unknown_before: bool = False
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class LookFile:
    """The content of looks.json. `unknown_before`: an earlier file was removed or damaged."""

    unknown_before: bool = False
    looks: Annotated[tuple[Entry, ...], Meta(max_length=100_000)] = ()


def evidence_of(runs: Iterable[AnsweredRun], *, question: str = "") -> Evidence:
    """Return the evidence of these runs: the ones that answered."""
    digests: dict[RunKey, str] = {}
    seeds: dict[str, set[int]] = {}
    names: dict[str, str] = {}
    for run in runs:
        made = made_run(run)
        digests[made.key] = _answers_hash(run.predictions)
        seeds.setdefault(made.variant_hash, set()).add(made.seed)
        names[made.variant_hash] = " · ".join(
            part for part in (made.model, made.data, " ".join(made.overrides)) if part
        )

    variants = [
        Seeds(
            variant_hash=key,
            variant=names[key][:MAX_SHOWN],
            seeds=tuple(sorted(seeds[key])),
        )
        for key in sorted(seeds)
    ]
    text = to_json(sorted((*key, digest) for key, digest in digests.items()))
    answers_hash = hashlib.sha256(text.encode()).hexdigest()
    return Evidence(
        answers_hash=answers_hash,
        variants=tuple(variants),
        question=question,
    )


def register_look(sweep: Path, evidence: Evidence) -> Look:
    """Write the look into looks.json, unless this evidence was looked at before; return it.

    Looks at different questions are counted apart.
    """
    with lock_plan(sweep):
        plan = read_plan(sweep)
        file = _read_looks(sweep, plan)

        entries = [entry for entry in file.looks if entry.evidence.question == evidence.question]
        known = [entry.evidence.answers_hash for entry in entries]
        if evidence.answers_hash not in known:
            entry = Entry(
                date=now(),
                version=__version__,
                evidence=evidence,
            )
            file = replace(file, looks=(*file.looks, entry))
            entries.append(entry)
            _write_looks(sweep, plan, file)

    entries = entries[: _position(entries, evidence) + 1]
    return _describe(entries, plan, unknown_before=file.unknown_before)


def planned_seeds(plan: Plan | None, evidence: Evidence) -> bool:
    """Return whether each variant has exactly the seeds that the plan named at first."""
    if plan is None or not evidence.variants:
        return False
    return all(sorted(plan.seeds(key)) == list(seeds) for key, seeds in evidence.seeds.items())


def _describe(entries: Sequence[Entry], plan: Plan | None, *, unknown_before: bool) -> Look:
    """Return the last of the entries as a look."""
    number = 0
    changed: tuple[str, ...] = ()
    before: Mapping[str, tuple[int, ...]] = {}
    for entry in entries:
        if entry.evidence.seeds != before:
            number += 1
            changed = _changed_variants(before, entry.evidence)
        before = entry.evidence.seeds

    last = entries[-1]
    return Look(
        number=number,
        planned=planned_seeds(plan, last.evidence),
        date=last.date,
        unknown_before=unknown_before,
        changed=changed if number > 1 else (),
    )


def _changed_variants(before: Mapping[str, tuple[int, ...]], evidence: Evidence) -> tuple[str, ...]:
    return tuple(
        one.variant for one in evidence.variants if before.get(one.variant_hash) != one.seeds
    )


def _position(entries: Sequence[Entry], evidence: Evidence) -> int:
    hashes = [entry.evidence.answers_hash for entry in entries]
    return hashes.index(evidence.answers_hash)


def _answers_hash(predictions: Iterable[Prediction]) -> str:
    digest = hashlib.sha256()
    for one in predictions:
        row = (one.id, one.task, one.view, one.probe, one.expected, one.predicted, one.scores)
        digest.update(msgspec.json.encode(row, order="sorted"))
    return digest.hexdigest()


def _read_looks(sweep: Path, plan: Plan | None) -> LookFile:
    """Return the looks so far. A damaged file is kept under another name and counts as removed."""
    path = sweep / LOOKS_FILE
    file = LookFile()
    if exists(path):
        try:
            file = msgspec.json.decode(read_regular(path, limit=MAX_BYTES), type=LookFile)
        except (ValueError, RecursionError) as error:
            _set_aside(path)
            log.warning(
                "%s: the list of looks is damaged (%s); it is now %s, and earlier looks are "
                "unknown",
                path,
                error,
                DAMAGED_FILE,
            )

    is_late = plan is None or plan.runs_before > 0
    expected = 0 if plan is None else plan.looks
    if len(file.looks) < expected or (is_late and not path.exists() and _was_read(sweep)):
        return replace(file, unknown_before=True)
    return file


def _set_aside(path: Path) -> None:
    """Give a damaged file another name, which may be taken."""
    target = path.with_name(DAMAGED_FILE)
    number = 1
    while target.is_dir():
        number += 1
        target = path.with_name(f"{number}_{DAMAGED_FILE}")
    path.replace(target)


def _was_read(sweep: Path) -> bool:
    """Return whether a report shows a verdict already."""
    verdicts = sweep / "report" / "verdicts.json"
    try:
        return b'"verdict"' in read_regular(verdicts, limit=MAX_BYTES)
    except UnreadableError:
        return False


def _write_looks(sweep: Path, plan: Plan | None, file: LookFile) -> None:
    write_whole(sweep / LOOKS_FILE, to_json(msgspec.to_builtins(file)) + "\n")
    if plan is not None:
        write_plan(sweep, replace(plan, looks=len(file.looks)))
