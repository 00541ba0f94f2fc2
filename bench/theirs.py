"""The recipes of TRL and Unsloth, trained on a workload."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from bench import recipes, setup
from bench.stopwatch import Stopwatch, time_training
from bench.workloads import WORKLOADS, make_conversations

STEPS, WARMUP = 11, 3


def load_recipe(arguments: argparse.Namespace, name: str) -> recipes.Recipe:
    """Return the recipe of this name, with its model loaded."""
    folder = setup.model_folder(arguments)
    if name == "unsloth":
        return recipes.load_unsloth_notebook(folder, vision=arguments.vision == "lora")
    return recipes.load_trl_example(folder, no_grad=name == "trl_no_grad")


def make_trainer(
    arguments: argparse.Namespace,
    recipe: recipes.Recipe,
    watch: Stopwatch,
    *,
    batch: int,
    steps: int,
) -> Any:
    """Return the SFTTrainer of a recipe, ready to train on the workload."""
    from transformers import TrainerCallback

    class Callback(TrainerCallback):
        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any
        ) -> None:
            watch.log({"step": state.global_step, **logs})

    records = setup.records_of(arguments)[: batch * steps]
    return recipes.make_trainer(
        recipe,
        list(make_conversations(records)),
        batch=batch,
        steps=steps,
        folder=Path(tempfile.mkdtemp()),
        callback=Callback(),
    )


def measure_theirs(
    arguments: argparse.Namespace, recipe: recipes.Recipe, name: str
) -> dict[str, Any]:
    """Return the figures of a recipe's training on the workload."""
    batch = recipes.BATCH
    if name == "trl" and WORKLOADS[arguments.workload].model == "llama32":
        batch = 1  # with more, TRL's recipe runs out of memory on 80 GB

    watch = Stopwatch()
    trainer = make_trainer(arguments, recipe, watch, batch=batch, steps=STEPS)
    return time_training(name, trainer.train, watch, batch=batch, warmup=WARMUP)
