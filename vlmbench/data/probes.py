"""Control records made from held-out ones: does the model compare, or does it look at one picture only?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from vlmbench.types import LABELS, ImageRef, Probe, Record, Role, Task

# Whether the second part is good depends on the first one, not the other way round: only good pairs may be swapped.
SYMMETRIC = frozenset({Task.COMPARE_VIEWS, Task.COMPARE_SHAPES})
SAME_VIEW = frozenset({Task.JUDGE_PAIR, Task.COMPARE_SHAPES})
REFERENCED = frozenset({Task.JUDGE_PAIR, Task.JUDGE_LINK, Task.CHOOSE_OPTION})


def make_probes(records: Sequence[Record]) -> list[Record]:
    """Swapped, self-paired, blank-reference and closing pairs of ordinary records, in a fixed order."""
    pairs = [record for record in records if len(record.images) == 2]
    return [*_swapped(pairs), *_self_paired(pairs), *_blanked(pairs), *_closing(pairs)]


def _swapped(pairs: Iterable[Record]) -> Iterator[Record]:
    for record in pairs:
        if record.task in SYMMETRIC or (record.task is Task.JUDGE_PAIR and record.label == LABELS[record.task][0]):
            first, second = record.images
            yield _probe(Probe.SWAP, (record,), second, first, label=record.label)


def _self_paired(pairs: Iterable[Record]) -> Iterator[Record]:
    seen = set()
    for record in pairs:
        reference = record.images[0]
        key = (record.task, record.view, reference.path)
        if record.task in SAME_VIEW and key not in seen:
            seen.add(key)
            yield _probe(Probe.SELF, (record,), reference, reference, label=LABELS[record.task][0])


def _blanked(pairs: Iterable[Record]) -> Iterator[Record]:
    for record in pairs:
        if record.task in REFERENCED:
            reference, query = record.images
            yield _probe(Probe.BLANK, (record,), replace(reference, blank=True), query, label=record.label)


def _closing(pairs: Iterable[Record]) -> Iterator[Record]:
    """For each reference A with two records A~B and A~C: does B~C hold too?"""
    same = defaultdict(list)
    for record in pairs:
        if record.task in SAME_VIEW and record.label == LABELS[record.task][0]:
            same[record.task, record.view, record.images[0].path].append(record)
    for records in same.values():
        for one, other in zip(records[::2], records[1::2], strict=False):
            if one.images[1].path != other.images[1].path:
                yield _probe(Probe.CLOSURE, (one, other), one.images[1], other.images[1], label=one.label)


def _probe(probe: Probe, of: tuple[Record, ...], first: ImageRef, second: ImageRef, *, label: str) -> Record:
    ids = tuple(record.id for record in of)
    return replace(
        of[0],
        id=f"{probe}:{'+'.join(ids)}",
        images=(replace(first, role=Role.REFERENCE), replace(second, role=Role.QUERY)),
        label=label,
        answer=label,
        probe=probe,
        of=ids,
    )
