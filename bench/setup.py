"""What the benchmarks of whole models share: options, random models, vlmbench's own training."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.workloads import WORKLOADS, make_records
from vlmbench.types import Record

if TYPE_CHECKING:
    from vlmbench.data.run_records import Samples

RECORDS = 4000


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that say what runs, and where."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workload", default="pair-560", help=f"one of {', '.join(WORKLOADS)}")
    parser.add_argument(
        "--engine",
        default="unsloth",
        choices=["unsloth", "transformers"],
        help="engine of vlmbench",
    )
    parser.add_argument("--vision", default="frozen", choices=["frozen", "lora"])
    parser.add_argument(
        "--published", type=Path, help="the hub's config.json and tokenizer files of Phi-3-vision"
    )
    parser.add_argument(
        "--memory",
        type=Path,
        default=Path("/dev/shm"),  # noqa: S108
        help="folder of the model and the images",
    )
    parser.add_argument(
        "--images", type=int, help="number of different images, instead of the workload's"
    )
    for level in ("device", "host", "disk"):
        parser.add_argument(
            f"--{level}-gb", type=float, help=f"store.{level}_gb, instead of the default"
        )
    parser.add_argument(
        "--layers", type=int, help="layers of the decoder, where only the tower counts"
    )
    parser.add_argument("--out", default="", help="end of the result file's name")
    parser.add_argument(
        "--tiny", action="store_true", help="test the benchmark with the tiny model on a CPU"
    )
    return parser


def model_folder(arguments: argparse.Namespace) -> Path:
    """Return the folder of the workload's model."""
    model = WORKLOADS[arguments.workload].model
    kind = "tiny" if arguments.tiny else "random"
    if arguments.layers:
        kind += f"-{arguments.layers}"
    folder: Path = arguments.memory / f"{model}-{kind}"
    return folder


def make_model(arguments: argparse.Namespace) -> None:
    """Write the workload's model, unless it exists.

    This happens in a process of its own, so that the GPU is empty afterwards.
    """
    model = WORKLOADS[arguments.workload].model
    values = "Path(sys.argv[1]), tiny=True" if arguments.tiny else "*map(Path, sys.argv[1:])"
    if arguments.layers:
        values += f", layers={arguments.layers}"
    code = (
        "import sys; from pathlib import Path; "
        f"from bench.models import write_random_{model} as write; write({values})"
    )

    folders = [str(model_folder(arguments))]
    if arguments.published and not arguments.tiny:
        folders.append(str(arguments.published))
    subprocess.run([sys.executable, "-c", code, *folders], check=True)


def records_of(arguments: argparse.Namespace) -> list[Record]:
    """Return the workload's records; write their images."""
    workload = WORKLOADS[arguments.workload]
    if arguments.images:
        workload = replace(workload, num_images=arguments.images)

    folder = arguments.memory / f"images-{workload.edge}"
    return make_records(workload, folder, max(RECORDS, workload.num_images // 2))


def build_ours(arguments: argparse.Namespace, *, bits: int = 16) -> Any:
    """Return vlmbench's backbone of the workload, with a token store and weights of `bits`."""
    from vlmbench.backbones.llama32 import Llama32Config
    from vlmbench.backbones.phi3 import Phi3Config
    from vlmbench.config import BuildRequest, Engine, StoreConfig, Vision

    store = StoreConfig(
        device_gb=arguments.device_gb,
        host_gb=arguments.host_gb,
        disk_gb=20 if arguments.disk_gb is None else arguments.disk_gb,
    )
    request = BuildRequest(
        seed=0,
        engine=Engine.transformers if arguments.tiny else Engine(arguments.engine),
        vision=Vision(arguments.vision),
        cache_dir=Path(tempfile.mkdtemp()),
        store=store,
    )

    path = str(model_folder(arguments))
    if WORKLOADS[arguments.workload].model == "llama32":
        return Llama32Config(path=path, bits=bits).build(request)
    return Phi3Config(path=path, num_crops=4, bits=bits).build(request)


def samples_of(records: Sequence[Record]) -> Samples:
    """Return records as samples that are opened when they are indexed, as in a run."""
    from vlmbench.data.prompts import Wording
    from vlmbench.data.run_records import Samples
    from vlmbench.data.viewer import Viewer

    folder = records[0].images[0].path.parent
    viewer = Viewer(folder, name="none", process=lambda image: image, fingerprint="", cache=Path())
    wording = Wording(questions={}, labels={"normal": "normal", "abnormal": "abnormal"}, phrases={})
    return Samples(records, viewer, wording)


def train_ours(backbone: Any, records: Sequence[Record], tracker: Any, **settings: Any) -> None:
    """Train on the records as a run does, without evaluations; `settings` are the trainer's."""
    from vlmbench.config import TrainerConfig
    from vlmbench.runs.folder import RunDir
    from vlmbench.train import TrainJob, train  # after Unsloth

    job = TrainJob(
        samples=samples_of(records),
        settings=TrainerConfig(eval_steps=None, **settings),
        seed=0,
        folder=RunDir(Path(tempfile.mkdtemp())),
        run_hash="bench",
        title="ours",
        tracker=tracker,
    )
    train(backbone, job)
