"""Small files that ask for much: refused with path and cure, in seconds and below 1 GB.

To add an image, add an entry to IMAGES: its bytes and words of the error; None: it is valid. A
process of its own reads all of them, so that its memory can be measured.
"""

from __future__ import annotations

import errno
import io
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.conftest import REPOSITORY, image
from vlmbench.data.image_limits import MAX_SCANS, MAX_TAGS, check_content
from vlmbench.data.lines import MAX_LINE
from vlmbench.data.manifest import open_manifest
from vlmbench.data.photos.pairs import PairsConfig
from vlmbench.data.photos.table import MAX_COLUMNS, read_table
from vlmbench.data.rows.read import read_rows
from vlmbench.data.sources.folder import FolderConfig
from vlmbench.data.sources.huggingface import HuggingFaceConfig
from vlmbench.data.sources.llava import LlavaConfig
from vlmbench.types import UserError

MAX_SECONDS = 10
MAX_MEGABYTES = 1000
TAGS, SHARED = 5000, 200_000


def chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def png(width: int, height: int, *chunks: bytes, rows: int | None = None) -> bytes:
    """Return a grey PNG whose data are zeros."""
    squeezed = zlib.compressobj(1)
    line = bytes(width + 1)
    body = b"".join(squeezed.compress(line) for _ in range(height if rows is None else rows))
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = chunk(b"IDAT", body + squeezed.flush())
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + b"".join(chunks)
        + data
        + chunk(b"IEND", b"")
    )


def wide_png(width: int) -> bytes:
    squeezed = zlib.compressobj(1)
    body = b"".join(squeezed.compress(bytes(1_000_000)) for _ in range(width // 1_000_000))
    body += squeezed.compress(b"\0") + squeezed.flush()
    header = struct.pack(">IIBBBBB", width, 1, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")
    )


def directory(tags: int, size: int, *, order: str = "<", big: bool = False) -> bytes:
    """Return a TIFF whose tags share `size` bytes at its end."""
    head = struct.pack(f"{order}2sH", b"II" if order == "<" else b"MM", 43 if big else 42)
    entry = f"{order}HHQQ" if big else f"{order}HHII"
    start = 16 + 8 if big else 8 + 2
    end = start + tags * struct.calcsize(entry) + 8
    head += (
        struct.pack(f"{order}HHQQ", 8, 0, 16, tags) if big else struct.pack(f"{order}IH", 8, tags)
    )
    rows = b"".join(struct.pack(entry, 0x9000 + i % 20000, 7, size, end) for i in range(tags))
    return head + rows + bytes(8) + bytes(size)


def with_exif(kind: str, block: bytes) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (64, 64)).save(target, kind, exif=b"Exif\0\0" + block)
    return target.getvalue()


def jpeg(scans: int, edge: int = 64) -> bytes:
    """Return a progressive JPEG whose last scan is there many times."""
    target = io.BytesIO()
    Image.new("L", (edge, edge)).save(target, "JPEG", progressive=True)
    content = target.getvalue()
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * scans + b"\xff\xd9"


def jpeg_of(width: int, height: int) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (16, 16)).save(target, "JPEG")
    content = bytearray(target.getvalue())
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def jpeg_with_images(block: bytes) -> bytes:
    """Return a JPEG whose list of further images (MPF) is the block."""
    content = jpeg_of(16, 16)
    body = b"MPF\0" + block[:65_000]
    return content[:2] + b"\xff\xe2" + struct.pack(">H", len(body) + 2) + body + content[2:]


def webp(kind: bytes, width: int, height: int) -> bytes:
    if kind == b"VP8X":
        head = bytes(4) + struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    elif kind == b"VP8L":
        bits = (width - 1) | (height - 1) << 14
        head = b"\x2f" + struct.pack("<I", bits) + bytes(5)
    else:
        head = b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", width, height)
    body = b"WEBP" + kind + struct.pack("<I", len(head)) + head
    return b"RIFF" + struct.pack("<I", len(body)) + body


def frames(kind: str, number: int) -> bytes:
    target = io.BytesIO()
    images = [Image.new("L", (8, 8), index % 256) for index in range(number)]
    images[0].save(target, kind, save_all=True, append_images=images[1:])
    return target.getvalue()


def packed(kind: str, size: tuple[int, int], mode: str = "L", **settings: Any) -> bytes:
    target = io.BytesIO()
    Image.new(mode, size).save(target, kind, **settings)
    return target.getvalue()


