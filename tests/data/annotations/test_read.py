"""Folders of photos in many layouts: labels, words and positions of defects."""

from __future__ import annotations

import json
import logging
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers import layouts
from vlmbench.data.annotations.folders import folder_label
from vlmbench.data.annotations.read import Format
from vlmbench.data.photos.photo import PartRule, Photo
from vlmbench.data.sources.folder import FolderConfig
from vlmbench.types import UserError


def photos_of(root: Path, **settings: Any) -> list[Photo]:
    settings.setdefault("parts", PartRule.photo)
    return FolderConfig(path=str(root), **settings).photos()


def answers(photos: list[Photo]) -> dict[str, int]:
    return dict(Counter(photo.answer for photo in photos))


@pytest.mark.parametrize(
    ("layout", "settings", "word"),
    [
        ("voc", {"annotations": Format.voc}, "scratch, upper left"),
        ("yolo", {"annotations": Format.yolo}, "scratch, upper left"),
        ("coco", {"annotations": Format.coco}, "scratch, upper left"),
        ("kolektor", {"annotations": Format.masks}, "upper left"),
        (
            "magnetic_tile",
            {
                "annotations": Format.masks,
                "folders": {"MT_Free": "normal", "MT_Blowhole": "abnormal"},
            },
            "MT Blowhole, upper left",
        ),
        ("coco", {"annotations": Format.coco, "regions": False}, "scratch"),
    ],
)
def test_a_layout_gives_labels_words_and_positions(
    tmp_path: Path, layout: str, settings: dict[str, Any], word: str
) -> None:
    root = layouts.LAYOUTS[layout](tmp_path / "set")
    assert answers(photos_of(root, **settings)) == {f"abnormal: {word}": 8, "normal": 16}


@pytest.mark.parametrize(
    ("good", "bad", "word"),
    [
        ("OK", "NG", ""),
        ("良品", "不良品", ""),
        ("pass", "fail", ""),
        ("train/Normal", "test/Abnormal", ""),
        ("good", "bad/deep_scratch", "deep scratch"),
        ("test/good", "test/defect/dent", "dent"),
    ],
)
def test_usual_names_of_folders_are_understood(
    tmp_path: Path, good: str, bad: str, word: str
) -> None:
    photos = photos_of(layouts.plain(tmp_path / "set", good, bad))
    expected = f"abnormal: {word}" if word else "abnormal"
    assert answers(photos) == {expected: 8, "normal": 16}
    assert {photo.category for photo in photos} == {""}


def test_folders_above_both_labels_are_categories(tmp_path: Path) -> None:
    for number, kind in enumerate(("bolt", "nut")):
        layouts.plain(tmp_path / "set" / kind)
        for path in (tmp_path / "set" / kind).rglob("*.png"):
            layouts.photo(path, 1000 * number + hash_of(path))
    assert {photo.category for photo in photos_of(tmp_path / "set")} == {"bolt", "nut"}


def hash_of(path: Path) -> int:
    return sum(path.name.encode())


def test_folders_can_be_mapped(tmp_path: Path) -> None:
    root = layouts.plain(tmp_path / "set", "ok_front", "def_front")
    with pytest.raises(UserError, match=r"set 'source.folders=\{def_front: abnormal, ok_front"):
        photos_of(root)
    mapped = photos_of(root, folders={"ok_front": "normal", "def_front": "abnormal"})
    assert answers(mapped) == {"abnormal: def front": 8, "normal": 16}


def test_a_path_is_mapped_before_a_usual_name() -> None:
    found = folder_label("line/NG/crack/1.png", {"line/NG": "abnormal", "OK": "normal"})
    assert found is not None
    assert (found.label, found.word) == ("abnormal", "crack")
    assert folder_label("line/bad/1.png", {"OK": "normal"}) is None


def test_masks_among_photos_are_refused_and_then_used(tmp_path: Path) -> None:
    root = layouts.plain(tmp_path / "set", suffix=".jpg")
    for path in sorted(root.rglob("*.jpg")):
        layouts.mask(path.with_suffix(".png"), layouts.BOX if path.parent.name == "bad" else None)
    with pytest.raises(UserError, match=r"24 images are masks .* set source.annotations=masks"):
        photos_of(root)
    photos = photos_of(root, annotations=Format.masks)
    assert answers(photos) == {"abnormal: upper left": 8, "normal": 16}


@pytest.mark.parametrize("name", ["{}_mask.png", "{}_GT.png", "{}_label.bmp", "{}-seg.tif"])
@pytest.mark.parametrize("folder", ["bad", "ground_truth/bad", "masks"])
def test_masks_have_many_names(tmp_path: Path, name: str, folder: str) -> None:
    root = layouts.plain(tmp_path / "set")
    for i in range(8):
        layouts.mask(root / folder / name.format(f"b{i}"), layouts.BOX)
    photos = photos_of(root, annotations=Format.masks)
    assert answers(photos) == {"abnormal: upper left": 8, "normal": 16}


