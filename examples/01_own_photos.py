"""Train on your own photos, and judge one of them.

    python examples/01_own_photos.py             with photos that this example draws
    python examples/01_own_photos.py photos      with yours, in photos/good and photos/bad

It prints the path of the report, and the decision on one bad photo with its probability. Further
arguments are settings, such as `model=phi3`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from photos import make_photos

import vlmbench

SETTINGS = ("name=own_photos", "prompt=short", "tracking=off")


def main(arguments: Sequence[str]) -> None:
    """Train a run on the photos, load it, and judge the first bad photo."""
    settings = [argument for argument in arguments if "=" in argument]
    folders = [Path(argument) for argument in arguments if "=" not in argument]

    with tempfile.TemporaryDirectory() as temporary:
        photos = folders[0] if folders else make_photos(Path(temporary))

        run = vlmbench.run([*SETTINGS, "source=folder", f"source.path={photos}", *settings])
        print(f"report: {run.path.parent / 'report' / 'index.html'}")

        reference, query = (min((photos / name).iterdir()) for name in ("good", "bad"))
        judgement = vlmbench.load(run).predict([reference, query])
        print(f"{query.name}: {judgement.decision}, P(abnormal) = {judgement.score:.2f}")


if __name__ == "__main__":
    main(sys.argv[1:])
