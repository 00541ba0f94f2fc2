"""Does an exported model of the real size answer as the run did, and what does exporting take?

    python -m bench.export --out NAME [--workload pair-560] [--published FOLDER]

The workload's model with random weights is trained for some steps on generated parts, through the command line, and
exported: adapter, merged 16-bit model in the publisher's layout, model card. Weights are random and labels so close
that rounding may change some: `--margin` is judge.parity_margin, and what changed is in the result.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import record, setup
from bench.workloads import WORKLOADS

REPOSITORY = Path(__file__).resolve().parents[1]
STEPS = 20


def main() -> None:
    """Train, export, and write what the export's judge.json says of parity."""
    arguments = _arguments()
    setup.make_model(arguments)
    with tempfile.TemporaryDirectory(dir=arguments.memory) as folder:
        place = Path(folder)
        started = time.monotonic()
        _vlmbench(_training(arguments, place), place)
        trained = time.monotonic()
        (run,) = [path.parent for path in place.glob("runs/*/*/status.json")]
        export = place / "export"
        margins = [f"judge.parity_margin={arguments.margin}", f"judge.parity_records={arguments.records}"]
        _vlmbench(["stage=export", f"run={run}", f"judge.out={export}", *margins], place)
        done = time.monotonic()
        rules = json.loads((export / "judge.json").read_text())
        files = {path.name: path.stat().st_size for path in sorted((export / "merged").iterdir())}
    rows = [
        {
            "beside the adapter": name,
            "records": one["n"],
            "same label": one["n"] - len(one["changed"]),
            "farthest changed, nats": max(one["changed"].values(), default=0.0),
            "largest difference, nats": one["largest_difference"],
        }
        for name, one in rules["parity"].items()
    ]
    figures = {
        "workload": arguments.workload,
        "model": rules["model"],
        "steps": STEPS,
        "rows": rows,
        "merged_files": files,
    }
    path = record.write(
        record.name("export", arguments.workload, arguments.out),
        figures | {"train_s": round(trained - started, 1), "export_s": round(done - trained, 1)},
    )
    print(f"\n{record.table(rows)}\n\nexport took {done - trained:.0f} s\n{path}")


def _arguments() -> argparse.Namespace:
    parser = setup.parser(__doc__)
    parser.add_argument("--margin", type=float, default=0.0, help="judge.parity_margin")
    parser.add_argument("--records", type=int, default=64, help="judge.parity_records")
    return parser.parse_args()


def _training(arguments: argparse.Namespace, place: Path) -> list[str]:
    tiny = WORKLOADS[arguments.workload].model + "_tiny"
    folder = setup.model_folder(arguments)
    model = [f"model={tiny}"] if arguments.tiny else [f"model={tiny.removesuffix('_tiny')}", f"model.path={folder}"]
    return [
        *model,
        *([] if arguments.tiny else [f"trainer.engine={arguments.engine}"]),
        *(f"trainer.vision={arguments.vision}", f"trainer.max_steps={STEPS}", "trainer.eval_steps=null"),
        *("trainer.batch_size=4", "trainer.learning_rate=1e-3", "source.num_parts=48", "data.split.train=0.4"),
        *("data.split.val=0.3", "data.split.test=0.3", "eval.probes=false", "tracking=off"),
        *("store.disk_gb=0", f"data_dir={place / 'data'}", f"cache_dir={place / 'cache'}"),
    ]


def _vlmbench(overrides: list[str], place: Path) -> None:
    """A command of its own: Unsloth changes transformers, and the GPU is empty afterwards."""
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    subprocess.run([sys.executable, "-m", "vlmbench", *overrides], cwd=place, env=environment, check=True)


if __name__ == "__main__":
    main()
