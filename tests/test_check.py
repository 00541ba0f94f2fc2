"""What a run is said to cost."""

from __future__ import annotations

import pytest

from vlmbench.backbones.base import VisionCost
from vlmbench.check import Cost
from vlmbench.types import Task


@pytest.mark.parametrize(
    ("disk_budget", "said"),
    [
        (5e9, "5.00 GB of 400 pictures, made once in about 1.5 minutes on this machine"),
        (
            4e9,
            "5.00 GB of 400 pictures, made in about 1.5 minutes on this machine; what fits neither into "
            "store.disk_gb=4 nor into memory is made anew in every epoch",
        ),
        (
            None,
            "5.00 GB of 400 pictures, made anew whenever a picture is shown: once all in about 1.5 minutes on this "
            "machine",
        ),
    ],
    ids=["it fits", "the disk's budget is small", "nothing is kept"],
)
def test_how_often_vision_tokens_are_made_is_said(disk_budget: float | None, said: str) -> None:
    cost = Cost(
        train_records=8,
        tokens=80,
        trained_tokens=16,
        longest=10,
        steps=1,
        test_records=4,
        trained_parameters=100,
        disk_bytes=2800,
        by_task={Task.JUDGE_PAIR: 8},
        prompt_lengths=(8,) * 8,
        pictures=400,
        vision=VisionCost(num_bytes=5 * 10**9, flops=1e12),
        vision_seconds=90,
        disk_budget=disk_budget,
    )
    assert list(cost.lines())[-1] == f"vision tokens     {said}"
