"""What the models train on: pairs of generated images, each with a question and an answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlmbench.types import ImageRef, Record, Role, Task

# With the turn's own tokens, the question has 31 tokens in the tiny model's vocabulary.
QUESTION = "Is the second part normal or abnormal?"
ANSWERS = {"normal": "normal", "abnormal": "abnormal: a scratch"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Pairs drawn from `num_images` different square images of `edge` pixels.

    `batch` is the batch size that vlmbench's own training tries first. `answer_words` lengthens
    each answer. With `shown_once`, no image is shown twice: the store's worst case. `first_image`
    numbers the first image, so that workloads need not share images.
    """

    model: str
    edge: int
    num_images: int
    batch: int
    answer_words: int = 0
    shown_once: bool = False
    first_image: int = 0


WORKLOADS = {
    "pair-560": Workload(model="llama32", edge=560, num_images=200, batch=80),
    "pair-1120": Workload(model="llama32", edge=1120, num_images=200, batch=28),
    "pair-336x4": Workload(model="phi3", edge=672, num_images=200, batch=10),
    "long-answer": Workload(model="llama32", edge=560, num_images=200, batch=16, answer_words=150),
    "unique": Workload(
        model="llama32",
        edge=560,
        num_images=2400,
        batch=16,
        shown_once=True,
        first_image=100_000,
    ),
}


def make_records(workload: Workload, folder: Path, number: int) -> list[Record]:
    """Return `number` records of pairs; write their images to `folder`.

    With `shown_once`, there are as many records as the images allow.
    """
    seeds = range(workload.first_image, workload.first_image + workload.num_images)
    paths = write_images(folder, workload.edge, seeds)

    if workload.shown_once:
        return [_record(i, paths[2 * i : 2 * i + 2], workload) for i in range(len(paths) // 2)]

    rng = np.random.default_rng(0)
    rounds = -(-2 * number // len(paths))  # each round shows every image once
    shown = [paths[index] for _ in range(rounds) for index in rng.permutation(len(paths))]
    return [_record(i, shown[2 * i : 2 * i + 2], workload) for i in range(number)]


def write_images(folder: Path, edge: int, seeds: Sequence[int]) -> list[Path]:
    """Write random square images that do not exist yet; return the paths of all."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{seed}.png" for seed in seeds]
    missing = [int(path.stem) for path in paths if not path.exists()]
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(_write_image, folder, edge), missing, chunksize=64))
    return paths


def make_conversations(records: Sequence[Record]) -> Iterator[dict[str, Any]]:
    """Yield the records as conversations with open images, as TRL and Unsloth take them."""
    images: dict[Path, Image.Image] = {}
    for record in records:
        for image in record.images:
            if image.path not in images:
                images[image.path] = Image.open(image.path).convert("RGB")

        shown = [{"type": "image", "image": images[image.path]} for image in record.images]
        question = {"type": "text", "text": record.question}
        answer = {"type": "text", "text": record.answer}
        yield {
            "messages": [
                {"role": "user", "content": [*shown, question]},
                {"role": "assistant", "content": [answer]},
            ]
        }


def _write_image(folder: Path, edge: int, seed: int) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((edge, edge), Image.Resampling.BICUBIC)
    image.save(folder / f"{seed}.png", compress_level=1)


def _record(number: int, paths: Sequence[Path], workload: Workload) -> Record:
    label = ("normal", "abnormal")[number % 2]
    images = [
        ImageRef(path=path, role=role, view="raw")
        for path, role in zip(paths, (Role.REFERENCE, Role.QUERY), strict=True)
    ]
    return Record(
        id=f"r{number}",
        task=Task.JUDGE_PAIR,
        images=tuple(images),
        answer=" ".join([ANSWERS[label], *["scratch"] * workload.answer_words]),
        label=label,
        group=f"g{number}",
        question=QUESTION,
    )
