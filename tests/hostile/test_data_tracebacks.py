"""Paths, texts and files that no reader expects: each ends in a message with a cure, or in data.

To add one, add a path to PATHS, a line to LINES, a table to TABLES or a file to INVALID_ROWS.
"""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ManifestBuilder, image
from tests.helpers.photos import photos_in
from vlmbench.config import SourceConfig
from vlmbench.data import images as images_module
from vlmbench.data.images import image_facts, open_image
from vlmbench.data.invalid_rows import InvalidRow
from vlmbench.data.load import load_data, read_images
from vlmbench.data.manifest import open_manifest
from vlmbench.data.photos.pairs import PairsConfig
from vlmbench.data.photos.table import read_table
from vlmbench.data.prepared import INVALID_ROWS, explain_damage, read_invalid_rows
from vlmbench.data.sources.folder import FolderConfig
from vlmbench.data.sources.huggingface import HuggingFaceConfig
from vlmbench.data.sources.llava import LlavaConfig
from vlmbench.data.sources.manifest import ManifestConfig
from vlmbench.data.sources.mmad import MmadConfig
from vlmbench.data.sources.mvtec import MvtecConfig
from vlmbench.data.sources.robustmad import RobustMadConfig
from vlmbench.data.sources.sharegpt import ShareGptConfig
from vlmbench.types import Split, UserError

MAX_SECONDS = 10
SHARES = {Split.TRAIN: 0.6, Split.VAL: 0.2, Split.TEST: 0.2}
SOURCES: dict[str, Callable[..., SourceConfig]] = {
    "folder": FolderConfig,
    "mvtec": MvtecConfig,
    "huggingface": HuggingFaceConfig,
    "manifest": ManifestConfig,
    "llava": LlavaConfig,
    "sharegpt": ShareGptConfig,
    "mmad": MmadConfig,
    "robustmad": RobustMadConfig,
}


def pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe")
    return str(folder / "pipe")


def bound(folder: Path) -> str:
    """Return the path of a socket. The system's limit of a socket's path is 108 bytes."""
    here = Path.cwd()
    os.chdir(folder)
    try:
        socket.socket(socket.AF_UNIX).bind("socket")
    finally:
        os.chdir(here)
    return str(folder / "socket")


def loop(folder: Path) -> str:
    (folder / "loop").symlink_to("loop")
    return str(folder / "loop")


def no_text(folder: Path) -> str:
    path = folder / "a\udcff"
    path.mkdir()
    return str(path)


PATHS: dict[str, Callable[[Path], str]] = {
    "300 letters": lambda folder: "a" * 300,
    "3000 folders": lambda folder: "a/" * 3000,
    "300 Japanese letters": lambda folder: "写" * 300,
    "nothing": lambda folder: "",
    "a zero byte": lambda folder: "a\0b",
    "a line break": lambda folder: "a\nb",
    "the empty device": lambda folder: "/dev/null",
    "the endless device": lambda folder: "/dev/zero",
    "the devices": lambda folder: "/dev",
    "the processes": lambda folder: "/proc",
    "a process's memory": lambda folder: "/proc/self/mem",
    "a process's environment": lambda folder: "/proc/self/environ",
    "the system's files": lambda folder: "/sys/kernel",
    "a pipe": pipe,
    "a socket": bound,
    "a link to itself": loop,
    "bytes that are no text": no_text,
    "an empty folder": str,
}


def refuse(read: Callable[[], object]) -> str:
    """Return the message of the UserError that `read` raises, in seconds."""
    started = time.monotonic()
    with pytest.raises(UserError) as raised:
        read()
    assert time.monotonic() - started < MAX_SECONDS
    return str(raised.value)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("source", [name for name in SOURCES if name != "huggingface"])
def test_a_path_that_is_no_data_is_refused(tmp_path: Path, source: str, path: str) -> None:
    config = SOURCES[source](path=PATHS[path](tmp_path))
    message = refuse(lambda: open_manifest(config.prepare(tmp_path / "data")))
    assert re.search(r"[;\n] ?\w", message)  # the cure


@pytest.mark.parametrize("path", ["a pipe", "a socket", "an empty folder"])
def test_a_path_that_is_no_data_set_is_refused(tmp_path: Path, path: str) -> None:
    config = HuggingFaceConfig(path=PATHS[path](tmp_path))
    assert "source.path" in refuse(lambda: config.prepare(tmp_path / "data"))


