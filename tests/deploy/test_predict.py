"""stage=predict: what is asked, what is answered, and what is written."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.conftest import ManifestBuilder, Outcome, image
from vlmbench.deploy.outputs import csv_text
from vlmbench.deploy.predict import decision_figures
from vlmbench.report.answers import judgement_page
from vlmbench.runs.folder import RunDir
from vlmbench.types import Judgement, Prediction, Task

Cli = Callable[..., Outcome]
FILES = {"answers.jsonl", "answers.csv", "index.html"}


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three images to judge, and two references."""
    for folder, names in (("photos", ("a", "b", "c")), ("good", ("a", "b"))):
        (tmp_path / folder).mkdir()
        for name in names:
            image(ord(name) + len(folder), (40, 40)).save(tmp_path / folder / f"{name}.png")
    return tmp_path / "photos"


def test_two_images_are_judged_by_the_runs_own_settings(
    cli: Cli, finished: RunDir, photos: Path
) -> None:
    """The command says nothing of the model: it is the run's."""
    outcome = cli(
        "stage=predict",
        f"run={finished.path}",
        "images=[good/a.png,photos/a.png]",
        "predict.out=out",
    )
    assert outcome.code == 0, outcome.err
    answer = json.loads(outcome.out.strip().splitlines()[-1])
    assert answer["label"] in ("normal", "abnormal")
    assert answer["decision"] == answer["label"]
    assert set(answer["log_probabilities"]) == {"normal", "abnormal"}
    assert answer["expected"] is None
    assert answer["sentence"] is None
    assert rows(Path("out")) == [answer]
    assert {path.name for path in Path("out").iterdir()} == FILES


def test_answers_go_into_the_runs_folder_unless_another_is_named(
    cli: Cli, knowing: RunDir, photos: Path
) -> None:
    assert cli("stage=predict", f"run={knowing.path}", "images=[good/a.png,photos/a.png]").code == 0
    (folder,) = (knowing.path / "answers").iterdir()
    assert {path.name for path in folder.iterdir()} == FILES


def test_a_held_out_record_is_answered_as_it_was_in_evaluation(cli: Cli, finished: RunDir) -> None:
    known = [
        one
        for one in finished.read_predictions()
        if one.task == Task.JUDGE_PAIR and one.view == "raw"
    ]
    one = next(one for one in known if one.probe == "none")
    outcome = cli(
        "stage=predict",
        f"run={finished.path}",
        f"images=[{','.join(one.images)}]",
        "predict.out=out",
    )
    assert outcome.code == 0, outcome.err
    (answer,) = rows(Path("out"))
    assert answer["label"] == one.predicted
    assert answer["log_probabilities"] == pytest.approx(dict(one.scores), abs=1e-5)


@pytest.mark.slow
def test_images_are_asked_about_in_the_words_of_the_training_records(
    cli: Cli, manifest: ManifestBuilder
) -> None:
    """The manifest words its own question: the run has learnt no other."""
    manifest.rows = [
        row | {"question": "Has the second one a flaw?"}
        for row in manifest.rows
        if row["id"][-1] == "d"
    ]
    source = ("source=manifest", f"source.path={manifest.write()}")
    shares = ("data.split.train=0.5", "data.split.val=0.2", "data.split.test=0.3")
    trained = cli(
        "model=phi3_tiny", "trainer=debug", "tracking=off", "data.allow_leak=true", *source, *shares
    )
    assert trained.code == 0, trained.err
    (status,) = Path("runs").glob("*/*/status.json")
    run = RunDir(status.parent)
    one = next(one for one in run.read_predictions() if one.probe == "none")
    assert one.question == "Has the second one a flaw?"
    command = (
        "stage=predict",
        f"run={run.path}",
        f"images=[{','.join(one.images)}]",
        "predict.out=out",
    )
    assert cli(*command).code == 0
    (answer,) = rows(Path("out"))
    assert answer["log_probabilities"] == pytest.approx(dict(one.scores), abs=1e-5)


