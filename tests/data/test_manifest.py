"""The manifest: read lazily, checked whole, every bad row named."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import ManifestBuilder
from vlmbench.data.manifest import MOST_WRONG, Manifest, open_manifest
from vlmbench.data.prepared import write_manifest
from vlmbench.types import Split, Task, UserError


def test_records_come_back_in_the_order_of_the_file(manifest: ManifestBuilder) -> None:
    opened = open_manifest(manifest.write())
    assert len(opened) == 30
    assert [record.id for record in opened[:3]] == ["0-good", "0-bad", "0-single"]
    assert opened[1].answer == "abnormal: a scratch"
    assert opened[1].images[1].path == manifest.folder / "img/0-bad.png"
    assert opened[-1].task is Task.JUDGE_SINGLE


def test_a_written_manifest_reads_back_the_same(manifest: ManifestBuilder) -> None:
    records = list(open_manifest(manifest.write()))
    write_manifest(manifest.folder, records)
    assert list(open_manifest(manifest.folder / "manifest.jsonl")) == records


def test_blank_lines_and_a_missing_last_newline_are_no_records(manifest: ManifestBuilder) -> None:
    path = manifest.write()
    path.write_text("\n" + path.read_text().rstrip("\n"))
    opened = open_manifest(path)
    assert len(opened) == 30
    assert opened[29].id == "9-single"
    assert opened.place(29) == f"{path}:31"


def test_the_users_labels_are_mapped_to_the_tasks(manifest: ManifestBuilder) -> None:
    for row in manifest.rows:
        row["answer"] = row["label"] = {"normal": "ok", "abnormal": "ng"}[row["label"]]
    manifest.rows[1]["answer"] = "ng: bent"
    opened = open_manifest(manifest.write(), labels={"ok": "normal", "ng": "abnormal"})
    assert opened[0].label == opened[0].answer == "normal"
    assert opened[1].answer == "abnormal: bent"


def test_a_missing_answer_is_the_label(manifest: ManifestBuilder) -> None:
    del manifest.rows[0]["answer"]
    assert open_manifest(manifest.write())[0].answer == "normal"


def test_a_fixed_split_is_kept(manifest: ManifestBuilder) -> None:
    manifest.rows[0]["split"] = "val"
    assert open_manifest(manifest.write())[0].split is Split.VAL


def test_the_view_of_a_record_names_each_of_its_views_once(manifest: ManifestBuilder) -> None:
    manifest.rows[0]["images"][1]["view"] = "rt"
    opened = open_manifest(manifest.write(), views={"raw", "rt"})
    assert opened[0].view == "raw+rt"
    assert opened[1].view == "raw"


SPOILT = {
    "an unknown label": (lambda row: row.update(label="ng", answer="ng"), "label 'ng' is not one of normal, abnormal"),
    "an unknown task": (lambda row: row.update(task="judge"), "one of judge_pair, compare_views,"),
    "an unknown key": (lambda row: row.update(colour="red"), "colour"),
    "a missing key": (lambda row: row.pop("group"), "group"),
    "a number for an id": (lambda row: row.update(id=5), "id"),
    "an empty id": (lambda row: row.update(id=""), "id ''"),
    "a control character in the group": (lambda row: row.update(group="a\u001b[31m"), "group"),
    "an id that stands already": (lambda row: row.update(id="0-bad"), "id '0-bad' stands in line 2 already"),
    "an answer without its label": (lambda row: row.update(answer="a scratch"), "put the label first"),
    "no pictures": (lambda row: row.update(images=[]), "shows pictures: 2, the row has 0"),
    "too many pictures": (lambda row: row.update(images=row["images"] * 2), "the row has 4"),
    "two references": (lambda row: row["images"][1].update(role="reference"), "the reference, then the query"),
    "an unknown role": (lambda row: row["images"][1].update(role="probe"), "one of reference, query"),
    "an absolute path": (lambda row: row["images"][0].update(path="/etc/passwd"), "'/etc/passwd' leaves"),
    "a path upwards": (lambda row: row["images"][0].update(path="img/../../x.png"), "leaves the data's folder"),
    "a path with backslashes": (lambda row: row["images"][0].update(path="..\\x.png"), "has backslashes"),
    "an empty path": (lambda row: row["images"][0].update(path=""), "empty or has control characters"),
    "an unknown view": (lambda row: row["images"][0].update(view="xray"), "view 'xray' is not one of raw"),
    "an unknown split": (lambda row: row.update(split="dev"), "'dev' - at `$.split`, which is one of train, val, test"),
    "a question of a megabyte": (lambda row: row.update(question="why " * 2000), "at most 4000"),
}


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_bad_row_is_named_with_its_line_and_cure(manifest: ManifestBuilder, spoil: str) -> None:
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
        (b'{"id": "' + b"x" * 1_000_001 + b'"}\n', "1000012 bytes"),
    ],
)
def test_a_line_that_is_no_record_is_named(manifest: ManifestBuilder, line: bytes, message: str) -> None:
    path = manifest.write()
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(UserError, match=message) as raised:
        open_manifest(path)
    assert f"{path}:31:" in str(raised.value)


def test_bad_rows_are_told_together_each_reason_once(manifest: ManifestBuilder) -> None:
    for row in manifest.rows:
        row["label"] = "ng"
    manifest.rows[3]["label"] = "bad"
    with pytest.raises(UserError) as raised:
        open_manifest(manifest.write())
    ng, bad = [line for line in str(raised.value).splitlines() if "label" in line]
    assert ng.startswith(f"{manifest.path}:1: ")
    assert "label 'ng'" in ng
    assert ng.endswith(f"(so in {len(manifest.rows) - 2} more rows)")
    assert bad.startswith(f"{manifest.path}:4: ")
    assert "label 'bad'" in bad


def test_a_manifest_of_bad_rows_is_not_read_to_its_end(manifest: ManifestBuilder) -> None:
    path = manifest.write()
    path.write_text("{}\n" * (MOST_WRONG + 500))
    with pytest.raises(UserError, match=rf"so in {MOST_WRONG - 1} more rows.*\n.*was read no further"):
        open_manifest(path)


@pytest.mark.parametrize(("content", "message"), [("", "is empty"), ("\n\n", "no record in it")])
def test_an_empty_manifest_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        open_manifest(path)


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such manifest"):
        open_manifest(tmp_path / "mine.jsonl")


def test_a_large_manifest_stays_small_in_memory(tmp_path: Path) -> None:
    """100,000 records in a few bytes each: nothing of a row is kept but numbers."""
    path = tmp_path / "large.jsonl"
    row = {"task": "judge_single", "label": "normal", "answer": "normal: " + "x" * 500}
    with path.open("w") as file:
        for i in range(100_000):
            images = [{"path": f"img/{i}.png", "role": "query"}]
            file.write(json.dumps({"id": f"r{i}", "group": f"g{i // 8}", "images": images, **row}) + "\n")
    opened = open_manifest(path)
    columns = (opened.tasks, opened.splits, opened.groups, opened.pictures, opened._offsets, opened._lines)
    assert sum(column.nbytes for column in columns) == 100_000 * (1 + 1 + 8 + 16 + 8 + 4)
    assert opened[99_999].id == "r99999"


@pytest.mark.parametrize("folder", ["/", ".", "/photos", "photos/parts"])
def test_a_picture_is_named_as_its_row_names_it(folder: str) -> None:
    manifest = SimpleNamespace(folder=Path(folder))
    assert Manifest.name(manifest, Path(folder) / "img/p1.png") == "img/p1.png"