@pytest.mark.parametrize("path", [name for name in PATHS if name != "nothing"])
@pytest.mark.parametrize("what", ["table", "images"])
def test_a_path_beside_the_data_is_refused(tmp_path: Path, what: str, path: str) -> None:
    odd = PATHS[path](tmp_path)
    photos = photos_in(tmp_path / "photos", good=1, bad=1)
    turns = [{"from": "human", "value": "<image>\nGood?"}, {"from": "gpt", "value": "normal"}]
    (tmp_path / "rows.json").write_text(
        json.dumps([{"id": "1", "image": "a.png", "conversations": turns}])
    )

    config: SourceConfig = FolderConfig(path=str(photos), table=odd)
    if what == "images":
        config = LlavaConfig(path=str(tmp_path / "rows.json"), images=odd)
    refuse(lambda: config.prepare(tmp_path / "data"))


@pytest.mark.parametrize("error", [MemoryError, OverflowError, KeyError])
@pytest.mark.parametrize("step", ["phash", "open"])
def test_an_error_of_a_library_names_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception], step: str
) -> None:
    def fail(*arguments: object, **settings: object) -> None:
        raise error

    image(0).save(tmp_path / "a.png")
    if step == "phash":
        monkeypatch.setattr(images_module.imagehash, "phash", fail)
    else:
        monkeypatch.setattr(images_module.Image, "open", fail)
    assert str(tmp_path / "a.png") in refuse(lambda: image_facts(tmp_path / "a.png"))


# Files beside a user's manifest that have our name and are not ours.
INVALID_ROWS_FILES: dict[str, bytes] = {
    "an empty object": b"{}",
    "nothing": b"",
    "a list": b"[]",
    "text": b"hello",
    "another object": b'{"misfits": 3}',
    "texts for numbers": b'{"count": "3", "total": 5, "named": []}',
    "no names": b'{"count": 3, "total": 5, "named": []}',
    "more than all": b'{"count": 9, "total": 5, "named": [{"location": "a", "reason": "b"}]}',
    "a negative number": b'{"count": -1, "total": 5, "named": [{"location": "a", "reason": "b"}]}',
    "a huge number": b'{"count": 1e999, "total": 5, "named": []}',
    "not UTF-8": b'{"count": "\xff"}',
    "deep": b'{"count":' + b"[" * 200_000,
}


