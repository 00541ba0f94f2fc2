"""Test the datasheet's figures against counts by hand, and that its page escapes hostile text."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ManifestBuilder
from vlmbench.data.image_modes import Conversion
from vlmbench.data.invalid_rows import InvalidRow
from vlmbench.data.prepared import write_invalid_rows
from vlmbench.report.datasheet import contact_sheet, warnings_before_training, write_datasheet
from vlmbench.types import Split, UserError

SHARES = {Split.TRAIN: 0.6, Split.VAL: 0.2, Split.TEST: 0.2}


class Page(HTMLParser):
    """Collect the words and the tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def write_and_read(
    manifest: ManifestBuilder, path: Path | None = None, *, allow_leak: bool = False
) -> tuple[Page, dict]:
    page, figures = write_datasheet(
        path or manifest.write(),
        labels={},
        views={"raw", "rt"},
        shares=SHARES,
        split_seed=0,
        allow_leak=allow_leak,
        cache_dir=manifest.folder / "cache",
    )
    assert json.loads(page.with_suffix(".json").read_text()) == figures
    return Page(page.read_text()), figures


def test_records_are_counted_by_task_label_view_and_split(manifest: ManifestBuilder) -> None:
    page, figures = write_and_read(manifest)
    assert (figures["records"], figures["parts"], figures["images"]) == (30, 10, 30)
    splits = {"train": 6, "val": 2, "test": 2}
    common = {"view": "raw", "records": 10, "parts": 10, **splits}
    assert figures["counts"] == [
        {"task": "judge_pair", "label": "abnormal", **common},
        {"task": "judge_pair", "label": "normal", **common},
        {"task": "judge_single", "label": "normal", **common},
    ]
    assert figures["split"]["splits"]["train"] == {"records": 18, "parts": 6}
    assert figures["records_per_part"] == {"least": 3, "median": 3.0, "most": 3}
    assert "30 records · 10 parts · 30 images" in page.text
    assert "judge pair raw abnormal 10 10 6 2 2" in page.text
    assert "No leaks" in page.text
    assert "Before you train" not in page.text


def test_scores_that_would_not_be_calibrated_are_named(
    manifest: ManifestBuilder,
) -> None:
    # two of ten parts are in the validation split, with two pairs and one photo each
    page, figures = write_and_read(manifest)
    assert figures["validation"] == [
        {"task": "judge_pair", "view": "raw", "records": 4, "positive": 2, "parts": 2},
        {"task": "judge_single", "view": "raw", "records": 2, "positive": 0, "parts": 2},
    ]
    reason = "4 validation records of 2 parts, 2 of them positive, are too few to calibrate"
    assert (
        f"With this split, scores would not be calibrated (judge_pair raw): {reason}" in page.text
    )
    assert "raise data.split.val and lower data.split.train by the same amount" in page.text


def test_sizes_modes_and_conversions_are_counted(manifest: ManifestBuilder) -> None:
    for number, mode in enumerate(("L", "CMYK")):
        target = manifest.folder / "img" / f"{number}-ref.png"
        image = Image.open(target).resize((20, 10))
        image.convert(mode).save(target.with_suffix(".tif"))
        manifest.rows[3 * number]["images"][0]["path"] = f"img/{number}-ref.tif"
    Image.fromarray(np.full((10, 20), 30_000, np.uint16)).save(
        manifest.folder / "img" / "3-ref.png"
    )
    page, figures = write_and_read(manifest)
    assert figures["modes"] == {"RGB": 29, "L": 1, "CMYK": 1, "I;16": 1}
    assert figures["conversions"] == {Conversion.COLOURS: 1, Conversion.INK: 1, Conversion.DEPTH: 1}
    assert figures["sizes"]["commonest"] == {"64 x 56": 29, "20 x 10": 3}
    assert f"{Conversion.INK} 1" in page.text


