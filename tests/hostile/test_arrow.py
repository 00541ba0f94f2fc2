"""Data sets in arrow and parquet from strangers: read in little memory, or refused by name."""

from __future__ import annotations

import json
import lzma
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import image
from vlmbench.data.sources.huggingface import HuggingFaceConfig
from vlmbench.types import UserError

MAX_MEMORY = 1000  # MB
DATA = "data-00000-of-00001.arrow"
LISTED = {"filename": DATA}
PACKED = "the file is compressed, and save_to_disk never compresses"
MEASURE = """
import sys
from pathlib import Path
from vlmbench.data.sources.huggingface import HuggingFaceConfig
from vlmbench.types import UserError
try:
    HuggingFaceConfig(path=sys.argv[1]).prepare(Path(sys.argv[1]).parent / "data")
except UserError as error:
    print(error)
status = Path("/proc/self/status").read_text()
print(status.partition("VmHWM:")[2].split()[0])  # the peak in kB; ru_maxrss is the parent's
"""


def png(seed: int, tail: int = 0) -> bytes:
    target = BytesIO()
    image(seed).save(target, "PNG")
    return target.getvalue() + bytes(tail)


def table(number: int = 24, *, tail: int = 0) -> pa.Table:
    images = [{"bytes": png(i if not tail else 0, tail), "path": None} for i in range(number)]
    return pa.table({"image": images, "label": ["normal", "abnormal"] * (number // 2)})


def save(folder: Path, rows: pa.Table, compression: str | None = None) -> Path:
    """Write a data set as save_to_disk does, but with a compression."""
    folder.mkdir()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with (
        pa.OSFile(str(folder / DATA), "wb") as target,
        pa.ipc.new_stream(target, rows.schema, options=options) as writer,
    ):
        writer.write_table(rows)
    (folder / "state.json").write_text(json.dumps({"_data_files": [LISTED]}))
    return folder


def refuse(folder: Path, **settings: Any) -> str:
    with pytest.raises(UserError) as raised:
        HuggingFaceConfig(path=str(folder), **settings).prepare(folder.parent / "data")
    return str(raised.value)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
@pytest.mark.parametrize("is_dictionary", [False, True])
def test_a_compressed_arrow_file_is_refused(
    tmp_path: Path, compression: str, is_dictionary: bool
) -> None:
    rows = table()
    if is_dictionary:
        words = pa.array(["a" * 5000, "b" * 5000] * 12).dictionary_encode()
        rows = pa.table({"label": words})
    assert PACKED in refuse(save(tmp_path / "packed", rows, compression), image="label")


def test_an_arrow_file_without_compression_is_read(tmp_path: Path) -> None:
    folder = save(tmp_path / "plain", table())
    assert HuggingFaceConfig(path=str(folder)).prepare(tmp_path / "data").is_file()


@pytest.mark.slow
def test_rows_that_unpack_to_gigabytes_take_little_memory(tmp_path: Path) -> None:
    """24 images with 60 MB of zeros each, in 60 kB."""
    folder = tmp_path / "bomb"
    folder.mkdir()
    row = table(2, tail=60_000_000).slice(0, 1)
    with pq.ParquetWriter(folder / "a.parquet", row.schema, compression="zstd") as writer:
        for _ in range(24):
            writer.write_table(row)
    assert (folder / "a.parquet").stat().st_size < 200_000

    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(folder)], capture_output=True, text=True, check=True
    )
    message, kilobytes = done.stdout.strip().splitlines()
    assert "more than 20 times the files" in message
    assert int(kilobytes) < 1000 * MAX_MEMORY


def large(name: str) -> Callable[[Path], object]:
    def make(folder: Path) -> None:
        (folder / name).touch()
        os.truncate(folder / name, 6_000_000_000)

    return make


def listed(files: Any) -> Callable[[Path], object]:
    return lambda folder: (folder / "state.json").write_text(json.dumps({"_data_files": files}))


def damage(folder: Path) -> None:
    content = bytearray((folder / DATA).read_bytes())
    content[8:300] = b"\xff" * 292
    (folder / DATA).write_bytes(content)


FOLDERS: Mapping[str, tuple[Callable[[Path], object], str]] = {
    "a large JSON file": (large("more.json"), "more.json: the file has 6,000,000,000 bytes"),
    "a large state": (large("state.json"), "state.json: the file has 6,000,000,000 bytes"),
    "one file twice": (listed([LISTED] * 2), "names a file twice"),
    "one file without end": (listed([LISTED] * 100_000), "names a file twice"),
    "a number for files": (listed(5), "must list the names of files"),
    "a text for files": (listed("abc"), "must list the names of files"),
    "numbers for files": (listed([{"filename": 5}]), "must list the names of files"),
    "no name": (listed([{}]), "must list the names of files"),
    "a file outside": (listed([{"filename": "../a.arrow"}]), "leaves the data's folder"),
    "damaged messages": (damage, "cannot be read"),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_damaged_data_set_is_refused_by_name(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path / "set", table())
    make, words = FOLDERS[name]
    make(folder)
    assert words in refuse(folder)


def test_a_split_outside_is_never_the_cure(tmp_path: Path) -> None:
    folder = save(tmp_path / "set", table())
    (folder / "state.json").unlink()
    (folder / "dataset_dict.json").write_text('{"splits": ["../../etc"]}')
    assert refuse(folder, split="../../etc").endswith("set source.split=train")


COLUMNS = {
    "20,000 columns": ([f"c{i}" for i in range(20_000)], "the limit is 1,000"),
    "one name twice": (["label", "image", "label"], "column 'label' occurs twice"),
}


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("kind", ["arrow", "parquet"])
def test_odd_columns_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    names, words = COLUMNS[name]
    rows = pa.Table.from_arrays([pa.array(["normal"])] * len(names), names=names)
    if kind == "arrow":
        folder = save(tmp_path / "set", rows)
    else:
        folder = tmp_path / "set"
        folder.mkdir()
        pq.write_table(rows, folder / "a.parquet")
    assert words in refuse(folder)


def test_a_large_file_that_is_no_parquet_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    large("a.parquet")(tmp_path / "set")
    assert "cannot be read" in refuse(tmp_path / "set")


@pytest.mark.parametrize("suffix", ["zip", "xz"])
def test_an_archive_on_the_hub_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    """The library would read parquet in archives. A local folder stands for the hub."""
    import datasets

    pq.write_table(table(), tmp_path / "a.parquet")
    (tmp_path / "hub").mkdir()
    if suffix == "zip":
        with zipfile.ZipFile(tmp_path / "hub" / "a.zip", "w") as target:
            target.write(tmp_path / "a.parquet", "a.parquet")
    else:
        content = lzma.compress((tmp_path / "a.parquet").read_bytes())
        (tmp_path / "hub" / "a.parquet.xz").write_bytes(content)

    real = datasets.load_dataset_builder
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(
        datasets, "load_dataset_builder", lambda *_, **__: real(str(tmp_path / "hub"))
    )
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("it was unpacked"))
    assert f".{suffix}, which is not unpacked" in refuse(tmp_path / "owner" / "name")
