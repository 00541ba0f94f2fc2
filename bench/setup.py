"""What the benchmarks of whole models share: their options, the random models, and vlmbench's own side."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.workloads import WORKLOADS, make_records

RECORDS = 4000


def parser(description: str | None) -> argparse.ArgumentParser:
    """With the options that say what is run, and where."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--workload", default="pair-560", help=f"of {', '.join(WORKLOADS)}")
    made.add_argument("--engine", default="unsloth", choices=["unsloth", "transformers"], help="of ours")
    made.add_argument("--vision", default="frozen", choices=["frozen", "lora"])
    made.add_argument("--published", type=Path, help="the hub's config.json and tokenizer files of Phi-3-vision")
    made.add_argument("--memory", type=Path, default=Path("/dev/shm"), help="where model and pictures lie")  # noqa: S108
    made.add_argument("--pictures", type=int, help="different ones, instead of the workload's")
    for level in ("device", "host", "disk"):
        made.add_argument(f"--{level}-gb", type=float, help="the store's budget, instead of its own choice")
    made.add_argument("--out", default="", help="the end of the result file's name")
    made.add_argument("--tiny", action="store_true", help="the tiny model on a CPU: does it run?")
    return made


def model_folder(arguments: argparse.Namespace) -> Path:
    """Where the workload's model lies."""
    model = WORKLOADS[arguments.workload].model
    folder: Path = arguments.memory / f"{model}-{'tiny' if arguments.tiny else 'random'}"
    return folder


def make_model(arguments: argparse.Namespace) -> None:
    """Make it, unless it is there: in a process of its own, so that the GPU is empty afterwards."""
    model = WORKLOADS[arguments.workload].model
    code = f"import sys; from pathlib import Path; from bench.models import random_{model} as make; make("
    code += "Path(sys.argv[1]), tiny=True)" if arguments.tiny else "*map(Path, sys.argv[1:]))"
    folders = [str(model_folder(arguments))]
    if arguments.published and not arguments.tiny:
        folders.append(str(arguments.published))
    subprocess.run([sys.executable, "-c", code, *folders], check=True)


def records_of(arguments: argparse.Namespace) -> list[Any]:
    """The workload's records; their pictures are files."""
    workload = WORKLOADS[arguments.workload]
    if arguments.pictures:
        workload = replace(workload, pictures=arguments.pictures)
    folder = arguments.memory / f"pictures-{workload.side}"
    return make_records(workload, folder, max(RECORDS, workload.pictures // 2))


def build_ours(arguments: argparse.Namespace, *, store: bool, bits: int = 16) -> Any:
    """vlmbench's backbone of the workload, with or without its store, its frozen weights in 16 or 4 bits."""
    from vlmbench.backbones.llama32 import Llama32Config
    from vlmbench.backbones.phi3 import Phi3Config
    from vlmbench.config import BuildRequest, Engine, StoreConfig, Vision

    request = BuildRequest(
        seed=0,
        engine=Engine.transformers if arguments.tiny else Engine(arguments.engine),
        vision=Vision(arguments.vision),
        cache_dir=Path(tempfile.mkdtemp()),
        store=StoreConfig(
            enabled=store,
            device_gb=arguments.device_gb,
            host_gb=arguments.host_gb,
            disk_gb=20 if arguments.disk_gb is None else arguments.disk_gb,
        ),
    )
    path = str(model_folder(arguments))
    config = Llama32Config(path=path, bits=bits) if "llama32" in path else Phi3Config(path=path, num_crops=4, bits=bits)
    return config.build(request)


def opener(backbone: Any, records: list[Any]) -> Callable[[int], Any]:
    """Opens a record's sample as a run does."""
    from vlmbench.data.dataset import Viewer, open_sample
    from vlmbench.data.prompts import Wording

    folder = records[0].images[0].path.parent
    viewer = Viewer(folder, name="none", process=lambda picture: picture, fingerprint="", cache=Path())
    wording = Wording(questions={}, labels={"normal": "normal", "abnormal": "abnormal"}, phrases={})
    return lambda index: open_sample(records[index], viewer=viewer, wording=wording)


def train_ours(backbone: Any, records: list[Any], tracker: Any, **settings: Any) -> None:
    """vlmbench's own training on the records, as a run does it, without evaluations."""
    from vlmbench.config import TrainerConfig
    from vlmbench.rundir import RunDir
    from vlmbench.train import train  # after Unsloth

    train(
        backbone,
        num_records=len(records),
        open_record=opener(backbone, records),
        watched=[],
        judge=dict,
        should_prune=lambda: False,
        settings=TrainerConfig(eval_steps=None, **settings),
        seed=0,
        cell=RunDir(Path(tempfile.mkdtemp())),
        content="bench",
        tracker=tracker,
        title="ours",
    )