def test_a_folder_is_judged_beside_one_reference(cli: Cli, finished: RunDir, photos: Path) -> None:
    (photos / "notes.txt").write_text("no image")
    (photos / "d.png").write_bytes((photos / "a.png").read_bytes()[:200])
    outcome = cli(
        "stage=predict",
        f"run={finished.path}",
        "predict.folder=photos",
        "predict.reference=good/a.png",
        "predict.out=out",
    )
    assert outcome.code == 0, outcome.err
    found = rows(Path("out"))
    assert [row["id"] for row in found] == ["a.png", "b.png", "c.png", "d.png"]
    assert [row["images"] for row in found[:1]] == [["good/a.png", "photos/a.png"]]
    assert "damaged" in found[3]["error"]
    assert found[3]["label"] is found[3]["decision"] is found[3]["score"] is None
    assert all(row["error"] is None and row["label"] for row in found[:3])
    assert "1 of 4 records could not be judged" in outcome.out
    assert "1 could not be read" in Path("out/index.html").read_text()


@pytest.mark.slow
def test_a_folder_is_judged_beside_every_reference_or_the_one_of_its_name(
    cli: Cli, finished: RunDir, photos: Path
) -> None:
    command = (
        "stage=predict",
        f"run={finished.path}",
        "predict.folder=photos",
        "predict.reference=good",
        "predict.out=out",
    )
    assert cli(*command).code == 0
    assert len(rows(Path("out"))) == 3 * 2
    assert rows(Path("out"))[1]["id"] == "b.png+a.png"
    refused = cli(*command, "predict.pairing=name")
    assert refused.code == 2
    assert "good has no reference for c.png" in refused.err
    (photos / "c.png").unlink()
    assert cli(*command, "predict.pairing=name").code == 0
    assert [row["images"] for row in rows(Path("out"))] == [
        [f"good/{x}.png", f"photos/{x}.png"] for x in "ab"
    ]


@pytest.mark.slow
def test_a_manifest_is_judged_with_labels_and_without(
    cli: Cli, knowing: RunDir, manifest: ManifestBuilder
) -> None:
    manifest.rows = [row for row in manifest.rows if row["task"] == "judge_pair"]
    for row in manifest.rows[10:]:
        del row["label"], row["answer"]
    path = manifest.write()
    outcome = cli(
        "stage=predict", f"run={knowing.path}", f"predict.manifest={path}", "predict.out=out"
    )
    assert outcome.code == 0, outcome.err
    found = rows(Path("out"))
    assert len(found) == 20
    assert [row["expected"] for row in found] == [row.get("label") for row in manifest.rows]
    page = Path("out/index.html").read_text()
    right = sum(row["decision"] == row["expected"] for row in found[:10])
    assert f"{100 * right / 10:.1f} % (95 % interval" in page
    assert "n = 10 of 5 parts" in page
    assert "calibrated (Platt) on 60 validation records of 30 parts, 30 of them abnormal" in page


@pytest.mark.slow
def test_processed_images_are_shown_as_the_run_showed_them(cli: Cli, finished: RunDir) -> None:
    known = [
        one
        for one in finished.read_predictions()
        if one.task == Task.JUDGE_PAIR and one.probe == "none"
    ]
    raw, processed = (next(one for one in known if one.view == view) for view in ("raw", "rt"))
    assert raw.meta == processed.meta
    command = (
        "stage=predict",
        f"run={finished.path}",
        f"images=[{','.join(raw.images)}]",
        "predict.out=out",
    )
    assert cli(*command, "predict.view=rt").code == 0
    (answer,) = rows(Path("out"))
    assert answer["view"] == "rt"
    assert answer["log_probabilities"] == pytest.approx(dict(processed.scores), abs=1e-5)


def test_the_models_sentence_is_there_when_asked_for(
    cli: Cli, finished: RunDir, photos: Path
) -> None:
    command = (
        "stage=predict",
        f"run={finished.path}",
        "predict.folder=photos",
        "predict.reference=good/a.png",
    )
    assert cli(*command, "predict.out=out", "predict.sentence=true").code == 0
    assert all(isinstance(row["sentence"], str) and row["sentence"] for row in rows(Path("out")))


