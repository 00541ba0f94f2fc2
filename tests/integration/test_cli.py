"""The command line for real: small runs, sweeps, resuming, and what a newcomer does wrong."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, ManifestBuilder, Outcome, image
from tests.helpers.images import spoil
from tests.helpers.manifests import SPOILT
from tests.helpers.mvtec import mvtec
from tests.helpers.photos import photos_in
from tests.helpers.runs import only_run
from vlmbench import __version__
from vlmbench.runs.folder import RunDir, State
from vlmbench.runs.sweep import SweepDir

Cli = Callable[..., Outcome]
TINY = (
    "model=llama32_tiny",
    "trainer=debug",
    "source.num_parts=24",
    "tracking=off",
    "eval.limit=8",
)


@pytest.mark.slow
def test_one_run_goes_from_images_to_a_report(tmp_path: Path) -> None:
    """In a process of its own, as a user starts it, with W&B offline and a comparison run."""
    command = [
        sys.executable,
        "-m",
        "vlmbench",
        "model=llama32_tiny",
        "data=with_comparison",
        "trainer=debug",
    ]
    done = subprocess.run(
        [*command, "source.num_parts=24"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    run = only_run(tmp_path)
    assert run.path.name == "0_llama32_tiny_with_comparison_s0"
    for name in (
        "config.yaml",
        "env.json",
        "status.json",
        "train_log.jsonl",
        "predictions.jsonl",
        "metrics.json",
    ):
        assert (run.path / name).stat().st_size > 0, name
    assert (run.path / ".hydra" / "overrides.yaml").exists()
    assert (run.adapter / "adapter_model.safetensors").exists()
    assert list(run.path.rglob("*.wandb"))
    status = run.read_status()
    assert status["state"] == State.FINISHED
    assert run.read_env()["engine"] == "transformers"
    assert run.read_env()["versions"]["vlmbench"] == __version__
    losses = [row for row in run.read_train_log() if "loss" in row]
    assert [row["step"] for row in losses] == [1, 2, 3, 4]
    evaluated = [row for row in run.read_train_log() if "eval_balanced_accuracy" in row]
    assert [row["step"] for row in evaluated] == [2, 4]
    scores = run.read_metrics()["scores"]
    assert set(scores) == {
        "judge_pair",
        "compare_views",
        "compare_shapes",
        "judge_single",
        "judge_link",
    }
    accuracy = scores["judge_pair"]["raw"]["accuracy"]
    plain = [
        one
        for one in run.read_predictions()
        if (one.task, one.view, one.probe) == ("judge_pair", "raw", "none")
    ]
    assert accuracy["n"] == len(plain) > 0
    assert accuracy["value"] == sum(one.correct for one in plain) / len(plain)
    assert accuracy["low"] <= accuracy["value"] <= accuracy["high"]
    report = run.path.parent / "report" / "index.html"
    assert str(report.relative_to(tmp_path)) in done.stdout + done.stderr
    assert "http" not in report.read_text().replace("http://www.w3.org", "").replace(
        "http-equiv", ""
    )


@pytest.mark.slow
def test_a_sweep_of_two_runs_ends_in_one_report_and_is_not_run_twice(
    cli: Cli, tmp_path: Path, parts: tuple
) -> None:
    sweep = ("-m", "data=without_comparison,with_comparison", *TINY, *parts)
    first = cli(*sweep)
    assert first.code == 0, first.err[-2000:]
    (folder,) = (tmp_path / "runs").glob("*/")
    runs = SweepDir(folder).runs()
    assert [run.path.name for run in runs] == [
        "0_llama32_tiny_without_comparison_s0",
        "1_llama32_tiny_with_comparison_s0",
    ]
    held_out = [[(one.id, one.task) for one in run.read_predictions()] for run in runs]
    assert held_out[0] == held_out[1]
    assert (folder / "report" / "index.html").exists()
    before = [(run.path / "predictions.jsonl").stat().st_mtime_ns for run in runs]
    again = cli(*sweep)
    assert again.code == 0
    assert again.out.count("is finished already") == 2
    assert [(run.path / "predictions.jsonl").stat().st_mtime_ns for run in runs] == before


def figures(run: RunDir) -> list[tuple[int, float, float]]:
    return [
        (row["step"], row["loss"], row["num_tokens"])
        for row in run.read_train_log()
        if "loss" in row
    ]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_losses_to_the_last_bit(
    cli: Cli, tmp_path: Path, parts: tuple
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        assert cli(f"name={name}", f"seed={seed}", *TINY, *parts).code == 0
    runs = {
        path.name.partition("_")[2]: SweepDir(path).runs()[0]
        for path in (tmp_path / "runs").glob("*/")
    }
    assert figures(runs["a"]) == figures(runs["b"])
    assert runs["a"].read_predictions() == runs["b"].read_predictions()
    assert figures(runs["a"]) != figures(runs["c"])


@pytest.mark.slow
def test_a_broken_run_goes_on_from_its_checkpoint_to_the_same_end(
    cli: Cli, tmp_path: Path, parts: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli("name=whole", *TINY, *parts).code == 0
    append = RunDir.append_train_log

    def break_at_step_three(self: RunDir, row: dict) -> None:
        if row["step"] == 3:
            raise OSError(28, "No space left on device")
        append(self, row)

    with monkeypatch.context() as patched:
        patched.setattr(RunDir, "append_train_log", break_at_step_three)
        full = cli("name=broken", *TINY, *parts)
    assert full.code == 2
    assert "cannot be written ([Errno 28] No space left on device); make room there" in full.err
    whole, broken = (
        SweepDir(next((tmp_path / "runs").glob(f"*_{name}"))).runs()[0]
        for name in ("whole", "broken")
    )
    assert broken.read_status()["state"] == State.FAILED
    assert "No space left" in broken.read_status()["error"]
    again = cli("name=broken", *TINY, *parts)
    assert again.code == 0
    assert "resuming from step 2" in again.out
    assert figures(broken) == figures(whole)
    assert broken.read_predictions() == whole.read_predictions()


@pytest.mark.slow
def test_other_settings_do_not_overwrite_a_run(cli: Cli, tmp_path: Path, parts: tuple) -> None:
    assert cli(*TINY, *parts).code == 0
    assert cli("data=single", *TINY, *parts).code == 0
    (folder,) = (tmp_path / "runs").glob("*/")
    assert [run.path.name for run in SweepDir(folder).runs()] == [
        "0_llama32_tiny_without_comparison_s0",
        "1_llama32_tiny_single_s0",
    ]
    first = (
        (folder / "0_llama32_tiny_without_comparison_s0" / "predictions.jsonl").stat().st_mtime_ns
    )
    assert (
        cli("-m", "data=without_comparison", "trainer.learning_rate=1e-5", *TINY, *parts).code == 0
    )
    names = [run.path.name for run in SweepDir(folder).runs()]
    assert len(names) == 3
    assert re.fullmatch("0_llama32_tiny_without_comparison_s0_[0-9a-f]{8}", names[1])
    assert (
        folder / "0_llama32_tiny_without_comparison_s0" / "predictions.jsonl"
    ).stat().st_mtime_ns == first


@pytest.mark.slow
def test_a_run_whose_data_changed_is_not_taken_for_the_same(
    cli: Cli, tmp_path: Path, parts: tuple
) -> None:
    assert cli(*TINY, *parts).code == 0
    (run,) = SweepDir(next((tmp_path / "runs").glob("*/"))).runs()
    status = run.read_status()
    run.write_status(State.FINISHED, run_hash="of other data", seconds=status["seconds"])
    before = (run.path / "predictions.jsonl").stat().st_mtime_ns
    refused = cli(*TINY, *parts)
    assert refused.code == 2
    assert "or set name=baseline_2, or remove the folder" in refused.err
    assert (run.path / "predictions.jsonl").stat().st_mtime_ns == before


@pytest.mark.slow
def test_check_shows_the_mask_and_the_cost_and_writes_no_run(
    cli: Cli, tmp_path: Path, parts: tuple
) -> None:
    outcome = cli("stage=check", "data=with_comparison", *TINY, *parts)
    assert outcome.code == 0, outcome.err
    assert outcome.out.count("<|eot_id|><<<") == 3  # a record of each task that trains
    assert (
        "<|image|><|image|>The first part is good. Is the second part normal or abnormal?<|eot_id|>"
        in outcome.out
    )
    assert ">>>" in outcome.out
    assert "training records" in outcome.out
    assert " in 4 steps" in outcome.out
    # A lot of four parts; eval.limit=8.
    assert (
        "not be calibrated (judge_pair raw, judge_pair rt): 8 validation records of 4 parts"
        in outcome.out
    )
    assert "the check found no error" in outcome.out
    assert not (tmp_path / "runs").exists()


def test_check_shows_japanese_characters_whole(cli: Cli, parts: tuple) -> None:
    outcome = cli("stage=check", "prompt=ja", *TINY, *parts)
    assert outcome.code == 0, outcome.err
    assert "二つ目の部品は正常ですか。" in outcome.out
    assert "\ufffd" not in outcome.out


@pytest.mark.slow
def test_prepare_prints_the_manifest(cli: Cli, tmp_path: Path, parts: tuple) -> None:
    outcome = cli("stage=prepare", *TINY, *parts)
    assert outcome.code == 0
    manifest = Path(outcome.out.strip().splitlines()[-1])
    assert manifest.name == "manifest.jsonl"
    assert (tmp_path / manifest).exists()
    assert f"datasheet: {manifest.with_name('manifest.datasheet.html')}" in outcome.out


@pytest.mark.slow
@pytest.mark.parametrize("method", ["score", "generate"])
def test_your_own_manifest_trains(
    cli: Cli, tmp_path: Path, manifest: ManifestBuilder, method: str
) -> None:
    outcome = cli(
        "source=manifest",
        f"source.path={manifest.write()}",
        f"eval.method={method}",
        "data.split.val=0.2",
        "data.split.train=0.6",
        *[item for item in TINY if "num_parts" not in item],
    )
    assert outcome.code == 0, outcome.err
    scores = only_run(tmp_path).read_metrics()["scores"]["judge_pair"]["raw"]
    assert scores["accuracy"]["n"] == 4  # two of ten parts, two pairs each
    assert ("auroc" in scores) is (method == "score")


@pytest.mark.slow
def test_folders_of_good_and_bad_photos_train(cli: Cli, tmp_path: Path) -> None:
    photos_in(tmp_path / "photos", good=30, bad=12)
    outcome = cli(
        "source=folder",
        "source.path=photos",
        "source.pairs.lots=6",
        "data.split.train=0.5",
        "data.split.test=0.3",
        "data.split.val=0.2",
        *[item for item in TINY if "num_parts" not in item],
    )
    assert outcome.code == 0, outcome.err
    assert only_run(tmp_path).read_metrics()["scores"]["judge_link"]["raw+rt"]["accuracy"]["n"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("data", ["with_comparison", "with_views", "matched_control"])
def test_raw_photos_have_comparison_records(cli: Cli, tmp_path: Path, data: str) -> None:
    photos_in(tmp_path / "photos", good=30, bad=12)
    tiny = [item for item in TINY if "num_parts" not in item]
    outcome = cli(
        "source=folder", "source.path=photos", "source.pairs.lots=6", f"data={data}", *tiny
    )
    assert outcome.code == 0, outcome.err
    metrics = only_run(tmp_path).read_metrics()
    # 30 photos to judge in six lots: about 5 each, and 3 comparisons of two records. Four lots
    # train.
    assert metrics["data"]["by_task"].get("compare_views", 0) == (
        0 if data == "matched_control" else 24
    )
    assert metrics["scores"]["compare_views"]["raw+rt"]["accuracy"]["n"] == 6  # a lot is held out
    kinds = ["shapes"] * (data != "with_views")
    assert [note.split(",")[0] for note in metrics["notes"]] == [
        f"data.comparison asks for {kind}" for kind in kinds
    ]


def llava_rows(folder: Path) -> None:
    """Pairs beside references of their own parts, two pairs a part."""
    (folder / "img").mkdir(parents=True)
    rows = []
    for i in range(40):
        for seed, name in ((1000 + i // 2, f"ref{i // 2}.png"), (i, f"{i}.png")):
            image(seed).save(folder / "img" / name)
        turns = [("human", "<image>\n<image>\nGood?"), ("gpt", "NG: a dent" if i % 2 else "OK")]
        said = [{"from": who, "value": text} for who, text in turns]
        rows.append(
            {"id": i, "image": [f"img/ref{i // 2}.png", f"img/{i}.png"], "conversations": said}
        )
    (folder / "rows.json").write_text(json.dumps(rows))


def mmad_rows(folder: Path) -> None:
    """Two questions about each image, no templates."""
    rows = {}
    for i in range(30):
        name = f"MVTec-AD/bolt/test/{i:03d}.png"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        image(i).save(folder / name)
        rows[name] = {
            "conversation": [
                {
                    "Question": "A defect?",
                    "Options": {"A": "Yes.", "B": "No."},
                    "Answer": "AB"[i % 2],
                    "type": "Detection",
                },
                {
                    "Question": "Where?",
                    "Options": dict(zip("ABC", "123", strict=True)),
                    "Answer": "C",
                    "type": "Place",
                },
            ]
        }
    (folder / "mmad.json").write_text(json.dumps(rows))


FROM_ELSEWHERE = {
    "mvtec": (mvtec, ["source=mvtec", "source.pairs.lots=4"], "judge_pair", "accuracy"),
    "llava": (
        llava_rows,
        ["source=llava", "source.path=raw/rows.json", "source.labels={OK: normal, NG: abnormal}"],
        "judge_pair",
        "accuracy",
    ),
    "mmad": (
        mmad_rows,
        ["source=mmad", "source.template=none", "data=choices", "view=raw"],
        "choose_option",
        "accuracy_place",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", FROM_ELSEWHERE)
def test_raw_files_go_to_figures_in_two_commands(cli: Cli, tmp_path: Path, how: str) -> None:
    make, source, task, figure = FROM_ELSEWHERE[how]
    make(tmp_path / "raw")
    source = source if any("source.path" in one for one in source) else [*source, "source.path=raw"]
    split = ["data.split.train=0.5", "data.split.val=0.25", "data.split.test=0.25"]
    prepared = cli("stage=prepare", *source, *split)
    assert prepared.code == 0, prepared.err
    (sheet,) = (tmp_path / "data").glob(f"{how}-*/manifest.datasheet.json")
    assert json.loads(sheet.read_text())["split"]["leaks"] == 0
    trained = cli(*source, *split, *[item for item in TINY if "num_parts" not in item])
    assert trained.code == 0, trained.err
    assert only_run(tmp_path).read_metrics()["scores"][task]["raw"][figure]["n"] > 0


@pytest.mark.slow
def test_training_stops_early_when_nothing_gets_better(
    cli: Cli, tmp_path: Path, parts: tuple
) -> None:
    outcome = cli(
        *TINY,
        *parts,
        "trainer.eval_steps=1",
        "trainer.early_stopping=1",
        "trainer.learning_rate=0",
        "trainer.max_steps=10",
    )
    assert outcome.code == 0, outcome.err
    assert "trained 2 steps; step 1 was the best" in outcome.out


@pytest.mark.slow
def test_a_run_that_chose_its_batch_size_goes_on_with_it(
    cli: Cli, tmp_path: Path, parts: tuple
) -> None:
    auto = (*[item for item in TINY if item != "trainer=debug"], *parts, "trainer.batch_size=auto")
    assert cli(*auto, "trainer.max_steps=2", "trainer.eval_steps=null").code == 0
    run = only_run(tmp_path)
    assert run.read_choices() == {"batch_size": 8, "gradient_checkpointing": False}
    run.write_choices({"batch_size": 3})
    (run.path / "status.json").unlink()
    outcome = cli(*auto, "trainer.max_steps=2", "trainer.eval_steps=null")
    assert outcome.code == 0, outcome.err
    assert run.read_choices() == {"batch_size": 3}
    assert "records a step (" not in outcome.out


@pytest.mark.slow
def test_a_full_gpu_says_what_to_lower(
    cli: Cli, tmp_path: Path, parts: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from vlmbench.models import llama32_tiny

    build = llama32_tiny.tiny_mllama

    def full(*args: object, **kwargs: object) -> object:
        model = build(*args, **kwargs)

        def run_out(module: object, inputs: object) -> None:
            if torch.is_grad_enabled():
                raise torch.OutOfMemoryError("CUDA out of memory")

        model.lm_head.register_forward_pre_hook(run_out)
        return model

    monkeypatch.setattr(llama32_tiny, "tiny_mllama", full)
    outcome = cli(*TINY, *parts)
    assert outcome.code == 2
    assert (
        "step 1: the GPU's memory is full with 2 records a step; set trainer.batch_size=auto"
        in outcome.err
    )
    assert only_run(tmp_path).read_status()["state"] == State.FAILED


@pytest.mark.slow
def test_a_loss_that_is_no_number_stops_and_names_step_and_records(
    cli: Cli, tmp_path: Path, parts: tuple, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from vlmbench.models import llama32_tiny

    build = llama32_tiny.tiny_mllama

    def broken(*args: object, **kwargs: object) -> object:
        model = build(*args, **kwargs)
        torch.nn.init.constant_(model.lm_head.weight, float("nan"))
        return model

    monkeypatch.setattr(llama32_tiny, "tiny_mllama", broken)
    outcome = cli(*TINY, *parts)
    assert outcome.code == 2
    assert "step 1: the loss is nan on records p" in outcome.err
    assert "trainer.learning_rate" in outcome.err
    assert only_run(tmp_path).read_status()["state"] == State.FAILED


def test_a_model_that_cannot_run_here_is_refused_with_those_that_can(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    outcome = cli("model=llama32", "tracking=off", "source.num_parts=24")
    assert outcome.code == 2
    assert "there is no CUDA GPU" in outcome.err
    assert "model=smol" in outcome.err
    assert "model=llama32_tiny" in outcome.err


def bad_commands() -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield wrong settings, and what the message has to name."""
    yield ("model=phi4",), "phi4"
    yield ("trainer.batchsize=4",), "batchsize"
    yield ("trainer.batch_size=many",), "many"
    yield ("trainer.batch_size=-1",), "trainer.batch_size must be at least 1, got -1"
    yield ("trainer.learning_rate=-0.1",), "trainer.learning_rate must be between 0 and 1"
    yield ("trainer.warmup_ratio=2",), "trainer.warmup_ratio must be between 0 and 1"
    yield ("trainer.vision=melted",), "melted"
    yield ("trainer.engine=unsloth",), "trainer.engine=transformers"
    yield ("stage=fly",), "fly"
    yield ("seed=-1",), "seed must be between 0 and 4294967295, got -1"
    yield ("data.split.train=0.9",), "data.split must add up to 1"
    yield ("data.split.test=1.5",), "data.split.test must be between 0 and 1"
    yield ("source.num_parts=23",), "source.num_parts"
    yield ("source.abnormal_rate=-1",), "source.abnormal_rate"
    yield ("view.window=4",), "view.window must be odd, got 4"
    yield ("model.lora.r=0",), "model.lora.r must be at least 1, got 0"
    yield ("prompt.labels.abnormal=normal too",), "begin alike"
    yield ("trainer.max_tokens=5",), "tokens, more than 5"
    yield ("data=with_comparison", "data.comparison=[sounds]"), "sounds"
    yield ("eval.batch_size=0",), "eval.batch_size must be at least 1, got 0"
    yield ("stage=report", "sweep=runs/nothing"), "the folder holds no run"
    yield ("stage=predict", "images=[a.png]"), "the folder holds no finished run"
    yield ("stage=export",), "the folder holds no finished run"
    yield ("stage=serve",), "the folder holds no finished run"
    yield ("stage=evaluate",), "train first"
    yield ("source=manifest", "source.path=nothing.jsonl"), "nothing.jsonl"
    yield ("source=manifest",), "source.path"
    yield ("source=folder", "source.path=nothing"), "source.path=nothing: the folder does not exist"
    yield ("+source.shiny=true",), "shiny"
    yield ("trainer.early_stopping=2", "trainer.eval_steps=null"), "trainer.early_stopping"
    yield ("pruner=median", "trainer.eval_steps=null"), "pruner=off"
    yield ("pruner=median", "pruner.percentile=150"), "pruner.percentile must be between 0"


