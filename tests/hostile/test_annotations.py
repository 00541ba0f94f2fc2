"""Label files from strangers: each is read, or refused with its name. Nothing else happens."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.conftest import image
from tests.helpers import layouts
from vlmbench.data.annotations.files import list_files
from vlmbench.data.annotations.offers import find_label_files
from vlmbench.data.annotations.read import Format
from vlmbench.data.annotations.yolo import read_classes
from vlmbench.data.defect_sizes import size_of
from vlmbench.data.photos.photo import PartRule
from vlmbench.data.sources.folder import FolderConfig
from vlmbench.types import UserError

MAX_SECONDS = 10
BOMB = (
    '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">'
    '<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;">]><annotation><object><name>&c;</name></object>'
    "</annotation>"
)
OUTSIDE = '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]><annotation>&a;</annotation>'
GOOD_XML = layouts.voc_xml("p0.jpg", "scratch")
XML = [
    (BOMB, "declares a document type"),
    (OUTSIDE, "declares a document type"),
    ("<annotation><object>", "no valid XML"),
    ("", "no valid XML"),
    ("<html></html>", "does not begin with <annotation>"),
    ("<annotation>" * 1000, "nested too deeply"),
    (GOOD_XML.replace("<xmin>6", "<xmin>nan"), "empty or outside"),
    (GOOD_XML.replace("<xmin>6", "<xmin>x"), "must be a number"),
    (GOOD_XML.replace("<xmin>6", "<xmin>1e400"), "empty or outside"),
    (GOOD_XML.replace("<xmax>12", "<xmax>1200"), "empty or outside"),
    (GOOD_XML.replace("<xmax>12", "<xmax>2"), "empty or outside"),
    (GOOD_XML.replace("scratch", "s" * 5000), "longer than 80"),
    (GOOD_XML.replace("scratch", "a\u202eb"), "cannot be printed"),
    ('<?xml version="1.0" encoding="nonsense"?><annotation/>', "no valid XML"),
    (GOOD_XML.replace("scratch", "&lt;" * 300_000), "longer than 80"),  # a text in many pieces
    (f"<annotation>{'<object><name>a</name></object>' * 10_001}</annotation>", "more than 10,000"),
]
YOLO = [
    ("0 0.5 0.5 0.1", "is not 'class x y width height'"),
    ("0 0.5 0.5 0.1 x", "is not 'class x y width height'"),
    ("-1 0.5 0.5 0.1 0.1", "is not 'class x y width height'"),
    ("²  0.5 0.5 0.1 0.1", "is not 'class x y width height'"),
    ("0 0.5 0.5 nan 0.1", "empty or outside"),
    ("0 5 5 1 1", "empty or outside"),
    ("7 0.5 0.5 0.1 0.1", "has no name among 2 classes"),
    ("99999999999999999999 0.5 0.5 0.1 0.1", "is not 'class x y width height'"),
    ("0 0.1 0.1 0.2 0.2 nan nan", "empty or outside"),
    ("0 0.1 0.1 0.2 inf 0.3 0.3", "empty or outside"),
    ("0 " + "0.1 " * 5000 + "0.1 0.1 0.1", "empty or outside|is not"),
]
COCO: list[tuple[dict[str, Any], str]] = [
    ({"images": [{"id": 0, "file_name": "../../etc/passwd"}]}, "leaves the data's folder"),
    ({"images": [{"id": 0, "file_name": "gone.jpg"}]}, "does not exist"),
    ({"images": [{"id": 0}]}, "is not COCO's JSON"),
    ({"images": {}}, "is not COCO's JSON"),
    ({"annotations": [{"image_id": 77, "category_id": 3, "bbox": [0, 0, 1, 1]}]}, "not in the"),
    ({"annotations": [{"image_id": 0, "category_id": 9, "bbox": [0, 0, 1, 1]}]}, "not in the"),
    ({"annotations": [{"image_id": 0, "category_id": 3, "bbox": [0, 0, 1]}]}, "is not COCO's"),
    ({"annotations": [{"image_id": 0, "category_id": 3, "bbox": [0, 0, -1, 1]}]}, "empty or"),
    ({"annotations": [{"image_id": 0, "category_id": 3, "bbox": [0, 0, 1e300, 1]}]}, "empty or"),
    ({"categories": [{"id": 3, "name": "a\u0007"}]}, "cannot be printed"),
    ({"categories": [{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]}, "2 of the categories"),
    ({"images": [{"id": 0, "file_name": f"p{i}.jpg"} for i in range(2)]}, "2 of the images"),
    ({"images": [{"id": i, "file_name": "p0.jpg"} for i in range(99)]}, "has only 24"),
    ({"annotations": [{"image_id": 0, "category_id": 3, "bbox": [1, 1, 5, 5]}] * 10_001}, "10,000"),
    ({"annotations": 5}, "is not COCO's JSON"),
]
COCO_BYTES = {
    "UTF-16": lambda content: content.decode().encode("utf-16"),
    "NaN": lambda content: content.replace(b'"width": 66', b'"width": NaN'),
    "half of a character": lambda content: content.replace(b'"scratch"', b'"\\ud800"'),
    "deep": lambda content: content[:-1] + b',"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}",
    "cut": lambda content: content[:-9],
    "empty": lambda content: b"",
}
MERGED = "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], x{i}: 1}}\n" for i in range(1, 12)
)
# The yaml file of YOLO's classes, and the words that it gives to the classes 0 and 1.
YAML: dict[str, tuple[str, list[str]]] = {
    "no is a word": ("names: [no, 3]", ["no", "3"]),
    "a number among words": ("names: [1, scratch]", ["1", "scratch"]),
    "keys of both kinds": ("names: {0: a, '1': b, -5: c, 1.5: d}", ["a", "b"]),
    "a key without end": ("names: {0: a, 1: b, 1000000000000: c}", ["a", "b"]),
    "no truth value": ("x: !!bool maybe\nnames: [a, b]", ["a", "b"]),
    "no integer": ("x: !!int ''\nnames: [a, b]", ["a", "b"]),
    "no date": ("x: !!timestamp x\nnames: [a, b]", ["a", "b"]),
    "a call": ("x: !!python/object/apply:os.system [exit]\nnames: [a, b]", ["a", "b"]),
    "keys that multiply": (f"a0: &a0 {{x: 1}}\n{MERGED}names: [a, b]", ["a", "b"]),
    "200 kB": ("names: [a, b]\nx:\n" + "- a: [1, 2, 3]\n" * 13_000, ["a", "b"]),
}
CLASSES = {
    "classes.txt": "a\n" * 20_000,
    "data.yaml": "names: {0: a, 999999: b}",
}


def photos_of(root: Path, kind: Format) -> list[str]:
    config = FolderConfig(path=str(root), annotations=kind, parts=PartRule.photo)
    return [photo.answer for photo in config.photos()]


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    for name in ("voc", "yolo", "coco"):
        layouts.LAYOUTS[name](folder / name)
    return folder


@pytest.mark.parametrize(("content", "message"), XML)
def test_an_xml_file_is_refused_by_name(sets: Path, content: str, message: str) -> None:
    (sets / "voc" / "Annotations" / "p0.xml").write_text(content)
    with pytest.raises(UserError, match=message) as error:
        photos_of(sets / "voc", Format.voc)
    assert "p0.xml" in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(("line", "message"), YOLO)
def test_a_line_of_yolo_is_refused_by_number(sets: Path, line: str, message: str) -> None:
    path = sets / "yolo" / "labels" / "train" / "p0.txt"
    path.write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=message) as error:
        photos_of(sets / "yolo", Format.yolo)
    assert "p0.txt:2" in str(error.value)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize(("changed", "message"), COCO)
def test_a_coco_file_is_refused_by_name(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    root = layouts.coco(tmp_path / "set")
    path = root / "annotations" / "instances.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(UserError, match=message) as error:
        photos_of(root, Format.coco)
    assert "instances.json" in str(error.value)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=300), st.sampled_from(["voc", "yolo", "coco"]))
def test_any_bytes_are_marks_or_a_named_error(sets: Path, content: bytes, kind: str) -> None:
    names = {
        "voc": "Annotations/p1.xml",
        "yolo": "labels/train/p1.txt",
        "coco": "annotations/more.json",
    }
    others = {"voc": "Annotations/p0.xml", "yolo": "labels/train/p0.txt"}
    if kind in others:
        (sets / kind / others[kind]).unlink(missing_ok=True)
    (sets / kind / names[kind]).write_bytes(content)
    try:
        assert photos_of(sets / kind, Format(kind))
    except UserError as error:
        assert Path(names[kind]).name in str(error)  # noqa: PT017 - either way is right


@pytest.mark.parametrize("name", COCO_BYTES)
def test_a_coco_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    root = layouts.coco(tmp_path / "set")
    path = root / "annotations" / "instances.json"
    path.write_bytes(COCO_BYTES[name](path.read_bytes()))
    with pytest.raises(UserError, match=r"instances\.json.*COCO's JSON"):
        photos_of(root, Format.coco)


def test_a_coco_file_may_have_a_byte_order_mark(tmp_path: Path) -> None:
    root = layouts.coco(tmp_path / "set")
    path = root / "annotations" / "instances.json"
    before = photos_of(root, Format.coco)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert photos_of(root, Format.coco) == before
    assert list(find_label_files(list_files(root))) == ["coco"]


@pytest.mark.parametrize("name", YAML)
def test_class_names_are_texts_and_nothing_else(tmp_path: Path, name: str) -> None:
    content, words = YAML[name]
    (tmp_path / "data.yaml").write_text(content)
    started = time.monotonic()
    assert read_classes(list_files(tmp_path))[:2] == words
    assert time.monotonic() - started < MAX_SECONDS


def test_a_large_yaml_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data.yaml").write_text("names: [a, b]\nx:\n" + "- a: [1, 2, 3]\n" * 14_000)
    with pytest.raises(UserError, match=r"data.yaml: the file has .* at most 200,000"):
        read_classes(list_files(tmp_path))


@pytest.mark.parametrize("name", CLASSES)
def test_too_many_classes_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(CLASSES[name])
    with pytest.raises(UserError, match=f"{name}: the file has more than 10,000 classes"):
        read_classes(list_files(tmp_path))


@pytest.mark.parametrize("kind", [Format.yolo, Format.deeppcb])
def test_a_photo_with_too_many_lines_is_refused(tmp_path: Path, kind: Format) -> None:
    root = layouts.LAYOUTS[kind](tmp_path / "set")
    path = next(path for path in sorted(root.rglob("*0.txt")) if path.read_text())
    path.write_text(path.read_text() * 10_001)
    with pytest.raises(UserError, match=f"{path.name}:10001: the photo has more than 10,000"):
        photos_of(root, kind)


@pytest.mark.parametrize("content", [b"", b"BM", b"\x89PNG\r\n\x1a\n"])
def test_a_damaged_mask_is_named(tmp_path: Path, content: bytes) -> None:
    """The first mask is in the sample that tells masks from photos."""
    root = layouts.kolektor(tmp_path / "set")
    (root / "kos00" / "Part0_label.bmp").write_bytes(content)
    with pytest.raises(UserError, match=r"kos00/Part0_label.bmp"):
        photos_of(root, Format.masks)


def test_a_mask_of_noise_is_one_defect(tmp_path: Path) -> None:
    root = layouts.kolektor(tmp_path / "set")
    edge = 1000
    noise = np.zeros((edge, edge), np.uint8)
    noise[::4, ::4] = 255
    Image.fromarray(noise).save(root / "kos00" / "Part0_label.bmp")
    image(0, (edge, edge)).save(root / "kos00" / "Part0.jpg")

    config = FolderConfig(path=str(root), annotations=Format.masks, parts=PartRule.photo)
    marked = next(photo for photo in config.photos() if photo.name == "kos00/Part0.jpg")
    assert marked.measure is not None
    (area,) = marked.measure()
    assert size_of(area) == (edge - 3, edge - 3)


def test_a_label_file_outside_of_the_folder_is_refused(tmp_path: Path) -> None:
    root = layouts.voc(tmp_path / "set")
    outside = tmp_path / "secret.xml"
    outside.write_text(GOOD_XML)
    (root / "Annotations" / "p0.xml").unlink()
    (root / "Annotations" / "p0.xml").symlink_to(outside)
    with pytest.raises(UserError, match="leads out of the folder"):
        photos_of(root, Format.voc)


def test_pipes_and_links_in_circles_are_refused(tmp_path: Path) -> None:
    root = layouts.voc(tmp_path / "set")
    pipe, again, own = (root / "JPEGImages" / name for name in ("pipe.xml", "again", "self.jpg"))
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="not plain files"):
        photos_of(root, Format.voc)
    pipe.unlink()
    again.symlink_to(root, target_is_directory=True)
    with pytest.raises(UserError, match="links to folders are not followed"):
        photos_of(root, Format.voc)
    again.unlink()
    own.symlink_to(own)
    with pytest.raises(UserError, match="links that lead to no file"):
        photos_of(root, Format.voc)
