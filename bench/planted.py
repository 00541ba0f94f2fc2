"""Is the verdict right where the truth is planted? Two worlds of made-up parts, each with an ablation through the
command line.

    python -m bench.planted [--ablations 5] [--seeds 3]

A blue mark on a part is a defect and a red one is paint. The pairs that train show unmarked parts and blue marks; those
that are held out show red and blue ones. In the first world the comparison records show what red marks are, in the same
words, and nothing else can tell: `with_shapes` is better in truth. In the second they repeat what the pairs show, so
that they carry nothing. What is counted is how often the verdict says "better" in each, by ablations of other parts and
seeds, beside what each ablation's own note says on power.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from PIL import Image

from bench import record

REPOSITORY = Path(__file__).parents[1]
SIDE = 224
PARTS = {"train": 60, "val": 15, "test": 60}
COLOURS = {"red": (220, 30, 30), "blue": (30, 60, 220)}
WORLDS = ("informative", "empty")
QUESTION = "Normal?"


def main() -> None:
    """Run the ablations of both worlds, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ablations", type=int, default=5, help="of each world")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", default="", help="the end of the result file's name")
    arguments, overrides = parser.parse_known_args()
    rows = []
    for world in WORLDS:
        for number in range(arguments.ablations):
            rows.append(_ablation(world, number, arguments.seeds, overrides))
            print(json.dumps(rows[-1]), flush=True)
    better = {world: [row["verdict"] == "better" for row in rows if row["world"] == world] for world in WORLDS}
    shares = {f"better_{world}": [sum(found), len(found)] for world, found in better.items()}
    path = record.write(record.name("planted", arguments.out), {**shares, "seeds": arguments.seeds, "rows": rows})
    print(f"\n{record.table(rows)}\n\n{shares}\n{path}")


def _ablation(world: str, number: int, seeds: int, overrides: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        manifest = write_world(folder, world, number)
        chosen = ",".join(str(100 * number + seed) for seed in range(seeds))
        command = [
            *(sys.executable, "-m", "vlmbench", "-m", "source=manifest", f"source.path={manifest}", "view=raw"),
            *("data=without_comparison,with_shapes", f"seed={chosen}", "prompt=short", "tracking=off"),
            *(f"prompt.questions.compare_shapes={QUESTION}", "prompt.labels.same_shape=normal"),
            *("prompt.labels.different_shape=abnormal", "eval.probes=false", "eval.batch_size=64", "sweep=runs/s"),
            *("trainer.max_steps=60", "trainer.eval_steps=30", f"cache_dir={folder / 'cache'}", *overrides),
        ]
        environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        verdicts = json.loads((folder / "runs" / "s" / "report" / "verdicts.json").read_text())
    (found,) = (row for row in verdicts if row["task"] == "judge_pair")
    kept = ("verdict", "difference", "low", "high", "p_value", "n_records", "n_groups", "n_seeds", "power_note")
    return {"world": world, "ablation": number, **{name: found[name] for name in kept}}


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
    for look in ("plain", "reference", *COLOURS):
        _draw(folder / f"{name}-{look}.png", surface, COLOURS.get(look), rng)
    yield _row(name, split, "judge_pair", "blue", "abnormal")
    yield _row(name, split, "judge_pair", "plain" if split == "train" else "red", "normal")
    if split == "train":
        yield _row(name, split, "compare_shapes", "blue", "different_shape")
        yield _row(name, split, "compare_shapes", "red" if world == "informative" else "plain", "same_shape")


def _draw(path: Path, surface: Any, colour: tuple[int, int, int] | None, rng: np.random.Generator) -> None:
    """A grey surface, not twice in the same light, with a square mark somewhere."""
    picture = Image.fromarray(surface).resize((SIDE, SIDE), Image.Resampling.BICUBIC).convert("RGB")
    light = float(rng.uniform(0.9, 1.1))
    picture = picture.point(lambda value: int(value * light))
    if colour is not None:
        x, y = (int(at) for at in rng.integers(10, SIDE - 90, 2))
        picture.paste(colour, (x, y, x + 80, y + 80))
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
