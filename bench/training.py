"""Training end to end, data loading included: vlmbench beside the recipes of others, in one run.

    python -m bench.training --workload pair-560,pair-1120 [--sides ours,unsloth,trl,trl_no_grad] [--batches 64,96]

Every side trains the same records on the same random weights of the real size through SFTTrainer, in a process of its
own, one workload after the other; where there are several GPUs, sides run at once, each on a card of its own. A rate is
that of the steps after the first ones, in which kernels are compiled; by then ours has encoded every picture once.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from bench import recipes, record, setup
from bench.cards import on_cards
from bench.steps import model_flops, profile
from bench.workloads import WORKLOADS, as_messages

SHARED = ("ours", "ours_uncached")  # one loaded model serves both
OURS = (*SHARED, "ours_4bit")
SIDES = (*OURS, "unsloth", "trl", "trl_no_grad")
OURS_STEPS, OURS_WARMUP = 45, 15
SHOWN = ("side", "batch", "samples_per_s", "peak_gb", "hit_rate", "first_loss", "last_loss", "error")
WRITERS = 8  # threads that fill the disk before the measurement
COUNTED = 16  # records whose arithmetic is averaged
THEIR_STEPS, THEIR_WARMUP = 11, 3


class Stopwatch:
    """A tracker, and a callback, that notes when each step was logged, its loss with it."""

    def __init__(self) -> None:
        self.times: list[tuple[int, float]] = []
        self.losses: list[float] = []

    def log(self, row: dict[str, float]) -> None:
        if "loss" in row:
            self.times.append((int(row["step"]), time.monotonic()))
            self.losses.append(row["loss"])
            if len(self.times) > 1:  # a benchmark that is stopped has said so much
                (before, then), (step, now) = self.times[-2:]
                print(f"\nstep {step}: {(step - before) / (now - then):.3f} steps a second", flush=True)

    def rate(self, batch: int, warmup: int) -> float | None:
        """Samples a second after the warm-up."""
        after = [(step, at) for step, at in self.times if step >= warmup]
        if len(after) < 2:
            return None
        return batch * (after[-1][0] - after[0][0]) / (after[-1][1] - after[0][1])


def main() -> None:
    """Run the sides and write a table for each workload."""
    arguments = _arguments()
    if arguments.process:
        for row in _measure(arguments):
            print(json.dumps(row), flush=True)
        return
    workloads = arguments.workload.split(",")
    setup.make_model(_of(arguments, workloads[0]))
    for workload in workloads:
        setup.records_of(_of(arguments, workload))  # the pictures are there before anyone needs them
    found, at_once = on_cards(_run, _processes(arguments.sides.split(",")))
    rows = [row for some in found for row in some]
    if not rows:
        raise SystemExit("no side gave a figure")
    peak = None if arguments.tiny else record.matmul_peak_flops()
    for workload in workloads:
        own = [row for row in rows if row["workload"] == workload]
        figures = _figures(workload, own, peak)
        path = record.write(
            record.name("training", workload, arguments.out), {**figures, "processes_at_once": at_once, "rows": own}
        )
        print(
            f"\n{record.table([{name: row.get(name) for name in SHOWN} for row in own])}\n{json.dumps(figures)}\n{path}"
        )


def _run(sides: list[str], environment: dict[str, str]) -> list[dict[str, Any]]:
    """The rows that a process of these sides gives."""
    command = [sys.executable, "-m", "bench.training", *sys.argv[1:], "--process", ",".join(sides)]
    started = time.monotonic()
    rows = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        for line in process.stdout or ():
            if line.startswith('{"workload"'):
                rows.append(json.loads(line))
                print(line.rstrip(), flush=True)
    print(f"{sides}: {time.monotonic() - started:.0f} s in all, exit code {process.returncode}", flush=True)
    return rows


def _arguments() -> argparse.Namespace:
    parser = setup.parser(__doc__)
    parser.add_argument("--sides", default="ours,unsloth,trl,trl_no_grad", help=f"of {', '.join(SIDES)}")
    parser.add_argument("--batches", help="of ours, instead of the workloads' own: 64,96")
    parser.add_argument("--prefill", action="store_true", help="random numbers in the place of encoded tokens")
    parser.add_argument("--profile", type=Path, help="a folder for the most expensive kernels of ours")
    parser.add_argument("--process", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.prefill and arguments.disk_gb is None:
        arguments.disk_gb = 0  # what lies there is read, nothing is written during the measurement
    return arguments


def _processes(sides: list[str]) -> list[list[str]]:
    """Sides of one process each, but for those that share a loaded model."""
    shared = [side for side in sides if side in SHARED]
    return [*([shared] if shared else []), *[[side] for side in sides if side not in SHARED]]


def _of(arguments: argparse.Namespace, workload: str) -> argparse.Namespace:
    """The arguments of one of the workloads."""
    if workload not in WORKLOADS:
        raise SystemExit(f"--workload {workload}: there is none of this name; choose of {', '.join(WORKLOADS)}")
    return argparse.Namespace(**{**vars(arguments), "workload": workload})


def _figures(workload: str, rows: list[dict[str, Any]], peak_flops: float | None) -> dict[str, Any]:
    best = {
        side: max((row["samples_per_s"] or 0.0 for row in rows if row["side"] == side), default=None) for side in SIDES
    }
    ours = next((row for row in rows if row["side"] == "ours" and row["samples_per_s"] == best["ours"]), {})
    flops, computed = (ours.get(f"{kind}_flops_per_sample") for kind in ("model", "computed"))
    return {
        "workload": workload,
        "ours_samples_per_s": best["ours"],
        "unsloth_samples_per_s": best["unsloth"],
        "ours_uncached_samples_per_s": best["ours_uncached"],
        "ours_4bit_samples_per_s": best["ours_4bit"],
        "trl_samples_per_s": best["trl"],
        "trl_no_grad_samples_per_s": best["trl_no_grad"],
        "ratio_unsloth": _ratio(best["ours"], best["unsloth"]),
        "ratio_trl": _ratio(best["ours"], best["trl"]),
        "ratio_uncached": _ratio(best["ours"], best["ours_uncached"]),
        "peak_gb": ours.get("peak_gb"),
        "hit_rate": ours.get("hit_rate"),
        "model_flops_per_sample": flops,
        "computed_flops_per_sample": computed,
        "matmul_peak_flops": peak_flops,
        "fraction_of_peak": _fraction(best["ours"], flops, peak_flops),
        "computed_fraction_of_peak": _fraction(best["ours"], computed, peak_flops),
    }


def _ratio(one: float | None, other: float | None) -> float | None:
    return one / other if one and other else None


def _fraction(rate: float | None, flops: float | None, peak: float | None) -> float | None:
    return rate * flops / peak if rate and flops and peak else None


def _measure(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    sides = arguments.process.split(",")
    each = [_of(arguments, workload) for workload in arguments.workload.split(",")]
    if sides[0] in OURS:
        backbone = setup.build_ours(each[0], store=True, bits=4 if sides[0] == "ours_4bit" else 16)
        for one in each:
            for row in _ours(one, backbone, sides):
                yield {"workload": one.workload, **row}
        return
    recipe = their_recipe(each[0], sides[0])
    for one in each:
        yield {"workload": one.workload, **_theirs(one, recipe, sides[0])}


def _theirs(arguments: argparse.Namespace, recipe: recipes.Recipe, side: str) -> dict[str, Any]:
    watch = Stopwatch()
    batch = recipes.BATCH
    if side == "trl" and WORKLOADS[arguments.workload].model == "llama32":
        batch = 1  # with more, TRL's recipe runs out of memory on 80 GB
    trainer = their_trainer(arguments, recipe, watch, batch=batch, steps=THEIR_STEPS)
    return _trained(side, trainer.train, watch, batch=batch, warmup=THEIR_WARMUP)


def their_recipe(arguments: argparse.Namespace, side: str) -> recipes.Recipe:
    """Another's recipe with its model loaded."""
    folder, vision = setup.model_folder(arguments), arguments.vision == "lora"
    if side == "unsloth":
        return recipes.unsloth_notebook(folder, vision=vision)
    return recipes.trl_documented(folder, no_grad=side == "trl_no_grad")


