"""Label files from strangers: each is read, or refused with its name. Nothing else happens."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers import layouts
from vlmbench.data.annotations.read import Format
from vlmbench.data.photos.photo import PartRule
from vlmbench.data.sources.folder import FolderConfig
from vlmbench.types import UserError

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
]


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
