"""The minutes that stage=check expects of a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vlmbench.baselines.linear_probe import LinearProbeConfig
from vlmbench.baselines.majority import MajorityConfig
from vlmbench.baselines.patch_nn import PatchNNConfig
from vlmbench.baselines.untuned import UntunedConfig
from vlmbench.config import Engine, EvalConfig, HeldOut, TrainerConfig
from vlmbench.data.tiles import Tiler
from vlmbench.pipeline import expect
from vlmbench.pipeline.expect import FIT_S, FORWARD, REPORT_S, Trial, seconds_by_phase
from vlmbench.types import ImageRef, Probe, Record, Role, Task

TRIAL = Trial(start_s=10.0, record_s=0.5, answer_s=0.25, image_s=0.125, map_s=2.0)


def make_records(first: int, number: int, probe: Probe = Probe.NONE) -> list[Record]:
    """Return pairs that share one reference, each with a query of its own."""
    reference = ImageRef(path=Path("good.png"), role=Role.REFERENCE, view="raw")
    return [
        Record(
            id=f"r{index}",
            task=Task.JUDGE_PAIR,
            images=(reference, ImageRef(path=Path(f"{index}.png"), role=Role.QUERY, view="raw")),
            answer="normal",
            label="normal",
            group=f"g{index}",
            probe=probe,
        )
        for index in range(first, first + number)
    ]


def make(
    *, baselines: dict[str, Any] | None = None, test: HeldOut = HeldOut.open, **trainer: Any
) -> tuple[Any, Any, Any]:
    """Return run, records and cost of 40 training, 8 validation and 12 held-out records."""
    settings = TrainerConfig(batch_size=8, **trainer)
    config = SimpleNamespace(trainer=settings, eval=EvalConfig(test=test), baseline=baselines or {})
    records = SimpleNamespace(
        train=make_records(0, 40),
        monitored=make_records(40, 4),
        validation=make_records(40, 8),
        held_out=[*make_records(48, 8), *make_records(56, 4, Probe.SWAP)],
        tiler=None,
    )
    cost = SimpleNamespace(steps=settings.planned_steps(40))
    return SimpleNamespace(config=config), records, cost


def test_every_phase_is_its_passes_times_what_they_take() -> None:
    found = seconds_by_phase(*make(epochs=2.0, eval_steps=None), TRIAL)
    assert found == {
        "start": 10.0,
        "encoding": (1 + 40 + 8 + 12) * 0.125,
        "training": 80 * 0.5,
        "answers": 20 * 0.25,
        "baselines": 0.0,
        "report": REPORT_S,
    }


def test_evaluations_in_training_are_counted_with_the_one_at_its_end() -> None:
    """Ten steps; evaluations after 4 and 8, and at the end."""
    found = seconds_by_phase(*make(epochs=2.0, eval_steps=4), TRIAL)
    assert found["training"] == 80 * 0.5 + 3 * 4 * (0.25 + FORWARD * 0.5)


def test_a_sealed_test_split_takes_no_time() -> None:
    found = seconds_by_phase(*make(test=HeldOut.sealed), TRIAL)
    assert found["answers"] == 8 * 0.25
    assert found["encoding"] == (1 + 40 + 8) * 0.125


def test_baselines_take_what_they_ask() -> None:
    """They answer 8 validation and 8 held-out records, and no controls."""
    baselines = {
        "majority": (MajorityConfig(), 0.0),
        "untuned": (UntunedConfig(), 16 * 0.25),
        "patch_nn": (PatchNNConfig(), 17 * 2.0),
        "linear_probe": (LinearProbeConfig(), FIT_S),
    }
    for name, (config, seconds) in baselines.items():
        found = seconds_by_phase(*make(baselines={name: config}), TRIAL)
        assert found["baselines"] == seconds, name


def test_the_tiles_of_whole_records_are_encoded_too() -> None:
    """Each image of the 20 answered records has 2 tiles; training records are tiles already."""
    run, records, cost = make(baselines={"patch_nn": PatchNNConfig()})
    records.tiler = Tiler(edge=100, overlap=0.0, size_of=lambda path: (200, 100))
    found = seconds_by_phase(run, records, cost, TRIAL)
    assert found["encoding"] == ((1 + 40) + 2 * (1 + 20)) * 0.125
    assert found["baselines"] == 2 * (1 + 16) * 2.0


@pytest.mark.parametrize(
    ("lacking", "engine", "words"),
    [
        (["there is no CUDA GPU"], Engine.transformers, "not known: there is no CUDA GPU"),
        ([], Engine.unsloth, "not known before Unsloth has compiled"),
    ],
)
def test_what_cannot_be_tried_is_not_guessed(
    lacking: list[str], engine: Engine, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, records, cost = make()
    run.config.model = SimpleNamespace(requirements=lambda: lacking)
    run.choose_engine = lambda: (engine, "")
    monkeypatch.setattr(expect, "try_passes", lambda *args: pytest.fail("it was tried"))
    assert expect.expected_time(run, records, cost).startswith(words)
