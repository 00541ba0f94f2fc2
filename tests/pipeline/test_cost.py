"""The table of what a run costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vlmbench.backbones.contract import VisionCost
from vlmbench.pipeline.cost import Cost
from vlmbench.types import Task


@pytest.mark.parametrize(
    ("disk_budget", "line"),
    [
        (5e9, "5.00 GB of 400 images, encoded once in about 1.5 minutes on this machine"),
        (
            4e9,
            "5.00 GB of 400 images, encoded in about 1.5 minutes on this machine; tokens that fit "
            "neither into "
            "store.disk_gb=4 nor into memory are encoded again in every epoch",
        ),
        (
            None,
            "5.00 GB of 400 images, encoded whenever an image is shown: all of them once in "
            "about 1.5 "
            "minutes on this machine",
        ),
    ],
    ids=["it fits", "the disk's budget is small", "nothing is kept"],
)
def test_the_table_tells_how_often_images_are_encoded(disk_budget: float | None, line: str) -> None:
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
        num_images=400,
        vision=VisionCost(num_bytes=5 * 10**9, flops=1e12),
        vision_seconds=90,
        disk_budget=disk_budget,
    )
    assert list(cost.lines())[-1] == f"vision tokens     {line}"
    assert "held-out records  4, with controls" in cost.lines()
    asked_again = replace(cost, again_records=36, again_images=20)
    assert (
        "held-out records  4, with controls; 36 of them ask raw pairs again (eval.perturbations, "
        "eval.rewordings), with 20 changed images to encode"
    ) in asked_again.lines()
