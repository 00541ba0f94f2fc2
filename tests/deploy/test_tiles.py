"""A run that is trained on tiles: one answer for each record, with the tile that decided."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

import vlmbench
from tests.conftest import Outcome, call_vlmbench
from tests.helpers.scans import SMALL, scan, scans
from vlmbench.data.tiles import deciding_tile, tile_boxes
from vlmbench.runs.folder import RunDir
from vlmbench.runs.sweep import SweepDir
from vlmbench.types import Task

Cli = Callable[..., Outcome]
BOXES = tile_boxes(SMALL, 96, 0.1)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    root = scans(tmp_path_factory.mktemp("scans") / "set")
    return (
        *("source=folder", f"source.path={root}", "source.parts=photo"),
        *("source.pairs.references=1", "source.compare_views=false"),
    )


@pytest.fixture(scope="module")
def tiled(
    tmp_path_factory: pytest.TempPathFactory, source: tuple[str, ...], shared_cache: Path
) -> RunDir:
    folder = tmp_path_factory.mktemp("tiled")
    call_vlmbench(
        folder,
        *source,
        *("source.annotations=masks", "view.tile=96", "model=llama32_tiny", "trainer=debug"),
        *("data.split.train=0.4", "data.split.val=0.3", "data.split.test=0.3", "tracking=off"),
        *("baseline=[majority,patch_nn]", "eval.perturbations=false", "eval.rewordings=false"),
        f"cache_dir={shared_cache}",
    )
    (sweep,) = (folder / "runs").glob("*/")
    (run,) = SweepDir(sweep).runs()
    return RunDir(run.path.resolve())


@pytest.fixture
def strips(tmp_path: Path) -> Path:
    for seed, name in enumerate(("ref", "a", "b")):
        scan(tmp_path / f"{name}.png", 500 + seed, SMALL)
    return tmp_path


@pytest.mark.slow
def test_predictions_are_of_records_and_name_the_deciding_tile(tiled: RunDir) -> None:
    predictions = tiled.read_predictions()
    pairs = [each for each in predictions if each.task is Task.JUDGE_PAIR]
    assert len({(each.id, each.probe) for each in pairs}) == len(pairs)
    assert not any("@" in each.id for each in predictions)
    assert {deciding_tile(each) for each in pairs} <= set(BOXES)
    assert {each.meta["tiles"] for each in pairs} == {str(len(BOXES))}
    assert {each.expected for each in pairs} == {"normal", "abnormal"}

    images = {each.images[-1] for each in pairs if each.view == "raw" and each.probe == "none"}
    ordinary = [each for each in pairs if each.view == "raw" and each.probe == "none"]
    assert len(images) == len(ordinary), "one decision for each photo"
    figures = tiled.read_metrics()["scores"]["judge_pair"]["raw"]["accuracy"]
    assert figures["n"] == len(ordinary)
    assert figures["n_parts"] == len({each.cluster for each in ordinary})


@pytest.mark.slow
def test_the_run_says_that_its_figures_count_records(tiled: RunDir) -> None:
    (note,) = (each for each in tiled.read_metrics()["notes"] if "tiles" in each)
    assert "images are cut into tiles of 96 pixels" in note
    assert "Each figure counts whole records, not tiles" in note
    page = next(tiled.path.parent.rglob("index.html")).read_text(encoding="utf-8")
    assert "Each figure counts whole records, not tiles" in page


@pytest.mark.slow
def test_baselines_answer_records_by_their_most_suspicious_tile(tiled: RunDir) -> None:
    from vlmbench.runs.baselines import baseline_dir

    rows = tiled.read_baselines()
    folder = baseline_dir(tiled.path.parent, rows["patch_nn"]["key"])
    asked = folder.read_predictions()
    assert {deciding_tile(each) for each in asked} <= set(BOXES)
    own = {each.id for each in tiled.read_predictions() if each.probe == "none"}
    assert {each.id for each in asked} <= own


@pytest.mark.slow
def test_two_scans_get_one_decision_and_the_location_of_its_tile(
    cli: Cli, tiled: RunDir, strips: Path
) -> None:
    arguments = ("stage=predict", f"run={tiled.path}", "predict.out=out", "predict.sentence=true")
    outcome = cli(*arguments, "images=[ref.png,a.png]")
    assert outcome.code == 0, outcome.err
    (answer,) = map(json.loads, Path("out/answers.jsonl").read_text().splitlines())
    assert tuple(answer["tile"]) in BOXES
    assert answer["decision"] in ("normal", "abnormal")
    assert answer["sentence"] is not None

    (row,) = csv.DictReader(Path("out/answers.csv").read_text("utf-8-sig").splitlines())
    assert row["tile"] == " ".join(map(str, answer["tile"]))
    page = Path("out/index.html").read_text(encoding="utf-8")
    x, y, width, height = answer["tile"]
    assert f"query, with the deciding tile: x {x}, y {y}, {width} x {height} pixels" in page
    assert page.count("<img ") == 3
    assert "the most suspicious one decides" in page


@pytest.mark.slow
def test_a_held_out_record_is_answered_as_it_was_in_evaluation(cli: Cli, tiled: RunDir) -> None:
    one = next(
        each
        for each in tiled.read_predictions()
        if each.task is Task.JUDGE_PAIR and each.view == "raw" and each.probe == "none"
    )
    images = ",".join(one.images)
    outcome = cli("stage=predict", f"run={tiled.path}", f"images=[{images}]", "predict.out=out")
    assert outcome.code == 0, outcome.err
    answer = json.loads(outcome.out.strip().splitlines()[-1])
    assert tuple(answer["tile"]) == deciding_tile(one)
    assert answer["log_probabilities"]["abnormal"] == pytest.approx(
        one.scores["abnormal"], abs=1e-4
    )


@pytest.mark.slow
def test_scans_of_different_shapes_are_refused_and_passed_over_in_a_folder(
    cli: Cli, tiled: RunDir, strips: Path
) -> None:
    Image.open(strips / "a.png").crop((0, 0, 96, 300)).save(strips / "a.png")
    arguments = ("stage=predict", f"run={tiled.path}", "predict.out=out")
    outcome = cli(*arguments, "images=[ref.png,a.png]")
    assert outcome.code == 2
    assert "its images have 96 x 400 and 96 x 300 pixels" in outcome.err

    folder = strips / "photos"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        (strips / name).rename(folder / name)
    outcome = cli(*arguments, "predict.folder=photos", "predict.reference=ref.png")
    assert outcome.code == 0, outcome.err
    first, second = map(json.loads, Path("out/answers.jsonl").read_text().splitlines())
    assert "crop both to one shape" in first["error"]
    assert tuple(second["tile"]) in BOXES


@pytest.mark.slow
def test_photos_of_a_part_are_joined_by_their_deciding_tiles(
    cli: Cli, tiled: RunDir, strips: Path
) -> None:
    folder = strips / "photos"
    folder.mkdir()
    (strips / "a.png").rename(folder / "a.png")
    references = strips / "good"
    references.mkdir()
    for name in ("ref.png", "b.png"):
        (strips / name).rename(references / name)
    outcome = cli(
        *("stage=predict", f"run={tiled.path}", "predict.out=out", "predict.join=max"),
        *("predict.folder=photos", "predict.reference=good"),
    )
    assert outcome.code == 0, outcome.err
    (answer,) = map(json.loads, Path("out/answers.jsonl").read_text().splitlines())
    best = max(answer["singles"], key=lambda each: each["log_probabilities"]["abnormal"])
    assert answer["decided_by"] == best["id"]
    assert answer["tile"] == best["tile"]


@pytest.mark.slow
def test_the_served_page_shows_the_deciding_tile(
    cli: Cli, tiled: RunDir, strips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlmbench.deploy.evidence import judge_images

    monkeypatch.chdir(strips)
    judge = vlmbench.load(tiled.path)
    evidence = judge_images(judge._loaded, [strips / "ref.png", strips / "a.png"], view="raw")
    assert evidence.difference is not None
    x, y, width, height = evidence.to_json()["tile"]
    assert (x, y, width, height) in BOXES
    assert f"x {x}, y {y}, {width} x {height} pixels" in evidence.difference.caption
    assert evidence.difference.uri
    assert len(evidence.controls) == 2


@pytest.mark.slow
def test_an_exported_model_says_how_images_are_cut(cli: Cli, tiled: RunDir) -> None:
    outcome = cli(
        *("stage=export", f"run={tiled.path}", "export.out=out", "export.parity_records=8"),
        'export.accept="self_pair,one_label,reference"',
    )
    assert outcome.code == 0, outcome.err
    rules = json.loads(Path("out/decision_rules.json").read_text(encoding="utf-8"))
    assert rules["tiles"] == {"edge": 96, "overlap": 0.1}
    assert "tiles of 96 x 96 pixels" in Path("out/README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_abnormal_scans_without_masks_are_refused_and_the_cure_works(
    cli: Cli, source: tuple[str, ...], tmp_path: Path
) -> None:
    root = scans(tmp_path / "set", masks=False)
    arguments = ("stage=check", *source, f"source.path={root}", "model=llama32_tiny")
    outcome = cli(*arguments, "view.tile=96")
    assert outcome.code == 2
    assert "but no box or mask says which of its tiles show that" in outcome.err
    cure = outcome.err.strip().rpartition("set ")[2]
    assert cli(*arguments, cure).code == 0