@pytest.mark.slow
def test_costs_move_the_threshold_and_say_what_they_rest_on(
    cli: Cli, knowing: RunDir, photos: Path
) -> None:
    command = (
        "stage=predict",
        f"run={knowing.path}",
        "predict.folder=photos",
        "predict.reference=good/a.png",
    )
    assert cli(*command, "predict.out=plain").code == 0
    outcome = cli(*command, "predict.out=out", "predict.cost_miss=99", "predict.cost_overkill=1")
    assert outcome.code == 0, outcome.err
    for plain, row in zip(rows(Path("plain")), rows(Path("out")), strict=True):
        assert plain["decision"] == ("abnormal" if plain["score"] > 0.5 else "normal")
        assert plain["threshold"] == pytest.approx(0.5)
        assert plain["label"] == row["label"] == "normal"  # margins lie around -5.8
        assert row["threshold"] == pytest.approx(0.01)
        assert row["score"] == plain["score"]
        assert row["decision"] == ("abnormal" if row["score"] > 0.01 else "normal")
    assert "the threshold is 0.01; the expected cost" in outcome.out
    assert "n = 60 of 30 parts" in outcome.out


@pytest.mark.slow
def test_a_prevalence_shifts_scores_and_not_the_default_decision(
    cli: Cli, knowing: RunDir, photos: Path
) -> None:
    command = (
        "stage=predict",
        f"run={knowing.path}",
        "predict.folder=photos",
        "predict.reference=good/a.png",
    )
    assert cli(*command, "predict.out=plain").code == 0
    assert cli(*command, "predict.out=rare", "predict.prevalence=0.01").code == 0
    for plain, rare in zip(rows(Path("plain")), rows(Path("rare")), strict=True):
        odds = plain["score"] / (1 - plain["score"]) / 99  # fitted where half is abnormal
        assert rare["score"] == pytest.approx(odds / (1 + odds))
        assert rare["decision"] == plain["decision"]


@pytest.mark.slow
def test_costs_without_enough_validation_records_are_refused(
    cli: Cli, train: Callable[..., RunDir]
) -> None:
    small = train("model=llama32_tiny", "data.split.train=0.7", "data.split.val=0.1")
    image(0).save("a.png")
    command = ("stage=predict", f"run={small.path}", "images=[a.png,a.png]", "predict.out=out")
    refused = cli(*command, "predict.cost_miss=5", "predict.cost_overkill=1")
    assert refused.code == 2
    assert (
        "are too few to calibrate well; at least 10 of each label and 5 parts are needed"
        in refused.err
    )
    refused = cli(*command, "predict.prevalence=0.1")
    assert refused.code == 2
    assert "predict.prevalence needs calibrated scores" in refused.err
    assert not Path("out").exists()
    plain = cli(*command)
    assert plain.code == 0
    assert "so few parts give a rough threshold" in plain.out
    assert rows(Path("out"))[0]["calibrated"] is True


@pytest.mark.slow
def test_a_run_that_was_never_validated_still_judges_and_says_so(
    cli: Cli, knowing: RunDir, photos: Path
) -> None:
    for name in ("calibration.json", "validation.jsonl"):
        (knowing.path / name).unlink()
    command = (
        "stage=predict",
        f"run={knowing.path}",
        "images=[good/a.png,photos/a.png]",
        "predict.out=out",
    )
    outcome = cli(*command)
    assert outcome.code == 0, outcome.err
    assert (
        "not calibrated: the run answered no validation record of it; evaluate it again"
        in outcome.out
    )
    refused = cli(*command, "predict.cost_miss=5", "predict.cost_overkill=1")
    assert refused.code == 2
    assert "stage=evaluate" in refused.err


