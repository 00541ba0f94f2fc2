"""Values of the trainer that cannot work: refused when the command is read, nothing written."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from tests.conftest import Outcome
from vlmbench.cli import job  # noqa: F401 - registers the resolvers of conf/config.yaml
from vlmbench.cli.arguments import read_settings
from vlmbench.cli.mistakes import explain_config_errors
from vlmbench.config import TrainerConfig
from vlmbench.config.training import Scheduler
from vlmbench.types import UserError

Cli = Callable[..., Outcome]
CURE = re.compile(r"set ('[^']+'|\S+)")
HUGE = "1" + "0" * 400

WRONG = {
    "trainer.scheduler=consine": "set trainer.scheduler=cosine",
    "trainer.scheduler=lineer": "set trainer.scheduler=linear",
    "trainer.scheduler=Cosine": "set trainer.scheduler=cosine",
    "trainer.scheduler=cosine_with_min_lr": "set trainer.scheduler=cosine_with_restarts",
    "trainer.scheduler=cosine_warmup_with_min_lr": "must be one of linear, cosine",
    "trainer.scheduler=warmup_stable_decay": "must be one of linear, cosine",
    "trainer.scheduler=reduce_lr_on_plateau": "must be one of linear, cosine",
    "trainer.scheduler=greedy": "must be one of linear, cosine",
    "trainer.scheduler=写真": "must be one of linear, cosine",
    "trainer.scheduler=": "must be one of linear, cosine",
    "trainer.scheduler=null": "must have a value, got null; set trainer.scheduler=cosine",
    "trainer.scheduler=polynomial trainer.learning_rate=1e-8": "set trainer.learning_rate=0.0005",
    "trainer.optimizer=adamw": "setting trainer.optimizer does not exist",
    "trainer.optim=adamv": "setting trainer.optim does not exist",
    "trainer.batch_size=0": "must be at least 1, got 0; set trainer.batch_size=8",
    "trainer.batch_size=-8": "must be at least 1, got -8",
    "trainer.batch_size=inf": "must be an integer or auto, got inf",
    "trainer.batch_size=nan": "must be an integer or auto, got nan",
    "trainer.batch_size=true": "must be an integer or auto, got True",
    "trainer.batch_size=null": "must be an integer or auto, got None",
    "trainer.batch_size=atuo": "must be an integer or auto, got atuo",
    f"trainer.batch_size={HUGE}": "must be between 1 and 9223372036854775807, got about 1e400",
    "trainer.gradient_accumulation=0": "must be at least 1, got 0",
    "trainer.max_steps=-1": "must be at least 1, got -1; set trainer.max_steps=null",
    "trainer.max_steps=1.5": "must be an integer, got 1.5",
    "trainer.max_steps=inf": "must be an integer, got inf",
    f"trainer.max_steps={HUGE}": "must be between 1 and 9223372036854775807, got about 1e400",
    f"trainer.max_steps=-{HUGE}": "must be at least 1, got about 1e400",
    f"trainer.max_steps={'9' * 5000}": "must be an integer",
    f"trainer.eval_records={HUGE}": "got about 1e400; set trainer.eval_records=200",
    "trainer.epochs=0": "must be at least 0.001, got 0; set trainer.epochs=3",
    "trainer.epochs=-3": "must be at least 0.001, got -3",
    "trainer.epochs=nan": "got nan",
    "trainer.epochs=inf": "got inf",
    "trainer.epochs=1e300": "must be between 0.001 and 9223372036854775807, got 1e+300",
    "trainer.epochs=1e400": "got inf",
    "trainer.learning_rate=-1e-4": "must be between 0 and 1",
    "trainer.learning_rate=nan": "must be between 0 and 1, got nan",
    "trainer.learning_rate=inf": "must be between 0 and 1, got inf",
    "trainer.learning_rate=5": "must be between 0 and 1, got 5",
    "trainer.warmup_ratio=1.1": "must be between 0 and 1",
    "trainer.warmup_ratio=-0.1": "must be between 0 and 1",
    "trainer.warmup_ratio=nan": "got nan",
    "trainer.weight_decay=-1": "must be at least 0",
    "trainer.max_grad_norm=nan": "got nan",
    "trainer.log_steps=0": "must be at least 1",
    "trainer.eval_steps=0": "must be at least 1",
    "trainer.early_stopping=0": "must be at least 1",
    "trainer.max_steps=4 trainer.early_stopping=1": "set trainer.early_stopping=null",
    "trainer.max_steps=10 trainer.eval_steps=5 trainer.early_stopping=2": (
        "set trainer.early_stopping=null"
    ),
}


def check(typed: Sequence[str]) -> TrainerConfig:
    """Return the trainer's settings of a command line, checked as a command checks them."""
    settings = read_settings(typed, is_sweep=False)
    config = OmegaConf.create({"trainer": TrainerConfig})  # the whole settings take half a second
    OmegaConf.set_struct(config, True)

    with explain_config_errors():
        overrides = OverridesParser.create().parse_overrides(settings)
        ConfigLoaderImpl._apply_overrides_to_config(overrides, config)
        trainer = cast("TrainerConfig", OmegaConf.to_object(config.trainer))
    trainer.check_evaluations()
    return trainer


