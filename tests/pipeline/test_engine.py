"""trainer.engine=auto: which engine trains a run, and which one answers for it later."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vlmbench.backbones import contract, hub
from vlmbench.backbones.llama32 import Llama32Config, Llama32TinyConfig
from vlmbench.backbones.phi3 import Phi3Config
from vlmbench.config import Engine, TrainerConfig, Vision
from vlmbench.pipeline import run as pipeline
from vlmbench.pipeline.run import Run
from vlmbench.runs.folder import RunDir
from vlmbench.types import Split


class Split70:
    shares = {Split.TRAIN: 0.7, Split.VAL: 0.1, Split.TEST: 0.2}


class Settings:
    """The settings that the choice depends on."""

    def __init__(self, model: Any, **trainer: Any) -> None:
        self.model = model
        self.trainer = TrainerConfig(**trainer)
        self.data = type("Data", (), {"split": Split70})


def make_run(model: Any, folder: Path = Path(), **trainer: Any) -> Run:
    config: Any = Settings(model, **trainer)
    return Run(
        config=config,
        settings={},
        folder=RunDir(folder),
        choices={"model": "llama32"},
        identity={},
    )


@pytest.fixture(autouse=True)
def gpu_with_unsloth(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this machine have a GPU and Unsloth, and the data 10,000 rows."""

    def choose(engine: Engine) -> tuple[Engine, str]:
        return (Engine.unsloth if engine is Engine.auto else engine), "CUDA GPU"

    monkeypatch.setattr(contract, "choose_engine", choose)
    monkeypatch.setattr(pipeline, "open_run_manifest", lambda config: range(10_000))


@pytest.mark.parametrize(
    ("model", "trainer", "engine"),
    [
        (Llama32Config(), {"epochs": 4.0}, Engine.transformers),  # 28,000 records
        (Llama32Config(), {"epochs": 7.0}, Engine.unsloth),  # 49,000
        (Llama32Config(), {"max_steps": 500, "batch_size": 32}, Engine.transformers),
        (Llama32Config(), {"max_steps": 800, "batch_size": "auto"}, Engine.unsloth),
        (Llama32Config(), {"max_steps": 300, "gradient_accumulation": 20}, Engine.unsloth),
        (Phi3Config(), {"epochs": 0.2}, Engine.transformers),
        (Phi3Config(), {"epochs": 1.0}, Engine.unsloth),
        (Llama32TinyConfig(), {"epochs": 100.0}, Engine.transformers),
        (Phi3Config(), {"epochs": 1.0, "vision": Vision.lora}, Engine.transformers),
        (Llama32Config(), {"epochs": 1.0, "engine": Engine.unsloth}, Engine.unsloth),
        (Llama32Config(), {"epochs": 9.0, "engine": Engine.transformers}, Engine.transformers),
    ],
)
def test_unsloth_trains_what_is_long_enough_to_pay_for_its_start(
    model: Any, trainer: dict[str, Any], engine: Engine
) -> None:
    chosen, reason = make_run(model, **trainer).choose_engine()
    assert chosen is engine
    assert reason


def test_the_reason_names_the_records_and_the_setting_that_overrules_it() -> None:
    _, reason = make_run(Llama32Config(), epochs=1.0).choose_engine()
    assert "7,000 records" in reason
    assert "from 45,000" in reason

    setting, _, value = next(word for word in reason.split() if "=" in word).partition("=")
    assert setting == "trainer.engine"
    assert make_run(Llama32Config(), engine=Engine(value)).choose_engine()[0] is Engine.unsloth


def test_weights_that_are_stored_in_4_bits_train_on_transformers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    published = SimpleNamespace(quantization_config={"quant_method": "bitsandbytes"})
    monkeypatch.setattr(hub, "published_here", lambda path, revision: published)
    chosen, reason = make_run(Llama32Config(), epochs=9.0).choose_engine()
    assert chosen is Engine.transformers
    assert reason.endswith("does not run on Unsloth: its weights are stored in 4 bits")


@pytest.mark.parametrize("recorded", [Engine.transformers, Engine.unsloth, None])
def test_a_finished_run_answers_on_the_engine_that_trained_it(
    tmp_path: Path, recorded: Engine | None
) -> None:
    if recorded is not None:
        (tmp_path / "env.json").write_text(json.dumps({"engine": recorded}))
    engine = make_run(Llama32Config(), tmp_path).trained_engine(RunDir(tmp_path))
    assert engine is (recorded or Engine.unsloth)


def test_a_model_without_unsloth_answers_on_transformers(tmp_path: Path) -> None:
    (tmp_path / "env.json").write_text(json.dumps({"engine": "unsloth"}))  # a stranger's words
    engine = make_run(Llama32TinyConfig(), tmp_path).trained_engine(RunDir(tmp_path))
    assert engine is Engine.transformers