def flood(head: bytes, megabytes: int = 50) -> bytes:
    squeezed = zlib.compressobj(1)
    body = b"".join(squeezed.compress(bytes(1_000_000)) for _ in range(megabytes))
    return head + body + squeezed.flush()


def tile(width: int, height: int) -> bytes:
    """Return a TIFF of 9 x 9 pixels in a tile of that size."""
    entries = [(256, 4, 1, 9), (257, 4, 1, 9), (258, 3, 1, 8), (259, 3, 1, 5), (262, 3, 1, 1)]
    entries += [(322, 4, 1, width), (323, 4, 1, height), (324, 4, 1, 8), (325, 4, 1, 8)]
    rows = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<2sHIH", b"II", 42, 8, len(entries)) + rows + bytes(4)


TAG_WORDS, EDGE_WORDS, PIXEL_WORDS = "save the image without metadata", "cut it", "the limit is"
IMAGES: dict[str, tuple[str, Callable[[], bytes], str | None]] = {
    "png of 100,000,000 x 1": ("a.png", lambda: wide_png(100_000_000), EDGE_WORDS),
    "png of 1 x 90,000,000": ("a.png", lambda: png(1, 90_000_000, rows=1000), EDGE_WORDS),
    "png of 70,000 x 1000": ("a.png", lambda: png(70_000, 1000, rows=9), EDGE_WORDS),
    "png of 60,000 x 9": ("a.png", lambda: png(60_000, 9), EDGE_WORDS),
    "png of 201 x 1": ("a.png", lambda: png(201, 1), EDGE_WORDS),
    "png of 200 x 1": ("a.png", lambda: png(200, 1), None),
    "png of 10,000 x 11,000": ("a.png", lambda: png(10_000, 11_000), None),
    "png of text": ("a.png", lambda: png(9, 9, chunk(b"zTXt", flood(b"x\0\0"))), ""),
    "png of many texts": (
        "a.png",
        lambda: png(9, 9, *[chunk(b"zTXt", flood(b"x\0\0", 1)) for _ in range(80)]),
        "",
    ),
    "png of colour profiles": (
        "a.png",
        lambda: png(9, 9, *[chunk(b"iCCP", flood(b"x\0\0", 5)) for _ in range(20)]),
        "",
    ),
    "png with shared tags": (
        "a.png",
        lambda: with_exif("PNG", directory(TAGS, SHARED)),
        TAG_WORDS,
    ),
    "png with shared tags as text": (
        "a.png",
        lambda: png(
            9,
            9,
            chunk(
                b"zTXt",
                b"Raw profile type exif\0\0"
                + zlib.compress(
                    b"\nexif\n    9999\n" + (b"Exif\0\0" + directory(900, 60_000)).hex().encode()
                ),
            ),
        ),
        TAG_WORDS,
    ),
    "webp with shared tags": (
        "a.webp",
        lambda: with_exif("WEBP", directory(TAGS, SHARED)),
        TAG_WORDS,
    ),
    "jpeg with shared tags": (
        "a.jpg",
        lambda: with_exif("JPEG", directory(900, 50_000)),
        TAG_WORDS,
    ),
    "jpeg with shared tags of images": (
        "a.jpg",
        lambda: jpeg_with_images(directory(900, 50_000)),
        TAG_WORDS,
    ),
    "jpeg with sound tags": ("a.jpg", lambda: with_exif("JPEG", directory(1, 50_000)), None),
    "tiff of 65,535 tags": ("a.tif", lambda: directory(65_535, SHARED), TAG_WORDS),
    "tiff of 5000 tags": ("a.tif", lambda: directory(TAGS, SHARED), TAG_WORDS),
    "tiff of 900 tags": ("a.tif", lambda: directory(900, 1_000_000), TAG_WORDS),
    "tiff in the other order": (
        "a.tif",
        lambda: directory(TAGS, SHARED, order=">"),
        TAG_WORDS,
    ),
    "big tiff": ("a.tif", lambda: directory(TAGS, SHARED, big=True), TAG_WORDS),
    "tiff of a huge tile": ("a.tif", lambda: tile(100_000, 100_000), "a tile has"),
    "tiff of 600 pages": ("a.tif", lambda: frames("TIFF", 600), None),
    "tiff packed 1000 times": (
        "a.tif",
        lambda: packed("TIFF", (4000, 4000), compression="tiff_adobe_deflate"),
        None,
    ),
    "jpeg of 65,500 x 65,500": ("a.jpg", lambda: jpeg_of(65_500, 65_500), PIXEL_WORDS),
    "jpeg of 65,500 x 9": ("a.jpg", lambda: jpeg_of(65_500, 9), EDGE_WORDS),
    "jpeg of 5000 scans": ("a.jpg", lambda: jpeg(5000), "without progressive scans"),
    "jpeg of 40 large scans": ("a.jpg", lambda: jpeg(40, 7000), "without progressive scans"),
    "jpeg of 20 scans": ("a.jpg", lambda: jpeg(10), None),
    "webp of a huge canvas": ("a.webp", lambda: webp(b"VP8X", 16_383, 16_383), PIXEL_WORDS),
    "webp of the largest canvas": ("a.webp", lambda: webp(b"VP8X", 2**24, 2**24), PIXEL_WORDS),
    "webp without loss": ("a.webp", lambda: webp(b"VP8L", 16_383, 16_383), PIXEL_WORDS),
    "webp with loss": ("a.webp", lambda: webp(b"VP8 ", 16_383, 16_383), PIXEL_WORDS),
    "webp of 300 frames": ("a.webp", lambda: frames("WEBP", 300), None),
    "png of 600 frames": ("a.png", lambda: frames("PNG", 600), None),
    "bmp of 30,000 x 1": ("a.bmp", lambda: packed("BMP", (30_000, 1)), EDGE_WORDS),
    "png of 4000 x 4000 with transparency": (
        "a.png",
        lambda: packed("PNG", (4000, 4000), "RGBA", compress_level=1),
        None,
    ),
}
READ = """
import json, re, sys, time
from pathlib import Path
from vlmbench.data.images import image_facts, open_image
from vlmbench.types import UserError

for name in sys.argv[1:]:
    started, message = time.process_time(), None
    try:
        image_facts(Path(name))
    except UserError as error:
        message = str(error)
    # Not getrusage: its peak includes that of the process that started this one.
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    megabytes = int(peak[1]) / 1e3
    print(json.dumps([message, time.process_time() - started, megabytes]), flush=True)
"""