def test_a_photo_whose_name_sounds_like_a_mask_stays_a_photo(tmp_path: Path) -> None:
    root = layouts.plain(tmp_path / "set")
    for i in range(8):
        layouts.photo(root / "bad" / f"b{i}_label.png", 500 + i)
    assert answers(photos_of(root)) == {"abnormal": 16, "normal": 16}


def test_unused_label_files_are_offered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = layouts.plain(tmp_path / "set")
    (root / "bad" / "b0.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    (root / "bad" / "classes.txt").write_text("hole\n")
    (root / "bad" / "Thumbs.db").write_bytes(b"\0")
    with caplog.at_level(logging.WARNING):
        assert answers(photos_of(root)) == {"abnormal": 8, "normal": 16}
    assert "1 YOLO label files, such as bad/b0.txt" in caplog.text
    assert "1 file (Thumbs.db) passed over" in caplog.text
    found = answers(photos_of(root, annotations=Format.yolo))
    assert found == {"abnormal: hole, centre": 1, "abnormal": 7, "normal": 16}


def test_a_good_photo_with_a_marked_defect_is_named(tmp_path: Path) -> None:
    root = layouts.plain(tmp_path / "set")
    (root / "good" / "g3.txt").write_text("0 0.5 0.5 0.1 0.1\n")
    with pytest.raises(UserError, match=r"good/g3.png: the folder says normal, the yolo file"):
        photos_of(root, annotations=Format.yolo)


def test_a_class_of_good_parts_is_no_defect(tmp_path: Path) -> None:
    root = layouts.yolo(tmp_path / "set")
    (root / "data.yaml").write_text("names: {0: dent, 1: OK}\n")
    assert answers(photos_of(root, annotations=Format.yolo)) == {"normal": 24}
    named = photos_of(root, annotations=Format.yolo, labels={"OK": "abnormal"})
    assert answers(named) == {"abnormal: OK, upper left": 8, "normal": 16}


def test_a_box_is_turned_with_its_photo(tmp_path: Path) -> None:
    root = layouts.voc(tmp_path / "set")
    path = root / "JPEGImages" / "p0.jpg"
    turned = Image.open(path)
    exif = turned.getexif()
    exif[0x0112] = 3  # upside down
    turned.save(path, exif=exif)
    photos = {photo.name: photo for photo in photos_of(root, annotations=Format.voc)}
    assert photos["JPEGImages/p0.jpg"].answer == "abnormal: scratch, lower right"


def test_photos_that_coco_does_not_list_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = layouts.coco(tmp_path / "set")
    layouts.photo(root / "images" / "extra.jpg", 999)
    with caplog.at_level(logging.WARNING):
        assert len(photos_of(root, annotations=Format.coco)) == 24
    assert "1 photo is left out, because nothing gives a label: images (1)" in caplog.text


def test_names_that_are_classes_are_told(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for i in range(16):
        layouts.photo(root / "good" / f"plain_{i}.png", i)
    for i in range(8):
        layouts.photo(root / "bad" / f"crazing_{i}.png", 100 + i)
    cures = "set source.parts=photo if each photo shows a part of its own, or source.parts=name"
    with pytest.raises(UserError, match=rf"'plain' \(16 photos\), .* {cures}"):
        FolderConfig(path=str(root)).photos()
    assert len({photo.part for photo in photos_of(root)}) == 24
    by_folder = FolderConfig(path=str(root), parts=PartRule.folder).photos()
    assert {photo.part for photo in by_folder} == {"good", "bad"}


def test_the_published_layout_of_kolektor_has_a_part_in_each_folder(tmp_path: Path) -> None:
    root = layouts.kolektor(tmp_path / "set")
    with pytest.raises(UserError, match=r"source\.parts=folder if each folder shows one part"):
        FolderConfig(path=str(root), annotations=Format.masks).photos()
    photos = photos_of(root, annotations=Format.masks, parts=PartRule.folder)
    assert len({photo.part for photo in photos}) == 12


def test_two_photos_with_one_name_keep_their_own_label_files(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for folder in ("a", "b"):
        for i in range(4):
            layouts.photo(root / folder / "images" / f"p{i}.jpg", i + 10 * (folder == "b"))
            text = layouts.voc_xml(f"p{i}.jpg", "dent" if folder == "a" else "")
            (root / folder / "xml").mkdir(exist_ok=True)
            (root / folder / "xml" / f"p{i}.xml").write_text(text)
    photos = photos_of(root, annotations=Format.voc)
    assert {photo.name[0]: photo.label for photo in photos} == {"a": "abnormal", "b": "normal"}


def test_coco_finds_photos_beside_the_file_and_below_its_root(tmp_path: Path) -> None:
    root = layouts.coco(tmp_path / "set")
    table = root / "annotations" / "instances.json"
    content = json.loads(table.read_text())
    for item in content["images"]:
        item["file_name"] = f"images\\{item['file_name']}"
    table.write_text(json.dumps(content))
    shutil.move(table, root / "instances.json")
    assert len(photos_of(root, annotations=Format.coco)) == 24
