"""Before paying for a GPU: what a run would train on, word for word, and what it would cost."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlmbench.backbones.base import TokenCount, VisionCost
from vlmbench.config import StoreConfig, TrainerConfig, Vision
from vlmbench.data.dataset import Subset
from vlmbench.data.load import Data
from vlmbench.types import Record, Sample, Task

if TYPE_CHECKING:
    from vlmbench.backbones.base import Backbone

log = logging.getLogger(__name__)

BYTES_PER_TRAINED = 4 * 3 * 2 + 4  # weights and two moments in each of two checkpoints, and the adapter
TOWER_SHARE = 0.4  # of a matrix product's speed, which vision towers reach
MANY = 4  # repeats of one token, as of a picture's, that are shown as their number
BYTES_PER_PREDICTION = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a run takes. `tokens` are positions of all epochs, `trained_tokens` those that carry loss in one."""

    train_records: int
    tokens: int
    trained_tokens: int
    longest: int
    steps: int
    test_records: int
    trained_parameters: int
    disk_bytes: int
    by_task: dict[Task, int]
    prompt_lengths: tuple[int, ...]  # of each training record
    pictures: int  # different ones, of the training and the test side
    vision: VisionCost  # of them all
    vision_seconds: float  # to make their tokens here
    disk_budget: float | None  # bytes of tokens that are kept on disk; None: none are kept anywhere

    def lines(self) -> Iterator[str]:
        tasks = ", ".join(f"{count:,} {task}" for task, count in self.by_task.items())
        yield f"training records  {self.train_records:,} ({tasks})"
        yield f"tokens            {self.tokens:,} in {self.steps:,} steps; the longest record has {self.longest:,}"
        yield f"trained tokens    {self.trained_tokens:,} in one pass"
        yield f"trained weights   {self.trained_parameters:,}"
        yield f"held-out records  {self.test_records:,}, with controls"
        yield f"disk              about {self.disk_bytes / 1e6:,.0f} MB"
        yield f"vision tokens     {self.vision.num_bytes / 1e9:,.2f} GB of {self.pictures:,} pictures, {self._made()}"

    def _made(self) -> str:
        """How often vision tokens are made, and how long that takes."""
        minutes = f"about {self.vision_seconds / 60:,.1f} minutes on this machine"
        if self.disk_budget is None:
            return f"made anew whenever a picture is shown: once all in {minutes}"
        if self.vision.num_bytes > self.disk_budget:
            budget = f"store.disk_gb={self.disk_budget / 1e9:g}"
            return f"made in {minutes}; what fits neither into {budget} nor into memory is made anew in every epoch"
        return f"made once in {minutes}"


def cost_of(
    backbone: Backbone,
    train: Subset,
    *,
    num_test: int,
    data: Data,
    settings: TrainerConfig,
    store: StoreConfig,
    counts: Sequence[TokenCount],
) -> Cost:
    """What a run would take. `counts` are the tokens of each training record."""
    keeps = store.enabled and settings.vision is Vision.frozen
    steps = settings.planned_steps(len(train))
    seen = steps * settings.num_rows * settings.gradient_accumulation
    pictures, vision = vision_cost(backbone, train, data=data)
    parameters = sum(weight.numel() for weight in backbone.model.parameters() if weight.requires_grad)
    return Cost(
        train_records=len(train),
        tokens=round(sum(count.total for count in counts) / len(counts) * seen),
        trained_tokens=sum(count.trained for count in counts),
        longest=max(count.total for count in counts),
        steps=steps,
        test_records=num_test,
        trained_parameters=parameters,
        disk_bytes=parameters * BYTES_PER_TRAINED + num_test * BYTES_PER_PREDICTION,
        by_task=train.tasks(),
        prompt_lengths=tuple(count.total - count.trained for count in counts),
        pictures=pictures,
        vision=vision,
        vision_seconds=vision.flops / (TOWER_SHARE * _matmul_flops()),
        disk_budget=store.disk_gb * 1e9 if keeps else None,
    )


def vision_cost(backbone: Backbone, train: Subset, *, data: Data) -> tuple[int, VisionCost]:
    """How many different pictures a run shows, and what the tokens of them all take."""
    pictures = _pictures(train, data) | _pictures(data.test, data)
    costs = [backbone.vision_cost(size) for size in pictures.values()]
    num_bytes, flops = sum(cost.num_bytes for cost in costs), sum(cost.flops for cost in costs)
    return len(pictures), VisionCost(num_bytes=num_bytes, flops=flops)


def _matmul_flops() -> float:
    """Operations a second of a matrix product, tried on this machine's GPU, or else on its processor."""
    import torch

    gpu = torch.cuda.is_available()
    size, device, dtype = (8192, "cuda", torch.bfloat16) if gpu else (1024, "cpu", torch.float32)
    generator = torch.Generator(device).manual_seed(0)  # the run's own random state is left alone
    matrix = torch.randn(size, size, device=device, dtype=dtype, generator=generator)
    (matrix @ matrix).sum().item()  # the first product loads libraries
    started = time.perf_counter()
    (matrix @ matrix).sum().item()
    return 2.0 * size**3 / (time.perf_counter() - started)


def _pictures(records: Subset, data: Data) -> dict[tuple[Path, str], tuple[int, int]]:
    """(width, height) of each picture and view of records."""
    return {
        (image.path, image.view): size
        for record in records
        for image, size in zip(record.images, data.sizes(record), strict=True)
    }


def telling_records(train: Subset, counts: Sequence[TokenCount]) -> list[Record]:
    """Of each task that trains the first record with the longest answer; `counts` are the tokens of each record."""
    found: dict[Task, tuple[int, Record]] = {}
    for record, count in zip(train, counts, strict=True):
        if record.task not in found or count.trained > found[record.task][0]:
            found[record.task] = count.trained, record
    return [record for _, record in found.values()]


def loss_mask(backbone: Backbone, sample: Sample) -> str:
    """The record as the model reads it, the part that carries loss between >>> and <<<; many
    repeats of one token (a picture's) are shown as their number."""
    batch = backbone.collate([sample], with_answer=True)
    pieces = []
    trained = False
    for token, is_trained, count in _runs(batch["input_ids"][0].tolist(), (batch["labels"][0] != -100).tolist()):
        if is_trained != trained:
            pieces.append(">>>" if is_trained else "<<<")
            trained = is_trained
        text = str(backbone.tokenizer.decode([token]))
        pieces.append(text * count if count < MANY else f"[{text} x {count}]")
    return "".join([*pieces, "<<<"] if trained else pieces)


def _runs(ids: Sequence[int], trained: Sequence[bool]) -> Iterator[tuple[int, bool, int]]:
    start = 0
    for i in range(1, len(ids) + 1):
        if i == len(ids) or (ids[i], trained[i]) != (ids[start], trained[start]):
            yield ids[start], trained[start], i - start
            start = i


def describe_sides(data: Data) -> Iterator[str]:
    """A line for each side: parts, records by task, labels."""
    for name, records in (("train", data.train), ("val", data.val), ("test", data.test)):
        labels = Counter(record.label for record in records)
        tasks = ", ".join(f"{count:,} {task}" for task, count in records.tasks().items())
        words = ", ".join(f"{count:,} {label}" for label, count in sorted(labels.items()))
        yield f"{name:5} {records.groups():,} parts, {len(records):,} records: {tasks}; {words}"
