"""A refused command line ends in one message that names the place, the value and the cure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Outcome
from vlmbench import __version__

TYPED_WRONG = {
    "model=smoll": "model=smoll: there is no such choice; did you mean smol? it is one of llama32, llama32_tiny, phi3",
    "experiment=quik": "experiment=quik: there is no such choice; did you mean quick? it is one of baseline, quick,",
    "hydra/launcher=nomad": "pip install -c constraints.txt 'vlmbench[sweep]'",
    "stage=trian": "stage=trian: there is no such choice; did you mean train? it is one of run, prepare, check,",
    "mdoel=smol": "mdoel=smol: there is no setting mdoel; did you mean model?",
    "max_steps=3": "max_steps=3: there is no setting max_steps; did you mean trainer.max_steps?",
    "trianer.max_steps=3": "there is no setting trianer.max_steps; did you mean trainer.max_steps?",
    "trainer.max_step=3": "there is no setting trainer.max_step; did you mean trainer.max_steps?",
    "trainer.foo=1": "there is no setting trainer.foo; trainer, as chosen, has batch_size, early_stopping,",
    "+trainer.foo=1": "+trainer.foo: there is no setting trainer.foo; trainer, as chosen, has batch_size,",
    "trainer.max_steps=abc": "trainer.max_steps=abc: it has to be a whole number; set trainer.max_steps=<a whole",
    "trainer.learning_rate=1e": "trainer.learning_rate=1e: it has to be a number; set trainer.learning_rate=<a number>",
    "trainer.resume=maybe": "trainer.resume=maybe: it has to be true or false; set trainer.resume=<true or false>",
    "trainer.epochs=-1": "trainer.epochs=-1.0: it must be at least 0.001; set trainer.epochs=",
    "trainer.max_steps": "trainer.max_steps: a setting and its value are joined by an equals sign; write trainer.max_",
    "--model=phi3": "--hydra-help lists those that there are; a setting stands without dashes: model=phi3",
    "--seed 3": "--seed: there is no such flag, --hydra-help lists those that there are; a setting stands without",
    "model=smol -m seed=0,1": "seed=0,1: settings stand on both sides of a flag; put flags such as -m before all",
    "seed=0,1 --mutlirun": "--mutlirun: there is no such flag",
    "images=[a.png": "images=[a.png: the value cannot be read; brackets and quotes have to end",
    "source=folder": "source.path: it has no value yet; set source.path=<a value>",
    "view=files": "view.name: it has no value yet; set view.name=<a value>",
    "images=a.png": "images=a.png: it has to be a list in brackets; set images=<a list in brackets>",
    "stage=prepare data_dir=file": "file: a file is where a folder has to be; move it, or name another folder",
    "stage=serve": "run=: there is no finished run in this folder; name one with run=runs/<sweep>/<cell>",
    "stage=serve run=sweep": "run=sweep: there is no finished run in this folder; in it are 0_a, 1_b; name one",
    "seed=${foo}": "Interpolation key 'foo' not found",
    "model=3": "name one of the group's choices",
    "stage=report sweep=nothing": "nothing: no run in this folder; name one with sweep=",
}


@pytest.mark.parametrize("typed", TYPED_WRONG)
def test_what_is_typed_wrong_is_said_once_with_its_cure(cli: Callable[..., Outcome], typed: str) -> None:
    Path("file").touch()
    for name in ("0_a", "1_b"):
        Path("sweep", name, "adapter").mkdir(parents=True)
    outcome = cli(*typed.split(" "))
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert TYPED_WRONG[typed] in outcome.err
    assert outcome.err.count("\n") == 1
    assert not list(Path("runs").glob("*/*/status.json"))


def test_a_value_missing_in_every_cell_of_a_sweep_is_said_of_each(cli: Callable[..., Outcome]) -> None:
    outcome = cli("-m", "source=folder", "seed=0,1")
    assert outcome.code == 1
    said = outcome.out + outcome.err
    assert said.count("error: source.path: it has no value yet; set source.path=<a value>") == 2
    assert "Traceback" not in said


def test_what_breaks_by_our_own_fault_keeps_its_traceback(
    cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("a fault of ours")

    monkeypatch.setattr("vlmbench.task._run", broken)
    with pytest.raises(ValueError, match="a fault of ours"):
        cli("stage=check")


def test_the_version_is_told(cli: Callable[..., Outcome]) -> None:
    assert cli("--version") == Outcome(0, f"vlmbench {__version__}\n", "")
