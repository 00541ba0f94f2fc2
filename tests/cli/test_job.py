"""No error at the start or the end of a command is dropped: Hydra would only warn of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from omegaconf import OmegaConf

from tests.conftest import Outcome
from vlmbench.cli.job import SweepCallback
from vlmbench.types import UserError

CALLBACKS = {
    "on_run_start": "_check_and_plan",
    "on_multirun_start": "_check_and_plan",
    "on_multirun_end": "SweepCallback._end_sweep",
}


@pytest.mark.parametrize("name", CALLBACKS)
@pytest.mark.parametrize(("error", "code"), [(UserError("mend it"), 2), (KeyError("odd"), 1)])
def test_an_error_of_a_callback_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, name: str, error: Exception, code: int
) -> None:
    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(f"vlmbench.cli.job.{CALLBACKS[name]}", fail)
    monkeypatch.setattr("vlmbench.cli.job.HydraConfig.instance", lambda: OmegaConf)
    monkeypatch.setattr(OmegaConf, "set_config", lambda config: None, raising=False)
    folder = {"run": {"dir": "r"}, "sweep": {"dir": "s"}, "sweeper": {"params": None}}
    config = OmegaConf.create({"stage": "run", "hydra": folder})
    with pytest.raises(SystemExit) as ended:
        getattr(SweepCallback(), name)(config)
    assert ended.value.code == code


@pytest.mark.slow
def test_a_sweep_whose_report_fails_has_an_exit_code(
    cli: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any) -> None:
        raise UserError("runs/s: the folder holds no run; set sweep=runs/t")

    monkeypatch.setattr("vlmbench.cli.stages.do_stage", lambda run: None)
    monkeypatch.setattr("vlmbench.cli.stages.log_states", refuse)
    ended = cli("-m", "model=llama32_tiny", "stage=train", "tracking=off", "seed=0,1")
    assert ended.code == 2
    assert "error: runs/s: the folder holds no run; set sweep=runs/t" in ended.err
