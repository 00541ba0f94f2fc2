"""What is trained on: pairs of made-up pictures, each with a question and an answer."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlmbench.types import ImageRef, Record, Role, Task

QUESTION = "Is the second part normal or abnormal?"  # 31 tokens with the turn's own in the tiny model's vocabulary
ANSWERS = {"normal": "normal", "abnormal": "abnormal: a scratch"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Pairs drawn from `pictures` different square pictures of `side` pixels; `batch` is what ours tries first."""

    model: str
    side: int
    pictures: int
    batch: int
    answer_words: int = 0  # more words in each answer
    once: bool = False  # no picture is shown twice: the store's worst case
    first: int = 0  # number of the first picture: others' pictures are not among them


WORKLOADS = {
    "pair-560": Workload(model="llama32", side=560, pictures=200, batch=80),
    "pair-1120": Workload(model="llama32", side=1120, pictures=200, batch=28),
    "pair-336x4": Workload(model="phi3", side=672, pictures=200, batch=10),
    "long-answer": Workload(model="llama32", side=560, pictures=200, batch=16, answer_words=150),
    "unique": Workload(model="llama32", side=560, pictures=2400, batch=16, once=True, first=100_000),
}


def make_records(workload: Workload, folder: Path, number: int) -> list[Record]:
    """Records of pairs, and their pictures as files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{seed}.png" for seed in range(workload.first, workload.first + workload.pictures)]
    missing = [int(path.stem) for path in paths if not path.exists()]
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(_write_picture, folder, workload.side), missing, chunksize=64))
    if workload.once:
        return [_record(i, paths[2 * i : 2 * i + 2], workload) for i in range(len(paths) // 2)]
    rng = np.random.default_rng(0)
    rounds = -(-2 * number // len(paths))  # in each, every picture is shown once
    shown = [paths[place] for _ in range(rounds) for place in rng.permutation(len(paths))]
    return [_record(i, shown[2 * i : 2 * i + 2], workload) for i in range(number)]


def _write_picture(folder: Path, side: int, seed: int) -> None:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
    picture.save(folder / f"{seed}.png", compress_level=1)


def _record(number: int, paths: list[Path], workload: Workload) -> Record:
    label = ("normal", "abnormal")[number % 2]
    roles = (Role.REFERENCE, Role.QUERY)
    answer = " ".join([ANSWERS[label], *["scratch"] * workload.answer_words])
    return Record(
        id=f"r{number}",
        task=Task.JUDGE_PAIR,
        images=tuple(ImageRef(path=path, role=role, view="raw") for path, role in zip(paths, roles, strict=True)),
        answer=answer,
        label=label,
        group=f"g{number}",
        question=QUESTION,
    )


def as_messages(records: list[Record]) -> Iterator[dict[str, Any]]:
    """The records as conversations with opened pictures: what the recipes of others take."""
    opened: dict[Path, Image.Image] = {}
    for record in records:
        pictures = [opened.setdefault(image.path, Image.open(image.path).convert("RGB")) for image in record.images]
        user = [{"type": "image", "image": picture} for picture in pictures]
        yield {
            "messages": [
                {"role": "user", "content": [*user, {"type": "text", "text": record.question}]},
                {"role": "assistant", "content": [{"type": "text", "text": record.answer}]},
            ]
        }
