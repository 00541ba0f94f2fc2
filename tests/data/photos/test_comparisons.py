"""Raw photos beside processed ones: what is said of their parts is true, and no photo tells the label by itself."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from tests.conftest import picture
from tests.data.photos.test_photos import copy, photos_in, some
from vlmbench.__main__ import CONF
from vlmbench.data.manifest import open_manifest
from vlmbench.data.photos.comparisons import Comparison, comparison_records, make_comparisons
from vlmbench.data.photos.lots import Lot, deal
from vlmbench.data.photos.pairs import PairsConfig, Policy, make_pairs
from vlmbench.data.photos.photo import Copy
from vlmbench.data.prompts import Wording
from vlmbench.data.sources.folder import FolderConfig
from vlmbench.types import Record, Role, Split, Task, UserError


def dealt(photos: Sequence[Copy], lots: int) -> list[Lot]:
    return deal(photos, lots=lots, references=2, seed=0, place="p")


def compared(lots: Sequence[Lot], *, seed: int = 0, **pairs: int) -> list[Comparison]:
    return make_comparisons(lots, make_pairs(lots, PairsConfig(policy=Policy.all, **pairs)), seed=seed)


def names(record: Record) -> tuple[str, str]:
    return record.images[0].path.name, record.images[1].path.name


def test_a_lot_has_about_as_many_comparisons_as_photos_to_judge() -> None:
    lots = dealt(some(24, 12), 6)  # 2 references, 2 good and 2 bad photos each
    assert Counter(one.lot for one in compared(lots)) == {lot.name: 2 for lot in lots}  # two records each: 4
    odd = dealt(some(24, 6), 6)  # 3 photos to judge
    assert Counter(one.lot for one in compared(odd)) == {lot.name: 2 for lot in odd}


def test_a_limit_of_pairs_limits_the_comparisons_too() -> None:
    lots = dealt(some(24, 12), 6)
    few = make_pairs(lots, PairsConfig(limit=7))
    judged = Counter(pair.lot for pair in few)
    found = Counter(one.lot for one in make_comparisons(lots, few, seed=0))
    assert found == {lot: (count + 1) // 2 for lot, count in judged.items()}


def test_where_a_photo_is_alone_of_its_part_it_is_beside_itself_and_beside_the_next_one() -> None:
    (lot,) = dealt(some(6, 2), 1)
    for one in compared([lot]):
        assert one.same is one.raw
        assert one.other.photo.part != one.raw.photo.part


def test_of_a_part_with_several_photos_another_one_is_shown() -> None:
    photos = [copy(f"{part}_{i}", part=part) for part in ("a", "b") for i in range(3)]
    (lot,) = dealt([*photos, copy("c", label="abnormal")], 1)  # 4 good photos and a bad one to judge: 3 comparisons
    found = compared([lot])
    assert [one.raw.photo.part for one in found[:2]] in (["a", "b"], ["b", "a"])  # in turns
    for one in found:
        assert one.same.photo.part == one.raw.photo.part
        assert one.same.photo.name != one.raw.photo.name
        assert one.other.photo.part != one.raw.photo.part


def test_in_a_whole_ring_no_photo_tells_the_label() -> None:
    photos = [copy(f"{part}_{i}", part=part) for part in "abc" for i in range(4)]
    (lot,) = dealt([*photos, copy("d", label="abnormal"), copy("e", label="abnormal")], 1)
    records = list(comparison_records(compared([lot]), "rt"))  # 12 photos to judge: two rings of three parts
    assert Counter(record.label for record in records) == {"same_part": 6, "different_part": 6}
    for position in (0, 1):
        shown = defaultdict(Counter)
        for record in records:
            shown[record.label][names(record)[position]] += 1
        assert shown["same_part"] == shown["different_part"]


def test_words_say_what_is_known_of_the_two_photos() -> None:
    photos = [copy("a_1", part="a"), copy("a_2", part="a"), copy("b"), copy("c")]
    (lot,) = dealt([*photos, copy("d", label="abnormal")], 1)
    for record in comparison_records(compared([lot]), "rt"):
        parts = [name[0] for name in names(record)]
        first, second = names(record)
        known = "two parts" if parts[0] != parts[1] else "one photo" if first == second else "two photos of one part"
        assert record.answer == f"{record.label}: {known}"
        assert (record.label == "same_part") is (parts[0] == parts[1])
        assert [(image.role, image.view) for image in record.images] == [(Role.REFERENCE, "raw"), (Role.QUERY, "rt")]
        assert (record.task, record.group, record.view) == (Task.COMPARE_VIEWS, "lot-00", "raw+rt")


def test_the_words_are_there_in_japanese() -> None:
    prompt = OmegaConf.load(CONF / "prompt" / "ja.yaml")
    wording = Wording(questions=prompt.questions, labels=prompt.labels, phrases=prompt.phrases)
    photos = [copy("a_1", part="a"), copy("a_2", part="a"), copy("b"), copy("c"), copy("d", label="abnormal")]
    said = {wording.answer(record) for record in comparison_records(compared(dealt(photos, 1)), "rt")}
    assert said == {"同じ部品: 一枚の写真", "同じ部品: 一つの部品の二枚の写真", "別の部品: 二つの部品"}


def test_photos_that_look_alike_are_never_called_two_parts() -> None:
    twins = [copy("twin-1", look=7), copy("twin-2", look=7), copy("twin-3", look=7)]
    (lot,) = dealt([*twins, copy("x"), copy("y", label="abnormal")], 1)
    found = compared([lot])
    assert found
    for one in found:
        assert ("twin" in one.raw.photo.name) != ("twin" in one.other.photo.name)
        assert one.same is one.raw  # nor one part: nobody said so


def test_a_picture_that_is_there_twice_is_no_second_photo_of_its_part() -> None:
    first, second = copy("a_1", part="a"), copy("a_2", part="a")
    again = Copy(photo=second.photo, path=second.path, facts=first.facts)
    (lot,) = dealt([first, again, copy("b"), copy("c"), copy("d", label="abnormal")], 1)
    assert all(one.same is one.raw for one in compared([lot]))


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["normal", "abnormal"]), st.integers(0, 9)), min_size=30, max_size=60),
    st.integers(1, 4),
)
def test_labels_are_balanced_and_stay_in_one_lot(photos: list[tuple[str, int]], lots: int) -> None:
    copies = [copy(f"{i}-{label}", label=label, part=f"part-{part}") for i, (label, part) in enumerate(photos)]
    try:
        found = dealt(copies, lots)
    except UserError:
        return  # too few good photos for so many lots
    where = {one.photo.name: lot.name for lot in found for unit in lot.units for one in unit}
    comparisons = compared(found)
    for one in comparisons:
        shown = (one.raw, one.same, one.other)
        assert {where[each.photo.name] for each in shown} == {one.lot}
        assert {each.photo.label for each in shown} == {"normal"}
        assert one.raw.photo.part == one.same.photo.part != one.other.photo.part
    ids = [record.id for record in comparison_records(comparisons, "rt")]
    assert len(ids) == len(set(ids)) == 2 * len(comparisons)


def test_comparisons_are_drawn_by_the_seed() -> None:
    lots = dealt(some(40, 20), 2)
    assert compared(lots) == compared(lots)
    assert compared(lots) != compared(lots, seed=1)


def test_sides_that_the_user_fixed_are_kept() -> None:
    photos = [
        copy(f"{side}-{one.photo.name}", label=one.photo.label, split=side) for side in Split for one in some(6, 3)
    ]  # type: ignore[arg-type]
    lots = deal(photos, lots=1, references=2, seed=0, place="p")
    records = list(comparison_records(compared(lots), "rt"))
    assert {record.split for record in records} == set(Split)
    assert all(name.startswith(str(record.split)) for record in records for name in names(record))


def tasks_of(config: FolderConfig, folder: Path) -> Counter[str]:
    return Counter(str(record.task) for record in open_manifest(config.prepare(folder), views={"raw", "rt"}))


def test_a_folder_has_comparisons_where_there_is_a_processed_view(tmp_path: Path) -> None:
    path = str(photos_in(tmp_path / "photos"))  # 16 good and 8 bad: four lots of 2 references and 4 photos to judge
    found = tasks_of(FolderConfig(path=path), tmp_path / "data")
    assert found == {"judge_pair": 32, "judge_single": 32, "judge_link": 16, "compare_views": 16}
    assert tasks_of(FolderConfig(path=path, compare_views=False), tmp_path / "data")["compare_views"] == 0
    assert tasks_of(FolderConfig(path=path, processed_view=None), tmp_path / "data")["compare_views"] == 0


def test_lots_of_one_part_are_told_with_their_cure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "good").mkdir()
    for part in range(3):
        picture(part).save(tmp_path / "bad" / f"part{part}_9.png")
        for i in range(4):
            picture(100 * part + 10 + i).save(tmp_path / "good" / f"part{part}_{i}.png")
    with caplog.at_level(logging.WARNING):
        found = tasks_of(FolderConfig(path=str(tmp_path)), tmp_path / "data")
    assert found["compare_views"] == 0
    assert "the good photos of 3 of 3 lots show one part alone" in caplog.text
    assert "source.pairs.lots" in caplog.text
