"""Does the heat map find the defect?"""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from tests.helpers.baselines import KEY, heat_map, keep_baseline, share_key, sign, with_margins
from vlmbench.report.baselines import baseline_section
from vlmbench.report.build import write_report
from vlmbench.report.images import DataFolders, heat_thumbnail
from vlmbench.report.localisation import area_of, count_levels, localisations
from vlmbench.report.runs import read_runs
from vlmbench.runs.sweep import SweepDir
from vlmbench.types import Task

CORNER = np.zeros((8, 8), np.bool_)
CORNER[6:, 6:] = True  # the last of 4 x 4 patches, which is the hottest of `heat_map`


def keep(sweep: SweepDir, marked: np.ndarray | None, skip: int = 0) -> None:
    """Write a baseline whose abnormal records, without the first `skip`, have this mask."""
    run = sweep.runs()[0]
    answers = with_margins(run.read_predictions(), lambda each: 0.1 * sign(each))
    raw = [each for each in answers if each.view == "raw"]
    abnormal = [each for each in raw if each.expected == "abnormal"]
    masks = (
        {}
        if marked is None
        else {(each.id, each.task, each.view): marked for each in abnormal[skip:]}
    )
    heat = {(each.id, each.task, each.view): heat_map() for each in raw}
    keep_baseline(sweep.path, "patch_nn", answers, heat=heat, marked=masks)
    share_key(run, patch_nn=KEY)


def test_the_area_is_that_of_all_pairs_of_patches() -> None:
    rng = np.random.default_rng(0)
    heat = rng.integers(0, 9, (12, 10), dtype=np.uint8)
    mask = rng.random((12, 10)) < 0.2
    inside, outside = heat[mask].astype(int), heat[~mask].astype(int)
    wins = np.sign(inside[:, None] - outside[None, :])
    assert area_of(count_levels(heat, mask)) == pytest.approx((wins.mean() + 1) / 2)
    assert area_of(count_levels(heat, np.zeros_like(mask))) is None


def test_a_mask_under_the_hottest_patch_is_found(sweep: SweepDir) -> None:
    keep(sweep, CORNER)
    (found,) = baseline_section(sweep.path, read_runs(sweep)).localised
    area, pointing = found.figures
    # A patch of value 15 is hotter than 900 patches outside, and ties with 30 of normal images.
    assert area.value == pytest.approx((900 + 30 / 2) / 930)
    assert (area.n, pointing.n, pointing.value) == (60, 30, 1.0)
    assert area.low <= area.value <= area.high
    assert pointing.low < 1.0


def test_a_mask_elsewhere_is_missed_and_unmarked_defects_are_left_out(sweep: SweepDir) -> None:
    keep(sweep, CORNER[::-1, ::-1], skip=10)
    (found,) = baseline_section(sweep.path, read_runs(sweep)).localised
    area, pointing = found.figures
    assert (area.n, pointing.n, pointing.value) == (50, 20, 0.0)
    assert area.value < 0.1


def test_equally_hot_patches_are_no_hit(sweep: SweepDir) -> None:
    run = sweep.runs()[0]
    answers = with_margins(run.read_predictions(), lambda each: 0.1 * sign(each))
    keys = [(each.id, each.task, each.view) for each in answers]
    flat = {key: np.zeros((4, 4), np.uint8) for key in keys}
    keep_baseline(sweep.path, "patch_nn", answers, heat=flat, marked=dict.fromkeys(keys, CORNER))
    share_key(run, patch_nn=KEY)
    found = baseline_section(sweep.path, read_runs(sweep)).localised
    assert [each.figures[1].value for each in found] == [0.0] * len(found)
    assert [each.figures[0].value for each in found] == [0.5] * len(found)


@pytest.mark.slow
def test_the_report_shows_the_figures_with_their_meaning(sweep: SweepDir) -> None:
    keep(sweep, CORNER)
    page = write_report(sweep).read_text(encoding="utf-8")
    text = (sweep.report / "report.md").read_text(encoding="utf-8")
    for written in (page, text):
        assert "Does the heat map find the defect?" in written
        assert "Share of marked defects that contain the hottest patch" in written
        assert "at the resolution of the heat map" in written
    assert "| method | Pixel AUROC ↑ | Pointing game ↑ |\n| --- | --- | --- |\n| patch_nn (" in text

    (row,) = json.loads((sweep.report / "verdicts.json").read_text())["localisation"]
    assert row["baseline"] == "patch_nn"
    assert row["pointing_game"]["value"] == 1.0
    assert row["pixel_auroc"]["n"] == 60


@pytest.mark.slow
def test_nothing_is_said_without_masks(sweep: SweepDir) -> None:
    keep(sweep, None)
    page = write_report(sweep).read_text(encoding="utf-8")
    assert "Does the heat map find" not in page
    assert "Does the heat map" not in (sweep.report / "report.md").read_text(encoding="utf-8")
    assert "localisation" not in json.loads((sweep.report / "verdicts.json").read_text())


def test_damaged_masks_cost_their_figures_alone(sweep: SweepDir) -> None:
    keep(sweep, CORNER)
    (asked,) = baseline_section(sweep.path, read_runs(sweep)).asked
    (asked.folds[0].folder.path / "marked.jsonl").write_text('{"id": 3}\n')
    assert list(localisations([asked])) == []
    assert asked.answers[Task.JUDGE_PAIR, "raw"]


def test_the_known_mask_is_outlined_on_the_heat_map(tmp_path) -> None:
    path = tmp_path / "part.png"
    Image.new("RGB", (80, 80), "white").save(path)
    folders = DataFolders((tmp_path.resolve(),))
    heat = np.zeros((4, 4), np.uint8)
    plain = heat_thumbnail(str(path), heat, "heat", folders)
    marked = heat_thumbnail(str(path), heat, "heat", folders, marked=CORNER)
    assert plain is not None
    assert marked is not None
    assert plain.uri != marked.uri

    pixels = np.asarray(open_uri(marked.uri)).astype(int)
    blue = pixels[..., 2] - pixels[..., 0] > 100
    assert blue[60:, 60:].any()
    assert not blue[:55, :55].any()
    assert not blue[68:72, 68:72].any()  # a line, not an area


def open_uri(uri: str) -> Image.Image:
    from base64 import b64decode
    from io import BytesIO

    return Image.open(BytesIO(b64decode(uri.partition(",")[2]))).convert("RGB")