@pytest.mark.parametrize("typed", WRONG, ids=lambda typed: typed[:50])
def test_a_value_that_cannot_work_is_refused_and_its_cure_works(typed: str) -> None:
    arguments = typed.split(" ")
    with pytest.raises(UserError) as refused:
        check(arguments)
    assert WRONG[typed] in str(refused.value)

    cure = CURE.search(str(refused.value))
    if cure:
        (mended,) = shlex.split(cure[1])
        key = mended.partition("=")[0]
        kept = [argument for argument in arguments if argument.partition("=")[0] != key]
        evaluations = (
            [] if any("eval_steps" in one for one in [*kept, mended]) else ["trainer.eval_steps=1"]
        )
        check([*kept, mended, *evaluations])


RIGHT = [
    *(f"trainer.scheduler={name}" for name in Scheduler),
    *("trainer.max_steps=1000000000", "trainer.epochs=1e9", "trainer.batch_size=1000000000"),
    *("trainer.warmup_ratio=0", "trainer.warmup_ratio=1", "trainer.learning_rate=1"),
    *("trainer.max_steps=4", "trainer.eval_steps=null trainer.max_steps=1"),
    *("trainer.batch_size=auto", "trainer.learning_rate=0"),
]


@pytest.mark.parametrize("typed", RIGHT)
def test_a_value_that_works_is_taken(typed: str) -> None:
    trainer = check(typed.split(" "))
    name, _, value = typed.partition(" ")[0].partition("=")
    assert str(getattr(trainer, name.removeprefix("trainer."))) in (value, str(float_of(value)))


def float_of(value: str) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None


@pytest.mark.parametrize("options", [("stage=check",), ("-m", "stage=check"), ("-m",)])
def test_a_check_and_a_sweep_refuse_it_before_anything_is_written(
    cli: Cli, tmp_path: Path, options: tuple[str, ...]
) -> None:
    outcome = cli(*options, "trainer.scheduler=consine")
    assert outcome.code == 2
    assert "set trainer.scheduler=cosine" in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 97, 1000])
@pytest.mark.parametrize(("ratio", "expected"), [(1.0, 1.0), (0.5, 0.5), (0.05, 0.05), (0.0, 0.0)])
def test_a_warm_up_of_all_steps_warms_all_steps(
    steps: int, ratio: float, expected: float, tmp_path: Path
) -> None:
    transformers = pytest.importorskip("transformers")  # `make lowest` has no large packages
    from vlmbench.train.sft_config import warmup_steps

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), warmup_steps=warmup_steps(ratio)
    )
    assert arguments.get_warmup_steps(steps) == math.ceil(expected * steps)


def test_every_schedule_that_is_offered_needs_no_settings_of_its_own() -> None:
    torch = pytest.importorskip("torch")
    from transformers import get_scheduler

    for name in Scheduler:
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=5e-4)
        schedule = get_scheduler(str(name), optimizer, num_warmup_steps=1, num_training_steps=4)
        for _ in range(4):
            optimizer.step()
            schedule.step()
