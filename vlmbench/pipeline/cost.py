"""The cost of a run, before anybody pays for a GPU."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlmbench.backbones.contract import VisionCost
from vlmbench.backbones.precision import compute_type
from vlmbench.config import Precision, StoreConfig, TrainerConfig, Vision
from vlmbench.data.load import Data
from vlmbench.data.run_records import RunRecords
from vlmbench.types import Box, Probe, Record, Task

if TYPE_CHECKING:
    from vlmbench.backbones.contract import Backbone

# A trained weight is kept with its two moments in each of two checkpoints, and once in the adapter.
BYTES_PER_TRAINED_WEIGHT = 4 * 3 * 2 + 4
BYTES_PER_PREDICTION = 1_000
ASKED_AGAIN = frozenset({Probe.PERTURBED, Probe.REWORDED})
Shown = tuple[Path, str, str, Box | None]  # an image's path, view, change and tile
TOWER_SHARE = 0.4  # of a matrix product's speed: what vision towers reach


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """The cost of a run.

    `tokens` are positions of all epochs; `trained_tokens` carry loss in one epoch. `num_images` and
    `vision` count the different images of training and test. `vision_seconds` is the time to encode
    them here. `disk_budget` is in bytes of vision tokens; None: no tokens are stored.
    `again_records` are the records that ask a held-out pair again in another form, and
    `again_images` the different images that only they show. `test_tiles` are the tiles of the
    held-out records; 0 if they are shown whole.
    """

    train_records: int
    tokens: int
    trained_tokens: int
    longest: int
    steps: int
    test_records: int
    trained_parameters: int
    disk_bytes: int
    by_task: dict[Task, int]
    prompt_lengths: tuple[int, ...]
    num_images: int
    vision: VisionCost
    vision_seconds: float
    disk_budget: float | None
    again_records: int = 0
    again_images: int = 0
    test_tiles: int = 0

    def lines(self) -> Iterator[str]:
        """Yield the lines of the table that `stage=check` prints."""
        tasks = ", ".join(f"{count:,} {task}" for task, count in self.by_task.items())
        megabytes = self.disk_bytes / 1e6
        vision = f"{self.vision.num_bytes / 1e9:,.2f} GB of {self.num_images:,} images"

        yield f"training records  {self.train_records:,} ({tasks})"
        yield (
            f"tokens            {self.tokens:,} in {self.steps:,} steps; "
            f"the longest record has {self.longest:,}"
        )
        yield f"trained tokens    {self.trained_tokens:,} in one epoch"
        yield f"trained weights   {self.trained_parameters:,}"
        held_out = f"{self.test_records:,}, with controls{self._tiles()}{self._again()}"
        yield f"held-out records  {held_out}"
        yield f"disk              about {megabytes:,.0f} MB"
        yield f"vision tokens     {vision}, {self._encoding()}"

    def _tiles(self) -> str:
        return f", in {self.test_tiles:,} tiles" if self.test_tiles else ""

    def _again(self) -> str:
        if not self.again_records:
            return ""
        return (
            f"; {self.again_records:,} of them ask raw pairs again (eval.perturbations, "
            f"eval.rewordings), with {self.again_images:,} changed images to encode"
        )

    def _encoding(self) -> str:
        """Return how often images are encoded, and how long that takes."""
        minutes = f"about {self.vision_seconds / 60:,.1f} minutes on this machine"
        if self.disk_budget is None or not self.vision.num_bytes:
            return f"encoded whenever an image is shown: all of them once in {minutes}"
        if self.vision.num_bytes > self.disk_budget:
            return (
                f"encoded in {minutes}; tokens that fit neither into "
                f"store.disk_gb={self.disk_budget / 1e9:g} nor into memory "
                "are encoded again in every epoch"
            )
        return f"encoded once in {minutes}"


def cost_of(
    backbone: Backbone, records: RunRecords, *, settings: TrainerConfig, store: StoreConfig
) -> Cost:
    """Return what a run on these records takes."""
    train, counts = records.train, records.token_counts
    num_test = len(records.held_out)

    steps = settings.planned_steps(len(train))
    records_seen = steps * settings.num_rows * settings.gradient_accumulation
    mean_tokens = sum(count.total for count in counts) / len(counts)

    weights = backbone.model.parameters()
    parameters = sum(weight.numel() for weight in weights if weight.requires_grad)
    num_images, vision = vision_cost(backbone, train, data=records.shown.data)
    stores_tokens = store.enabled and settings.vision is Vision.frozen

    return Cost(
        train_records=len(train),
        tokens=round(mean_tokens * records_seen),
        trained_tokens=sum(count.trained for count in counts),
        longest=max(count.total for count in counts),
        steps=steps,
        test_records=num_test,
        trained_parameters=parameters,
        disk_bytes=parameters * BYTES_PER_TRAINED_WEIGHT + num_test * BYTES_PER_PREDICTION,
        by_task=train.count_tasks(),
        prompt_lengths=tuple(count.total - count.trained for count in counts),
        num_images=num_images,
        vision=vision,
        vision_seconds=vision.flops / (TOWER_SHARE * _matmul_flops(settings.precision)),
        disk_budget=store.disk_gb * 1e9 if stores_tokens else None,
        again_records=sum(record.probe in ASKED_AGAIN for record in records.held_out),
        again_images=len(_changed_images(records.held_out)),
        test_tiles=_count_tiles(records),
    )


def _count_tiles(records: RunRecords) -> int:
    tiler = records.tiler
    return 0 if tiler is None else sum(len(tiler.boxes(record)) for record in records.held_out)


def _changed_images(records: Iterable[Record]) -> set[tuple[Path, str, str]]:
    """Return the path, view and change of each changed image."""
    return {
        (image.path, image.view, image.change)
        for record in records
        for image in record.images
        if image.change
    }


def vision_cost(
    backbone: Backbone, train: Sequence[Record], *, data: Data
) -> tuple[int, VisionCost]:
    """Return how many different images a run shows, and what the tokens of all of them take."""
    sizes = _image_sizes(train, data) | _image_sizes(data.test, data)
    costs = [backbone.vision_cost(size) for size in sizes.values()]

    num_bytes = sum(cost.num_bytes for cost in costs)
    flops = sum(cost.flops for cost in costs)
    return len(sizes), VisionCost(num_bytes=num_bytes, flops=flops)


def _image_sizes(records: Sequence[Record], data: Data) -> dict[Shown, tuple[int, int]]:
    """Return the (width, height) of each image or tile, view and change in the records."""
    return {
        (image.path, image.view, image.change, image.box): size
        for record in records
        for image, size in zip(record.images, data.sizes(record), strict=True)
    }


def _matmul_flops(precision: Precision) -> float:
    """Return the operations a second of a matrix product, measured on the GPU or the processor."""
    import torch

    size, device = (8192, "cuda") if torch.cuda.is_available() else (1024, "cpu")
    dtype = compute_type(precision)

    generator = torch.Generator(device).manual_seed(0)  # leaves the run's own random state alone
    matrix = torch.randn(
        size,
        size,
        device=device,
        dtype=dtype,
        generator=generator,
    )
    (matrix @ matrix).sum().item()  # the first product loads libraries

    started = time.perf_counter()
    (matrix @ matrix).sum().item()
    return 2.0 * size**3 / (time.perf_counter() - started)
