"""A setting outside of its range is refused with a cure that can be typed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

import pytest
from omegaconf import OmegaConf

from vlmbench.config import (
    DeployConfig,
    ExportConfig,
    LoraConfig,
    PredictConfig,
    RunConfig,
    ServeConfig,
    Settings,
    SplitConfig,
    StoreConfig,
    TrainerConfig,
    check_range,
    register_plugins,
    schema,
    setting,
)
from vlmbench.types import UserError


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: RunConfig(seed=-1),
            "seed must be between 0 and 4294967295, got -1; set seed=0",
        ),
        (lambda: RunConfig(grace_s=0), "grace_s must be at least 0.1, got 0; set grace_s=25"),
        (
            lambda: TrainerConfig(epochs=0.0),
            "trainer.epochs must be at least 0.001, got 0; set trainer.epochs=3",
        ),
        (
            lambda: TrainerConfig(epochs=float("nan")),
            "trainer.epochs must be at least 0.001, got nan; set trainer.epochs=3",
        ),
        (
            lambda: TrainerConfig(epochs=float("inf")),
            "trainer.epochs must be at least 0.001, got inf; set trainer.epochs=3",
        ),
        (
            lambda: TrainerConfig(batch_size=0),
            "trainer.batch_size must be at least 1, got 0; set trainer.batch_size=8",
        ),
        (
            lambda: TrainerConfig(batch_size="all"),
            "trainer.batch_size must be an integer or auto, got all; set trainer.batch_size=8",
        ),
        (
            lambda: TrainerConfig(batch_size=2.5),
            "trainer.batch_size must be an integer or auto, got 2.5; set trainer.batch_size=8",
        ),
        (
            lambda: TrainerConfig(learning_rate=-1.0),
            "trainer.learning_rate must be between 0 and 1, got -1; "
            "set trainer.learning_rate=0.0005",
        ),
        (
            lambda: TrainerConfig(max_steps=0),
            "trainer.max_steps must be at least 1, got 0; set trainer.max_steps=null",
        ),
        (
            lambda: TrainerConfig(early_stopping=3, eval_steps=None),
            "trainer.early_stopping needs evaluations in training; set trainer.eval_steps=50",
        ),
        (lambda: LoraConfig(r=0), "model.lora.r must be at least 1, got 0; set model.lora.r=16"),
        (
            lambda: StoreConfig(device_gb=-1.0),
            "store.device_gb must be at least 0, got -1; set store.device_gb=null",
        ),
        (
            lambda: SplitConfig(train=0.9),
            "data.split must add up to 1, got 0.9 + 0.1 + 0.2 = 1.2; "
            "set 'data.split={train: 0.7, val: 0.1, test: 0.2}'",
        ),
        (
            lambda: PredictConfig(cost_miss=3.0),
            "predict.cost_miss and predict.cost_overkill must be set together; "
            "add predict.cost_overkill=1",
        ),
        (
            lambda: ExportConfig(prevalence=1.0),
            "export.prevalence must be between 1e-06 and 0.999999, got 1; "
            "set export.prevalence=0.01",
        ),
        (
            lambda: ServeConfig(port=70000),
            "serve.port must be between 0 and 65535, got 70000; set serve.port=7860",
        ),
    ],
)
def test_an_invalid_value_is_refused_with_its_range_and_a_cure(make, message):
    with pytest.raises(UserError) as refused:
        make()
    assert str(refused.value) == message


@pytest.mark.parametrize("node", [TrainerConfig, PredictConfig, ExportConfig, ServeConfig])
def test_the_cure_of_each_setting_is_valid(node):
    register_plugins()
    config = OmegaConf.structured(node)

    for key in map(str, config):
        bad = OmegaConf.merge(config, {key: -1}) if isinstance(config[key], int | float) else None
        if bad is None or isinstance(config[key], bool):
            continue
        with pytest.raises(UserError) as refused:
            OmegaConf.to_object(bad)
        name, value = re.search(r"; set (\S+)=(\S+)$", str(refused.value)).groups()
        assert name == f"{node.config_group}.{key}"
        OmegaConf.to_object(OmegaConf.merge(config, OmegaConf.from_dotlist([f"{key}={value}"])))


def test_both_costs_are_valid_and_belong_to_each_stage():
    for node in (PredictConfig, ExportConfig, ServeConfig):
        assert issubclass(node, DeployConfig)
        assert node(cost_miss=10.0, cost_overkill=1.0, prevalence=0.01).cost_miss == 10.0


def test_a_range_without_a_default_proposes_the_nearest_bound():
    with pytest.raises(UserError, match="a must be between 2 and 5, got 7; set a=5"):
        check_range("a", 7, 2, 5)
    with pytest.raises(UserError, match="a must be between 2 and 5, got 1; set a=2"):
        check_range("a", 1, 2, 5)
    check_range("a", None, 2, 5)
    check_range("a", 5, 2, 5)


@dataclass(kw_only=True)
class Example(Settings):
    config_group: ClassVar[str] = "example"

    size: int = setting(3, "Size in pixels.", at_most=4)
    names: list[str] = setting(factory=list, meaning="Names.")


def test_settings_are_structured_configurations_for_omegaconf():
    config = OmegaConf.structured(Example)
    assert OmegaConf.to_object(config) == Example(size=3, names=[])

    config.size = 5
    with pytest.raises(
        UserError, match=r"example\.size must be at most 4, got 5; set example\.size=3"
    ):
        OmegaConf.to_object(config)


def test_a_name_cannot_be_registered_twice():
    register_plugins()

    with pytest.raises(ValueError, match="registered twice"):
        schema("view", "rt")(TrainerConfig)


def test_planned_steps_count_the_last_small_batch():
    # 10 records in batches of 4 are 3 batches. Two batches a step make 2 steps, three epochs 6.
    assert TrainerConfig(batch_size=4, gradient_accumulation=2, epochs=3).planned_steps(10) == 6
    assert TrainerConfig(batch_size=4, max_steps=5).planned_steps(10) == 5
