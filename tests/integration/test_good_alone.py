"""A folder of good photos alone, from the refusal to the page of a prediction."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Outcome, image
from tests.helpers.mvtec import save
from tests.helpers.runs import only_run
from vlmbench.types import PLANTED, Task

Cli = Callable[..., Outcome]
TINY = (
    *("model=llama32_tiny", "trainer=debug", "tracking=off", "name=photos"),
    *("data.split={train: 0.5, val: 0.25, test: 0.25}", "eval.perturbations=false"),
)


def good_photos(folder: Path, number: int = 96) -> None:
    folder.mkdir(parents=True)
    for i in range(number):
        image(i).save(folder / f"p{i:03}.png")


@pytest.mark.slow
def test_good_photos_alone_lead_to_a_prediction(cli: Cli, tmp_path: Path) -> None:
    good_photos(tmp_path / "photos" / "good")
    source = ["source=folder", "source.path=photos"]
    refused = cli("stage=prepare", *source)
    assert refused.code == 2
    (cure,) = re.findall(r"or set (source\.\S+)", refused.err)

    prepared = cli("stage=prepare", *source, cure)
    assert prepared.code == 0, prepared.err
    assert re.search(r"48 images have planted defects: \d+ train, \d+ validate", prepared.out)
    assert "the test set has no abnormal pair: misses cannot be measured" in prepared.out
    sheet = Path(prepared.out.split()[-1]).with_name("manifest.datasheet.html")
    page = (tmp_path / sheet).read_text(encoding="utf-8")
    assert "48 images have planted defects" in page
    assert "abnormal: planted" in page.partition("Contact sheet")[2]

    checked = cli("stage=check", *TINY, *source, cure)
    assert checked.code == 0, checked.err
    (tested,) = re.findall(r"^test .*", checked.out, re.MULTILINE)
    assert "abnormal" not in tested
    assert re.search(r"^train .* \(\d+ with planted defects\)", checked.out, re.MULTILINE)

    trained = cli(*TINY, *source, cure)
    assert trained.code == 0, trained.err[-2000:]
    run = only_run(tmp_path)
    predictions = run.read_predictions()
    assert not any(PLANTED in each.meta for each in predictions)
    judged = [each for each in predictions if each.task in (Task.JUDGE_PAIR, Task.JUDGE_SINGLE)]
    assert {each.expected for each in judged} == {"normal"}
    raw = run.read_metrics()["scores"]["judge_pair"]["raw"]
    assert raw["overkill_rate"]["n"] == sum(
        (each.task, each.view, each.probe) == (Task.JUDGE_PAIR, "raw", "none") for each in judged
    )
    assert "miss_rate" not in raw

    images = f"images=[{tmp_path}/photos/good/p000.png,{tmp_path}/photos/good/p001.png]"
    predicted = cli("stage=predict", f"run={run.path}", images)
    assert predicted.code == 0, predicted.err
    (answers,) = (run.path / "answers").glob("*/index.html")
    text = answers.read_text(encoding="utf-8")
    assert "abnormal validation records have planted defects" in text

    report = (run.path.parent / "report" / "report.md").read_text(encoding="utf-8")
    assert "misses could not be measured" in report
    page = (run.path.parent / "report" / "index.html").read_text(encoding="utf-8")
    assert re.search(r"(\d+) abnormal, \1 normal \(\1 with planted defects\)", page)


@pytest.mark.slow
def test_each_fold_tests_its_photos_and_no_planted_defect(cli: Cli, tmp_path: Path) -> None:
    good_photos(tmp_path / "photos" / "good", 48)
    source = ("source=folder", "source.path=photos", "source.planted.copies=1")
    checked = cli(
        "stage=check",
        *TINY[:3],
        *source,
        "data.folds=3",
        "data.split={train: 0.7, val: 0.3, test: 0}",
        "-m",
    )
    assert checked.code == 0, checked.err
    tested = re.findall(r"^test .*", checked.out, re.MULTILINE)
    assert len(tested) == 3
    assert not any("abnormal" in line for line in tested)


def test_good_photos_in_mvtec_s_layout_are_recognised(cli: Cli, tmp_path: Path) -> None:
    for i in range(32):
        save(tmp_path / "set" / "bolt" / "train" / "good" / f"{i:03}.png", i)

    refused = cli("stage=prepare", "source=mvtec", "source.path=set/bolt")
    (cure,) = re.findall(r"or set (source\.\S+)", refused.err)
    prepared = cli("stage=prepare", "source=mvtec", "source.path=set/bolt", cure)
    assert "16 images have planted defects" in prepared.out, prepared.err

    looked = cli("stage=prepare", "source.path=set")
    assert "set looks like good photos alone" in looked.err
    command = shlex.split(looked.err.strip().splitlines()[-1])
    assert cli(*command[3:]).code == 0


def test_good_photos_without_a_folder_are_mended(cli: Cli, tmp_path: Path) -> None:
    good_photos(tmp_path / "set", 24)
    source = ("stage=prepare", "source=folder", "source.path=set")
    refused = cli(*source)
    cure = re.search(r"if all are good, put them into (good/) alone and set (\S+)", refused.err)
    assert cure is not None
    shutil.move(tmp_path / "set", tmp_path / "photos")
    shutil.move(tmp_path / "photos", tmp_path / "set" / cure[1])
    assert cli(*source, cure[2]).code == 0


def test_the_cures_of_wrong_settings_are_accepted(cli: Cli, tmp_path: Path) -> None:
    good_photos(tmp_path / "photos" / "good", 24)
    base = ("stage=prepare", "source=folder", "source.path=photos", "source.planted.copies=1")
    for wrong in (
        "source.planted.size=[0.5,0.1]",
        "source.planted.kinds=[]",
        "source.planted.copies=99",
        "source.pairs.policy=name",
    ):
        refused = cli(*base, wrong)
        assert refused.code == 2, wrong
        (cure,) = re.findall(r"; set (\S+)", refused.err)
        assert cli(*base, wrong, cure).code == 0, (wrong, cure)
