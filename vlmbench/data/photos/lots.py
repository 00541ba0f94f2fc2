"""Photos dealt into lots: sets that share no part, no picture and no look, so that lots can go to different sides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from vlmbench.data.looks import near_duplicates
from vlmbench.data.photos.photo import BAD, GOOD, Copy
from vlmbench.data.specimens import rng_of
from vlmbench.types import UserError

MOST_LOTS = 40  # of one category, where nobody says how many
FEWEST_LOTS = 3  # one for each side
QUERIES = 2  # good photos to judge that a lot should have beside its references


@dataclass(frozen=True, slots=True, kw_only=True)
class Lot:
    """`references` are good photos that the lot's `queries` may be compared with. `units` are all its photos, those
    together that show one part, are the same picture or look the same: photos of two units show two parts."""

    name: str
    references: tuple[Copy, ...]
    queries: tuple[Copy, ...]
    units: tuple[tuple[Copy, ...], ...]


def deal(
    copies: Sequence[Copy], *, lots: int | None, references: int, seed: int, place: str, parts: int = 1
) -> list[Lot]:
    """Deal photos into lots, each category (and each side that the user fixed) by itself.

    What belongs to one part, is the same picture or looks the same goes into one lot, whole. `lots` None: as many as
    there are good photos for, of `parts` parts each, up to MOST_LOTS. `place` names the source in errors. Raises
    UserError where a lot would have nothing to judge, or one picture is both good and bad.
    """
    units = _units(copies, place)
    sections: dict[tuple[str, str], list[list[Copy]]] = defaultdict(list)
    for unit in units:
        sections[unit[0].photo.category, unit[0].photo.split or ""].append(unit)
    fewest = FEWEST_LOTS if len(sections) == 1 and ("" in {split for _, split in sections}) else 1
    dealt = []
    for (category, split), members in sorted(sections.items()):
        title = "-".join(filter(None, (split, category)))
        count = lots or _number_of_lots(members, references, parts, fewest)
        for number, lot in enumerate(_deal_units(members, count, rng_of(seed, f"deal-{title}"))):
            name = "-".join(filter(None, (title, f"lot-{number:02d}")))
            dealt.append(_lot(name, lot, references, rng_of(seed, f"references-{name}"), place))
    return dealt


def _number_of_lots(units: Sequence[Sequence[Copy]], references: int, parts: int, fewest: int) -> int:
    good = [sum(copy.photo.label == GOOD for copy in unit) for unit in units]
    with_good = sum(count > 0 for count in good)
    with_bad = sum(any(copy.photo.label == BAD for copy in unit) for unit in units)
    most = min(sum(good) // (references + QUERIES), with_good // parts, with_bad or MOST_LOTS, MOST_LOTS)
    return max(fewest, most)


def _units(copies: Sequence[Copy], place: str) -> list[list[Copy]]:
    """Photos that have to stay together, in the order of their names."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    copies = sorted(copies, key=lambda copy: copy.photo.name)
    links = near_duplicates([copy.facts for copy in copies])
    firsts: dict[Hashable, int] = {}
    for number, copy in enumerate(copies):
        photo = copy.photo
        for key in (("part", photo.category, photo.part), ("content", copy.facts.sha256)):
            first = firsts.setdefault(key, number)
            links.append((first, number))
            if key[0] == "content" and copies[first].photo.label != photo.label:
                raise UserError(
                    f"{place}: {copies[first].photo.name} is {copies[first].photo.label} and {photo.name} is "
                    f"{photo.label}, but they are the same picture; take one away"
                )
    rows, columns = np.array(links).T
    graph = coo_array((np.ones(len(links), dtype=np.int8), (rows, columns)), shape=(len(copies), len(copies)))
    units: dict[int, list[Copy]] = defaultdict(list)
    for unit, copy in zip(connected_components(graph, directed=False)[1].tolist(), copies, strict=True):
        units[unit].append(copy)
    for unit in units.values():
        _check_unit(unit, place)
    return list(units.values())


def _check_unit(unit: Sequence[Copy], place: str) -> None:
    for one in unit:
        if (one.photo.split, one.photo.category) != (unit[0].photo.split, unit[0].photo.category):
            raise UserError(
                f"{place}: {unit[0].photo.name} and {one.photo.name} show one part or look the same, but their split "
                "or category differs; correct one of them, or take one away"
            )


def _deal_units(units: Sequence[list[Copy]], lots: int, rng: np.random.Generator) -> list[list[list[Copy]]]:
    """Units in random order, each to the lot that has the fewest of its kind; those with bad photos first."""
    dealt: list[list[list[Copy]]] = [[] for _ in range(lots)]
    counts = np.zeros((lots, 2), dtype=int)  # good and bad photos
    shuffled = [units[i] for i in rng.permutation(len(units))]
    for unit in sorted(shuffled, key=lambda unit: all(copy.photo.label == GOOD for copy in unit)):
        bad = sum(copy.photo.label == BAD for copy in unit)
        good = len(unit) - bad
        lot = int(np.lexsort((counts.sum(1), counts[:, 1] if bad else counts[:, 0]))[0])
        dealt[lot].append(unit)
        counts[lot] += (good, bad)
    return dealt


def _lot(name: str, units: Sequence[list[Copy]], references: int, rng: np.random.Generator, place: str) -> Lot:
    """Take the references from as many parts as there are, those without bad photos first."""
    order = sorted((units[i] for i in rng.permutation(len(units))), key=lambda unit: any(_is_bad(c) for c in unit))
    good = [[copy for copy in unit if not _is_bad(copy)] for unit in order]
    turns = max((len(unit) for unit in good), default=0)
    chosen = [unit[turn] for turn in range(turns) for unit in good if turn < len(unit)][:references]
    copies = [copy for unit in units for copy in unit]
    left = sum(not _is_bad(copy) for copy in copies) - len(chosen)
    if left < 1:
        raise UserError(
            f"{place}: {name} has {len(chosen)} good photos, which are its references, and none is left to judge "
            "(photos of one part, and ones that look the same, stay together); add good photos, lower "
            "source.pairs.lots or source.pairs.references, or, where each photo shows a part of its own, tell parts by "
            "source.parts=photo"
        )
    taken = {copy.photo.name for copy in chosen}
    queries = sorted((copy for copy in copies if copy.photo.name not in taken), key=lambda copy: copy.photo.name)
    return Lot(name=name, references=tuple(chosen), queries=tuple(queries), units=tuple(map(tuple, units)))


def _is_bad(copy: Copy) -> bool:
    return copy.photo.label == BAD
