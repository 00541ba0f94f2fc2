"""Deal photos into lots.

A lot is a set of photos with its own reference images. Two lots share no part, no image and no
near-duplicate, so different lots can go to different splits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vlmbench.data.generated.specimens import rng_of
from vlmbench.data.near_duplicates import near_duplicates
from vlmbench.data.photos.photo import BAD, GOOD, PhotoCopy
from vlmbench.data.photos.stock import MIN_LOTS, QUERIES, Stock
from vlmbench.types import Split, UserError

TESTED = 0.2  # largest share of the good parts that stand beside real defects in the test split

Unit = list[PhotoCopy]  # photos that stay together


@dataclass(frozen=True, slots=True, kw_only=True)
class Lot:
    """A set of photos that share reference images.

    `references` are good photos. `queries` are compared with them. `units` are all photos of the
    lot. The photos of a unit show one part, are the same image or look the same. Photos of two
    units show two parts.
    """

    name: str
    references: tuple[PhotoCopy, ...]
    queries: tuple[PhotoCopy, ...]
    units: tuple[tuple[PhotoCopy, ...], ...]


def deal(
    copies: Sequence[PhotoCopy],
    *,
    lots: int | None,
    references: int,
    seed: int,
    source_path: str,
    parts: int = 1,
    tests_defects: bool = False,
) -> list[Lot]:
    """Deal photos into lots, separately for each category and for each split that the user chose.

    Photos of one part, the same image and near-duplicates go into the same lot. With `lots` None,
    there are as many lots as good photos allow, at most MAX_LOTS. Each then has `parts` parts.
    With `tests_defects`, bad photos go to the test split, unless the user chose theirs.
    Errors name `source_path`. Raise UserError if a lot has no query, or if the same image is both
    good and bad.
    """
    units = group_units(copies, source_path)
    sections: dict[tuple[str, str], list[Unit]] = defaultdict(list)
    for unit in units:
        photo = unit[0].photo
        sections[photo.category, photo.split or ""].append(unit)

    if tests_defects:
        least = references + QUERIES
        sections = _test_defects(sections, lots=lots, least=least, seed=seed)

    fewest = _fewest_lots(sections)
    dealt: list[Lot] = []
    for (category, split), members in sorted(sections.items()):
        title = "-".join(filter(None, (split, category)))
        stock = _stock_of(members, fewest)
        count = lots or stock.count_lots(references=references, parts=parts)
        hands = _deal_units(members, count, rng_of(seed, f"deal-{title}"))

        for number, hand in enumerate(hands):
            name = "-".join(filter(None, (title, f"lot-{number:02d}")))
            rng = rng_of(seed, f"references-{name}")
            dealt.append(_make_lot(name, hand, references, rng, source_path))

    return dealt


def _test_defects(
    sections: Mapping[tuple[str, str], Sequence[Unit]], *, lots: int | None, least: int, seed: int
) -> dict[tuple[str, str], list[Unit]]:
    """Return the sections with all bad units of no split in the test split.

    Good units go with them, drawn at random: `least` for each lot.
    """
    parted: dict[tuple[str, str], list[Unit]] = defaultdict(list)
    for (category, split), units in sections.items():
        bad = [unit for unit in units if not _is_good_unit(unit)]
        if split or not bad:
            parted[category, split] += units
            continue

        good = [unit for unit in units if _is_good_unit(unit)]
        count = lots or max(1, min(len(bad), int(TESTED * len(good)) // least))
        order = rng_of(seed, f"test-{category}").permutation(len(good))
        shuffled = [good[i] for i in order]
        tested = [*bad, *shuffled[: count * least]]
        parted[category, Split.TEST.value] += [_in_test(unit) for unit in tested]
        parted[category, ""] += shuffled[count * least :]

    return {section: units for section, units in parted.items() if units}


def _in_test(unit: Unit) -> Unit:
    return [replace(copy, photo=replace(copy.photo, split=Split.TEST)) for copy in unit]


def stocks_of(lots: Sequence[Lot]) -> list[Stock]:
    """Return what the lots were dealt from: a stock for each category and split."""
    sections: dict[tuple[str, str], list[Unit]] = defaultdict(list)
    for lot in lots:
        photo = lot.units[0][0].photo
        sections[photo.category, photo.split or ""] += [list(unit) for unit in lot.units]

    fewest = _fewest_lots(sections)
    return [_stock_of(units, fewest) for units in sections.values()]


def _stock_of(units: Sequence[Unit], fewest: int) -> Stock:
    bad = [sum(map(_is_bad, unit)) for unit in units]
    good = [len(unit) - number for unit, number in zip(units, bad, strict=True)]
    return Stock(
        good=sum(good),
        bad=sum(bad),
        good_parts=sum(number > 0 for number in good),
        bad_parts=sum(number > 0 for number in bad),
        fewest=fewest,
    )


def _fewest_lots(sections: Collection[tuple[str, str]]) -> int:
    """Return how many lots each section has at least: the splits of a single one need three."""
    return MIN_LOTS if len(sections) == 1 and not next(iter(sections))[1] else 1


def group_units(copies: Sequence[PhotoCopy], source_path: str) -> list[Unit]:
    """Group the photos that have to stay together. Each unit is sorted by name."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    copies = sorted(copies, key=lambda copy: copy.photo.name)
    links = near_duplicates([copy.facts for copy in copies])
    links += _link_photos(copies, source_path)

    rows, columns = np.array(links).T
    ones = np.ones(len(links), dtype=np.int8)
    graph = coo_array((ones, (rows, columns)), shape=(len(copies), len(copies)))
    _, components = connected_components(graph, directed=False)

    units: dict[int, Unit] = defaultdict(list)
    for component, copy in zip(components.tolist(), copies, strict=True):
        units[component].append(copy)

    for unit in units.values():
        _check_unit(unit, source_path)

    return list(units.values())