@pytest.mark.slow
def test_single_images_are_judged_by_a_run_that_learnt_them(
    cli: Cli, train: Callable[..., RunDir], photos: Path
) -> None:
    single = train("model=llama32_tiny", "data=single")
    assert (
        cli("stage=predict", f"run={single.path}", "predict.folder=photos", "predict.out=out").code
        == 0
    )
    assert [row["task"] for row in rows(Path("out"))] == ["judge_single"] * 3
    refused = cli("stage=predict", f"run={single.path}", "images=[good/a.png,photos/a.png]")
    assert refused.code == 2
    assert "trained on judge_single, not on judge_pair; leave the reference out" in refused.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "got none of them; set images=[good.png,this.png]"),
        (("images=[a.png]", "predict.folder=photos"), "got images and predict.folder; set images="),
        (("images=[a,b,c]",), "got 3 images; set images=[good.png,this.png]"),
        (("images=[photos/a.png]",), "not on judge_single; give the reference too"),
        (("predict.folder=photos",), "not on judge_single; give the reference too"),
        (("images=[a.png,photos/a.png]",), "a.png: the image does not exist"),
        (("predict.folder=nothing",), "predict.folder=nothing: the folder does not exist"),
        (
            ("predict.folder=photos", "predict.reference=none.png"),
            "predict.reference=none.png: the image or folder does not exist",
        ),
        (
            ("predict.folder=.", "predict.reference=good"),
            "predict.folder=.: the folder holds no image",
        ),
        (
            ("predict.manifest=nothing.jsonl",),
            "predict.manifest=nothing.jsonl: the file does not exist",
        ),
        (
            ("images=[good/a.png,photos/a.png]", "predict.view=edges"),
            "must be one of the run's views, raw and rt, got edges; set predict.view=raw",
        ),
        (
            ("images=[good/a.png,photos/a.png]", "predict.cost_miss=1"),
            "must be set together; add predict.cost_overkill=1",
        ),
        (
            ("images=[good/a.png,photos/a.png]", "predict.cost_miss=-1", "predict.cost_overkill=1"),
            "predict.cost_miss must be at least 1e-09, got -1; set predict.cost_miss=10",
        ),
        (
            ("images=[good/a.png,photos/a.png]", "model=smol"),
            "the run was trained with model=llama32_tiny; leave model= out",
        ),
        (
            ("images=[good/a.png,photos/a.png]", "prompt=ja"),
            "the run was trained with prompt=en; leave prompt= out",
        ),
        (
            ("run=nothing", "images=[good/a.png,photos/a.png]"),
            "run=nothing: the folder holds no finished run",
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_what_cannot_be_judged_is_refused(
    cli: Cli, finished: RunDir, photos: Path, arguments: tuple[str, ...], message: str
) -> None:
    own = () if any(one.startswith("run=") for one in arguments) else (f"run={finished.path}",)
    refused = cli("stage=predict", *own, *arguments, "predict.out=out")
    assert refused.code == 2, refused.out
    assert message in refused.err
    assert not Path("out").exists()


@pytest.mark.slow
def test_a_link_out_of_the_folder_is_refused(cli: Cli, finished: RunDir, photos: Path) -> None:
    (photos / "z.png").symlink_to(photos.parent / "good" / "a.png")
    refused = cli(
        "stage=predict",
        f"run={finished.path}",
        "predict.folder=photos",
        "predict.reference=good/a.png",
    )
    assert refused.code == 2
    assert "the link leads out of the folder photos" in refused.err


def judgement(name: str, **values: object) -> Judgement:
    said = Prediction(
        id=name,
        task=Task(values.get("task", Task.JUDGE_PAIR)),
        group="g",
        view="raw",
        expected=str(values.pop("expected", "")),
        predicted="abnormal",
        scores={"normal": -1.0, "abnormal": 0.0},
        images=("", ""),
    )
    rest = {
        "prediction": said,
        "score": 0.75,
        "calibrated": True,
        "threshold": 0.5,
        "decision": "abnormal",
    }
    return Judgement(
        **{"id": name, "task": Task.JUDGE_PAIR, "images": ("ref.png", name), **rest, **values}
    )


@pytest.mark.parametrize(
    "evil", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "  =1", "\n=1"]
)
def test_no_cell_of_the_spreadsheet_is_a_formula(evil: str) -> None:
    text = csv_text([judgement(evil, sentence=evil, images=(evil, evil), error=evil)])
    (row,) = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
    for name in ("id", "sentence", "reference", "query", "error"):
        assert row[name].startswith("'"), name
    assert row["score"] == "0.75"


def test_the_page_shows_what_others_wrote_and_runs_none_of_it() -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(1)>"
    page = judgement_page(
        evil,
        [
            judgement(evil, sentence=evil, expected="normal"),
            judgement("b", error=evil, prediction=None, decision=None),
        ],
        facts=[("Run", evil)],
        notes=[evil],
        figures={},
        most=200,
    )
    assert "<script" not in page
    assert "<img src=x" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 5
    assert not re.search(r'(src|href)="(?!data:|#)', page)


