"""stage=export: what is written answers as the run did, or nothing is written."""

from __future__ import annotations

import json
import re
import shlex
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import Outcome
from tests.deploy.conftest import Exported
from vlmbench.backbones import adapters
from vlmbench.config import ExportConfig
from vlmbench.deploy.parity import compare_answers, require_parity
from vlmbench.runs.folder import RunDir, State
from vlmbench.system.files import SEAL, seal
from vlmbench.types import Prediction, Task, UserError

Cli = Callable[..., Outcome]
StrongExport = Callable[..., Exported]
STRONG = (
    "trainer.learning_rate=0.02",
    "trainer.eval_steps=null",
    "eval.limit=12",
    "eval.probes=false",
)  # 12: too few

ACCEPT = 'export.accept="self_pair,one_label,reference"'  # tiny models know nothing


@pytest.fixture
def strong(train: Callable[..., RunDir]) -> Callable[..., RunDir]:
    """A run whose adapter changes what the model says."""
    return lambda model, *more: train(f"model={model}", *STRONG, *more)


@pytest.fixture
def strong_export(export: StrongExport) -> StrongExport:
    """The export of a run whose adapter changes what the model says."""
    return lambda model, *more: export(f"model={model}", *STRONG, *more)


def exported(cli: Cli, run: RunDir, *more: str, records: int = 24) -> Outcome:
    settings = (f"run={run.path}", "export.out=out", f"export.parity_records={records}", ACCEPT)
    return cli("stage=export", *settings, *more)


@pytest.mark.slow
@pytest.mark.parametrize(
    "choices",
    [("llama32_tiny",), ("phi3_tiny",), ("smol",), ("phi3_tiny", "trainer.vision=lora")],
    ids=lambda choices: " ".join(choices),
)
def test_adapter_merged_and_reloaded_model_say_the_same(
    strong_export: StrongExport, choices: tuple[str, ...]
) -> None:
    done = strong_export(*choices)
    parity = json.loads((done.out / "decision_rules.json").read_text())["parity"]
    for name in ("merged", "reloaded", "recorded"):
        assert parity[name]["n"] == 24
        assert parity[name]["changed"] == {}
        assert parity[name]["largest_difference"] < 1e-3, name
        assert (
            f"{name}: 24 of 24 labels are those of the adapter, scores differ by at most"
            in done.output
        )
    assert {path.name for path in done.out.iterdir()} == {
        "adapter",
        "merged",
        "README.md",
        "decision_rules.json",
    }
    written = list(done.out.rglob("*"))
    assert not [path for path in written if path.suffix in (".bin", ".pt", ".pth", ".pkl", ".py")]
    assert all(
        stat.S_IMODE(path.stat().st_mode) == (0o755 if path.is_dir() else 0o644) for path in written
    )
    assert not [path for path in done.folder.iterdir() if path.name.startswith(".out")]
    own, copied = (
        load_file(folder / "adapter_model.safetensors")
        for folder in (done.run.adapter, done.out / "adapter")
    )
    assert all(torch.equal(own[name], copied[name]) for name in own)
    assert not any(
        "lora" in name
        for path in (done.out / "merged").glob("*.safetensors")
        for name in load_file(path)
    )