@pytest.fixture(scope="module")
def readings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, list[Any]]]:
    """Return the path of each image, and its message, its seconds and the megabytes so far."""
    paths = []
    for number, (file, content, _) in enumerate(IMAGES.values()):
        folder = tmp_path_factory.mktemp(str(number))
        (folder / file).write_bytes(content())
        paths.append(str(folder / file))

    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", READ, *paths],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    results = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip(IMAGES, zip(paths, results, strict=True), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", IMAGES)
def test_an_image_costs_little(name: str, readings: dict[str, tuple[str, list[Any]]]) -> None:
    path, (message, seconds, megabytes) = readings[name]
    words = IMAGES[name][2]

    assert seconds < MAX_SECONDS
    assert megabytes < MAX_MEGABYTES
    if words is None:
        assert message is None
    elif words:
        assert path in message
        assert words in message


@pytest.mark.parametrize("size", [0, 1, 8, 9, 10, 20, 100])
@pytest.mark.parametrize("head", [b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"RIFF", b"\xff\xd8"])
def test_a_cut_head_is_left_to_the_decoder(head: bytes, size: int) -> None:
    check_content(Path("a"), (head + b"\x08\0\0\0\xff\xff" + b"\xff" * 90)[:size])


@pytest.mark.parametrize("tags", [MAX_TAGS, MAX_TAGS + 1])
def test_the_limit_of_tags(tags: int) -> None:
    content = directory(tags, 4)
    if tags > MAX_TAGS:
        with pytest.raises(UserError, match="tags"):
            check_content(Path("a"), content)
    else:
        check_content(Path("a"), content)


@pytest.mark.parametrize("scans", [MAX_SCANS - 20, MAX_SCANS])
def test_the_limit_of_scans(scans: int) -> None:
    if scans == MAX_SCANS:
        with pytest.raises(UserError, match="scans"):
            check_content(Path("a"), jpeg(scans))
    else:
        check_content(Path("a"), jpeg(scans))


