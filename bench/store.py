"""The vision-token store: images a second from each level, beside what it costs to encode them.

    python -m bench.store --workload pair-560 [--number 64]

The tower encodes the images. Then their tokens are read from the device, from host memory and from
disk, each with the levels before it empty. The files were written just before. A disk without them
in the system's cache is slower.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import record, setup
from vlmbench.types import LazyImage

if TYPE_CHECKING:
    from vlmbench.data.run_records import Samples

ROUNDS = 5


def main() -> None:
    """Measure every level, and write the table."""
    parser = setup.make_parser(__doc__)
    parser.add_argument("--number", type=int, default=64, help="number of images")
    arguments = parser.parse_args()
    setup.make_model(arguments)

    rows = list(_measure(arguments))
    name = record.result_name("store", arguments.workload, arguments.out)
    path = record.write(name, {"workload": arguments.workload, "rows": rows})
    print(f"\n{record.table(rows)}\n\n{path}")


def _measure(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    from vlmbench.config import StoreConfig

    backbone = setup.build_ours(arguments)
    samples = setup.samples_of(setup.records_of(arguments))
    images = _different_images(samples, arguments.number)
    backbone.encode(images[:2])  # compiles kernels, and records them for both streams

    with tempfile.TemporaryDirectory(dir=arguments.memory) as name:
        folder = Path(name)
        empty = _open_store(backbone, folder, StoreConfig(disk_gb=0))
        yield _time("encoded", empty, images, backbone, rounds=1)

        full = _open_store(backbone, folder, StoreConfig())
        full.get(images, backbone.encode)
        full.close()  # writes all tokens to disk
        yield _time("device", full, images, backbone)

        levels = {"host": StoreConfig(device_gb=0), "disk": StoreConfig(device_gb=0, host_gb=0)}
        for level, settings in levels.items():
            if level == "host" and arguments.tiny:
                continue  # without a GPU, the host's memory is the device's
            yield _time(level, _open_store(backbone, folder, settings), images, backbone)


def _different_images(samples: Samples, number: int) -> list[LazyImage]:
    """Return the first images that differ in their pixels."""
    images: dict[str, LazyImage] = {}
    index = 0
    while len(images) < number:
        images |= {image.hash: image for image in samples[index].images}
        index += 1
    return list(images.values())[:number]


def _open_store(backbone: Any, folder: Path, settings: Any) -> Any:
    from vlmbench.features.store import TokenStore

    return TokenStore(folder, "bench", device=backbone.store.device, settings=settings)


def _time(
    level: str, store: Any, images: Sequence[LazyImage], backbone: Any, *, rounds: int = ROUNDS
) -> dict[str, Any]:
    """Return how fast a level gives the tokens of all images."""
    import torch

    def fetch() -> int:
        tokens = store.get(images, backbone.encode)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return sum(tensor.nbytes for tensor in tokens)

    if rounds > 1:
        fetch()
    store.report()  # starts the count of look-ups again

    started = time.monotonic()
    for _ in range(rounds):
        num_bytes = fetch()
    seconds = (time.monotonic() - started) / rounds

    return {
        "level": level,
        "images": len(images),
        "images_per_s": len(images) / seconds,
        "gb_per_s": num_bytes / seconds / 1e9,
        "mb_per_image": num_bytes / len(images) / 1e6,
        "lookups": dict(store.lookups),
    }


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