def scores_by_plain_transformers(folder: Path, one: Prediction) -> dict[str, float]:
    """Return the labels' log-probabilities, with nothing of vlmbench but its model type."""
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    import vlmbench.models.phi3_v  # noqa: F401

    model = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto").eval()
    processor = AutoProcessor.from_pretrained(folder)
    content = [{"type": "image"}] * len(one.images) + [{"type": "text", "text": one.question}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    images = [Image.open(path).convert("RGB") for path in one.images]
    # Mllama's template has the text's beginning. Phi-3-vision's processor adds its own.
    settings = {"add_special_tokens": False} if model.config.model_type == "mllama" else {}
    found = {}
    for label in one.scores:
        said = processor.tokenizer(label, add_special_tokens=False)["input_ids"]
        inputs = processor(text=prompt + label, images=images, return_tensors="pt", **settings)
        with torch.no_grad():
            logits = model(**inputs).logits[0, -len(said) - 1 : -1].log_softmax(-1)
        found[label] = float(logits.gather(1, torch.tensor(said)[:, None]).sum())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("model", ["llama32_tiny", "phi3_tiny"])
def test_the_merged_folder_loads_with_plain_transformers_to_the_runs_scores(
    strong_export: StrongExport, model: str
) -> None:
    done = strong_export(model)
    one = next(
        one
        for one in done.run.read_predictions()
        if (one.task, one.view) == (Task.JUDGE_PAIR, "raw")
    )
    assert scores_by_plain_transformers(done.out / "merged", one) == pytest.approx(
        dict(one.scores), abs=1e-4
    )


def test_the_weights_stand_under_the_publishers_names(strong_export: StrongExport) -> None:
    (path,) = (strong_export("phi3_tiny").out / "merged").glob("*.safetensors")
    names = set(load_file(path))
    for name in (
        "model.layers.0.self_attn.qkv_proj.weight",
        "model.layers.1.mlp.gate_up_proj.weight",
        "model.vision_embed_tokens.img_processor.vision_model.embeddings.class_embedding",
        "model.vision_embed_tokens.glb_GN",
        "lm_head.weight",
    ):
        assert name in names, sorted(names)


@pytest.mark.slow
def test_the_card_gives_figures_with_n_and_intervals_and_no_path_of_this_machine(
    strong_export: StrongExport,
) -> None:
    done = strong_export("smol")
    run, card = done.run, (done.out / "README.md").read_text()
    accuracy = run.read_metrics()["scores"]["judge_pair"]["raw"]["accuracy"]
    interval = f"{accuracy['low']:.3f} to {accuracy['high']:.3f}"
    row = f"| {accuracy['value']:.3f} | {interval} | {accuracy['n']} |"
    assert f"| judge_pair | raw | accuracy {row} {accuracy['n_parts']} |" in card
    assert "Apache-2.0" in card
    assert "| merged model loaded again from its files | 24 | 24 |" in card
    assert re.search(r"(calibrated \(Platt\) on \d+ validation records|not calibrated)", card)
    assert "- Parts in the train split: " in card
    assert str(Path.home()) not in card
    assert str(run.path.parent) not in card
    assert card.startswith("---\nlibrary_name: transformers\n")


@pytest.mark.slow
def test_costs_go_into_the_export(cli: Cli, knowing: RunDir) -> None:
    assert exported(cli, knowing, "export.cost_miss=20", "export.cost_overkill=1").code == 0
    rules = json.loads(Path("out/decision_rules.json").read_text())
    threshold = rules["threshold"]["judge_pair/raw"]
    assert threshold["value"] == pytest.approx(1 / 21)
    assert threshold["cost"]["n"] == 60
    assert rules["calibration"]["judge_pair/raw"]["n_parts"] == 30
    assert "the threshold is 0.0476; the expected cost" in Path("out/README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("model", ["llama32_tiny", "smol"])
def test_a_merge_that_is_not_the_adapter_is_not_exported(
    cli: Cli, strong: Any, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The adapter is taken off without being added to the weights."""
    from vlmbench.backbones import chat, smol

    for module in (adapters, chat, smol):
        monkeypatch.setattr(module, "merge_adapter", lambda model: None)
    refused = exported(cli, strong(model), "export.parity_difference=0.001", records=8)
    assert refused.code == 2
    assert "the reloaded model gives" in refused.err
    assert "Nothing was exported" in refused.err
    assert not [path for path in Path().iterdir() if "out" in path.name]


@pytest.mark.slow
def test_a_broken_adapter_is_not_exported(cli: Cli, knowing: RunDir) -> None:
    path = knowing.adapter / "adapter_model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "lora_B" in name)
    save_file(
        {**weights, name: torch.full_like(weights[name], float("nan"))},
        path,
        metadata={"format": "pt"},
    )
    seal(knowing.adapter, of=json.loads((knowing.adapter / SEAL).read_text())["of"])
    refused = exported(cli, knowing)
    assert refused.code == 2
    assert "is nan, because numbers in the model became too large" in refused.err
    assert not [path for path in Path().iterdir() if "out" in path.name]


@pytest.mark.slow
def test_an_export_that_is_there_is_left_alone(cli: Cli, finished: RunDir) -> None:
    Path("out").mkdir()
    refused = exported(cli, finished)
    assert refused.code == 2
    assert "out: the folder exists already; remove it, or set export.out=out_2" in refused.err
    assert not list(Path("out").iterdir())


@pytest.mark.slow
def test_costs_that_validation_cannot_bear_are_refused(cli: Cli, strong: Any) -> None:
    refused = exported(cli, strong("llama32_tiny"), "export.cost_miss=20", "export.cost_overkill=1")
    assert refused.code == 2
    assert (
        "export.cost_miss needs calibrated scores, and judge_pair in view raw has rough ones"
        in refused.err
    )
    assert not Path("out").exists()


@pytest.mark.slow
def test_a_run_that_fails_a_control_is_exported_only_if_the_user_accepts_it(
    cli: Cli, knowing: RunDir
) -> None:
    rows = [json.loads(line) for line in (knowing.path / "predictions.jsonl").open()]
    for row in rows:
        if row["probe"] == "self":
            row["scores"] = {"normal": -9.0, "abnormal": 9.0}
    (knowing.path / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    run_hash = knowing.read_status()["run_hash"]
    facts = {"model": "llama32_tiny", "data": "without_comparison", "seed": 0}
    knowing.write_status(State.FINISHED, run_hash=run_hash, **facts)  # with new checksums

    refused = cli("stage=export", f"run={knowing.path}", "export.out=out")
    assert refused.code == 2
    assert "images beside themselves are judged abnormal" in refused.err
    cure = refused.err.rpartition("in spite of that with ")[2].split()[0]
    (accept,) = shlex.split(cure)
    assert "self_pair" in accept

    unknown = cli("stage=export", f"run={knowing.path}", "export.accept=selfpair")
    assert "there is no control 'selfpair'; set export.accept=self_pair" in unknown.err
    accepted = cli("stage=export", f"run={knowing.path}", "export.out=out", accept)
    assert accepted.code == 0, accepted.err
    assert "beside themselves are judged abnormal" in Path("out/README.md").read_text()


@pytest.mark.slow
def test_a_run_without_figures_is_not_exported(cli: Cli, knowing: RunDir) -> None:
    knowing.write_status(State.FAILED, run_hash="x")
    refused = exported(cli, knowing)
    assert refused.code == 2
    assert "the run has no figures yet" in refused.err


def said(name: str, normal: float, abnormal: float) -> Prediction:
    return Prediction(
        id=name,
        task=Task.JUDGE_PAIR,
        group="g",
        view="raw",
        expected="normal",
        predicted="abnormal" if abnormal > normal else "normal",
        scores={"normal": normal, "abnormal": abnormal},
    )


def test_a_changed_label_stops_an_export_unless_it_was_nearly_a_tie() -> None:
    before = [said("a", -1.0, -2.0), said("b", -1.0, -1.02), said("c", -3.0, -1.0)]
    after = [said("a", -1.01, -2.0), said("b", -1.03, -1.0), said("c", -3.0, -1.0)]
    found = compare_answers(before, after)
    assert found.n == 3
    assert dict(found.changed) == {"b": pytest.approx(0.02)}
    assert found.largest_difference == pytest.approx(0.03)
    with pytest.raises(
        UserError,
        match=r"other labels than the adapter on 1 of 3 held-out records, such as b \(0.02",
    ):
        require_parity("merged", found, ExportConfig())
    require_parity("merged", found, ExportConfig(parity_margin=0.021))
    with pytest.raises(UserError, match=r"differ from the adapter's by up to 0\.03"):
        require_parity("merged", found, ExportConfig(parity_margin=0.021, parity_difference=0.02))


def test_scores_that_are_no_numbers_or_of_other_records_are_no_parity() -> None:
    with pytest.raises(UserError, match="is NaN or infinite"):
        compare_answers([said("a", -1.0, -2.0)], [said("a", float("nan"), -2.0)])
    with pytest.raises(UserError, match="different records"):
        compare_answers([said("a", -1.0, -2.0)], [said("b", -1.0, -2.0)])
