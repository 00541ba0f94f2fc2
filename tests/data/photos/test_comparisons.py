"""Comparison records of photos: answers are true, and no photo alone gives the label away."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from tests.conftest import image
from tests.helpers.photos import copy, make_copies, photos_in
from vlmbench.cli.main import CONF
from vlmbench.data.manifest import open_manifest
from vlmbench.data.photos.comparisons import (
    PhotoComparison,
    make_comparison_records,
    make_comparisons,
)
from vlmbench.data.photos.lots import Lot, deal
from vlmbench.data.photos.pairs import PairsConfig, Policy, make_pairs
from vlmbench.data.photos.photo import PhotoCopy
from vlmbench.data.prompts import Wording
from vlmbench.data.sources.folder import FolderConfig
from vlmbench.types import Record, Role, Split, Task, UserError


def deal_photos(photos: Sequence[PhotoCopy], lots: int) -> list[Lot]:
    return deal(photos, lots=lots, references=2, seed=0, source_path="p")


def compare_all(lots: Sequence[Lot], *, seed: int = 0) -> list[PhotoComparison]:
    pairs = make_pairs(lots, PairsConfig(policy=Policy.all))
    return make_comparisons(lots, pairs, seed=seed)


def names(record: Record) -> tuple[str, str]:
    return record.images[0].path.name, record.images[1].path.name


def test_a_lot_has_about_as_many_comparison_records_as_queries() -> None:
    lots = deal_photos(make_copies(24, 12), 6)  # 2 references and 4 queries each
    counts = Counter(comparison.lot for comparison in compare_all(lots))
    assert counts == {lot.name: 2 for lot in lots}  # 4 records

    odd = deal_photos(make_copies(24, 6), 6)  # 3 queries each
    counts = Counter(comparison.lot for comparison in compare_all(odd))
    assert counts == {lot.name: 2 for lot in odd}


def test_a_limit_of_pairs_limits_the_comparisons_too() -> None:
    lots = deal_photos(make_copies(24, 12), 6)
    few = make_pairs(lots, PairsConfig(limit=7))
    num_queries = Counter(pair.lot for pair in few)
    comparisons = make_comparisons(lots, few, seed=0)
    counts = Counter(comparison.lot for comparison in comparisons)
    assert counts == {lot: (count + 1) // 2 for lot, count in num_queries.items()}


def test_the_only_photo_of_a_part_is_beside_itself_and_beside_the_next_part() -> None:
    (lot,) = deal_photos(make_copies(6, 2), 1)
    for comparison in compare_all([lot]):
        assert comparison.same is comparison.raw
        assert comparison.different.photo.part != comparison.raw.photo.part


def test_a_part_with_several_photos_is_shown_in_two_of_them() -> None:
    photos = [copy(f"{part}_{i}", part=part) for part in ("a", "b") for i in range(3)]
    # 5 queries, 4 good and 1 bad, give 3 comparisons.
    (lot,) = deal_photos([*photos, copy("c", label="abnormal")], 1)
    comparisons = compare_all([lot])
    # The parts take turns.
    assert {comparison.raw.photo.part for comparison in comparisons[:2]} == {"a", "b"}
    for comparison in comparisons:
        assert comparison.same.photo.part == comparison.raw.photo.part
        assert comparison.same.photo.name != comparison.raw.photo.name
        assert comparison.different.photo.part != comparison.raw.photo.part


def test_in_a_whole_ring_no_photo_gives_the_label_away() -> None:
    photos = [copy(f"{part}_{i}", part=part) for part in "abc" for i in range(4)]
    (lot,) = deal_photos([*photos, copy("d", label="abnormal"), copy("e", label="abnormal")], 1)
    # 12 queries give two rings of three parts.
    records = list(make_comparison_records(compare_all([lot]), "rt"))
    assert Counter(record.label for record in records) == {"same_part": 6, "different_part": 6}
    for position in (0, 1):
        shown = defaultdict(Counter)
        for record in records:
            shown[record.label][names(record)[position]] += 1
        assert shown["same_part"] == shown["different_part"]


def test_answers_say_what_is_known_of_the_two_photos() -> None:
    photos = [copy("a_1", part="a"), copy("a_2", part="a"), copy("b"), copy("c")]
    (lot,) = deal_photos([*photos, copy("d", label="abnormal")], 1)
    for record in make_comparison_records(compare_all([lot]), "rt"):
        parts = [name[0] for name in names(record)]
        first, second = names(record)
        if parts[0] != parts[1]:
            words = "two parts"
        else:
            words = "one photo" if first == second else "two photos of one part"

        assert record.answer == f"{record.label}: {words}"
        assert (record.label == "same_part") is (parts[0] == parts[1])
        assert [(image.role, image.view) for image in record.images] == [
            (Role.REFERENCE, "raw"),
            (Role.QUERY, "rt"),
        ]
        assert (record.task, record.group, record.view) == (Task.COMPARE_VIEWS, "lot-00", "raw+rt")


def test_answers_are_translated_into_japanese() -> None:
    prompt = OmegaConf.load(CONF / "prompt" / "ja.yaml")
    wording = Wording(questions=prompt.questions, labels=prompt.labels, phrases=prompt.phrases)
    photos = [
        copy("a_1", part="a"),
        copy("a_2", part="a"),
        copy("b"),
        copy("c"),
        copy("d", label="abnormal"),
    ]
    records = make_comparison_records(compare_all(deal_photos(photos, 1)), "rt")
    assert {wording.answer(record) for record in records} == {
        "同じ部品: 一枚の写真",
        "同じ部品: 一つの部品の二枚の写真",
        "別の部品: 二つの部品",
    }


def test_photos_that_look_alike_are_never_called_two_parts() -> None:
    twins = [copy("twin-1", look=7), copy("twin-2", look=7), copy("twin-3", look=7)]
    (lot,) = deal_photos([*twins, copy("x"), copy("y", label="abnormal")], 1)
    comparisons = compare_all([lot])
    assert comparisons
    for comparison in comparisons:
        assert ("twin" in comparison.raw.photo.name) != ("twin" in comparison.different.photo.name)
        # Nothing says that the twins show one part.
        assert comparison.same is comparison.raw


def test_a_duplicate_is_no_second_photo_of_its_part() -> None:
    first, second = copy("a_1", part="a"), copy("a_2", part="a")
    again = PhotoCopy(photo=second.photo, path=second.path, facts=first.facts)
    (lot,) = deal_photos([first, again, copy("b"), copy("c"), copy("d", label="abnormal")], 1)
    assert all(comparison.same is comparison.raw for comparison in compare_all([lot]))


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["normal", "abnormal"]), st.integers(0, 9)),
        min_size=30,
        max_size=60,
    ),
    st.integers(1, 4),
)
def test_labels_are_balanced_and_stay_in_one_lot(photos: list[tuple[str, int]], lots: int) -> None:
    copies = [
        copy(f"{i}-{label}", label=label, part=f"part-{part}")
        for i, (label, part) in enumerate(photos)
    ]
    try:
        dealt = deal_photos(copies, lots)
    except UserError:
        return  # too few good photos for so many lots

    lot_of = {member.photo.name: lot.name for lot in dealt for unit in lot.units for member in unit}
    comparisons = compare_all(dealt)
    for comparison in comparisons:
        shown = [comparison.raw.photo, comparison.same.photo, comparison.different.photo]
        assert {lot_of[photo.name] for photo in shown} == {comparison.lot}
        assert {photo.label for photo in shown} == {"normal"}
        assert shown[0].part == shown[1].part != shown[2].part

    ids = [record.id for record in make_comparison_records(comparisons, "rt")]
    assert len(ids) == len(set(ids)) == 2 * len(comparisons)


def test_comparisons_are_drawn_by_the_seed() -> None:
    lots = deal_photos(make_copies(40, 20), 2)
    assert compare_all(lots) == compare_all(lots)
    assert compare_all(lots) != compare_all(lots, seed=1)


def test_splits_that_the_user_chose_are_kept() -> None:
    photos = [
        copy(f"{split}-{label}{i}", label=label, split=split)
        for split in Split
        for label, count in (("normal", 6), ("abnormal", 3))
        for i in range(count)
    ]
    lots = deal(photos, lots=1, references=2, seed=0, source_path="p")
    records = list(make_comparison_records(compare_all(lots), "rt"))
    assert {record.split for record in records} == set(Split)
    assert all(name.startswith(str(record.split)) for record in records for name in names(record))


def tasks_of(config: FolderConfig, folder: Path) -> Counter[str]:
    return Counter(
        str(record.task) for record in open_manifest(config.prepare(folder), views={"raw", "rt"})
    )


def test_a_folder_has_comparisons_only_with_a_processed_view(tmp_path: Path) -> None:
    # 16 good and 8 bad photos: four lots with 2 references and 4 queries.
    path = str(photos_in(tmp_path / "photos"))
    data = tmp_path / "data"
    counts = tasks_of(FolderConfig(path=path), data)
    assert counts == {"judge_pair": 32, "judge_single": 32, "judge_link": 16, "compare_views": 16}

    without = tasks_of(FolderConfig(path=path, compare_views=False), data)
    raw_only = tasks_of(FolderConfig(path=path, processed_view=None), data)
    assert without["compare_views"] == raw_only["compare_views"] == 0


def test_lots_of_one_part_are_warned_of_with_their_cure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "good").mkdir()
    for part in range(3):
        image(part).save(tmp_path / "bad" / f"part{part}_9.png")
        for i in range(4):
            image(100 * part + 10 + i).save(tmp_path / "good" / f"part{part}_{i}.png")
    with caplog.at_level(logging.WARNING):
        counts = tasks_of(FolderConfig(path=str(tmp_path)), tmp_path / "data")
    assert counts["compare_views"] == 0
    assert "in 3 of 3 lots all good photos show one part" in caplog.text
    assert "lower source.pairs.lots" in caplog.text
