"""Does an exported model of the real size answer as the run did, and how long does it take?

    python -m bench.export --out NAME [--workload pair-560] [--published FOLDER]

The workload's model has random weights. It trains for some steps on generated parts, through the
command line. Then it is exported: adapter, merged 16-bit model in the publisher's layout, model
card. Scores of random weights are so close that rounding may change some labels. `--margin` is
export.parity_margin, and the result names what changed.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import commands, record, setup
from bench.workloads import WORKLOADS

STEPS = 20


def main() -> None:
    """Train, export, and write what the export's decision_rules.json says of parity."""
    arguments = _parse_arguments()
    setup.make_model(arguments)

    with tempfile.TemporaryDirectory(dir=arguments.memory) as name:
        folder = Path(name)
        train_s = _run_vlmbench(_training_overrides(arguments, folder), folder)

        (run,) = [path.parent for path in folder.glob("runs/*/*/status.json")]
        export = folder / "export"
        overrides = [
            "stage=export",
            f"run={run}",
            f"export.out={export}",
            f"export.parity_margin={arguments.margin}",
            f"export.parity_records={arguments.records}",
        ]
        export_s = _run_vlmbench(overrides, folder)

        rules = json.loads((export / "decision_rules.json").read_text())
        files = {path.name: path.stat().st_size for path in sorted((export / "merged").iterdir())}

    rows = [_parity_row(name, parity) for name, parity in rules["parity"].items()]
    figures = {
        "workload": arguments.workload,
        "model": rules["model"],
        "steps": STEPS,
        "rows": rows,
        "merged_files": files,
        "train_s": round(train_s, 1),
        "export_s": round(export_s, 1),
    }
    path = record.write(record.result_name("export", arguments.workload, arguments.out), figures)
    print(f"\n{record.table(rows)}\n\nthe export took {export_s:.0f} s\n{path}")


def _parse_arguments() -> argparse.Namespace:
    parser = setup.make_parser(__doc__)
    parser.add_argument("--margin", type=float, default=0.0, help="export.parity_margin")
    parser.add_argument("--records", type=int, default=64, help="export.parity_records")
    return parser.parse_args()


def _parity_row(name: str, parity: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "beside the adapter": name,
        "records": parity["n"],
        "same label": parity["n"] - len(parity["changed"]),
        "farthest changed, nats": max(parity["changed"].values(), default=0.0),
        "largest difference, nats": parity["largest_difference"],
    }


def _training_overrides(arguments: argparse.Namespace, folder: Path) -> list[str]:
    model = WORKLOADS[arguments.workload].model
    if arguments.tiny:
        own = [f"model={model}_tiny"]
    else:
        own = [
            f"model={model}",
            f"model.path={setup.model_folder(arguments)}",
            f"trainer.engine={arguments.engine}",
        ]

    return [
        *own,
        f"trainer.vision={arguments.vision}",
        f"trainer.max_steps={STEPS}",
        f"data_dir={folder / 'data'}",
        f"cache_dir={folder / 'cache'}",
        *("trainer.eval_steps=null", "trainer.batch_size=4", "trainer.learning_rate=1e-3"),
        *("source.num_parts=48", "data.split.train=0.4", "data.split.val=0.3"),
        *("data.split.test=0.3", "eval.probes=false", "tracking=off", "store.disk_gb=0"),
    ]


def _run_vlmbench(overrides: list[str], folder: Path) -> float:
    """Run vlmbench in a process of its own; return its seconds.

    Unsloth changes transformers, and the GPU must be empty afterwards.
    """
    command = [sys.executable, "-m", "vlmbench", *overrides]
    started = time.monotonic()
    subprocess.run(command, cwd=folder, env=commands.environment(), check=True)
    return time.monotonic() - started


if __name__ == "__main__":
    main()
