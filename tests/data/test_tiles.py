"""Large images are cut into tiles: where, and what each tile trains as."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.scans import mask_of, scan, scans
from vlmbench.config import ViewConfig
from vlmbench.data.annotations.marks import Mark
from vlmbench.data.annotations.read import Format
from vlmbench.data.annotations.where import defect_areas
from vlmbench.data.defect_sizes import describe_visibility, size_of
from vlmbench.data.images import open_image
from vlmbench.data.load import Data, load_data
from vlmbench.data.manifest import open_manifest
from vlmbench.data.photos.pairs import PairsConfig
from vlmbench.data.photos.photo import PartRule
from vlmbench.data.sources.folder import FolderConfig
from vlmbench.data.tile_labels import ABNORMAL, NORMAL, SLIVER, label_tiles
from vlmbench.data.tiled_records import Shown, show_data
from vlmbench.data.tiles import Tiler, tile_boxes
from vlmbench.data.viewer import WholeImages
from vlmbench.data.views.raw import RawConfig
from vlmbench.data.views.rt import RTConfig
from vlmbench.runs.identity import run_hash
from vlmbench.types import ImageRef, Record, Role, Split, Task, UserError

SHARES = {Split.TRAIN: 0.5, Split.VAL: 0.25, Split.TEST: 0.25}


def load(root: Path, folder: Path, annotations: Format | None = Format.masks) -> Data:
    config = FolderConfig(
        path=str(root),
        annotations=annotations,
        parts=PartRule.photo,
        pairs=PairsConfig(references=1),
    )
    manifest = open_manifest(config.prepare(folder / "data"), labels={}, views={"raw", "rt"})
    return load_data(manifest, SHARES, split_seed=0, allow_leak=False, cache_dir=folder / "cache")


def show(data: Data, tile: int = 96, normal_tiles: float | None = None) -> Shown:
    return show_data(data, RawConfig(tile=tile, normal_tiles=normal_tiles), seed=0)


def pair(reference: Path, query: Path) -> Record:
    images = (
        ImageRef(path=reference, role=Role.REFERENCE, view="raw"),
        ImageRef(path=query, role=Role.QUERY, view="raw"),
    )
    return Record(
        id="a",
        task=Task.JUDGE_PAIR,
        images=images,
        answer="normal",
        label="normal",
        group="part",
    )


def test_tiles_cover_the_image_and_the_last_one_is_shifted_inward() -> None:
    boxes = tile_boxes((512, 1200), 512, 0.1)
    assert boxes == [(0, 0, 512, 512), (0, 461, 512, 512), (0, 688, 512, 512)]
    assert tile_boxes((512, 512), 512, 0.1) == [(0, 0, 512, 512)]
    assert tile_boxes((100, 60), 512, 0.1) == [(0, 0, 100, 60)]


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("size", [(512, 8000), (97, 33), (1000, 1001), (64, 65)])
def test_every_pixel_is_in_a_tile_and_every_tile_in_the_image(
    size: tuple[int, int], overlap: float
) -> None:
    seen = np.zeros(size[::-1], bool)
    for x, y, width, height in tile_boxes(size, 64, overlap):
        assert (width, height) == (min(64, size[0]), min(64, size[1]))
        part = seen[y : y + height, x : x + width]
        assert part.shape == (height, width)
        part[:] = True
    assert seen.all()


def test_both_images_are_cut_at_the_same_locations(tmp_path: Path) -> None:
    sizes = {tmp_path / "a": (512, 4000), tmp_path / "b": (256, 2000)}
    tiler = Tiler(edge=512, overlap=0.0, size_of=sizes.__getitem__)
    tiles = tiler.cut(pair(tmp_path / "b", tmp_path / "a"))
    assert len({tile.id for tile in tiles}) == len(tiles) == 8
    assert [tile.images[1].box for tile in tiles][1] == (0, 512, 512, 512)
    assert [tile.images[0].box for tile in tiles][1] == (0, 256, 256, 256)
    assert all(tiler.cut(tile) == [tile] for tile in tiles), "a tile is not cut again"


def test_a_record_smaller_than_a_tile_stays_as_it_is(tmp_path: Path) -> None:
    record = pair(tmp_path / "a", tmp_path / "b")
    tiler = Tiler(edge=512, overlap=0.0, size_of=lambda _: (512, 300))
    assert tiler.cut(record) == [record]


def test_images_of_different_shapes_are_refused(tmp_path: Path) -> None:
    sizes = {tmp_path / "a": (512, 4000), tmp_path / "b": (512, 3000)}
    tiler = Tiler(edge=512, overlap=0.0, size_of=sizes.__getitem__)
    with pytest.raises(UserError, match=r"'a': its images have 512 x 3000 and 512 x 4000 pixels"):
        tiler.cut(pair(tmp_path / "b", tmp_path / "a"))


@pytest.mark.parametrize("size", [(8000, 8000), (60_000, 1800)])
def test_too_many_tiles_are_refused_and_the_cure_is_taken(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    record = pair(tmp_path / "a", tmp_path / "b")
    tiler = Tiler(edge=32, overlap=0.5, size_of=lambda _: size)
    with pytest.raises(UserError, match=r"more than 10,000 tiles; set view\.tile=") as refused:
        tiler.cut(record)
    edge = int(str(refused.value).rpartition("=")[2])
    assert 1 < len(Tiler(edge=edge, overlap=0.5, size_of=lambda _: size).cut(record)) <= 10_000


def test_a_tile_is_abnormal_if_it_shows_enough_of_a_defect() -> None:
    boxes = [(0, 0, 100, 100), (0, 90, 100, 100), (0, 180, 100, 100)]
    # 10 x 10 pixels: all in the first tile; 2 of 10 rows in the second
    assert label_tiles(boxes, [((5, 82, 10, 10),)]).tolist() == [ABNORMAL, SLIVER, NORMAL]
    # 3 of 10 rows in the second
    assert label_tiles(boxes, [((5, 83, 10, 10),)]).tolist() == [ABNORMAL, ABNORMAL, NORMAL]
    # A scratch over all: 1 % of a tile is enough.
    assert label_tiles(boxes, [((0, 0, 1, 280),)]).tolist() == [ABNORMAL] * 3


def test_the_tile_with_the_most_of_a_defect_is_abnormal_however_little_it_shows() -> None:
    boxes = tile_boxes((1000, 1000), 100, 0.0)
    pieces = tuple((x, 500, 1, 1) for x in range(0, 1000, 60))
    assert (label_tiles(boxes, [pieces]) == ABNORMAL).any()


def test_areas_lie_close_around_a_diagonal_scratch(tmp_path: Path) -> None:
    photo = scan(tmp_path / "a.png", 0, (512, 4000))
    values = np.eye(4000, 512, dtype=np.uint8) * 255
    Image.fromarray(values).save(tmp_path / "m.png")
    (area,) = defect_areas([Mark(mask=tmp_path / "m.png")], photo, tmp_path)
    assert size_of(area) == (512, 512)
    assert sum(width * height for _, _, width, height in area) == 8 * 64 * 64


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_is_turned_with_its_photo(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.zeros((60, 200, 3), np.uint8)
    stored[10:20, 30:70] = 255
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)

    box = (30 / 200, 10 / 60, 70 / 200, 20 / 60)
    (((x, y, width, height),),) = defect_areas([Mark(box=box)], tmp_path / "a.png", tmp_path)
    upright = np.asarray(open_image(tmp_path / "a.png"))[..., 0]
    assert width * height == 400
    assert (upright[y : y + height, x : x + width] == 255).all()


@pytest.mark.slow
def test_a_small_defect_in_a_long_scan_makes_one_abnormal_tile(tmp_path: Path) -> None:
    root = scans(tmp_path / "set", good=8, bad=0, size=(512, 4000))
    for number, y in enumerate((700, 1800, 2400, 3950)):
        defect = (300, y, 20, 20)
        scan(root / "bad" / f"b{number}.png", 100 + number, (512, 4000), defect)
        mask_of(root / "bad" / f"b{number}_mask.png", (512, 4000), [defect])

    data = load(root, tmp_path)
    shown = show(data, tile=512)
    assert len(tile_boxes((512, 4000), 512, 0.1)) == 9
    for records in (data.train, data.val):
        tiles = shown.tiles_of(records)
        for record in records:
            if record.task is not Task.JUDGE_PAIR or record.view != "raw":
                continue
            own = [each for each in tiles if each.id.startswith(f"{record.id}@")]
            assert len(own) == 9
            assert {each.group for each in own} == {record.group}
            assert sum(each.label == "abnormal" for each in own) == (record.label == "abnormal")
            assert all(each.answer == each.label for each in own if each.label == "normal")


def test_tiles_stay_in_the_split_of_their_part(tmp_path: Path) -> None:
    data = load(scans(tmp_path / "set"), tmp_path)
    shown = show(data)
    for split in ("train", "val", "test"):
        parts = {record.group for record in getattr(data, split)}
        assert {record.group for record in getattr(shown.data, split)} == parts
        assert getattr(shown.data, split).count_parts() == getattr(data, split).count_parts()
    record = shown.data.train[0]
    assert shown.data.sizes(record) == [(96, 96)] * len(record.images)


def test_normal_tiles_are_thinned_and_the_note_counts_them(tmp_path: Path) -> None:
    data = load(scans(tmp_path / "set"), tmp_path)
    every, some = show(data), show(data, normal_tiles=2)
    for view in ("raw", "rt"):
        counts = Counter(
            record.label
            for record in some.data.train
            if record.task is Task.JUDGE_PAIR and record.view == view
        )
        assert counts["normal"] == 2 * counts["abnormal"] > 0
    abnormal = [record.id for record in every.data.train if record.label == "abnormal"]
    assert abnormal == [record.id for record in some.data.train if record.label == "abnormal"]
    (note,) = some.notes(some.data.train)
    assert "images are cut into tiles of 96 pixels with an overlap of 10%" in note
    assert "the most suspicious tile of a record decides" in note


def test_the_answer_of_a_tile_names_the_region_in_the_tile(tmp_path: Path) -> None:
    root = scans(tmp_path / "set", good=12, bad=0)
    for number in range(8):
        defect = (4, 275, 8, 8)  # lower left of the scan, upper left of its tile
        scan(root / "bad" / f"b{number}.png", 100 + number, (96, 400), defect)
        mask_of(root / "bad" / f"b{number}_mask.png", (96, 400), [defect])
    data = load(root, tmp_path)
    assert {each.answer for each in data.train if each.label == "abnormal"} == {
        "abnormal: lower left"
    }
    tiles = [each for each in show(data).data.train if each.label == "abnormal"]
    assert {each.images[-1].box for each in tiles} == {(0, 258, 96, 96)}
    answers = {each.answer for each in tiles if each.task is Task.JUDGE_PAIR}
    assert answers == {"abnormal: upper left"}


def test_abnormal_records_without_a_marked_defect_are_refused(tmp_path: Path) -> None:
    data = load(scans(tmp_path / "set", masks=False), tmp_path, annotations=None)
    with pytest.raises(UserError, match="no box or mask says which of its tiles") as error:
        show(data)
    cure = str(error.value).rpartition("set ")[2]
    assert cure == "view.tile=null"
    assert show_data(data, RawConfig(tile=None), seed=0).data is data
    assert f"{data.manifest.path}:" in str(error.value)


def test_a_folder_of_an_earlier_version_is_prepared_again(tmp_path: Path) -> None:
    data = load(scans(tmp_path / "set"), tmp_path)
    path = data.manifest.folder / "defects.json"
    rows = [{key: row[key] for key in ("image", "sizes")} for row in json.loads(path.read_text())]
    path.write_text(json.dumps(rows))
    with pytest.raises(UserError, match=r"an earlier version prepared the folder; .*rm -r"):
        show(data)


def test_without_a_tile_nothing_changes(tmp_path: Path) -> None:
    data = load(scans(tmp_path / "set"), tmp_path)
    assert show_data(data, RawConfig(), seed=0).data is data
    before = {"view": {"name": "rt", "window": 9}, "seed": 0}
    now = {"view": {"name": "rt", "window": 9, "tile": None, "overlap": 0.1}, "seed": 0}
    cut = {"view": {"name": "rt", "window": 9, "tile": 96, "overlap": 0.1}, "seed": 0}
    assert run_hash(before, "x") == run_hash(now, "x") != run_hash(cut, "x")
    assert RTConfig().fingerprint([]) == RTConfig(tile=64).fingerprint([])


def test_tiles_are_offered_if_they_cure_small_defects(tmp_path: Path) -> None:
    data = load(scans(tmp_path / "set", size=(256, 2000), good=8, bad=4), tmp_path)

    def shown_size(size: tuple[int, int]) -> tuple[int, int]:
        return 384, 384

    (message,) = describe_visibility(data.manifest, data.facts, shown_size)
    assert message.endswith("Set view.tile=384")
    tile = int(message.rpartition("=")[2])
    tiler = Tiler(edge=tile, overlap=0.1, size_of=data.size)
    assert describe_visibility(data.manifest, data.facts, shown_size, tiler=tiler) == []


def test_few_whole_images_stay_open() -> None:
    loads: list[int] = []
    images = WholeImages()

    def load_one(key: int) -> Image.Image:
        loads.append(key)
        return Image.new("L", (8000, 6000))

    for key in (0, 1, 0, 1, 2, 1, 0):
        images.get(key, lambda key=key: load_one(key))
    assert loads == [0, 1, 2, 0]


def test_threads_that_cut_tiles_at_once_load_each_image_once_while_it_is_open() -> None:
    """Eight threads; every image pushes another one out."""
    images = WholeImages()
    loads: Counter[int] = Counter()

    def load(key: int) -> Image.Image:
        loads[key] += 1
        time.sleep(0.002)
        return Image.new("L", (9000, 8000), key)

    def cut(number: int) -> int:
        key = number // 8  # eight tiles of each image
        return int(images.get(key, lambda: load(key)).getpixel((0, 0)))

    with ThreadPoolExecutor(8) as threads:
        shown = list(threads.map(cut, range(160)))
    assert shown == [number // 8 for number in range(160)]
    assert loads.total() < 80  # without the lock, each tile would load its image


def test_the_settings_have_ranges() -> None:
    for settings, cure in (({"tile": 8}, "view.tile=null"), ({"overlap": 0.9}, "view.overlap=0.1")):
        with pytest.raises(UserError) as error:
            RawConfig(**settings)
        assert str(error.value).endswith(f"set {cure}")
    view: ViewConfig = RawConfig(tile=512)
    assert view.overlap == 0.1
