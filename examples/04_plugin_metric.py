"""Add a metric of your own without a change to vlmbench.

    python examples/04_plugin_metric.py

The metric is the file alarm_rate.py beside this one. vlmbench finds it in the folder `metrics/` of
the folder that the environment variable VLMBENCH_PLUGINS names. The example prints the new figure
with its 95 % interval; the report shows it too. Arguments are settings, such as `model=phi3`.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import vlmbench

METRIC = Path(__file__).with_name("alarm_rate.py")
SETTINGS = ("name=plugin_metric", "prompt=short", "tracking=off", "source.num_parts=40")


def main(settings: Sequence[str]) -> None:
    """Make a folder of plug-ins with the metric, do a run, and print the metric's figure."""
    with tempfile.TemporaryDirectory() as plugins:
        folder = Path(plugins) / "metrics"
        folder.mkdir()
        shutil.copy(METRIC, folder)
        os.environ["VLMBENCH_PLUGINS"] = plugins

        run = vlmbench.run([*SETTINGS, *settings])

    figure = run.read_metrics()["scores"]["judge_pair"]["raw"]["alarm_rate"]
    low, high = figure["low"], figure["high"]
    print(f"alarms: {figure['value']:.0%} of {figure['n']} records ({low:.0%} to {high:.0%})")
    print(f"report: {run.path.parent / 'report' / 'index.html'}")


if __name__ == "__main__":
    main(sys.argv[1:])
