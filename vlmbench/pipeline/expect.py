"""The minutes that a run will take on this machine, from a few of its passes that are tried here.

Nothing trains, and no vision token is stored: the passes are thrown away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vlmbench.backbones.maps import NoFeaturesError
from vlmbench.config import Engine, HeldOut
from vlmbench.data.run_records import RunRecords
from vlmbench.pipeline.cost import Cost
from vlmbench.pipeline.run import Run
from vlmbench.system import load, phases
from vlmbench.types import JUDGING, LazyImage, Probe, Record, Sample, UserError

if TYPE_CHECKING:
    from vlmbench.backbones.contract import Backbone

NUM_TRIED = 8  # training records, and images of a baseline
REPEATS = 3  # the fastest counts: other programs only make a pass slower
# A forward pass without the backward one, as a share of both.
FORWARD = 0.35
REPORT_S = 4.0
FIT_S = 4.0  # of a baseline that learns, without its features


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """Seconds of passes on this machine.

    `start_s` is the time from the start of the process until a run has its model and records.
    `record_s` trains a record, `answer_s` answers one. `image_s` encodes an image that is stored,
    and `map_s` makes the feature map that the baseline `patch_nn` reads.
    """

    start_s: float
    record_s: float
    answer_s: float
    image_s: float
    map_s: float


def expected_time(run: Run, records: RunRecords, cost: Cost) -> str:
    """Return what `stage=check` says of the time that the run takes, or why it cannot be known."""
    lacking = list(run.config.model.requirements())
    if lacking:
        return f"not known: {'; '.join(lacking)}"
    engine, _ = run.choose_engine()
    if engine is Engine.unsloth:
        return "not known before Unsloth has compiled; see the benchmarks"

    try:
        trial = try_passes(run, records, engine)
    except UserError as error:
        return f"not known: {error}"
    seconds = seconds_by_phase(run, records, cost, trial)
    parts = ", ".join(f"{name} {spent / 60:.1f}" for name, spent in seconds.items())
    total = sum(seconds.values()) / 60
    others = load.describe_others()
    busy = f"; {others} just now, so it takes longer while they run" if others else ""
    return f"about {total:.1f} minutes on this machine, if nothing else runs ({parts}){busy}"


def seconds_by_phase(run: Run, records: RunRecords, cost: Cost, trial: Trial) -> dict[str, float]:
    """Return the seconds of a run's phases from those of single passes."""
    trainer, settings = run.config.trainer, run.config.eval
    rows = trainer.num_rows * trainer.gradient_accumulation
    every = trainer.eval_steps
    evaluations = 0 if every is None else -(-cost.steps // every)
    followed = len(records.monitored) * (trial.answer_s + FORWARD * trial.record_s)

    held_out = [] if settings.test is HeldOut.sealed else records.held_out
    answered = len(records.validation) + len(held_out)
    shown = _images([*records.train, *_cut(records, [*records.validation, *held_out])])
    return {
        "start": trial.start_s,
        "encoding": len(shown) * trial.image_s,
        "training": cost.steps * rows * trial.record_s + evaluations * followed,
        "answers": answered * trial.answer_s,
        "baselines": _baseline_seconds(run, records, [*records.validation, *held_out], trial),
        "report": REPORT_S,
    }


def _baseline_seconds(
    run: Run, records: RunRecords, answered: Sequence[Record], trial: Trial
) -> float:
    asked = [one for one in answered if one.probe is Probe.NONE and one.task in JUDGING]
    seconds = 0.0
    for name, baseline in run.config.baseline.items():
        if name == "untuned":
            seconds += len(asked) * trial.answer_s
        elif name == "patch_nn":
            seconds += len(_images(_cut(records, asked))) * trial.map_s
        elif baseline.learns and name != "majority":
            seconds += FIT_S
    return seconds


def _cut(records: RunRecords, answered: Sequence[Record]) -> Sequence[Record]:
    """Return the tiles of whole records; the records themselves if nothing is cut."""
    if records.tiler is None:
        return answered
    return [tile for record in answered for tile in records.tiler.cut(record)]


def _images(records: Sequence[Record]) -> set[tuple[object, ...]]:
    """Return the path, view, change and tile of each different image."""
    return {
        (image.path, image.view, image.change, image.box)
        for record in records
        for image in record.images
    }


def try_passes(run: Run, records: RunRecords, engine: Engine) -> Trial:
    """Return the seconds of a few passes. Raise UserError if the model cannot be built."""
    store = replace(run.config.store, disk_gb=0.0)
    backbone = run.build(engine, store=store)
    start_s = time.monotonic() - phases.began()
    samples = records.samples(records.train)
    step = max(1, len(samples) // (NUM_TRIED + 1))
    tried = [samples[index] for index in range(step, len(samples), step)][:NUM_TRIED] or [
        samples[0]
    ]

    backbone.collate([samples[0]], with_answer=True)  # loads libraries
    first = _seconds(lambda: backbone.collate(tried, with_answer=True))
    again = _fastest(lambda: backbone.collate(tried, with_answer=True))
    images = {image.hash: image for sample in tried for image in sample.images}
    return Trial(
        start_s=start_s,
        record_s=_fastest(lambda: _train_pass(backbone, tried)) / len(tried),
        answer_s=_answer_seconds(run, backbone, records),
        image_s=max(0.0, first - again) / len(images),
        map_s=_map_seconds(run, backbone, list(images.values())),
    )


def _train_pass(backbone: Backbone, samples: Sequence[Sample]) -> None:
    from vlmbench.backbones.answers import mixed_precision
    from vlmbench.backbones.batches import complete_batch
    from vlmbench.backbones.devices import to_device

    backbone.model.train()
    batch = to_device(complete_batch(backbone.train_batch(samples)), backbone.model)
    with mixed_precision(backbone.model):
        backbone.model(**batch, use_cache=False).loss.backward()
    backbone.model.zero_grad(set_to_none=True)


def _answer_seconds(run: Run, backbone: Backbone, records: RunRecords) -> float:
    """Return the seconds of an answer, in a batch of the run's size."""
    asker = run.asker(backbone, records)
    asked = records.validation or records.train
    kind = (asked[0].task, asked[0].labels)
    alike = [record for record in asked if (record.task, record.labels) == kind]
    batch = alike[: asker.settings.num_rows()]
    asker.score(batch)  # encodes the images
    return _fastest(lambda: asker.score(batch)) / len(batch)


def _map_seconds(run: Run, backbone: Backbone, images: Sequence[LazyImage]) -> float:
    if "patch_nn" not in run.config.baseline:
        return 0.0
    try:
        backbone.feature_maps(images[:1])
        return _fastest(lambda: backbone.feature_maps(images)) / len(images)
    except NoFeaturesError:
        return 0.0


def _fastest(work: Callable[[], object]) -> float:
    return min(_seconds(work) for _ in range(REPEATS))


def _seconds(work: Callable[[], object]) -> float:
    import torch

    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
