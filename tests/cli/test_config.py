"""Every yaml and every experiment composes into valid settings."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vlmbench.cli import job  # noqa: F401 - registers the resolvers of conf/config.yaml
from vlmbench.cli.main import help_text
from vlmbench.config import CONF, RunConfig, Stage
from vlmbench.data.prompts import Wording
from vlmbench.types import LABELS

# Settings without a default, which the user must give.
REQUIRED = {
    "source/manifest": ["source.path=mine.jsonl"],
    "source/folder": ["source.path=photos"],
    "source/huggingface": ["source.path=photos"],
    "source/llava": ["source.path=mine.json"],
    "source/mmad": ["source.path=mmad"],
    "source/mvtec": ["source.path=photos"],
    "source/robustmad": ["source.path=robustmad"],
    "source/sharegpt": ["source.path=mine.json"],
    "view/files": ["view.name=mine"],
}
YAMLS = sorted(path for path in CONF.rglob("*.yaml") if path.parent != CONF)


def compose_config(*overrides: str) -> RunConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_object(compose("config", overrides=["run_label=x", *overrides]))

    assert isinstance(config, RunConfig)
    return config


@pytest.mark.slow
@pytest.mark.parametrize("path", YAMLS, ids=lambda path: str(path.relative_to(CONF)))
def test_every_yaml_composes_into_its_schema(path: Path) -> None:
    group = path.parent.relative_to(CONF).as_posix()
    if path.stem == "tune":
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the [sweep] extra")

    choice = f"{group}/{path.stem}"
    config = compose_config(f"{group}={path.stem}", *REQUIRED.get(choice, []))
    assert config.trainer.batch_size > 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "num_runs"), [("quick", 6), ("vivlm24", 36)])
def test_every_run_of_an_experiment_composes(name: str, num_runs: int) -> None:
    params = OmegaConf.load(CONF / "experiment" / f"{name}.yaml").hydra.sweeper.params
    choices = [
        [f"{key}={value}" for value in str(values).split(",")] for key, values in params.items()
    ]
    runs = list(itertools.product(*choices))
    assert len(runs) == num_runs

    for overrides in runs:
        assert compose_config(f"experiment={name}", *overrides).name == name


@pytest.mark.parametrize("name", ["en", "ja", "short"])
def test_every_prompt_has_different_words_for_different_labels(name: str) -> None:
    prompt = OmegaConf.load(CONF / "prompt" / f"{name}.yaml")
    wording = Wording(questions=prompt.questions, labels=prompt.labels, phrases=prompt.phrases)

    for task in LABELS:
        assert len(set(wording.label_words(task).values())) == 2


def test_help_names_every_choice() -> None:
    text = help_text()

    for path in YAMLS:
        assert path.stem in text
    assert all(stage in text for stage in Stage)


def test_help_answers_without_torch(cli: Callable) -> None:
    outcome = cli("--help")

    assert outcome.code == 0
    assert "experiment=quick" in outcome.out
