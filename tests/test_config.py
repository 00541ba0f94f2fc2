"""Every yaml composes; what is wrong is refused before anything runs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from vlmbench.__main__ import CONF, help_text
from vlmbench.config import RunConfig, Stage, TrainerConfig, register_plugins, schema
from vlmbench.data.prompts import Wording
from vlmbench.task import cell_folder, stage_dir
from vlmbench.types import LABELS, UserError

LEFT_TO_THE_USER = {
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
GROUPS = sorted(path for path in CONF.rglob("*.yaml") if path.parent != CONF)


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    register_plugins()


@pytest.mark.parametrize("path", GROUPS, ids=lambda path: str(path.relative_to(CONF)))
def test_every_yaml_composes_into_its_schema(path: Path) -> None:
    group = path.parent.relative_to(CONF).as_posix()
    if path.stem == "tune":
        pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the [sweep] extra")
    overrides = [f"{group}={path.stem}", "cell=x", *LEFT_TO_THE_USER.get(f"{group}/{path.stem}", [])]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = OmegaConf.to_object(compose("config", overrides=overrides))
    assert isinstance(config, RunConfig)
    assert config.trainer.batch_size > 0


@pytest.mark.parametrize("name", ["quick", "vivlm24"])
def test_every_cell_of_an_experiment_composes(name: str) -> None:
    swept = OmegaConf.load(CONF / "experiment" / f"{name}.yaml").hydra.sweeper.params
    cells = list(
        itertools.product(*([f"{key}={value}" for value in str(values).split(",")] for key, values in swept.items()))
    )
    assert len(cells) == {"quick": 2, "vivlm24": 36}[name]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        for cell in cells:
            config = OmegaConf.to_object(compose("config", overrides=[f"experiment={name}", "cell=x", *cell]))
            assert isinstance(config, RunConfig)
            assert config.name == name


@pytest.mark.parametrize("path", GROUPS, ids=lambda path: str(path.relative_to(CONF)))
def test_a_yaml_repeats_the_defaults_of_its_schema(path: Path) -> None:
    """Who builds from the class and who builds from the yaml gets the same."""
    group = path.parent.relative_to(CONF).as_posix()
    if group in ("experiment", "prompt", "trainer") or path.stem in ("off", "with_views", "with_shapes"):
        pytest.skip("these yamls are the choice, the schema is not")
    with initialize_config_dir(str(CONF), version_base="1.3"):
        raw = compose("config", overrides=[f"{group}={path.stem}", "cell=x"])
    node = raw[group]
    plain = OmegaConf.structured(OmegaConf.get_type(node))
    for key in plain:
        if OmegaConf.is_missing(plain, key) or OmegaConf.is_missing(node, key) or key in ("mode", "lora"):
            continue
        assert plain[key] == node[key], f"{path.name}: {key}"


@pytest.mark.parametrize("name", ["en", "ja", "short"])
def test_every_prompt_tells_its_labels_apart(name: str) -> None:
    prompt = OmegaConf.load(CONF / "prompt" / f"{name}.yaml")
    wording = Wording(questions=prompt.questions, labels=prompt.labels, phrases=prompt.phrases)
    for task in LABELS:
        assert len(set(wording.label_words(task).values())) == 2


def test_a_name_cannot_be_registered_twice() -> None:
    with pytest.raises(ValueError, match="registered twice"):
        schema("view", "rt")(TrainerConfig)


def test_planned_steps_count_the_last_small_batch() -> None:
    # 10 records in batches of 4 are 3 batches; two batches a step make 2 steps, three epochs 6.
    assert TrainerConfig(batch_size=4, gradient_accumulation=2, epochs=3).planned_steps(10) == 6
    assert TrainerConfig(batch_size=4, max_steps=5).planned_steps(10) == 5


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"batch_size": 0}, "trainer.batch_size=0"),
        ({"batch_size": "some"}, "trainer.batch_size=some: it must be a whole number or auto"),
        ({"batch_size": 2.5}, r"trainer.batch_size=2.5: it must be a whole number"),
        ({"learning_rate": -1.0}, "trainer.learning_rate=-1.0"),
        ({"warmup_ratio": 1.5}, "trainer.warmup_ratio=1.5"),
        ({"early_stopping": 3, "eval_steps": None}, "trainer.early_stopping"),
    ],
)
def test_a_value_out_of_range_is_named(changes: dict[str, float], place: str) -> None:
    with pytest.raises(UserError, match=place):
        TrainerConfig(**changes)


def test_help_names_every_choice() -> None:
    text = help_text()
    for path in GROUPS:
        assert path.stem in text
    assert all(stage in text for stage in Stage)


def test_a_cell_keeps_its_folder_and_another_takes_the_next(tmp_path: Path) -> None:
    def folder(number: int | None, cell: str, sweep: Path = tmp_path, data: str = "some", **content: object) -> str:
        choices = {"data": data, "tracking": "off", "hydra/launcher": "basic", "experiment": "baseline"}
        hydra = {"job": "???", "runtime": {"choices": choices}}
        root = OmegaConf.create({"hydra": hydra, "stage": "run", "seed": 0, **content})
        return cell_folder(str(sweep), number, cell, _root_=root)

    (tmp_path / "0_a" / ".hydra").mkdir(parents=True)
    made = {"data": "some", "tracking": "online", "hydra/launcher": "ray", "experiment": "quick"}
    OmegaConf.save({"hydra": {"runtime": {"choices": made}}}, tmp_path / "0_a" / ".hydra" / "hydra.yaml")
    (tmp_path / "0_a" / "config.yaml").write_text("stage: run\nseed: 0\nlora: {r: 16}\n")
    (tmp_path / "notes_of_mine").mkdir()
    assert folder(None, "a", lora={"r": 16}) == "0_a"
    assert folder(7, "b", lora={"r": 16}, stage="evaluate", tracking="off") == "0_a"  # the same figures
    assert folder(None, "a", lora={"r": 8}) == "1_a"
    assert folder(None, "b", lora={"r": 16}, data="other") == "1_b"  # another choice with the same settings
    assert folder(1, "a", lora={"r": 8}) == "1_a"
    other = folder(0, "a", lora={"r": 8})  # the number is taken: never two contents in one folder
    assert re.fullmatch("0_a_[0-9a-f]{8}", other)
    assert other == folder(0, "a", lora={"r": 8}) != folder(0, "a", lora={"r": 4})
    assert folder(None, "a", sweep=tmp_path / "new") == "0_a"


def test_only_stages_that_make_a_cell_write_into_runs() -> None:
    assert stage_dir("run", "runs/x/0_y") == "runs/x/0_y"
    assert stage_dir("check", "runs/x/0_y") == ".cache/stages/check"


def test_help_answers_without_torch(cli: Callable) -> None:
    outcome = cli("--help")
    assert outcome.code == 0
    assert "experiment=quick" in outcome.out