def test_duplicates_and_leaks_are_named(manifest: ManifestBuilder) -> None:
    image = manifest.folder / "img"
    for number in range(1, 9):
        shutil.copy(image / "0-good.png", image / f"{number}-good.png")
    Image.open(image / "0-bad.png").resize((96, 84), Image.Resampling.BICUBIC).save(
        image / "9-bad.png"
    )
    page, figures = write_and_read(manifest)
    assert figures["duplicates"]["same_file"] == 8
    assert figures["duplicates"]["near_pairs_named"] == [["img/0-bad.png", "img/9-bad.png"]]
    assert figures["split"]["leaks"] > 0
    messages = " ".join(figures["split"]["leaks_named"])
    assert "the same image content" in messages
    assert (
        "mine.jsonl:2 (id '0-bad', train) and mine.jsonl:29 (id '9-bad', val) have images that look"
        in messages
    )
    assert str(manifest.folder) not in messages
    leaks = f"{figures['split']['leaks']} leaks between the splits"
    assert f"{leaks}: vlmbench refuses to train on them" in page.text
    page, figures = write_and_read(manifest, allow_leak=True)
    assert "allowed by data.allow_leak" in page.text


def test_a_manifest_that_cannot_be_split_is_reported(manifest: ManifestBuilder) -> None:
    for row in manifest.rows:
        row["images"][0]["path"] = "img/0-ref.png"
    page, figures = write_and_read(manifest)
    assert "30 of 30 records share parts or images" in figures["split"]["error"]
    assert "The manifest cannot be split:" in page.text


def test_rows_left_out_are_listed(manifest: ManifestBuilder) -> None:
    path = manifest.write().rename(manifest.folder / "manifest.jsonl")
    write_invalid_rows(
        manifest.folder, [InvalidRow(location="a.json: row 7", reason="no <image>")], total=31
    )
    page, figures = write_and_read(manifest, path)
    assert figures["left_out"] == {
        "count": 1,
        "total": 31,
        "named": [{"location": "a.json: row 7", "reason": "no <image>"}],
    }
    assert "1 of 31 rows were invalid and were left out" in page.text
    assert "a.json: row 7 no <image>" in page.text


def test_hostile_text_is_escaped(manifest: ManifestBuilder) -> None:
    nasty = "<script>alert(1)</script>"
    for row in manifest.rows:
        row.update(
            group=row["group"] + nasty,
            question=f"{nasty}?",
            meta={"defect": f'"><img src=x>{nasty}'},
        )
    manifest.rows[1]["answer"] = f"abnormal: {nasty}"
    page, _ = write_and_read(manifest)
    assert "script" not in page.tags
    assert f"abnormal: {nasty}" in page.text
    assert page.text.count(nasty) > 10


def test_the_page_is_one_file_without_links_out(manifest: ManifestBuilder) -> None:
    write_and_read(manifest)
    text = manifest.path.with_name("mine.datasheet.html").read_text()
    assert "http" not in text
    # 6 of each task and label: 12 pairs and 6 single images; the 12 nearest pairs of two splits
    assert text.count("data:image/webp") == 30 + 24
    assert str(manifest.folder) not in text


def test_the_contact_sheet_shows_every_task_and_label(manifest: ManifestBuilder) -> None:
    from vlmbench.data.manifest import open_manifest

    entries = contact_sheet(open_manifest(manifest.write()))
    counts = [(entry.record.task, entry.record.label) for entry in entries]
    assert {kind: counts.count(kind) for kind in set(counts)} == {
        ("judge_pair", "normal"): 6,
        ("judge_pair", "abnormal"): 6,
        ("judge_single", "normal"): 6,
    }


def test_an_unreadable_image_is_named(manifest: ManifestBuilder) -> None:
    (manifest.folder / "img" / "0-ref.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"mine.jsonl:1: .*0-ref.png: the file is empty"):
        write_and_read(manifest)


def test_warnings_before_training_are_sentences(manifest: ManifestBuilder) -> None:
    _, figures = write_and_read(manifest)
    shortages = warnings_before_training(figures)
    assert [line.partition(":")[0] for line in shortages] == [
        "scores would not be calibrated (judge_pair raw)",
        "scores would not be calibrated (judge_single raw)",
    ]
    figures["uncalibrated"] = []
    assert warnings_before_training(figures) == []
    figures["conversions"] = {"grey": 2, "turned": 1}
    figures["left_out"] = {"count": 3, "total": 9}
    figures["split"] |= {"leaks": 4, "error": "30 of 30 hang together"}
    assert [line.partition(" ")[0] for line in warnings_before_training(figures)] == [
        "it",
        "3",
        "4",
        "3",
    ]
