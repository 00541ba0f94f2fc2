"""predict.join: one answer for a part, by rules that were measured on joined records."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import vlmbench
from tests.conftest import Outcome, image
from tests.helpers.predictions import answers
from vlmbench.pipeline.calibrate import write_calibration
from vlmbench.runs.folder import RunDir, State
from vlmbench.types import Prediction, UserError

Cli = Callable[..., Outcome]


def rows(folder: Path = Path("out")) -> list[dict]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two photos of parts, a part with two photos, and two references."""
    for name in ("photos/a", "photos/b", "photos/part7/a", "photos/part7/b", "good/1", "good/2"):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image(sum(map(ord, name)), (40, 40)).save(path)
    return tmp_path / "photos"


def pairs(parts: int) -> list[Prediction]:
    """Return validation answers: each part has two references, and one photo of each label."""
    rng = np.random.default_rng(1)
    positive = [i % 4 < 2 for i in range(4 * parts)]
    margins = [float(rng.normal(-5.8 + (2.0 if each else 0.0), 1)) for each in positive]
    made = answers(margins, positive, part_size=4)
    return [
        replace(one, images=(f"ref-{i % 2}.png", f"photo-{i // 2}.png"))
        for i, one in enumerate(made)
    ]


@pytest.fixture
def measured(knowing: RunDir) -> RunDir:
    """Return a run with 30 validation parts, each with two references to a photo."""
    write_calibration(knowing, pairs(30))
    status = knowing.read_status()
    names = ("run_hash", "model", "data", "seed")
    knowing.write_status(State.FINISHED, **{name: status[name] for name in names})
    return knowing


def ask(cli: Cli, run: RunDir, *settings: str) -> Outcome:
    command = ("stage=predict", f"run={run.path}", "predict.folder=photos", "predict.out=out")
    return cli(*command, "predict.reference=good", *settings)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["max", "mean", "median"])
def test_a_folder_of_references_gives_one_row_for_each_photo(
    cli: Cli, measured: RunDir, photos: Path, how: str
) -> None:
    outcome = ask(cli, measured, f"predict.join={how}")
    assert outcome.code == 0, outcome.err
    found = rows()
    assert [row["id"] for row in found] == ["a.png", "b.png", "part7"]
    assert [len(row["singles"]) for row in found] == [2, 2, 4]
    assert "3 parts judged" in outcome.out

    for row in found:
        margins = {each["id"]: margin_of(each) for each in row["singles"]}
        join = {"max": max, "mean": np.mean, "median": np.median}[how]
        assert margin_of(row) == pytest.approx(join(list(margins.values())), abs=1e-6)
        if how != "median":
            assert margins[row["decided_by"]] == max(margins.values())
        (decided,) = [each for each in row["singles"] if each["id"] == row["decided_by"]]
        assert row["images"] == decided["images"]


def test_the_folder_of_the_references_is_no_part(cli: Cli, measured: RunDir, photos: Path) -> None:
    Path("good").rename(photos / "good")
    outcome = ask(cli, measured, "predict.join=max", "predict.reference=photos/good")
    assert outcome.code == 0, outcome.err
    assert [row["id"] for row in rows()] == ["a.png", "b.png", "part7"]


def margin_of(row: dict) -> float:
    scores = row["log_probabilities"]
    return scores["abnormal"] - scores["normal"]


def test_the_score_is_calibrated_on_records_joined_in_the_same_way(
    cli: Cli, measured: RunDir, photos: Path
) -> None:
    """Two references to a photo: 60 joined validation records. Two photos of a part: none."""
    outcome = ask(cli, measured, "predict.join=max")
    first, _, part = rows()
    assert first["calibrated"]
    assert not part["calibrated"]
    assert "max of 2 records of one photo: scores are calibrated (Platt) on 60 val" in outcome.out
    rates = (
        r"max of 2 records of one photo: the threshold is .* misses .*parts\), overkill .*parts\)"
    )
    assert re.search(rates, outcome.out)
    assert "max of 2 photos with 2 records each: misses and overkill are not known" in outcome.out

    margins = [margin_of(each) for each in first["singles"]]
    assert max(each["score"] for each in first["singles"]) != pytest.approx(first["score"])
    assert margin_of(first) == pytest.approx(max(margins), abs=1e-6)


