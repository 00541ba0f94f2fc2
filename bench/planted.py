"""Is the verdict right where the truth is planted? Two worlds of made-up parts, ablations of each through the command
line.

    python -m bench.planted [--ablations 10] [--seeds 3]

A blue mark on a part is a defect and a red one is paint. The pairs that train show unmarked parts and blue marks; of
those that are held out, a few show red ones. In the first world the comparison records show what red marks are, in the
same words, and nothing else can tell: `with_shapes` is better in truth, by a few points. In the second they repeat what
the pairs show, so that they carry nothing. What is counted is how often the verdict says "better" in each, by ablations
of other parts and seeds, beside the power that each ablation computes for the mean difference of all of its world.
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

from bench import record
from vlmbench.rundir import RunDir, SweepDir
from vlmbench.stats import estimate_rate, power
from vlmbench.stats.spread import measure
from vlmbench.types import Rate

REPOSITORY = Path(__file__).parents[1]
SIDE = 224
PARTS = {"train": 24, "val": 4, "test": 40}
PAINTED = 0.15  # of the held-out normal pairs: so few that not every ablation of this size sees the difference
STEPS, ROWS = 40, 4  # of training, and records a step
MARKS = {"red": ((220, 30, 30), SIDE, 60), "blue": ((30, 60, 220), 80, 80)}  # colour, width, height
WORLDS = ("informative", "empty")
VARIANTS = ("without_comparison", "with_shapes")
QUESTION = "Normal?"


def main() -> None:
    """Run the ablations of both worlds in turn, and write what is known after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ablations", type=int, default=10, help="of each world")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="", help="the end of the result file's name")
    arguments, overrides = parser.parse_known_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as cache:  # one for all: the model's weights are unpacked once
        for number in range(arguments.ablations):
            for world in WORLDS:
                settings = [f"cache_dir={cache}", *overrides]
                rows.append(_ablation(world, number, arguments.seeds, settings))
                print(json.dumps(rows[-1]), flush=True)
                figures = {"seeds": arguments.seeds, **_shares(rows), "rows": rows}
                path = record.write(record.name("planted", arguments.out), figures)
    print(f"\n{record.table(rows)}\n\n{json.dumps(_shares(rows), indent=1)}\n{path}")


def _shares(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Of each world: how often the verdict is what, with the 95 % interval of "better"; the mean difference, and the
    median of the power that the ablations compute for it."""
    found = {}
    for world in WORLDS:
        own = [row for row in rows if row["world"] == world]
        if not own:
            continue
        said = [row["verdict"] for row in own]
        better = estimate_rate(
            Rate(hits=tuple(word == "better" for word in said), groups=tuple(map(str, range(len(own)))))
        )
        difference = float(np.mean([row["difference"] for row in own]))
        powers = [
            power.power(power.Sources(**row["sources"]), difference, n_groups=row["n_groups"], n_seeds=row["n_seeds"])
            for row in own
        ]
        found[world] = {
            "ablations": len(own),
            "verdicts": {word: said.count(word) for word in sorted(set(said))},
            "better": {"value": better.value, "low": better.low, "high": better.high},
            "mean_difference": difference,
            "median_power": float(np.median(powers)),
        }
    return found


def _ablation(world: str, number: int, seeds: int, overrides: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = write_world(folder, world, number)
        chosen = ",".join(str(100 * number + seed) for seed in range(seeds))
        command = [
            *(sys.executable, "-m", "vlmbench", "-m", "source=manifest", f"source.path={manifest}", "view=raw"),
            *(f"data={','.join(VARIANTS)}", f"seed={chosen}", "prompt=short", "tracking=off"),
            *(f"prompt.questions.compare_shapes={QUESTION}", "prompt.labels.same_shape=normal"),
            *("prompt.labels.different_shape=abnormal", "eval.probes=false", "eval.batch_size=64", "sweep=runs/s"),
            *(f"trainer.max_steps={STEPS}", f"trainer.batch_size={ROWS}", "trainer.eval_steps=null", *overrides),
        ]
        environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        sweep = SweepDir(folder / "runs" / "s")
        verdicts = json.loads((sweep.report / "verdicts.json").read_text())
        sources = _sources(sweep.cells())
    (found,) = (row for row in verdicts if row["task"] == "judge_pair")
    kept = ("verdict", "difference", "low", "high", "p_value", "n_records", "n_groups", "n_seeds", "power_note")
    return {"world": world, "ablation": number, **{name: found[name] for name in kept}, "sources": asdict(sources)}


def _sources(cells: Sequence[RunDir]) -> power.Sources:
    """What the ablation's plan rests on."""
    sides: dict[str, list[list[bool]]] = {variant: [] for variant in VARIANTS}
    parts: list[str] = []
    for cell in cells:
        answers = sorted(cell.read_predictions(), key=lambda prediction: prediction.id)
        sides[cell.read_status()["data"]].append([answer.correct for answer in answers])
        parts = [answer.group for answer in answers]
    _, groups = np.unique(parts, return_inverse=True)
    without, with_shapes = (np.array(sides[variant], dtype=np.float64) for variant in VARIANTS)
    return power.sources(measure(with_shapes, without, groups))


def write_world(folder: Path, world: str, number: int) -> Path:
    """The pictures and the manifest of one ablation's parts."""
    rng = np.random.default_rng([number, WORLDS.index(world)])
    rows = []
    for split, parts in PARTS.items():
        for part in range(parts):
            rows += list(_part(folder, f"{split}{part}", split, world, rng))
    manifest = folder / "manifest.jsonl"
    manifest.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    return manifest


def _part(folder: Path, name: str, split: str, world: str, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
    surface = rng.integers(60, 200, (7, 7), dtype=np.uint8)
    for look in ("plain", "reference", *MARKS):
        _draw(folder / f"{name}-{look}.png", surface, MARKS.get(look), rng)
    painted = split != "train" and rng.random() < PAINTED
    yield _row(name, split, "judge_pair", "blue", "abnormal")
    yield _row(name, split, "judge_pair", "red" if painted else "plain", "normal")
    if split == "train":
        yield _row(name, split, "compare_shapes", "blue", "different_shape")
        yield _row(name, split, "compare_shapes", "red" if world == "informative" else "plain", "same_shape")


def _draw(path: Path, surface: Any, mark: tuple[Any, int, int] | None, rng: np.random.Generator) -> None:
    """A grey surface, not twice in the same light, with a mark somewhere."""
    picture = Image.fromarray(surface).resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB")
    light = float(rng.uniform(0.9, 1.1))
    picture = picture.point(lambda value: int(value * light))
    if mark is not None:
        colour, width, height = mark
        x, y = (int(rng.integers(0, SIDE - length + 1)) for length in (width, height))
        picture.paste(colour, (x, y, x + width, y + height))
    picture.save(path)


def _row(name: str, split: str, task: str, look: str, label: str) -> dict[str, Any]:
    images = [
        {"path": f"{name}-{shown}.png", "role": role, "view": "raw"}
        for shown, role in (("reference", "reference"), (look, "query"))
    ]
    row = {"id": f"{name}-{task}-{look}", "task": task, "group": name, "label": label, "answer": label}
    return row | {"question": QUESTION, "split": split, "images": images}


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
