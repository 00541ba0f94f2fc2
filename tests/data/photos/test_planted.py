"""Defects that are planted in good photos: where they are, how they look, and that none tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import image
from tests.helpers.photos import copy, make_copies, photos_in
from vlmbench.data.defect_masks import read_defect_masks, shrink_mask
from vlmbench.data.defect_sizes import read_defect_areas
from vlmbench.data.generated.planting import PlantedKind, plant_defect
from vlmbench.data.images import open_image
from vlmbench.data.load import Data, load_data
from vlmbench.data.manifest import Manifest, open_manifest
from vlmbench.data.photos.lots import deal
from vlmbench.data.photos.pairs import PairsConfig, Policy
from vlmbench.data.photos.planted import PlantedConfig
from vlmbench.data.sources.folder import FolderConfig
from vlmbench.types import PLANTED, Record, Role, Split, Task, UserError

SHARES = {Split.TRAIN: 0.5, Split.VAL: 0.25, Split.TEST: 0.25}


def good_photos(folder: Path, number: int = 24, size: tuple[int, int] = (64, 56)) -> Path:
    (folder / "good").mkdir(parents=True)
    for i in range(number):
        image(i, size).save(folder / "good" / f"p{i}.png")
    return folder


def prepare(folder: Path, data: Path, **settings: object) -> Manifest:
    planted = settings.pop("planted", PlantedConfig(copies=1))
    config = FolderConfig(path=str(folder), planted=planted, processed_view="raw", **settings)
    return open_manifest(config.prepare(data))


def load(manifest: Manifest, cache: Path) -> Data:
    return load_data(manifest, SHARES, split_seed=0, allow_leak=False, cache_dir=cache)


def planted_of(records: list[Record] | Manifest) -> list[Record]:
    return [each for each in records if PLANTED in each.meta and each.task is Task.JUDGE_PAIR]


def test_every_good_query_has_a_planted_copy_in_its_own_lot(tmp_path: Path) -> None:
    manifest = prepare(good_photos(tmp_path / "photos"), tmp_path / "data")
    pairs = [record for record in manifest if record.task is Task.JUDGE_PAIR]
    planted = planted_of(manifest)
    normal = [record for record in pairs if record.label == "normal"]
    assert len(planted) == len(normal) == 12  # of 24 photos, 12 are references

    group_of = {record.images[1].path.stem: record.group for record in normal}
    for record in planted:
        kind = record.meta[PLANTED]
        assert record.label == "abnormal"
        assert record.answer == f"abnormal: planted {kind}, {record.meta['region']}"
        assert record.group == group_of[record.images[1].path.name.split("-")[0]]


def test_planted_copies_are_the_same_each_time_and_depend_on_the_seed(tmp_path: Path) -> None:
    folder = good_photos(tmp_path / "photos")
    first = prepare(folder, tmp_path / "a")
    again = prepare(folder, tmp_path / "b")
    other = prepare(folder, tmp_path / "c", pairs=PairsConfig(seed=1))

    def hashes(manifest: Manifest) -> list[str]:
        return [record.images[1].sha256 for record in planted_of(manifest)]

    assert hashes(first) == hashes(again)
    assert not set(hashes(first)) & set(hashes(other))


def test_only_the_marked_square_differs_from_the_photo(tmp_path: Path) -> None:
    manifest = prepare(good_photos(tmp_path / "photos", size=(90, 70)), tmp_path / "data")
    areas, masks = read_defect_areas(manifest.path), read_defect_masks(manifest.path)

    for record in planted_of(manifest):
        path = record.images[1].path
        photo = manifest.folder / "img" / "good" / f"{path.name.split('-')[0]}.png"
        change = np.abs(np.asarray(open_image(path), int) - np.asarray(open_image(photo)))
        changed = change.max(axis=2)
        assert changed.max() >= 24

        (area,) = areas[path]
        rows, columns = np.nonzero(changed >= 0.25 * changed.max())
        assert min(x for x, _, _, _ in area) == columns.min()
        assert max(y + height for _, y, _, height in area) == rows.max() + 1
        expected = shrink_mask(changed >= 0.25 * changed.max(), *masks[path].shape)
        assert (expected == masks[path]).all()


def test_no_planted_defect_tests_and_none_leaks(tmp_path: Path) -> None:
    manifest = prepare(good_photos(tmp_path / "photos", 48), tmp_path / "data")
    data = load(manifest, tmp_path / "cache")
    assert not data.leaks
    assert {record.label for record in data.test} == {"normal"}
    assert planted_of(list(data.train))
    assert planted_of(list(data.val))

    used = len(data.train) + len(data.val) + len(data.test)
    left_out = [record for record in manifest if PLANTED in record.meta]
    assert used == len(manifest) - sum(
        record.group in {each.group for each in data.test} for record in left_out
    )


def test_all_real_defects_test_and_planted_ones_train(tmp_path: Path) -> None:
    folder = photos_in(tmp_path / "photos", good=48, bad=5)
    data = load(prepare(folder, tmp_path / "data"), tmp_path / "cache")
    real = [record for record in data.test if record.label == "abnormal"]
    assert len({record.images[-1].path for record in real}) == 5
    assert not planted_of(list(data.test))
    for records in (data.train, data.val):
        abnormal = [record for record in records if record.label == "abnormal"]
        assert abnormal
        assert all(PLANTED in record.meta for record in abnormal)


def test_real_defects_that_the_user_sends_to_validation_replace_planted_ones(
    tmp_path: Path,
) -> None:
    folder = photos_in(tmp_path / "photos", good=36, bad=4)
    lines = ["path,label,split"]
    for i in range(36):
        lines.append(f"good/good{i}.png,normal,{('train', 'val', 'test')[i // 12]}")
    lines += [f"bad/bad{i}.png,abnormal,val" for i in range(4)]
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")

    manifest = prepare(folder, tmp_path / "data", table="labels.csv", parts="photo")
    data = load(manifest, tmp_path / "cache")
    assert planted_of(list(data.train))
    assert not planted_of(list(data.val))
    assert len({each.images[-1].path for each in data.val if each.label == "abnormal"}) == 4


def test_a_share_of_the_good_photos_goes_to_the_test_split_with_real_defects() -> None:
    copies = make_copies(good=60, bad=30)
    lots = deal(copies, lots=None, references=2, seed=0, source_path="p", tests_defects=True)
    tested = [lot for lot in lots if lot.queries[0].photo.split is Split.TEST]
    labels = [query.photo.label for lot in tested for query in lot.queries]
    assert labels.count("abnormal") == 30
    assert sum(len(lot.references) for lot in tested) + labels.count("normal") == 12  # a fifth
    free = [query.photo for lot in lots if lot not in tested for query in lot.queries]
    assert {(photo.label, photo.split) for photo in free} == {("normal", None)}


def test_a_part_with_a_real_defect_is_never_in_two_splits() -> None:
    copies = [copy(f"g{i}", part=f"{i}") for i in range(40)]
    copies += [copy(f"b{i}", label="abnormal", part=f"{i}") for i in range(3)]
    lots = deal(copies, lots=None, references=2, seed=0, source_path="p", tests_defects=True)
    splits: dict[str, set[Split | None]] = {}
    for lot in lots:
        for each in (*lot.references, *lot.queries):
            splits.setdefault(each.photo.part, set()).add(each.photo.split)
    assert all(len(found) == 1 for found in splits.values())
    assert {splits[f"{i}"].pop() for i in range(3)} == {Split.TEST}


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "I;16", "CMYK"])
def test_photos_of_any_mode_get_defects(tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "photos" / "good"
    folder.mkdir(parents=True)
    for i in range(12):
        plain = image(i, (48, 40))
        if mode == "I;16":
            converted = Image.fromarray(np.asarray(plain.convert("L")).astype(np.uint16) * 257)
        else:
            converted = plain.convert(mode)
            if mode == "RGBA":
                converted.putalpha(image(100 + i, (48, 40)).convert("L"))
        converted.save(folder / f"p{i}.{'jpg' if mode == 'CMYK' else 'png'}")

    manifest = prepare(tmp_path / "photos", tmp_path / "data")
    planted = planted_of(manifest)
    assert len(planted) == 6
    for record in planted:
        shown = np.asarray(open_image(record.images[1].path))
        assert shown.shape == (40, 48, 3)
        if mode in ("L", "1", "I;16"):  # no colour gives the planted ones away
            assert (shown == shown[..., :1]).all()


def test_a_turned_photo_gets_an_upright_planted_copy(tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "good"
    folder.mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    for i in range(12):
        image(i, (48, 40)).save(folder / f"p{i}.jpg", exif=exif)
    for record in planted_of(prepare(tmp_path / "photos", tmp_path / "data")):
        assert open_image(record.images[1].path).size == (40, 48)


@pytest.mark.parametrize("size", [(8, 8), (9, 200), (8, 40)])
def test_tiny_and_narrow_photos_get_defects(tmp_path: Path, size: tuple[int, int]) -> None:
    manifest = prepare(good_photos(tmp_path / "photos", 16, size), tmp_path / "data")
    assert planted_of(manifest)


def test_photos_that_show_no_defect_are_refused(tmp_path: Path) -> None:
    folder = good_photos(tmp_path / "photos", 16, (30, 7))
    small = PlantedConfig(copies=1, kinds=[PlantedKind.patch])
    with pytest.raises(UserError, match=r"no photo shows .*; set source.planted.copies=0 and add"):
        prepare(folder, tmp_path / "data", planted=small, parts="photo")
    assert not list((tmp_path / "data").glob("folder-*"))


def test_a_donor_of_another_size_is_cut_to_fit() -> None:
    rng = np.random.default_rng(0)
    for donor in (image(1, (5, 3)), image(1, (400, 7))):
        planted = plant_defect(
            image(0, (64, 64)), PlantedKind.patch, extent=0.5, donor=donor, rng=rng
        )
        assert planted is not None
        assert planted.marked.any()


@pytest.mark.parametrize("kind", list(PlantedKind))
def test_defects_have_about_the_length_that_was_asked(kind: PlantedKind) -> None:
    photo, donor = image(3, (240, 200)), image(4, (240, 200))
    shares = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        planted = plant_defect(photo, kind, extent=0.15, donor=donor, rng=rng)
        if planted is not None:
            rows, columns = np.nonzero(planted.marked)
            shares.append((max(np.ptp(rows), np.ptp(columns)) + 1) / 200)
    assert len(shares) >= 10
    assert 0.07 <= np.median(shares) <= 0.25


def test_defects_lie_on_the_part_if_its_background_is_plain() -> None:
    pixels = np.full((200, 200, 3), 235, np.uint8)
    pixels[20:70, 110:180] = np.asarray(image(5, (70, 50)).convert("L"))[..., None] // 2
    photo = Image.fromarray(pixels)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        planted = plant_defect(photo, PlantedKind.hole, extent=0.05, donor=photo, rng=rng)
        assert planted is not None
        row, column = np.argwhere(planted.marked).mean(axis=0)
        assert 10 <= row <= 80
        assert 100 <= column <= 190


def test_words_leave_out_the_region_if_asked(tmp_path: Path) -> None:
    manifest = prepare(good_photos(tmp_path / "photos"), tmp_path / "data", regions=False)
    answers = {record.answer for record in planted_of(manifest)}
    assert answers <= {f"abnormal: planted {kind}" for kind in PlantedKind}


def test_references_are_never_planted(tmp_path: Path) -> None:
    three = PlantedConfig(copies=3)
    manifest = prepare(good_photos(tmp_path / "photos"), tmp_path / "data", planted=three)
    assert len({record.images[1].path for record in planted_of(manifest)}) == 36
    for record in manifest:
        for shown in record.images:
            if shown.role is Role.REFERENCE:
                assert "planted" not in shown.path.relative_to(manifest.folder).parts


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": [0.2]}, r"must be two rising numbers .*set source.planted.size=\[0.05,0.35\]"),
        ({"size": [0.4, 0.2]}, "must be two rising numbers"),
        ({"size": [0.0, 0.2]}, "must be two rising numbers"),
        ({"size": [float("nan"), 0.2]}, "must be two rising numbers"),
        ({"kinds": []}, r"is empty; set source.planted.kinds=\[scratch,stain\]"),
        ({"copies": -1}, "source.planted.copies must be between 0 and 20, got -1"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PlantedConfig(**settings)


def test_pairs_by_name_make_no_lots_to_plant_in() -> None:
    with pytest.raises(UserError, match=r"needs lots, and .*; set source.pairs.policy=nearest"):
        FolderConfig(
            path="x", planted=PlantedConfig(copies=1), pairs=PairsConfig(policy=Policy.name)
        )


@pytest.mark.parametrize("kind", [kind for kind in PlantedKind if kind is not PlantedKind.patch])
def test_large_defects_are_drawn_small_and_enlarged(kind: PlantedKind) -> None:
    photo = image(3, (1300, 1200))
    rng = np.random.default_rng(1)
    planted = plant_defect(photo, kind, extent=0.35, donor=photo, rng=rng)
    assert planted is not None
    rows, columns = np.nonzero(planted.marked)
    assert 0.1 <= (max(np.ptp(rows), np.ptp(columns)) + 1) / 1200 <= 0.7
    outside = np.asarray(planted.image)[:10] == np.asarray(photo)[:10]
    assert outside.mean() > 0.3