def _link_photos(copies: Sequence[PhotoCopy], source_path: str) -> list[tuple[int, int]]:
    """Return pairs of positions: each photo with the first one of its part and of its content.

    Raise UserError if the same image is both good and bad.
    """
    links: list[tuple[int, int]] = []
    first_of: dict[Hashable, int] = {}

    for number, copy in enumerate(copies):
        photo = copy.photo
        part = first_of.setdefault(("part", photo.category, photo.part), number)
        same_file = first_of.setdefault(("content", copy.facts.sha256), number)
        links += [(part, number), (same_file, number)]

        twin = copies[same_file].photo
        if twin.label != photo.label:
            raise UserError(
                f"source.path={source_path}: {twin.name} is {twin.label} and {photo.name} is "
                f"{photo.label}, but they are the same image; remove one of them"
            )

    return links


def _check_unit(unit: Unit, source_path: str) -> None:
    first = unit[0].photo

    for copy in unit:
        photo = copy.photo
        if (photo.split, photo.category) != (first.split, first.category):
            raise UserError(
                f"source.path={source_path}: {first.name} and {photo.name} show one part or look "
                "the same, but their split or category differs; change one of the labels, or "
                "remove one of the photos"
            )


def _deal_units(units: Sequence[Unit], lots: int, rng: np.random.Generator) -> list[list[Unit]]:
    """Deal units in random order, each to the lot with the fewest photos of its kind.

    Units with bad photos come first.
    """
    dealt: list[list[Unit]] = [[] for _ in range(lots)]
    counts = np.zeros((lots, 2), dtype=int)  # good and bad photos
    shuffled = [units[i] for i in rng.permutation(len(units))]

    for unit in sorted(shuffled, key=_is_good_unit):
        bad = sum(_is_bad(copy) for copy in unit)
        good = len(unit) - bad
        of_kind = counts[:, 1] if bad else counts[:, 0]
        lot = int(np.lexsort((counts.sum(1), of_kind))[0])
        dealt[lot].append(unit)
        counts[lot] += (good, bad)

    return dealt


def _make_lot(
    name: str, units: Sequence[Unit], references: int, rng: np.random.Generator, source_path: str
) -> Lot:
    """Return the lot. Its references come from as many parts as possible.

    Parts without bad photos come first. Raise UserError if no good query is left.
    """
    shuffled = [units[i] for i in rng.permutation(len(units))]
    order = sorted(shuffled, key=lambda unit: not _is_good_unit(unit))
    good = [[copy for copy in unit if not _is_bad(copy)] for unit in order]
    num_rounds = max((len(unit) for unit in good), default=0)
    rounds = [unit[i] for i in range(num_rounds) for unit in good if i < len(unit)]
    chosen = rounds[:references]

    copies = [copy for unit in units for copy in unit]
    num_left = sum(not _is_bad(copy) for copy in copies) - len(chosen)
    if num_left < 1:
        raise UserError(
            f"source.path={source_path}: {name} has {len(chosen)} good photos. All are its "
            "references, and none is left as a query. Photos of one part and photos that look the "
            "same stay in one lot; add good photos, lower source.pairs.lots or "
            "source.pairs.references, or set source.parts=photo if each photo shows a part of its "
            "own"
        )

    names = {copy.photo.name for copy in chosen}
    queries = [copy for copy in copies if copy.photo.name not in names]
    queries.sort(key=lambda copy: copy.photo.name)

    return Lot(
        name=name,
        references=tuple(chosen),
        queries=tuple(queries),
        units=tuple(tuple(unit) for unit in units),
    )


def _is_bad(copy: PhotoCopy) -> bool:
    return copy.photo.label == BAD


def _is_good_unit(unit: Unit) -> bool:
    return all(copy.photo.label == GOOD for copy in unit)
