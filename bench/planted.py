"""Is the verdict right where the truth is planted? Ablations in two worlds of generated parts.

    python -m bench.planted [--ablations 10] [--seeds 3]

A blue mark on a part is a defect, and a red mark is paint. Training pairs show unmarked parts and
blue marks. A few held-out pairs show red marks. In the first world, comparison records show what
red marks are, in the same words, and nothing else tells: `with_shapes` is truly better, by a few
points. In the second world, they repeat what the pairs show, so they carry nothing. The table
counts how often the verdict is "better" in each world, over ablations of other parts and seeds.
Beside it stands the power that each ablation computes for the mean difference of its world.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from bench import commands, record
from vlmbench.runs.folder import RunDir
from vlmbench.runs.sweep import SweepDir
from vlmbench.stats import Compared, estimate_rate, power
from vlmbench.stats.compare import paired
from vlmbench.types import Rate

EDGE = 224  # pixels
PARTS = {"train": 24, "val": 4, "test": 40}
PAINTED = 0.15  # of held-out normal pairs: too few for every ablation of this size to see
STEPS, ROWS = 40, 4  # of training, and records a step
MARKS = {"red": ((220, 30, 30), EDGE, 60), "blue": ((30, 60, 220), 80, 80)}  # colour, width, height
WORLDS = ("informative", "empty")
VARIANTS = ("without_comparison", "with_shapes")
QUESTION = "Normal?"
VERDICT_KEYS = (
    *("verdict", "difference", "low", "high", "p_value"),
    *("figure", "n_records", "n_clusters", "seeds", "sentence"),
)


def main() -> None:
    """Run the ablations of both worlds in turn, and write the table after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ablations", type=int, default=10, help="of each world")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="", help="end of the result file's name")
    arguments, overrides = parser.parse_known_args()

    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as cache:  # shared: the model's weights are unpacked once
        for number in range(arguments.ablations):
            for world in WORLDS:
                settings = [f"cache_dir={cache}", *overrides]
                rows.append(_run_ablation(world, number, arguments.seeds, settings))
                print(json.dumps(rows[-1]), flush=True)

                figures = {"seeds": arguments.seeds, **_summaries(rows), "rows": rows}
                path = record.write(record.result_name("planted", arguments.out), figures)
    print(f"\n{record.table(rows)}\n\n{json.dumps(_summaries(rows), indent=1)}\n{path}")