def assert_refused(outcome: Outcome, message: str, folder: Path) -> None:
    assert outcome.code == 2, outcome.out + outcome.err
    assert message in outcome.err
    assert "Traceback" not in outcome.err
    assert "Error executing job" not in outcome.err
    assert not [
        path
        for path in folder.rglob("*")
        if path.name.startswith(".") and path.suffix in (".png", ".json")
    ]
    for name in ("predictions.jsonl", "metrics.json", "adapter_model.safetensors", "index.html"):
        assert not list(folder.rglob(name)), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"), list(bad_commands()), ids=lambda value: str(value)[:60]
)
def test_a_bad_command_is_refused_by_name(
    cli: Cli, tmp_path: Path, parts: tuple, arguments: tuple[str, ...], message: str
) -> None:
    defaults = [
        item
        for item in (*TINY, *parts)
        if item.split("=")[0] not in {one.split("=")[0] for one in arguments}
    ]
    if any(one.startswith("source=") for one in arguments):
        defaults.remove("source.num_parts=24")
    assert_refused(cli(*defaults, *arguments), message, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("how", SPOILT)
def test_a_bad_row_is_refused_by_file_line_and_value(
    cli: Cli, tmp_path: Path, manifest: ManifestBuilder, how: str
) -> None:
    change, message = SPOILT[how]
    change(manifest.rows[3])
    path = manifest.write()
    outcome = cli("source=manifest", f"source.path={path}", "view=raw", *TINY[:2], "tracking=off")
    assert_refused(outcome, message, tmp_path)
    assert f"{path}:4: " in outcome.err


@pytest.mark.parametrize("how", ["missing", "empty", "cut short", "text", "huge", "svg"])
def test_a_bad_image_is_refused_by_file_and_row(
    cli: Cli, tmp_path: Path, manifest: ManifestBuilder, how: str
) -> None:
    path = manifest.write()
    spoil(manifest.folder / "img" / "1-bad.png", how)
    outcome = cli("source=manifest", f"source.path={path}", *TINY[:2], "tracking=off")
    assert_refused(outcome, "1-bad.png", tmp_path)
    assert f"{path}:5: " in outcome.err


def test_text_where_a_photo_should_be_is_refused(cli: Cli, tmp_path: Path) -> None:
    for label in ("good", "bad"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        (tmp_path / "photos" / label / "notes.txt").write_text("hello")
    outcome = cli("source=folder", "source.path=photos", *TINY[:2], "tracking=off")
    assert_refused(outcome, "no photo is in a folder whose name is a label", tmp_path)


def test_too_few_photos_for_the_lots_are_refused(cli: Cli, tmp_path: Path) -> None:
    for label in ("good", "bad"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        image(len(label)).save(tmp_path / "photos" / label / "a.png")
    outcome = cli("source=folder", "source.path=photos", *TINY[:2], "tracking=off")
    assert_refused(outcome, "lower source.pairs.lots", tmp_path)


@pytest.mark.slow
def test_a_split_without_records_is_refused(
    cli: Cli, tmp_path: Path, manifest: ManifestBuilder
) -> None:
    for row in manifest.rows:
        row["group"] = "one"
    outcome = cli("source=manifest", f"source.path={manifest.write()}", *TINY[:2], "tracking=off")
    assert_refused(outcome, "no record is left for the", tmp_path)


@pytest.mark.slow
def test_a_text_with_a_marker_of_the_model_is_refused(
    cli: Cli, tmp_path: Path, manifest: ManifestBuilder
) -> None:
    manifest.rows[0]["question"] = "Is <|image|> normal?"
    path = manifest.write()
    outcome = cli("source=manifest", f"source.path={path}", *TINY[:2], "tracking=off")
    assert_refused(outcome, f"{path}:1: ", tmp_path)
    assert "<|image|>" in outcome.err
