"""A refused command line ends in one message that names the place, the value and the cure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Outcome
from vlmbench import __version__

TYPED_WRONG = {
    "model=smoll": (
        "model must be one of gemma3, gemma4, glm4v, hub, idefics3, internvl3, llama32, "
        "llama32_tiny, llava_onevision, mistral3, paligemma2, phi3, phi35, phi3_tiny, qwen25_vl, "
        "qwen35_vl, qwen3_vl, smol, smolvlm2, got smoll; set model=smol"
    ),
    "experiment=quik": (
        "experiment must be one of baseline, quick, tune, vivlm24, got quik; set experiment=quick"
    ),
    "hydra/launcher=nomad": (
        "hydra/launcher must be one of basic, ray, submitit_local, submitit_slurm, got nomad; set "
        "hydra/launcher=basic"
    ),
    "stage=trian": (
        "stage must be one of run, prepare, check, train, evaluate, reveal, report, dashboard, "
        "predict, export, serve, got trian; set stage=train"
    ),
    "mdoel=smol": "mdoel=smol: setting mdoel does not exist; did you mean model?",
    "max_steps=3": "max_steps=3: setting max_steps does not exist; did you mean trainer.max_steps?",
    "trianer.max_steps=3": (
        "trianer.max_steps=3: setting trianer.max_steps does not exist; did you mean "
        "trainer.max_steps?"
    ),
    "trainer.max_step=3": (
        "trainer.max_step=3: setting trainer.max_step does not exist; did you mean "
        "trainer.max_steps?"
    ),
    "trainer.foo=1": (
        "trainer.foo=1: setting trainer.foo does not exist; leave it out, or use a "
        "setting of trainer: batch_size, early_stopping, engine"
    ),
    "+trainer.foo=1": (
        "+trainer.foo: setting trainer.foo does not exist; leave it out, or use a "
        "setting of trainer: batch_size, early_stopping, engine"
    ),
    "trainer.max_steps=abc": (
        "trainer.max_steps must be an integer, got abc; set trainer.max_steps=1"
    ),
    "view.tile=32.5": "view.tile must be an integer, got 32.5; set view.tile=32",
    "source=folder source.path=. source.planted.kinds=[傷]": (
        "source.planted.kinds must be a list in brackets, got [傷]; set "
        "'source.planted.kinds=[scratch, hole, stain, blotch, patch, texture]'"
    ),
    "source=folder source.path=. source.pairs=3": (
        "source.pairs is a group of settings and takes no value of its own; set "
        "source.pairs.policy=nearest"
    ),
    "store.disk_gb=1,5": (
        "store.disk_gb has several values, 1,5, and this is one run; add -m for a sweep, or set "
        "store.disk_gb=100.0"
    ),
    "trainer.log_steps=1.5": (
        "trainer.log_steps must be an integer, got 1.5; set trainer.log_steps=5"
    ),
    "trainer.learning_rate=1e": (
        "trainer.learning_rate must be a number, got 1e; set trainer.learning_rate=0.0005"
    ),
    "trainer.resume=maybe": (
        "trainer.resume must be true or false, got maybe; set trainer.resume=true"
    ),
    "trainer.epochs=-1": "trainer.epochs must be at least 0.001, got -1; set trainer.epochs=3",
    "trainer.max_steps": (
        "trainer.max_steps: a setting needs an equals sign and a value; write "
        "trainer.max_steps=null"
    ),
    "--model=phi3": "unknown option --model=phi3; write the setting without dashes: model=phi3",
    "--seed 3": "unknown option --seed; write the setting without dashes: seed=3",
    "model=smol -m seed=0,1": (
        "seed=0,1: settings stand before and after an option; write -m model=smol seed=0,1"
    ),
    "seed=0,1 --mutlirun": "unknown option --mutlirun; did you mean --multirun?",
    "hydra/launcher=ray": (
        "hydra/launcher must be one of basic, got ray; set hydra/launcher=basic; launchers and "
        "sweepers come with pip install -c constraints.txt 'vlmbench[sweep]'"
    ),
    "images=[a.png": ("images must be a list in brackets, got [a.png; set 'images=[a.png]'"),
    "source.path=写真": (
        "source.path=写真: setting source.path does not exist; set source=folder (choices with"
    ),
    "seed=写真": "seed must be an integer, got 写真; set seed=0",
    "model=写真": "model must be one of gemma3, gemma4, glm4v, hub, idefics3, internvl3, llama32",
    "写真=1": "写真=1: setting 写真 does not exist; vlmbench --help lists the groups",
    "source.path=photos": (
        "source.path=photos: setting source.path does not exist; set source=folder (choices with"
    ),
    "source=folder": (
        "source.path has no value (Folder of the photos, with their labels); set source.path=photos"
    ),
    "view=files": "view.name has no value (Name of the view in your manifest); set view.name=rt",
    "~model": "model has no value; set model=smol",
    "seed=null": "seed must have a value, got null; set seed=0",
    "images=a.png": "images must be a list in brackets, got a.png; set 'images=[a.png]'",
    "stage=prepare data_dir=file": (
        "file is a file, and a folder must be there; move the file, or name another folder"
    ),
    "stage=serve": (
        "run=: the folder holds no finished run; train one first, such as vlmbench experiment=quick"
    ),
    "stage=serve run=sweep": (
        "run=sweep: the folder holds no finished run; set run=sweep/0_a (it holds 0_a, 1_b)"
    ),
    "seed=${foo}": "seed=${foo}: ${ is not read on the command line; set seed=0",
    "model=3": "model must be the name of a choice, got 3; set model=smol",
    "stage=report sweep=nothing": (
        "nothing: the folder holds no run; start a run first, such as vlmbench experiment=quick"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("typed", TYPED_WRONG)
def test_a_wrong_command_line_ends_in_one_message_with_its_cure(
    cli: Callable[..., Outcome], typed: str
) -> None:
    Path("file").touch()
    for name in ("0_a", "1_b"):
        Path("sweep", name, "adapter").mkdir(parents=True)
    outcome = cli(*typed.split(" "))
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert TYPED_WRONG[typed] in outcome.err
    assert outcome.err.count("\n") == 1
    assert not Path("runs").exists()


def test_a_sweep_with_a_missing_value_is_refused_before_anything_is_written(
    cli: Callable[..., Outcome],
) -> None:
    outcome = cli("-m", "source=folder", "seed=0,1")
    assert outcome.code == 2
    assert outcome.err == (
        "error: source.path has no value (Folder of the photos, with their labels); "
        "set source.path=photos\n"
    )
    assert not Path("runs").exists()


def test_one_wrong_run_stops_its_sweep_before_anything_is_written(
    cli: Callable[..., Outcome],
) -> None:
    outcome = cli("-m", "seed=0,-1")
    assert outcome.code == 2
    assert outcome.err == "error: seed must be between 0 and 4294967295, got -1; set seed=0\n"
    assert not Path("runs").exists()


def test_what_breaks_by_our_own_fault_keeps_its_traceback(
    cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a fault of ours")

    monkeypatch.setattr("vlmbench.cli.job.make_run", broken)
    with pytest.raises(ValueError, match="a fault of ours"):
        cli("stage=check")


def test_the_version_is_printed(cli: Callable[..., Outcome]) -> None:
    assert cli("--version") == Outcome(0, f"vlmbench {__version__}\n", "")
