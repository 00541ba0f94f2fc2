"""Write a manifest of your own records, and train on it.

    python examples/02_manifest.py

A manifest is a file of JSON lines, one record a line, with its images beside it. The example
writes one about drawn plates, and prints the first record and the accuracy on held-out records.
Arguments are settings, such as `model=phi3`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from photos import draw_plate

import vlmbench

SETTINGS = ("name=own_records", "prompt=short", "tracking=off", "view=raw")
NUM_PARTS = 30
ANSWERS = {"normal": "normal", "abnormal": "abnormal: a hole is missing"}


def make_records(folder: Path) -> Iterator[dict[str, Any]]:
    """Draw a reference and two queries of each part, and yield a record for each query."""
    for part in range(NUM_PARTS):
        reference = f"{part}-reference.png"
        draw_plate(3 * part, is_good=True).save(folder / reference)

        for offset, label in enumerate(ANSWERS, start=1):
            query = f"{part}-{label}.png"
            draw_plate(3 * part + offset, is_good=label == "normal").save(folder / query)
            yield {
                "id": f"{part}-{label}",
                "task": "judge_pair",
                "group": f"part-{part}",
                "label": label,
                "answer": ANSWERS[label],
                "images": [
                    {"path": reference, "role": "reference"},
                    {"path": query, "role": "query"},
                ],
            }


def main(settings: Sequence[str]) -> None:
    """Write the manifest, train a run on it, and print its accuracy."""
    with tempfile.TemporaryDirectory() as temporary:
        manifest = Path(temporary) / "manifest.jsonl"
        lines = [json.dumps(record) for record in make_records(manifest.parent)]
        manifest.write_text("\n".join(lines) + "\n", encoding="utf-8")
        print(f"first record: {lines[0]}")

        source = ("source=manifest", f"source.path={manifest}")
        run = vlmbench.run([*SETTINGS, *source, *settings])

    accuracy = run.read_metrics()["scores"]["judge_pair"]["raw"]["accuracy"]
    print(f"accuracy on {accuracy['n']} held-out records: {accuracy['value']:.0%}")


if __name__ == "__main__":
    main(sys.argv[1:])
