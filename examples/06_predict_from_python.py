"""Judge photos from a Python program with a finished run.

    python examples/06_predict_from_python.py                        trains a small run first
    python examples/06_predict_from_python.py runs/photos/0_...      uses a finished run

It prints the decision, the probability and the sentence of the model for each photo. It also tries
a text file: it prints why that cannot be judged. Further arguments are settings, such as
`model=phi3`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from photos import draw_plate, make_photos

import vlmbench

SETTINGS = ("name=predict", "prompt=short", "tracking=off")


def main(arguments: Sequence[str]) -> None:
    """Load the run once, and judge new photos against one reference."""
    settings = [argument for argument in arguments if "=" in argument]
    runs = [Path(argument) for argument in arguments if "=" not in argument]

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = ("source=folder", f"source.path={make_photos(folder)}")
        run = runs[0] if runs else vlmbench.run([*SETTINGS, *source, *settings])

        judge = vlmbench.load(run)
        reference = folder / "reference.png"
        draw_plate(1000, is_good=True).save(reference)

        for query in make_queries(folder):
            try:
                judgement = judge.predict([reference, query], sentence=True)
            except vlmbench.UserError as error:
                print(f"{query.name}: not judged: {error}")
            else:
                score = f"P(abnormal) = {judgement.score:.2f}"
                print(f"{query.name}: {judgement.decision}, {score}, {judgement.sentence!r}")


def make_queries(folder: Path) -> list[Path]:
    """Write a good plate, a bad plate and a text file with the name of an image."""
    paths = [folder / name for name in ("good.png", "bad.png", "text.png")]
    draw_plate(1001, is_good=True).save(paths[0])
    draw_plate(1002, is_good=False).save(paths[1])
    paths[2].write_text("This is no image.", encoding="utf-8")
    return paths


if __name__ == "__main__":
    main(sys.argv[1:])