def test_the_table_and_the_page_have_the_single_rows_beneath(
    cli: Cli, measured: RunDir, photos: Path
) -> None:
    ask(cli, measured, "predict.join=max")
    table = list(csv.DictReader(io.StringIO(Path("out/answers.csv").read_text("utf-8-sig"))))
    assert [(row["part"], row["row"]) for row in table] == [
        *[("a.png", "part"), ("a.png", "record"), ("a.png", "record")],
        *[("b.png", "part"), ("b.png", "record"), ("b.png", "record")],
        *[("part7", "part"), *[("part7", "record")] * 4],
    ]
    assert table[0]["decided_by"] in ("1.png+a.png", "2.png+a.png")

    page = Path("out/index.html").read_text()
    assert "3 parts ·" in page
    assert "which decided" in page
    assert page.count("<summary>4 records; shown: part7/") == 1
    assert "<strong>part7/2.png+b.png</strong>: " in page


@pytest.mark.slow
def test_costs_and_promises_of_unmeasured_parts_are_refused_with_the_cure(
    cli: Cli, measured: RunDir, photos: Path
) -> None:
    costs = ("predict.cost_miss=5", "predict.cost_overkill=1")
    outcome = ask(cli, measured, "predict.join=max", *costs)
    assert outcome.code == 2
    assert "(max of 2 photos with 2 records each) has none: 0 validation records" in outcome.err
    assert "leave predict.cost_miss out" in outcome.err
    assert not Path("out").exists()
    assert ask(cli, measured, "predict.join=max").code == 0

    for path in (photos / "part7").iterdir():
        path.unlink()
    (photos / "part7").rmdir()
    assert ask(cli, measured, "predict.join=max", *costs).code == 0
    assert rows()[0]["threshold"] == pytest.approx(1 / 6)


@pytest.mark.slow
def test_a_part_with_an_unreadable_photo_is_not_judged(
    cli: Cli, measured: RunDir, photos: Path
) -> None:
    (photos / "part7" / "c.png").write_bytes((photos / "a.png").read_bytes()[:200])
    outcome = ask(cli, measured, "predict.join=max")
    assert outcome.code == 0, outcome.err
    *_, part = rows()
    assert part["decision"] is part["score"] is None
    assert part["error"].startswith("2 of 6 records cannot be read: ")
    assert sum(each["decision"] is not None for each in part["singles"]) == 4
    assert "1 of 3 parts could not be judged" in outcome.out


@pytest.mark.slow
def test_two_named_images_are_nothing_to_join(cli: Cli, finished: RunDir, photos: Path) -> None:
    command = ("stage=predict", f"run={finished.path}", "images=[good/1.png,photos/a.png]")
    outcome = cli(*command, "predict.join=max", "predict.out=out")
    assert outcome.code == 2
    assert "set predict.join=null" in outcome.err
    assert cli(*command, "predict.join=null", "predict.out=out").code == 0


def test_a_subfolder_that_leads_elsewhere_is_refused(
    cli: Cli, finished: RunDir, photos: Path, tmp_path: Path
) -> None:
    (photos / "part8").symlink_to(tmp_path / "good")
    outcome = ask(cli, finished, "predict.join=max")
    assert outcome.code == 2
    assert "the link leads out of the folder" in outcome.err


def test_python_joins_the_photos_of_a_part(measured: RunDir, photos: Path) -> None:
    good = [photos.parent / "good" / "1.png", photos.parent / "good" / "2.png"]
    judge = vlmbench.load(measured, ["predict.join=max"])
    answer = judge.predict_part([photos / "a.png"], good)
    assert answer.calibrated
    assert answer.prediction is not None
    assert len(answer.singles) == 2
    assert answer.decided_by in [each.id for each in answer.singles]

    with pytest.raises(UserError, match="write predict_part"):
        judge.predict_part([], good)
    with pytest.raises(UserError, match="not on judge_single"):
        judge.predict_part([photos / "a.png"])
