"""trainer.precision from the command line, on cards that are played."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.conftest import Outcome
from tests.helpers.cards import P100, T4, play_card
from vlmbench.pipeline import check, cost

Cli = Callable[..., Outcome]
COMMAND = ("model=llama32_tiny", "trainer=debug", "source.num_parts=24", "tracking=off")


@pytest.fixture
def stages(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The precisions of the runs whose stages began; nothing else of them is done."""
    begun: list[str] = []
    monkeypatch.setattr(
        "vlmbench.cli.stages.do_stage", lambda run: begun.append(run.choose_precision()[0])
    )
    return begun


@pytest.mark.slow
@pytest.mark.parametrize("mode", [(), ("-m", "seed=0,1")])
def test_bf16_on_a_t4_is_refused_before_anything_is_written(
    cli: Cli,
    tmp_path: Path,
    stages: list[str],
    monkeypatch: pytest.MonkeyPatch,
    mode: tuple[str, ...],
) -> None:
    play_card(monkeypatch, T4)
    refused = cli(*mode, *COMMAND, "trainer.precision=bf16")
    assert refused.code == 2
    assert "Traceback" not in refused.err
    assert "trainer.precision=bf16: the GPU Tesla T4 has compute capability 7.5" in refused.err
    assert not list(tmp_path.iterdir())
    assert not stages

    cure = re.search(r"set (trainer\.precision=\w+)", refused.err)[1]
    cli(*mode, *COMMAND, cure)
    assert set(stages) == {"fp16"}


@pytest.mark.slow
def test_a_card_that_is_too_old_is_refused_and_can_be_hidden(
    cli: Cli, tmp_path: Path, stages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    play_card(monkeypatch, P100)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    refused = cli(*COMMAND)
    assert refused.code == 2
    assert "Tesla P100-PCIE-16GB has compute capability 6.0" in refused.err
    assert not list(tmp_path.iterdir())

    name, value, model = re.search(r"(\w+)=(\S*) python -m vlmbench (\S+)", refused.err).groups()
    monkeypatch.setenv(name, value)
    cli(model, *COMMAND[1:])
    assert stages == ["fp32"]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.slow
def test_fp16_without_a_gpu_is_refused(
    cli: Cli, tmp_path: Path, stages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused = cli(*COMMAND, "trainer.precision=fp16")
    assert refused.code == 2
    assert "trainer.precision=fp16: there is no CUDA GPU" in refused.err
    assert not list(tmp_path.iterdir())

    cli(*COMMAND, re.search(r"set (trainer\.precision=\w+)", refused.err)[1])
    assert stages == ["fp32"]


def test_an_unknown_precision_is_refused_with_those_there_are(cli: Cli) -> None:
    refused = cli(*COMMAND, "trainer.precision=fp23")
    assert refused.code == 2
    assert "auto" in refused.err
    assert "bf16" in refused.err


@pytest.mark.slow
def test_the_check_says_which_precision_and_why(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The minutes of a run are not tried: the card is played."""
    plain = cli("stage=check", *COMMAND)
    assert plain.code == 0, plain.err
    if not torch.cuda.is_available():
        assert "precision         fp32 (there is no CUDA GPU)" in plain.out

    play_card(monkeypatch, T4)
    monkeypatch.setattr(cost, "_matmul_flops", lambda precision: 1e12)
    monkeypatch.setattr(check, "expected_time", lambda *args: "unknown")
    played = cli("stage=check", *COMMAND)
    assert played.code == 0, played.err
    line = "precision         fp16 (Tesla T4 has compute capability 7.5, and bf16 needs 8.0)"
    assert line in played.out
