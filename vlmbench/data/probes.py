"""Make control records of held-out records: does the model compare, or look at one image only?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from vlmbench.data.changes import CHANGES
from vlmbench.data.viewer import RAW
from vlmbench.types import LABELS, ImageRef, Probe, Record, Role, Task

# judge_pair is not here: whether the second part is good depends on the first one, not the other
# way round. Only its good pairs may be swapped.
SYMMETRIC = frozenset({Task.COMPARE_VIEWS, Task.COMPARE_SHAPES})
SAME_VIEW = frozenset({Task.JUDGE_PAIR, Task.COMPARE_SHAPES})
REFERENCED = frozenset({Task.JUDGE_PAIR, Task.JUDGE_LINK, Task.CHOOSE_OPTION})


def make_probes(records: Sequence[Record]) -> list[Record]:
    """Return the probes of the pairs in `records`, in a fixed order.

    The order is: swapped, self-paired, blank-reference, other-reference and closing pairs.
    """
    pairs = [record for record in records if len(record.images) == 2]
    return [
        *_swap(pairs),
        *_pair_with_self(pairs),
        *_blank(pairs),
        *_exchange(pairs),
        *_close(pairs),
    ]


def limit_probes(probes: Sequence[Record], most: int | None) -> list[Record]:
    """Return at most `most` probes of each kind, task and view, spread evenly; None keeps all."""
    if most is None:
        return list(probes)

    kinds: dict[tuple[Probe, Task, str], list[int]] = defaultdict(list)
    for index, record in enumerate(probes):
        kinds[record.probe, record.task, record.view].append(index)

    chosen: list[int] = []
    for indices in kinds.values():
        steps = np.linspace(0, len(indices) - 1, min(most, len(indices))).round()
        chosen += [indices[int(step)] for step in steps]
    return [probes[index] for index in sorted(chosen)]


def choose_pairs(records: Sequence[Record], most: int, *, seed: int) -> list[Record]:
    """Return at most `most` raw judge_pair records, chosen at random, in their order.

    Records with a question of their own are left out: they have no other wording.
    """
    pairs = [
        record
        for record in records
        if record.task is Task.JUDGE_PAIR and record.view == RAW and not record.question
    ]
    chosen = np.random.default_rng(seed).permutation(len(pairs))[:most]
    return [pairs[index] for index in sorted(chosen.tolist())]


def perturb(pairs: Iterable[Record]) -> Iterator[Record]:
    """Yield each pair with each change of its query."""
    for record in pairs:
        reference, query = record.images
        for change in CHANGES:
            yield replace(
                record,
                id=f"{Probe.PERTURBED}:{change}:{record.id}",
                images=(reference, replace(query, change=change)),
                probe=Probe.PERTURBED,
                of=(record.id,),
                change=change,
            )


def reword(pairs: Iterable[Record], questions: Mapping[str, str]) -> Iterator[Record]:
    """Yield each pair with each of the questions, which have names."""
    for record in pairs:
        for name, question in questions.items():
            yield replace(
                record,
                id=f"{Probe.REWORDED}:{name}:{record.id}",
                question=question,
                probe=Probe.REWORDED,
                of=(record.id,),
                change=name,
            )


def _swap(pairs: Iterable[Record]) -> Iterator[Record]:
    for record in pairs:
        is_good_pair = record.task is Task.JUDGE_PAIR and _is_negative(record)
        if record.task in SYMMETRIC or is_good_pair:
            first, second = record.images
            yield _probe(Probe.SWAP, (record,), second, first, label=record.label)


def _pair_with_self(pairs: Iterable[Record]) -> Iterator[Record]:
    """Pair each reference with itself, once a task and view."""
    seen = set()
    for record in pairs:
        reference = record.images[0]
        key = (record.task, record.view, reference.path)
        if record.task in SAME_VIEW and key not in seen:
            seen.add(key)
            label = LABELS[record.task][0]
            yield _probe(Probe.SELF, (record,), reference, reference, label=label)


def _blank(pairs: Iterable[Record]) -> Iterator[Record]:
    for record in pairs:
        if record.task in REFERENCED:
            reference, query = record.images
            blank = replace(reference, blank=True)
            yield _probe(Probe.BLANK, (record,), blank, query, label=record.label)


def _exchange(pairs: Iterable[Record]) -> Iterator[Record]:
    """Give each judge_pair record the reference of the next part of its view that has another.

    A grey image is unlike all that the model was trained on. Another part's reference is not.
    """
    references: dict[str, dict[str, ImageRef]] = defaultdict(dict)
    judged = [record for record in pairs if record.task is Task.JUDGE_PAIR]
    for record in judged:
        references[record.view].setdefault(record.group, record.images[0])

    for record in judged:
        own, query = record.images
        parts = sorted(references[record.view])
        start = parts.index(record.group) + 1
        others = (references[record.view][part] for part in (*parts[start:], *parts[:start]))
        other = next((each for each in others if each.path not in (own.path, query.path)), None)
        if other is not None:
            yield _probe(Probe.OTHER, (record,), other, query, label=record.label)


def _close(pairs: Iterable[Record]) -> Iterator[Record]:
    """Pair B with C for each reference A with two records A~B and A~C."""
    same = defaultdict(list)
    for record in pairs:
        if record.task in SAME_VIEW and _is_negative(record):
            reference = record.images[0]
            same[record.task, record.view, reference.path].append(record)

    for records in same.values():
        for first, second in zip(records[::2], records[1::2], strict=False):
            b = first.images[1]
            c = second.images[1]
            if b.path != c.path:
                yield _probe(Probe.CLOSURE, (first, second), b, c, label=first.label)


def _is_negative(record: Record) -> bool:
    return record.label == LABELS[record.task][0]


def _probe(
    probe: Probe,
    of: tuple[Record, ...],
    first: ImageRef,
    second: ImageRef,
    *,
    label: str,
) -> Record:
    ids = tuple(record.id for record in of)
    reference = replace(first, role=Role.REFERENCE)
    query = replace(second, role=Role.QUERY)

    return replace(
        of[0],
        id=f"{probe}:{'+'.join(ids)}",
        images=(reference, query),
        label=label,
        answer=label,
        probe=probe,
        of=ids,
    )
