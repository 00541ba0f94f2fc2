"""The manifest: read lazily, every row checked, every invalid row named."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import ManifestBuilder
from tests.helpers.manifests import SPOILT
from vlmbench.data.manifest import MAX_INVALID_ROWS, Manifest, open_manifest
from vlmbench.data.prepared import write_manifest
from vlmbench.types import Split, Task, UserError


def test_records_come_back_in_the_order_of_the_file(manifest: ManifestBuilder) -> None:
    records = open_manifest(manifest.write())

    assert len(records) == 30
    assert [record.id for record in records[:3]] == ["0-good", "0-bad", "0-single"]
    assert records[1].answer == "abnormal: a scratch"
    assert records[1].images[1].path == manifest.folder / "img/0-bad.png"
    assert records[-1].task is Task.JUDGE_SINGLE


def test_a_written_manifest_reads_back_the_same(manifest: ManifestBuilder) -> None:
    records = list(open_manifest(manifest.write()))
    write_manifest(manifest.folder, records)
    assert list(open_manifest(manifest.folder / "manifest.jsonl")) == records


def test_blank_lines_and_a_missing_last_newline_are_no_records(manifest: ManifestBuilder) -> None:
    path = manifest.write()
    path.write_text("\n" + path.read_text().rstrip("\n"))
    records = open_manifest(path)
    assert len(records) == 30
    assert records[29].id == "9-single"
    assert records.location(29) == f"{path}:31"


def test_the_users_labels_are_mapped_to_the_tasks(manifest: ManifestBuilder) -> None:
    for row in manifest.rows:
        row["answer"] = row["label"] = {"normal": "ok", "abnormal": "ng"}[row["label"]]
    manifest.rows[1]["answer"] = "ng: bent"
    records = open_manifest(manifest.write(), labels={"ok": "normal", "ng": "abnormal"})
    assert records[0].label == records[0].answer == "normal"
    assert records[1].answer == "abnormal: bent"


def test_a_missing_answer_is_the_label(manifest: ManifestBuilder) -> None:
    del manifest.rows[0]["answer"]
    assert open_manifest(manifest.write())[0].answer == "normal"


def test_a_fixed_split_is_kept(manifest: ManifestBuilder) -> None:
    manifest.rows[0]["split"] = "val"
    assert open_manifest(manifest.write())[0].split is Split.VAL


def test_the_view_of_a_record_names_each_of_its_views_once(manifest: ManifestBuilder) -> None:
    manifest.rows[0]["images"][1]["view"] = "rt"
    records = open_manifest(manifest.write(), views={"raw", "rt"})
    assert records[0].view == "raw+rt"
    assert records[1].view == "raw"


@pytest.mark.parametrize("spoil", SPOILT)
def test_an_invalid_row_is_named_with_its_line_and_cure(
    manifest: ManifestBuilder, spoil: str
) -> None:
    change, message = SPOILT[spoil]
    change(manifest.rows[3])

    with pytest.raises(UserError) as raised:
        open_manifest(manifest.write())

    first = str(raised.value).splitlines()[0]
    assert first.startswith(f"{manifest.path}:4: ")
    assert message in first


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"id": "\xff"}\n', "UTF-8"),
        (b"{not json\n", "format of a record"),
        (b"[]\n", "format of a record"),
        (b'{"id": "' + b"x" * 1_000_001 + b'"}\n', "the limit is 1000000 bytes"),
    ],
)
def test_a_line_that_is_no_record_is_named(
    manifest: ManifestBuilder, line: bytes, message: str
) -> None:
    path = manifest.write()
    path.write_bytes(path.read_bytes() + line)

    with pytest.raises(UserError, match=message) as raised:
        open_manifest(path)
    assert f"{path}:31:" in str(raised.value)


def test_invalid_rows_are_reported_together_each_reason_once(manifest: ManifestBuilder) -> None:
    for row in manifest.rows:
        row["label"] = "ng"
    manifest.rows[3]["label"] = "bad"

    with pytest.raises(UserError) as raised:
        open_manifest(manifest.write())

    ng, bad = [line for line in str(raised.value).splitlines() if "label" in line]
    assert ng.startswith(f"{manifest.path}:1: ")
    assert "label 'ng'" in ng
    assert ng.endswith(f"(also in {len(manifest.rows) - 2} more rows)")
    assert bad.startswith(f"{manifest.path}:4: ")
    assert "label 'bad'" in bad


def test_a_manifest_of_invalid_rows_is_not_read_to_its_end(manifest: ManifestBuilder) -> None:
    path = manifest.write()
    path.write_text("{}\n" * (MAX_INVALID_ROWS + 500))
    with pytest.raises(
        UserError, match=rf"also in {MAX_INVALID_ROWS - 1} more rows.*\n.*reading .* stopped after"
    ):
        open_manifest(path)


@pytest.mark.parametrize(
    ("content", "message"), [("", "is empty"), ("\n\n", "the manifest has no record")]
)
def test_an_empty_manifest_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        open_manifest(path)


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the manifest does not exist"):
        open_manifest(tmp_path / "mine.jsonl")


@pytest.mark.slow
def test_a_large_manifest_stays_small_in_memory(tmp_path: Path) -> None:
    """Open 100,000 records: a manifest keeps a few numbers of each row."""
    path = tmp_path / "large.jsonl"
    row = {"task": "judge_single", "label": "normal", "answer": "normal: " + "x" * 500}
    with path.open("w") as file:
        for i in range(100_000):
            images = [{"path": f"img/{i}.png", "role": "query"}]
            names = {"id": f"r{i}", "group": f"g{i // 8}"}
            file.write(json.dumps({**names, "images": images, **row}) + "\n")

    records = open_manifest(path)
    columns = (
        records.tasks,
        records.splits,
        records.groups,
        records.images,
        records._rows,
    )
    rows = 8 + 4 + 4 + 8  # start, size, line number, hash
    assert sum(column.nbytes for column in columns) == 100_000 * (1 + 1 + 8 + 16 + rows)
    assert records[99_999].id == "r99999"


@pytest.mark.parametrize("folder", ["/", ".", "/photos", "photos/parts"])
def test_an_image_is_named_as_its_row_names_it(folder: str) -> None:
    manifest = SimpleNamespace(folder=Path(folder))
    assert Manifest.image_name(manifest, Path(folder) / "img/p1.png") == "img/p1.png"