@pytest.mark.parametrize("name", INVALID_ROWS_FILES)
def test_a_file_with_our_name_that_is_not_ours_is_passed_over(
    manifest: ManifestBuilder, name: str, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    path = manifest.write().rename(manifest.folder / "manifest.jsonl")
    (manifest.folder / INVALID_ROWS).write_bytes(INVALID_ROWS_FILES[name])

    assert read_invalid_rows(path) is None
    assert "vlmbench did not write it" in caplog.text
    data = load_data(
        open_manifest(path), SHARES, split_seed=0, allow_leak=False, cache_dir=tmp_path / "c"
    )
    assert data.warnings == ()


def test_a_folder_with_our_name_is_passed_over(manifest: ManifestBuilder) -> None:
    path = manifest.write().rename(manifest.folder / "manifest.jsonl")
    (manifest.folder / INVALID_ROWS).mkdir()
    assert read_invalid_rows(path) is None


def spoil_manifest(folder: Path) -> None:
    (folder / "manifest.jsonl").unlink()


def replace_by_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("x")


def a_photo(folder: Path) -> Path:
    return sorted((folder / "img").rglob("*.png"))[3]


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no manifest": spoil_manifest,
    "a file in its place": replace_by_file,
    "an image is gone": lambda folder: a_photo(folder).unlink(),
    "an image is empty": lambda folder: os.truncate(a_photo(folder), 0),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_the_cure_of_a_damaged_prepared_folder_helps(tmp_path: Path, name: str) -> None:
    config = FolderConfig(path=str(photos_in(tmp_path / "photos")), pairs=PairsConfig(lots=3))
    data_dir = tmp_path / "prepared data"
    folder = config.prepare(data_dir).parent

    def read() -> object:
        path = config.prepare(data_dir)
        manifest = open_manifest(path, views={"raw", "rt"})
        with explain_damage(path, data_dir):
            return read_images(manifest, tmp_path / "cache")

    DAMAGES[name](folder)
    cure = re.search(r"rm -r .*", refuse(read))
    assert cure is not None
    subprocess.run(shlex.split(cure[0]), check=True)
    assert read()


def test_the_users_own_folder_is_never_to_be_removed(manifest: ManifestBuilder) -> None:
    path = manifest.write().rename(manifest.folder / "manifest.jsonl")
    (manifest.folder / "img" / "1-good.png").unlink()

    def read() -> object:
        with explain_damage(path, manifest.folder / "data"):
            return read_images(open_manifest(path), manifest.folder / "cache")

    assert "rm -r" not in refuse(read)


def written(rows: list[list[str]], **settings: Any) -> str:
    target = StringIO()
    csv.writer(target, **settings).writerows(rows)
    return target.getvalue()


# Tables -> words of the error.
TABLES: dict[str, tuple[bytes, str]] = {
    "a column twice": (b"path,label,path\na,b,c\n", "'path' occurs twice"),
    "a column twice in other letters": (b"path,Label,LABEL\na,b,c\n", "'label' occurs twice"),
    "a column twice in other forms": (
        "path,label,é,e\u0301\na,b,c,d\n".encode(),
        "occurs twice",
    ),
    "UTF-16": ("path,label\na,b\n".encode("utf-16"), "does not exist"),
    "UTF-16 without mark": ("path,label\na,b\n".encode("utf-16-le"), "l.csv"),
    "UTF-32": ("path,label\na,b\n".encode("utf-32"), "does not exist"),
    "Shift-JIS": ("path,label\n写真.png,良品\n".encode("shift-jis"), "does not exist"),
    "two encodings": ("path,label\n写真.png,".encode() + "良".encode("euc-jp"), "does not exist"),
    "zero bytes": (b"path,label\na\0b.png,normal\n", "l.csv:2"),
    "only zero bytes": (b"\0" * 100, "l.csv"),
    "no header": (b"a.png,normal\nb.png,abnormal\n", "no column 'path'"),
    "half a quote": (b'path,label\n"a.png,normal\n', "l.csv:2"),
    "text after a quote": (b'path,label\n"a"b,normal\n', "l.csv:2"),
    "a line break in a path": (b'path,label\n"a\nb.png",normal\n', "has control characters"),
    "a direction mark": ("path,label\na\u202egnp.exe,normal\n".encode(), "control characters"),
    "only carriage returns": (b"path,label\r\r\r", "no line follows the header"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_strange_table_is_refused(tmp_path: Path, name: str) -> None:
    content, words = TABLES[name]
    photos = photos_in(tmp_path / "photos", good=1, bad=1)
    (photos / "l.csv").write_bytes(content)
    message = refuse(FolderConfig(path=str(photos), table="l.csv").photos)
    assert words in message
    assert str(photos) in message


FORMULAS = ["=1+1", "=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", '=HYPERLINK("http://x")', "'x"]


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_formula_stays_text(tmp_path: Path, formula: str) -> None:
    rows = [["path", "label", "defect"], ["a.png", "normal", formula]]
    (tmp_path / "l.csv").write_text(written(rows))
    invalid_rows: list[InvalidRow] = []
    ((_, fields),) = read_table(
        tmp_path / "l.csv", required=("path", "label"), invalid_rows=invalid_rows
    )
    assert fields["defect"] == formula
    assert invalid_rows == []


# Labels that are no texts -> the word that has to be mapped.
LABELS = {
    "numbers": ([0, 1], "'0'"),
    "truths": ([False, True], "'False'"),
    "floats": ([0.0, 1.0], "'0.0'"),
    "not a number": ([float("nan"), float("inf")], "'nan'"),
    "nothing": ([None, None], "'None'"),
    "lists": ([[0], [1]], "'[0]'"),
    "long texts": (["x" * 100_000, "y"], f"'{'x' * 60}'"),
}


@pytest.mark.parametrize("name", LABELS)
def test_labels_that_are_no_texts_are_named(tmp_path: Path, name: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    words, quoted = LABELS[name]
    photos = [(photos_in(tmp_path / f"p{i}", 1, 1) / "good" / "good0.png") for i in range(2)]
    (tmp_path / "hf").mkdir()
    table = pa.table({"image": [path.read_bytes() for path in photos], "label": words})
    pq.write_table(table, tmp_path / "hf" / "train.parquet")

    config = HuggingFaceConfig(path=str(tmp_path / "hf"))
    message = refuse(lambda: config.prepare(tmp_path / "data"))
    assert f"label {quoted} is not one of" in message
    assert len(message) < 2000


ROW: dict[str, Any] = {
    "id": "a",
    "task": "judge_single",
    "group": "g",
    "label": "normal",
    "images": [{"path": "img/1-good.png", "role": "query"}],
}
# Rows of a manifest -> words of the error.
LINES: dict[str, tuple[bytes, str]] = {
    "a truth as label": (json.dumps({**ROW, "label": True}).encode(), "Expected `str`, got `bool`"),
    "a number as label": (json.dumps({**ROW, "label": 1}).encode(), "Expected `str`, got `int`"),
    "not a number as label": (json.dumps({**ROW, "label": float("nan")}).encode(), "malformed"),
    "infinity in meta": (json.dumps({**ROW, "meta": {"a": float("inf")}}).encode(), "malformed"),
    "a group of blanks": (json.dumps({**ROW, "group": "   "}).encode(), "group ''"),
    "an id of blanks": (json.dumps({**ROW, "id": " "}).encode(), "id ''"),
    "a label of blanks": (json.dumps({**ROW, "label": "  "}).encode(), "the row has no label"),
    "half a surrogate in a path": (
        b'{"id":"a","task":"judge_single","group":"g","label":"normal",'
        b'"images":[{"path":"\\ud800.png","role":"query"}]}',
        "malformed",
    ),
    "UTF-16": (json.dumps(ROW).encode("utf-16"), "malformed"),
    "a path of blanks": (
        json.dumps({**ROW, "images": [{"path": "  ", "role": "query"}]}).encode(),
        "does not exist",
    ),
    "a hash that is none": (
        json.dumps({**ROW, "images": [{**ROW["images"][0], "sha256": "x"}]}).encode(),
        "but the row says x",
    ),
}


@pytest.mark.parametrize("name", LINES)
def test_a_strange_row_is_refused(manifest: ManifestBuilder, tmp_path: Path, name: str) -> None:
    line, words = LINES[name]
    path = manifest.write()
    path.write_bytes(path.read_bytes() + line + b"\n")

    def read() -> object:
        return load_data(
            open_manifest(path), SHARES, split_seed=0, allow_leak=False, cache_dir=tmp_path / "c"
        )

    message = refuse(read)
    assert words in message
    assert f"{path}:31: " in message


def test_a_hash_in_capital_letters_is_the_same_hash(
    manifest: ManifestBuilder, tmp_path: Path
) -> None:
    facts = image_facts(manifest.folder / "img" / "0-ref.png")
    manifest.rows[0]["images"][0]["sha256"] = facts.sha256.upper()
    records = open_manifest(manifest.write())
    assert load_data(
        records, SHARES, split_seed=0, allow_leak=False, cache_dir=tmp_path / "c"
    ).facts


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"PK\x03\x04", b"\x93NUMPY", b"PK\x05\x06" + bytes(18)],
    ids=["empty", "text", "half a zip", "an array", "a zip of nothing"],
)
def test_damaged_facts_of_images_are_read_again(
    manifest: ManifestBuilder, tmp_path: Path, content: bytes
) -> None:
    records = open_manifest(manifest.write())
    before = read_images(records, tmp_path / "cache")
    (cached,) = (tmp_path / "cache" / "images").iterdir()
    cached.write_bytes(content)
    assert read_images(records, tmp_path / "cache") == before


def test_facts_of_other_images_are_read_again(manifest: ManifestBuilder, tmp_path: Path) -> None:
    records = open_manifest(manifest.write())
    before = read_images(records, tmp_path / "cache")
    (cached,) = (tmp_path / "cache" / "images").iterdir()
    with np.load(cached) as stored:
        columns = {name: stored[name][1:] for name in stored.files}
    np.savez(cached, **columns)
    assert read_images(records, tmp_path / "cache") == before


@pytest.mark.parametrize("to", ["absolute", "relative"])
def test_a_link_within_the_folder_is_followed(tmp_path: Path, to: str) -> None:
    (tmp_path / "a").mkdir()
    image(0).save(tmp_path / "a" / "x.png")
    target = (tmp_path / "a" / "x.png").resolve() if to == "absolute" else Path("a/x.png")
    (tmp_path / "link.png").symlink_to(target)
    assert open_image(tmp_path / "link.png", inside=tmp_path).size == (64, 56)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "I;16"])
def test_a_turned_photo_is_turned_once(tmp_path: Path, mode: str) -> None:
    """Processors of transformers turn an image again that still names its orientation."""
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.zeros((4, 8), np.uint16 if mode == "I;16" else np.uint8)
    stored = Image.fromarray(values)
    stored = stored if mode == "I;16" else stored.convert(mode)
    stored.save(tmp_path / "a.png", exif=exif)

    shown = open_image(tmp_path / "a.png")
    assert shown.size == (4, 8)
    assert shown.getexif().get(0x0112, 1) == 1
