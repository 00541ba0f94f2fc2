"""vlmbench's own training, measured with stored tokens and without."""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import setup
from bench.steps import model_flops, profile
from bench.stopwatch import Stopwatch, time_training
from bench.workloads import WORKLOADS
from vlmbench.types import LazyImage, Record

if TYPE_CHECKING:
    from vlmbench.data.run_records import Samples

STEPS, WARMUP = 45, 15
NUM_COUNTED = 16  # records over which the count of operations is averaged
NUM_WRITERS = 8  # threads that fill the disk before the measurement


def measure_ours(
    arguments: argparse.Namespace, backbone: Any, recipes: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield a row for each recipe and batch size: "ours_uncached" trains without the store."""
    workload = WORKLOADS[arguments.workload]
    records = setup.records_of(arguments)
    samples = setup.samples_of(records)
    batches = [int(number) for number in (arguments.batches or str(workload.batch)).split(",")]

    store = backbone.store
    facts = _count_work(backbone, samples, workload.edge)
    if store is not None and not workload.shown_once:
        fill = _prefill if arguments.prefill else encode_all
        facts |= fill(backbone, samples)

    for recipe in recipes:
        backbone.store = None if recipe == "ours_uncached" else store
        for batch in batches:
            row = _train(backbone, records, recipe, batch)
            yield row | facts | _lookups(backbone.store)
    backbone.store = store

    if arguments.profile:
        path = arguments.profile / f"{arguments.workload}.txt"
        profile(backbone, list(samples[: batches[0]]), path)


def encode_all(backbone: Any, samples: Samples) -> dict[str, Any]:
    """Encode every image once, as a run's first epoch does: rates are then those of later epochs.

    Return how many images there were, and how many were encoded a second.
    """
    import torch

    from vlmbench.backbones.batches import complete_batch

    seen: set[Path] = set()
    with_new_image: list[int] = []  # records with an image that no earlier record shows
    for index, record in enumerate(samples.records):
        paths = {image.path for image in record.images}
        if not paths <= seen:
            seen |= paths
            with_new_image.append(index)

    started = time.monotonic()
    for start in range(0, len(with_new_image), NUM_COUNTED):
        batch = with_new_image[start : start + NUM_COUNTED]
        complete_batch(backbone.train_batch([samples[index] for index in batch]))
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.monotonic() - started

    backbone.store.report()  # starts the count of look-ups again
    return {"encoded_images": len(seen), "encoded_per_s": len(seen) / seconds}


def _count_work(backbone: Any, samples: Samples, edge: int) -> dict[str, Any]:
    """Return engine, tokens and operations of a sample, averaged over the first samples."""
    store, backbone.store = backbone.store, None  # so that counting stores no tokens
    counted = list(samples[:NUM_COUNTED])
    flops, computed = (
        sum(model_flops(backbone, sample, frozen_backward=backward) for sample in counted)
        / NUM_COUNTED
        for backward in (4, 2)
    )
    tokens = backbone.count_tokens(samples[0], [(edge, edge)] * 2)
    backbone.store = store

    return {
        "engine": backbone.engine,
        "tokens": [tokens.total, tokens.trained],
        "model_flops_per_sample": flops,
        "computed_flops_per_sample": computed,
    }


def _train(backbone: Any, records: Sequence[Record], recipe: str, batch: int) -> dict[str, Any]:
    watch = Stopwatch()
    train = partial(
        setup.train_ours,
        backbone,
        records,
        watch,
        max_steps=STEPS,
        batch_size=batch,
        log_steps=5,
    )
    return time_training(recipe, train, watch, batch=batch, warmup=WARMUP)


def _lookups(store: Any) -> dict[str, Any]:
    """Return where tokens were found since the last report, and the share that was stored."""
    lookups = {} if store is None else dict(store.lookups)
    if not lookups:
        return {"lookups": {}, "hit_rate": None}

    store.report()  # starts the count again
    hit_rate = 1 - lookups.get("encoded", 0) / sum(lookups.values())
    return {"lookups": lookups, "hit_rate": hit_rate}


def _prefill(backbone: Any, samples: Samples) -> dict[str, Any]:
    """Store random numbers in place of every image's tokens, of the same number of bytes.

    Encoding tens of thousands of images takes longer than the benchmark may, and the time of a step
    does not depend on the numbers. Memory is filled first, and the rest is on disk, as after
    earlier epochs: what a run uses stays on its level.
    """
    from vlmbench.features.memory import device_budget, host_budget

    started = time.monotonic()
    images = _hash_images(samples)
    tokens = backbone.encode([images[0]])[0]
    hashed = time.monotonic()

    store = backbone.store
    memory = (
        device_budget(store.device, store.settings.device_gb),
        host_budget(store.settings.host_gb),
    )
    num_in_memory = sum(int(budget / tokens.nbytes) for budget in memory)
    num_on_disk = max(0, len(images) - num_in_memory)

    with ThreadPoolExecutor(NUM_WRITERS) as pool:
        shares = [images[start:num_on_disk:NUM_WRITERS] for start in range(NUM_WRITERS)]
        disk_gb = (num_on_disk + 1) * tokens.nbytes / 1e9 * 1.2
        writing = [pool.submit(_fill_disk, store, share, tokens, disk_gb) for share in shares]
        _fill_memory(store, images[num_on_disk:], tokens)
        filled = time.monotonic()
        for future in writing:
            future.result()

    # As after an epoch, the store knows the shape of all tokens.
    store._shapes |= {image.hash: tokens.to("meta") for image in images}
    seconds = {
        "hashes": hashed - started,
        "memory": filled - hashed,
        "disk": time.monotonic() - hashed,
    }
    print(f"prefilled {len(images)} images, {num_on_disk} on disk; seconds: {seconds}", flush=True)
    # The documentation reads these keys from the recorded results.
    return {
        "prefilled_pictures": len(images),
        "prefilled_on_disk": num_on_disk,
        "encoded_images": 0,
    }


def _hash_images(samples: Samples) -> list[LazyImage]:
    """Return every different image once; all files are read here, and not again later."""

    def open_images(index: int) -> list[LazyImage]:
        images = list(samples[index].images)
        deque((image.hash for image in images), maxlen=0)
        return images

    with ThreadPoolExecutor() as pool:
        all_images = [
            image for images in pool.map(open_images, range(len(samples))) for image in images
        ]
    return list({image.hash: image for image in all_images}.values())


def _fill_memory(store: Any, images: Sequence[LazyImage], tokens: Any) -> None:
    """Store other random numbers for each image, in memory."""
    import torch

    for image in images:
        store.get([image], lambda missing: [torch.rand_like(tokens) - 0.5])
    store.report()  # starts the count of look-ups again


def _fill_disk(store: Any, images: Sequence[LazyImage], tokens: Any, disk_gb: float) -> None:
    """Store the same random numbers for each image, on disk only."""
    import torch

    from vlmbench.config import StoreConfig
    from vlmbench.features.store import TokenStore

    settings = StoreConfig(device_gb=0, host_gb=0, disk_gb=disk_gb)
    on_disk = TokenStore(
        store.folder, store.fingerprint, device=torch.device("cpu"), settings=settings
    )
    numbers = torch.rand(tokens.shape).to(tokens.dtype) - 0.5
    for image in images:
        on_disk.get([image], lambda missing: [numbers])
    on_disk.close()