LABELS = b"path,label\n"
TABLES: dict[str, tuple[Callable[[], bytes], str]] = {
    "commas and quotes": (lambda: LABELS + b',",' * 20_000, "l.csv:2"),
    "quotes": (lambda: LABELS + b'"' * 60_001, "l.csv:"),
    "quotes in lines": (lambda: LABELS + b'"a\n' * 30_001, "l.csv:"),
    "semicolons and quotes": (lambda: b"path;label\n" + b';";' * 20_000, "l.csv:2"),
    "spaces and quotes": (lambda: LABELS + b'" "," ' * 10_000, "l.csv:"),
    "a million columns": (
        lambda: b"path,label," + b",".join(b"c%d" % i for i in range(1_000_000)) + b"\nx",
        f"the limit is {MAX_COLUMNS}",
    ),
    "a million equal columns": (lambda: b"path,label" + b",x" * 1_000_000 + b"\nx", "the limit is"),
    "a million fields": (lambda: LABELS + b"x," * 1_000_000, "the line has 1000001 fields"),
    "a field of 50 MB": (lambda: LABELS + b"x" * 50_000_000, "field larger than field limit"),
    "a header of 50 MB": (lambda: b"x" * 50_000_000, "field larger than field limit"),
    "more than the limit": (lambda: LABELS + bytes(100_000_001), "at most 100,000,000 are allowed"),
    "a million blank lines": (lambda: LABELS + b"\n" * 1_000_000, "no line follows the header"),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_costs_little(tmp_path: Path, name: str) -> None:
    content, words = TABLES[name]
    (tmp_path / "l.csv").write_bytes(content())
    started = time.process_time()

    invalid_rows: list[Any] = []
    message = ""
    try:
        list(read_table(tmp_path / "l.csv", required=("path", "label"), invalid_rows=invalid_rows))
    except UserError as error:
        message = str(error)

    assert time.process_time() - started < MAX_SECONDS
    named = message + " ".join(f"{row.location}: {row.reason}" for row in invalid_rows)
    assert words in named
    assert str(tmp_path) in named


@pytest.mark.parametrize(
    "rows", ["".join(f"x/{i}.png,normal\n" for i in range(500_000)), "x,normal,1\n" * 500_000]
)
def test_reading_a_table_stops_after_many_invalid_lines(tmp_path: Path, rows: str) -> None:
    (tmp_path / "l.csv").write_text(f"path,label\n{rows}")
    started = time.process_time()
    with pytest.raises(UserError, match="stopped after 1000 invalid rows"):
        FolderConfig(path=str(tmp_path), table="l.csv").photos()
    assert time.process_time() - started < MAX_SECONDS


def test_reading_rows_stops_after_many_invalid_rows(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nGood?"}, {"from": "gpt", "value": "normal"}]
    row = json.dumps({"id": "1", "image": "gone.png", "conversations": turns})
    (tmp_path / "rows.jsonl").write_text(f"{row}\n" * 200_000)
    started = time.process_time()
    with pytest.raises(UserError, match="also in 999 more rows"):
        LlavaConfig(path=str(tmp_path / "rows.jsonl")).prepare(tmp_path / "data")
    assert time.process_time() - started < MAX_SECONDS


ROWS: dict[str, tuple[Callable[[], bytes], str]] = {
    "one line of 40 MB": (lambda: b'{"id":"' + b"x" * 40_000_000 + b'"}', "the line is too long"),
    "a line just too long": (lambda: b" " * MAX_LINE + b"1", "the line is too long"),
    "a million brackets": (lambda: b"[" * 1_000_000, "mine.json"),
    "a million objects": (lambda: b'{"a":' * 180_000, "mine.json"),
    "a million keys": (
        lambda: b"{" + b",".join(b'"%d":1' % i for i in range(100_000)) + b"}",
        "mine.json",
    ),
    "a number of 900,000 digits": (lambda: b"9" * 900_000, "mine.json"),
}


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("reader", ["manifest", "rows"])
def test_rows_cost_little(tmp_path: Path, name: str, reader: str) -> None:
    from vlmbench.data.sources.llava import LlavaConfig

    content, words = ROWS[name]
    path = tmp_path / "mine.json"
    path.write_bytes(content())
    started = time.process_time()

    def read() -> object:
        if reader == "manifest":
            return open_manifest(path)
        return LlavaConfig(path=str(path)).prepare(tmp_path / "data")

    with pytest.raises(UserError) as raised:
        read()
    assert time.process_time() - started < MAX_SECONDS
    assert words in str(raised.value)
    assert len(str(raised.value)) < 3000


def test_a_file_of_rows_larger_than_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_bytes(b"[")
    os.truncate(path, 600_000_000)  # a sparse file
    with pytest.raises(UserError, match="at most 500,000,000 are allowed"):
        list(read_rows(path))


def photo_bytes(seed: int, edge: int = 48) -> bytes:
    target = io.BytesIO()
    image(seed, (edge, edge)).save(target, "PNG")
    return target.getvalue()


def parquet(folder: Path, images: list[bytes], **settings: Any) -> Path:
    folder.mkdir()
    labels = ["normal" if number % 3 else "abnormal" for number in range(len(images))]
    table = pa.table({"image": pa.array(images, pa.binary()), "label": labels})
    pq.write_table(table, folder / "train.parquet", **settings)
    return folder


@pytest.fixture
def noise() -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (220, 220, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(values).save(target, "PNG")
    return target.getvalue()


def test_a_parquet_dictionary_does_not_fill_the_disk(
    tmp_path: Path, noise: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """145 kB of one image, 3000 times: 436 MB. The cure is typed back."""
    monkeypatch.setattr("vlmbench.data.sources.huggingface.SMALL", 1_000_000)
    folder = parquet(tmp_path / "hf", [noise] * 3000)
    started = time.process_time()
    with pytest.raises(UserError, match="more than 20 times the files") as raised:
        HuggingFaceConfig(path=str(folder)).prepare(tmp_path / "data")
    assert time.process_time() - started < MAX_SECONDS
    assert not list((tmp_path / "data").glob("hugging*"))

    setting = str(raised.value).rpartition("; set ")[2]
    limit = int(setting.removeprefix("source.limit="))
    assert 0 < limit < 3000
    with pytest.raises(UserError, match="but they are the same image"):
        HuggingFaceConfig(path=str(folder), limit=min(limit, 9)).prepare(tmp_path / "data")


HF: dict[str, dict[str, Any]] = {
    "many row groups": {"row_group_size": 1},
    "small pages": {"data_page_size": 1},
    "no dictionary": {"use_dictionary": False},
    "packed": {"compression": "zstd", "compression_level": 19},
    "nothing packed": {"compression": "none"},
}


@pytest.mark.parametrize("name", HF)
def test_parquet_in_many_forms_is_read(tmp_path: Path, name: str) -> None:
    folder = parquet(tmp_path / "hf", [photo_bytes(i) for i in range(24)], **HF[name])
    path = HuggingFaceConfig(path=str(folder), pairs=PairsConfig(lots=3)).prepare(tmp_path / "d")
    assert len(open_manifest(path, views={"raw", "rt"})) > 0


NESTED: dict[str, Any] = {
    "lists in lists": pa.array([[[[1]]]] * 24),
    "objects": pa.array([{"a": {"b": {"c": "x"}}}] * 24),
    "an object with 2000 keys": pa.array([{f"k{i}": i for i in range(2000)}] * 24),
    "numbers": pa.array([1.5] * 24),
    "nulls": pa.nulls(24),
    "texts": pa.array(["/etc/passwd"] * 24),
    "paths": pa.array([{"bytes": None, "path": "/etc/passwd"}] * 24),
    "texts of 1 MB": pa.array(["x" * 1_000_000] * 24),
}


@pytest.mark.parametrize("name", NESTED)
def test_a_column_that_holds_no_image_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "hf").mkdir()
    labels = ["normal", "abnormal"] * 12
    table = pa.table({"image": NESTED[name], "label": labels})
    pq.write_table(table, tmp_path / "hf" / "train.parquet")
    with pytest.raises(UserError, match="holds no bytes of an image") as raised:
        HuggingFaceConfig(path=str(tmp_path / "hf")).prepare(tmp_path / "data")
    assert len(str(raised.value)) < 1000


def test_a_column_that_unpacks_to_gigabytes_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = parquet(tmp_path / "hf", [photo_bytes(i) for i in range(24)], use_dictionary=False)
    monkeypatch.setattr("vlmbench.data.arrow.MAX_CHUNK", 1000)
    with pytest.raises(UserError, match="save the file with fewer rows in each row group"):
        HuggingFaceConfig(path=str(folder)).prepare(tmp_path / "data")


@pytest.mark.parametrize("source", ["huggingface", "folder"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, code: int
) -> None:
    from tests.helpers.photos import photos_in
    from vlmbench.data.photos import photo

    def full(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    config: Any = FolderConfig(path=str(photos_in(tmp_path / "photos")))
    if source == "huggingface":
        folder = parquet(tmp_path / "hf", [photo_bytes(i) for i in range(24)])
        config = HuggingFaceConfig(path=str(folder))
        monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(photo.shutil, "copyfile", full)

    with pytest.raises(UserError, match=r"cannot be written .*; make room there") as raised:
        config.prepare(tmp_path / "data")
    assert "cannot be read" not in str(raised.value)
    assert "source.path" not in str(raised.value)
