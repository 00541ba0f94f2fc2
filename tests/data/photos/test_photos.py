"""Photos, dealt into lots and paired. Lots share nothing, and every choice is reproducible."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import image
from tests.helpers.photos import copy, make_copies, photos_in
from vlmbench.data.load import load_data
from vlmbench.data.manifest import open_manifest
from vlmbench.data.photos.lots import deal
from vlmbench.data.photos.pairs import Pair, PairsConfig, Policy, make_pair_records, make_pairs
from vlmbench.data.photos.photo import PartRule, Photo, PhotoCopy, copy_image, list_images, part_of
from vlmbench.data.sources.folder import FolderConfig
from vlmbench.types import Split, Task, UserError

SHARES = {Split.TRAIN: 0.6, Split.VAL: 0.2, Split.TEST: 0.2}


def names(copies: Sequence[PhotoCopy]) -> list[str]:
    return [member.photo.name for member in copies]


def test_every_photo_is_dealt_once_and_lots_are_even() -> None:
    lots = deal(make_copies(24, 12), lots=6, references=2, seed=0, source_path="photos")
    dealt = [name for lot in lots for name in names(lot.references + lot.queries)]
    assert sorted(dealt) == sorted(names(make_copies(24, 12)))
    # Each lot has 4 good and 2 bad photos.
    assert [(len(lot.references), len(lot.queries)) for lot in lots] == [(2, 4)] * 6
    assert {reference.photo.label for lot in lots for reference in lot.references} == {"normal"}


def test_lots_depend_on_the_seed_and_not_on_the_order_of_photos() -> None:
    photos = make_copies(24, 12)
    first = deal(photos, lots=6, references=2, seed=0, source_path="p")
    assert deal(photos[::-1], lots=6, references=2, seed=0, source_path="p") == first
    assert deal(photos, lots=6, references=2, seed=1, source_path="p") != first


@pytest.mark.slow
def test_without_a_number_there_are_as_many_lots_as_good_photos_allow() -> None:
    def count_lots(good: int, bad: int) -> int:
        photos = make_copies(good, bad)
        return len(deal(photos, lots=None, references=2, seed=0, source_path="p"))

    assert count_lots(24, 24) == 6  # four good photos each
    assert count_lots(24, 4) == 4  # a bad photo each
    assert count_lots(400, 400) == 60


def test_each_lot_can_have_two_parts() -> None:
    photos = [
        copy(f"part{i % 10}_{i}", label="abnormal" if i < 10 else "normal", part=f"{i % 10}")
        for i in range(60)
    ]
    # 50 good photos are enough for 12 lots.
    by_good = deal(photos, lots=None, references=2, seed=0, source_path="p")
    by_parts = deal(photos, lots=None, references=2, seed=0, source_path="p", parts=2)
    assert [len(lot.units) for lot in by_good] == [1] * 10
    assert [len(lot.units) for lot in by_parts] == [2] * 5


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["normal", "abnormal"]), st.integers(0, 9)),
        min_size=30,
        max_size=60,
    )
)
def test_no_part_is_in_two_lots(photos: list[tuple[str, int]]) -> None:
    copies = [
        copy(f"{i}-{label}", label=label, part=f"part-{part}")
        for i, (label, part) in enumerate(photos)
    ]
    try:
        lots = deal(copies, lots=3, references=1, seed=0, source_path="p")
    except UserError:
        return  # too few good photos for three lots
    lots_of_part = defaultdict(set)
    for lot in lots:
        for photo_copy in lot.references + lot.queries:
            lots_of_part[photo_copy.photo.part].add(lot.name)
    assert all(len(lot_names) == 1 for lot_names in lots_of_part.values())


def test_photos_that_look_alike_share_a_lot() -> None:
    photos = [
        *make_copies(20, 10),
        copy("twin-1", look=7),
        copy("twin-2", look=7, label="abnormal"),
    ]
    for seed in range(5):
        lots = deal(photos, lots=5, references=1, seed=seed, source_path="p")
        in_lots = [set(names(lot.references + lot.queries)) for lot in lots]
        assert sum({"twin-1", "twin-2"} <= in_lot for in_lot in in_lots) == 1


def test_one_image_cannot_be_good_and_bad() -> None:
    good = copy("a")
    bad = PhotoCopy(
        photo=Photo(name="b", path=Path("b"), label="abnormal", part="b"),
        path=good.path,
        facts=good.facts,
    )
    with pytest.raises(
        UserError, match="a is normal and b is abnormal, but they are the same image"
    ):
        deal([*make_copies(9, 9), good, bad], lots=3, references=1, seed=0, source_path="p")


def test_one_part_cannot_be_in_two_splits() -> None:
    photos = [copy("a", part="x", split=Split.TRAIN), copy("b", part="x", split=Split.TEST)]
    with pytest.raises(UserError, match="a and b show one part or look the same, but their split"):
        deal([*make_copies(9, 9), *photos], lots=3, references=1, seed=0, source_path="p")


def test_references_come_from_as_many_parts_as_there_are() -> None:
    photos = [copy(f"x_{i}", part="x") for i in range(5)] + [
        copy("y_0", part="y"),
        copy("z", label="abnormal"),
    ]
    (lot,) = deal(photos, lots=1, references=2, seed=0, source_path="p")
    assert {reference.photo.part for reference in lot.references} == {"x", "y"}


def test_a_lot_without_a_query_is_refused_with_its_cure() -> None:
    with pytest.raises(
        UserError, match=r"lot-\d+ has \d good photos.*source.pairs.lots.*source.parts=photo"
    ):
        deal(make_copies(3, 3), lots=3, references=2, seed=0, source_path="p")


def test_categories_are_dealt_apart() -> None:
    photos = [
        copy(f"{category}-{name}", label=label, category=category)
        for category in ("bottle", "cable")
        for label, count in (("normal", 8), ("abnormal", 4))
        for name in (f"{label}{i}" for i in range(count))
    ]
    lots = deal(photos, lots=None, references=2, seed=0, source_path="p")
    assert {lot.name for lot in lots} == {
        "bottle-lot-00",
        "bottle-lot-01",
        "cable-lot-00",
        "cable-lot-01",
    }
    for lot in lots:
        assert len({member.photo.category for member in lot.references + lot.queries}) == 1


def pairs_of(policy: Policy, **more: int) -> list[Pair]:
    config = PairsConfig(policy=policy, references=3, lots=3, **more)
    return make_pairs(
        deal(make_copies(18, 6), lots=3, references=3, seed=0, source_path="p"), config
    )


def test_the_nearest_reference_is_the_one_whose_hash_differs_least() -> None:
    for pair in pairs_of(Policy.nearest):
        bits = (pair.reference.facts.phash ^ pair.query.facts.phash).bit_count()
        distances = [
            (candidate.reference.facts.phash ^ candidate.query.facts.phash).bit_count()
            for candidate in pairs_of(Policy.all)
            if candidate.query.photo.name == pair.query.photo.name
        ]
        assert bits == min(distances)


def test_policies_and_caps_give_their_number_of_pairs() -> None:
    queries = 18 + 6 - 9  # three references in each of three lots
    assert len(pairs_of(Policy.nearest)) == len(pairs_of(Policy.random)) == queries
    assert len(pairs_of(Policy.nearest, per_query=2)) == 2 * queries
    assert len(pairs_of(Policy.all)) == 3 * queries
    assert len(pairs_of(Policy.all, per_query=2)) == 2 * queries
    limited = pairs_of(Policy.all, limit=7)
    assert len(limited) == 7
    assert limited == pairs_of(Policy.all, limit=7)


def test_drawn_references_depend_on_the_seed_alone() -> None:
    drawn = [pair.reference.photo.name for pair in pairs_of(Policy.random)]
    assert drawn == [pair.reference.photo.name for pair in pairs_of(Policy.random)]
    assert len(set(drawn)) > 3


@pytest.mark.slow
def test_a_pair_gives_each_task_once_and_a_photo_alone_once() -> None:
    pairs = [
        pair
        for pair in pairs_of(Policy.all)
        if pair.query.photo.name == pairs_of(Policy.all)[0].query.photo.name
    ]
    tasks = [record.task for record in make_pair_records(pairs, "rt")]
    assert {task: tasks.count(task) for task in set(tasks)} == {
        Task.JUDGE_PAIR: 6,
        Task.JUDGE_SINGLE: 2,
        Task.JUDGE_LINK: 3,
    }
    assert [record.view for record in make_pair_records(pairs[:1], "raw")] == ["raw", "raw"]
    ids = [record.id for record in make_pair_records(pairs, "rt")]
    assert len(ids) == len(set(ids))


def test_the_part_is_the_name_up_to_the_last_underscore() -> None:
    assert part_of("good/part7_3.png", PartRule.name) == "part7"
    assert part_of("good/part7.png", PartRule.name) == "part7"
    assert part_of("good/IMG_0001.png", PartRule.photo) == "good/IMG_0001.png"


def test_long_names_have_different_ids() -> None:
    ids = {copy(f"{i}/" + "long" * 60 + ".png").photo.id for i in range(3)}
    assert len(ids) == 3
    assert all(len(photo_id) <= 120 for photo_id in ids)


@pytest.mark.parametrize("name", ["../a.png", "/a.png", "a\n.png"])
def test_a_name_that_leaves_the_prepared_folder_is_refused(tmp_path: Path, name: str) -> None:
    image(0).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="image path"):
        copy_image(name, tmp_path / "a.png", root=tmp_path, folder=tmp_path / "out")


def test_a_folder_becomes_records_without_leaks(tmp_path: Path) -> None:
    config = FolderConfig(path=str(photos_in(tmp_path / "photos")))
    manifest = open_manifest(config.prepare(tmp_path / "data"), views={"raw", "rt"})
    for seed in range(4):
        data = load_data(
            manifest, SHARES, split_seed=seed, allow_leak=False, cache_dir=tmp_path / "cache"
        )
        assert min(len(data.train), len(data.val), len(data.test)) > 0
    assert config.prepare(tmp_path / "data") == manifest.path  # prepared once


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder = photos_in(tmp_path / "photos")
    image(99).save(tmp_path / "secret.png")
    (folder / "good" / "z.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match=r"z.png: the link leads out of the folder"):
        FolderConfig(path=str(folder)).prepare(tmp_path / "data")
    assert not list((tmp_path / "data").glob("folder-*")) if (tmp_path / "data").exists() else True


def test_the_error_of_a_damaged_photo_names_the_user_s_file(tmp_path: Path) -> None:
    folder = photos_in(tmp_path / "photos")
    broken = folder / "good" / "good3.png"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(UserError) as raised:
        FolderConfig(path=str(folder)).prepare(tmp_path / "data")
    assert str(raised.value).startswith(f"{broken}: the image is damaged")
    assert not list((tmp_path / "data").glob("folder-*"))


def test_one_label_alone_is_refused(tmp_path: Path) -> None:
    folder = photos_in(tmp_path / "photos")
    (folder / "labels.csv").write_text("path,label\ngood/good0.png,normal\ngood/good1.png,normal\n")
    with pytest.raises(UserError, match="no photo is abnormal"):
        FolderConfig(path=str(folder), table="labels.csv").prepare(tmp_path / "data")


def test_words_map_to_normal_and_abnormal_only() -> None:
    with pytest.raises(UserError, match=r"source.labels: 'ng' is mapped to 'broken'"):
        FolderConfig(path="x", labels={"ng": "broken"})
    with pytest.raises(UserError, match=r"source.labels: 'normal' is mapped to 'abnormal'"):
        FolderConfig(path="x", labels={"normal": "abnormal"})


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the folder is empty"):
        list_images(tmp_path)