def their_trainer(
    arguments: argparse.Namespace, recipe: recipes.Recipe, watch: Stopwatch, *, batch: int, steps: int
) -> Any:
    """The ready SFTTrainer of another's recipe on a workload."""
    from transformers import TrainerCallback

    class Callback(TrainerCallback):  # type: ignore[misc]
        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
            watch.log({"step": state.global_step, **logs})

    rows = list(as_messages(setup.records_of(arguments)[: batch * steps]))
    return recipes.trainer(recipe, rows, batch=batch, steps=steps, folder=Path(tempfile.mkdtemp()), callback=Callback())


def _trained(side: str, train: Any, watch: Stopwatch, *, batch: int, warmup: int) -> dict[str, Any]:
    import torch

    from vlmbench.types import UserError

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    row: dict[str, Any] = {"side": side, "batch": batch, "error": None}
    try:
        train()
    except (torch.OutOfMemoryError, UserError) as error:  # UserError: ours says so in its own words
        row["error"] = str(error).splitlines()[0][:200]
        del error
        torch.cuda.empty_cache()
    memory = torch.cuda.memory_stats() if torch.cuda.is_available() else {}
    peak = memory["allocated_bytes.all.peak"] / 1e9 if memory else None
    losses: list[float | None] = [*watch.losses] or [None]
    return row | {
        "samples_per_s": None if row["error"] else watch.rate(batch, warmup),
        "peak_gb": peak,
        "alloc_retries": memory.get("num_alloc_retries"),  # times that the whole cache was given back for room
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "steps": len(watch.losses),
    }