def test_the_page_shows_the_most_suspicious_first_and_says_how_many_it_leaves_out() -> None:
    many = [
        judgement(f"p{i}.png", score=i / 10, decision="normal" if i < 5 else "abnormal")
        for i in range(10)
    ]
    page = judgement_page("t", many, facts=[], notes=[], figures={}, most=3)
    assert re.findall(r"<small>(p\d)\.png</small>", page) == ["p9", "p8", "p7"]
    assert "This page shows the 3 records with the highest scores of 10" in page
    assert "5 stopped · 5 passed" in page


def test_a_processed_image_is_called_as_the_user_calls_it(tmp_path: Path) -> None:
    kept = tmp_path / "cache" / "0123abcd.png"
    kept.parent.mkdir()
    image(1).save(kept)
    one = judgement("p", images=("good.png", "photos/part7.png"))
    said = replace(one.prediction, images=(str(kept), str(kept)))
    page = judgement_page(
        "t", [replace(one, prediction=said)], facts=[], notes=[], figures={}, most=3
    )
    assert "<small>query: part7.png</small>" in page
    assert "0123abcd" not in page


def test_only_a_page_with_pairs_can_blink() -> None:
    pair, single = judgement("p", images=("good.png", "this.png")), judgement("s")
    single = replace(single, images=("this.png",), prediction=None, decision=None, error="damaged")

    def switches(*shown: Judgement) -> int:
        page = judgement_page("t", shown, facts=[], notes=[], figures={}, most=3)
        return page.count('id="blink"')

    assert (switches(), switches(single), switches(single, pair, pair)) == (0, 0, 1)


def test_figures_of_several_tasks_are_not_mixed() -> None:
    """All pairs are judged rightly, and no single image."""
    pairs = [judgement(f"p{i}", expected="abnormal", decision="abnormal") for i in range(4)]
    single = [
        judgement(f"s{i}", expected="normal", decision="abnormal", task=Task.JUDGE_SINGLE)
        for i in range(4)
    ]
    assert {name: one.value for name, one in decision_figures(pairs, seed=0).items()} == {
        "accuracy": 1.0,
        "miss_rate": 0.0,
    }
    assert {
        name: one.value for name, one in decision_figures([*pairs, *single], seed=0).items()
    } == {
        "judge_pair, raw: accuracy": 1.0,
        "judge_pair, raw: miss_rate": 0.0,
        "judge_single, raw: accuracy": 0.0,
        "judge_single, raw: overkill_rate": 1.0,
    }


FOREIGN = {
    "a secret of the environment": "questions: {judge_pair: '${oc.env:WANDB_API_KEY}'}",
    "a resolver that does not exist": "questions: {judge_pair: '${shell:touch owned}'}",
    "a tag of Python": "questions: !!python/object/apply:os.system ['touch owned']",
    "a class to build": "questions: {_target_: os.system, command: touch owned}",
    "no mapping": "[1, 2, 3]",
    "another type": "questions: 7",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FOREIGN)
def test_settings_of_a_strangers_run_do_nothing_but_be_read(
    cli: Cli, finished: RunDir, photos: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run's folder may have been made by anyone."""
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    run = RunDir(Path("stranger").resolve())
    shutil.copytree(finished.path, run.path)
    config = run.read_config() | {"prompt": None}
    run.write_config(
        f"{OmegaConf.to_yaml(config)}".replace("prompt: null", f"prompt: {{{FOREIGN[name]}}}")
    )
    if name == "no mapping":
        run.write_config(FOREIGN[name])
    outcome = cli(
        "stage=predict", f"run={run.path}", "images=[good/a.png,photos/a.png]", "predict.out=out"
    )
    assert outcome.code == (0 if name == "a class to build" else 2), outcome
    assert "Traceback" not in outcome.err
    assert not list(Path().rglob("owned"))
    texts = [path.read_text() for path in Path("out").rglob("*")] if Path("out").exists() else []
    assert not [text for text in (outcome.out, outcome.err, *texts) if "0123456789abcdef" in text]
