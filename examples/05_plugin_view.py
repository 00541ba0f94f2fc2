"""Show the images processed by an algorithm of your own.

    python examples/05_plugin_view.py

The view is the two files edges.py and edges.yaml beside this one. vlmbench finds them in the folder
that the environment variable VLMBENCH_PLUGINS names, in `data/views/` and `conf/view/`. The example
prints the accuracy on raw and on processed images. Arguments are settings, such as `model=phi3`.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import vlmbench

EXAMPLES = Path(__file__).parent
SETTINGS = ("name=plugin_view", "prompt=short", "tracking=off", "source.num_parts=40")
PLUGINS = {"edges.py": "data/views", "edges.yaml": "conf/view"}


def main(settings: Sequence[str]) -> None:
    """Make a folder of plug-ins with the view, do a run, and print its accuracy by view."""
    with tempfile.TemporaryDirectory() as plugins:
        for name, subfolder in PLUGINS.items():
            folder = Path(plugins) / subfolder
            folder.mkdir(parents=True)
            shutil.copy(EXAMPLES / name, folder)
        os.environ["VLMBENCH_PLUGINS"] = plugins

        run = vlmbench.run([*SETTINGS, "view=edges", *settings])

    for view, figures in run.read_metrics()["scores"]["judge_pair"].items():
        accuracy = figures["accuracy"]
        print(f"{view}: accuracy {accuracy['value']:.0%} of {accuracy['n']} records")


if __name__ == "__main__":
    main(sys.argv[1:])