def _summaries(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the summary of each world that has ablations."""
    by_world = {world: [row for row in rows if row["world"] == world] for world in WORLDS}
    return {world: _summary(own_rows) for world, own_rows in by_world.items() if own_rows}


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return how often each verdict came, the 95 % interval of "better", and the mean difference.

    `median_power` is the median of the power that the ablations compute for that difference.
    """
    verdicts = [row["verdict"] for row in rows]
    is_better = tuple(verdict == "better" for verdict in verdicts)
    better = estimate_rate(Rate(hits=is_better, parts=tuple(map(str, range(len(rows))))))

    difference = float(np.mean([row["difference"] for row in rows]))
    powers = [
        power.power(
            power.Sources(**row["sources"]),
            difference,
            n_parts=row["n_clusters"],
            n_seeds=min(row["seeds"]),
        )
        for row in rows
    ]
    return {
        "ablations": len(rows),
        "verdicts": {verdict: verdicts.count(verdict) for verdict in sorted(set(verdicts))},
        "better": {"value": better.value, "low": better.low, "high": better.high},
        "mean_difference": difference,
        "median_power": float(np.median(powers)),
    }


def _run_ablation(world: str, number: int, seeds: int, overrides: list[str]) -> dict[str, Any]:
    """Run the sweep of one ablation; return its verdict and what its power rests on."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = write_world(folder, world, number)
        run_seeds = ",".join(str(100 * number + seed) for seed in range(seeds))
        settings = _settings(manifest, run_seeds)
        command = [sys.executable, "-m", "vlmbench", "-m", *settings, *overrides]

        done = subprocess.run(
            command,
            cwd=folder,
            env=commands.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}")

        sweep = SweepDir(folder / "runs" / "s")
        verdicts = json.loads((sweep.report / "verdicts.json").read_text())
        sources = _sources(sweep.runs())

    (verdict,) = (row for row in verdicts["findings"] if row["task"] == "judge_pair")
    return {
        "world": world,
        "ablation": number,
        **{key: verdict[key] for key in VERDICT_KEYS},
        "sources": asdict(sources),
    }


def _settings(manifest: Path, seeds: str) -> list[str]:
    return [
        f"source.path={manifest}",
        f"data={','.join(VARIANTS)}",
        f"seed={seeds}",
        f"prompt.questions.compare_shapes={QUESTION}",
        f"trainer.max_steps={STEPS}",
        f"trainer.batch_size={ROWS}",
        *("source=manifest", "view=raw", "prompt=short", "tracking=off", "sweep=runs/s"),
        "baseline=[]",
        *("prompt.labels.same_shape=normal", "prompt.labels.different_shape=abnormal"),
        *("eval.probes=false", "eval.batch_size=64", "trainer.eval_steps=null"),
    ]


def _sources(runs: Sequence[RunDir]) -> power.Sources:
    """Return the variances on which the ablation's plan rests."""
    correct: dict[str, list[list[bool]]] = {variant: [] for variant in VARIANTS}
    names: list[str] = []
    for run in runs:
        predictions = sorted(run.read_predictions(), key=lambda prediction: prediction.id)
        variant = run.read_status()["data"]
        correct[variant].append([prediction.correct for prediction in predictions])
        names = [prediction.group for prediction in predictions]

    without, with_shapes = (np.array(correct[variant], dtype=np.float64) for variant in VARIANTS)
    pair = paired(with_shapes, without, clusters=names, figure=Compared.ACCURACY)
    return power.sources(pair.spread)


def write_world(folder: Path, world: str, number: int) -> Path:
    """Write the images and the manifest of one ablation's parts; return the manifest's path."""
    rng = np.random.default_rng([number, WORLDS.index(world)])
    rows: list[dict[str, Any]] = []
    for split, num_parts in PARTS.items():
        for part in range(num_parts):
            rows += _write_part(folder, f"{split}{part}", split, world, rng)

    manifest = folder / "manifest.jsonl"
    manifest.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    return manifest


def _write_part(
    folder: Path, name: str, split: str, world: str, rng: np.random.Generator
) -> Iterator[dict[str, Any]]:
    """Write the images of a part; yield its records."""
    surface = rng.integers(60, 200, (7, 7), dtype=np.uint8)
    for shown in ("plain", "reference", *MARKS):
        _write_image(folder / f"{name}-{shown}.png", surface, MARKS.get(shown), rng)

    is_painted = split != "train" and rng.random() < PAINTED
    yield _row(name, split, "judge_pair", "blue", "abnormal")
    yield _row(name, split, "judge_pair", "red" if is_painted else "plain", "normal")
    if split == "train":
        same = "red" if world == "informative" else "plain"
        yield _row(name, split, "compare_shapes", "blue", "different_shape")
        yield _row(name, split, "compare_shapes", same, "same_shape")


def _write_image(
    path: Path, surface: Any, mark: tuple[Any, int, int] | None, rng: np.random.Generator
) -> None:
    """Write a grey surface in a light of its own, with the mark at a random position."""
    image = Image.fromarray(surface).resize((EDGE, EDGE), Image.Resampling.BICUBIC).convert("RGB")
    light = float(rng.uniform(0.9, 1.1))
    image = image.point(lambda value: int(value * light))

    if mark is not None:
        colour, width, height = mark
        x, y = (int(rng.integers(0, EDGE - length + 1)) for length in (width, height))
        image.paste(colour, (x, y, x + width, y + height))
    image.save(path)


def _row(name: str, split: str, task: str, shown: str, label: str) -> dict[str, Any]:
    """Return the record that compares an image of a part with the part's reference."""
    roles = {"reference": "reference", shown: "query"}
    images = [
        {"path": f"{name}-{image}.png", "role": role, "view": "raw"}
        for image, role in roles.items()
    ]
    return {
        "id": f"{name}-{task}-{shown}",
        "task": task,
        "group": name,
        "label": label,
        "answer": label,
        "question": QUESTION,
        "split": split,
        "images": images,
    }


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