def _ours(arguments: argparse.Namespace, backbone: Any, sides: list[str]) -> Iterator[dict[str, Any]]:
    workload = WORKLOADS[arguments.workload]
    records = setup.records_of(arguments)
    open_record = setup.opener(backbone, records)
    batches = [int(number) for number in (arguments.batches or str(workload.batch)).split(",")]
    store, backbone.store = backbone.store, None  # counting keeps nothing
    samples = [open_record(index) for index in range(COUNTED)]
    flops, computed = (
        sum(model_flops(backbone, sample, frozen_backward=count) for sample in samples) / COUNTED for count in (4, 2)
    )
    tokens = backbone.count_tokens(open_record(0), [(workload.side, workload.side)] * 2)
    facts = {"engine": backbone.engine, "tokens": [tokens.total, tokens.trained], "model_flops_per_sample": flops}
    facts["computed_flops_per_sample"] = computed
    backbone.store = store
    if store is not None and not workload.once:
        facts |= (_prefill if arguments.prefill else encode_all)(backbone, records, open_record)
    for side in sides:
        backbone.store = None if side == "ours_uncached" else store
        for batch in batches:
            watch = Stopwatch()
            run = partial(
                setup.train_ours, backbone, records, watch, max_steps=OURS_STEPS, batch_size=batch, log_steps=5
            )
            row = _trained(side, run, watch, batch=batch, warmup=OURS_WARMUP)
            found = {} if backbone.store is None else dict(backbone.store.found)
            if found:
                backbone.store.report()  # counting begins anew
            yield row | facts | {"found": found, "hit_rate": _hit_rate(found)}
    backbone.store = store
    if arguments.profile:
        profile(
            backbone,
            [open_record(index) for index in range(batches[0])],
            arguments.profile / f"{arguments.workload}.txt",
        )


def _hit_rate(found: dict[str, int]) -> float | None:
    return 1 - found.get("encoded", 0) / sum(found.values()) if found else None


def encode_all(backbone: Any, records: list[Any], open_record: Any) -> dict[str, float]:
    """Encode every picture once, as a run's first epoch does: rates are those of what comes after."""
    import torch

    from vlmbench.backbones.base import ready

    seen: set[Path] = set()
    new: list[int] = []  # records with a picture that no earlier one shows
    for index, one in enumerate(records):
        paths = {image.path for image in one.images}
        if not paths <= seen:
            seen |= paths
            new.append(index)
    started = time.monotonic()
    for start in range(0, len(new), COUNTED):
        ready(backbone.train_batch([open_record(index) for index in new[start : start + COUNTED]]))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    backbone.store.report()  # counting begins anew
    return {"encoded_pictures": len(seen), "encoded_per_s": len(seen) / (time.monotonic() - started)}


def _prefill(backbone: Any, records: list[Any], open_record: Any) -> dict[str, Any]:
    """Random numbers in the place of every picture's tokens, of the same bytes: tens of thousands of pictures take
    longer to encode than the benchmark may, and a step's time does not depend on the numbers. What does not fit into
    memory lies on disk. Epochs that go before would leave it so: what a run uses stays on its level."""
    import torch

    from vlmbench.config import StoreConfig
    from vlmbench.features.memory import device_budget, host_budget
    from vlmbench.features.store import TokenStore

    started = time.monotonic()
    with ThreadPoolExecutor() as pool:  # what is in the files is known from here on
        deque(pool.map(lambda index: [picture.key for picture in open_record(index).images], range(len(records))), 0)
    shown = [picture for index in range(len(records)) for picture in open_record(index).images]
    pictures = list({picture.key: picture for picture in shown}.values())
    one = backbone.encode([pictures[0]])[0]
    keyed = time.monotonic()
    store = backbone.store
    budgets = device_budget(store.device, store.settings.device_gb), host_budget(store.settings.host_gb)
    over = max(0, len(pictures) - sum(int(budget / one.nbytes) for budget in budgets))
    disk = StoreConfig(device_gb=0, host_gb=0, disk_gb=(over + 1) * one.nbytes / 1e9 * 1.2)

    def fill(store: Any, some: list[Any]) -> None:
        for picture in some:
            store.get([picture], lambda some: [torch.rand_like(one) - 0.5])
        store.report()

    def write(some: list[Any]) -> None:
        on_disk = TokenStore(store.folder, store.fingerprint, device=torch.device("cpu"), settings=disk)
        numbers = torch.rand(one.shape).to(one.dtype) - 0.5
        for picture in some:
            on_disk.get([picture], lambda some: [numbers])
        on_disk.close()

    with ThreadPoolExecutor(WRITERS) as pool:
        writing = [pool.submit(write, pictures[start:over:WRITERS]) for start in range(WRITERS)]
        fill(store, pictures[over:])
        in_memory = time.monotonic()
        for future in writing:
            future.result()
    store._likes |= {picture.key: one.to("meta") for picture in pictures}  # known after an epoch
    took = {"keys": keyed - started, "memory": in_memory - keyed, "disk": time.monotonic() - keyed}
    print(f"prefilled {len(pictures)}, {over} of them on disk; seconds: {took}", flush=True)
    return {"prefilled_pictures": len(pictures), "prefilled_on_disk": over, "encoded_pictures": 0}


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
