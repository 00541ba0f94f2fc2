"""The vision-token store, level by level: pictures a second from each, and what encoding them costs instead.

    python -m bench.store --workload pair-560 [--number 64]

The same pictures' tokens are made by the tower, then fetched from the device, from host memory, and from disk (files
that the system has just written: what a cold disk gives depends on the disk), each with the levels before it empty.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import record, setup

ROUNDS = 5


def main() -> None:
    """Measure every level, and write the table."""
    parser = setup.parser(__doc__)
    parser.add_argument("--number", type=int, default=64, help="of pictures")
    arguments = parser.parse_args()
    setup.make_model(arguments)
    rows = list(_measure(arguments))
    path = record.write(
        record.name("store", arguments.workload, arguments.out), {"workload": arguments.workload, "rows": rows}
    )
    print(f"\n{record.table(rows)}\n\n{path}")


def _measure(arguments: Any) -> Iterator[dict[str, Any]]:
    from vlmbench.config import StoreConfig

    backbone = setup.build_ours(arguments, store=True)
    open_record = setup.opener(backbone, setup.records_of(arguments))
    pictures = _different(open_record, arguments.number)
    backbone.encode([pictures[0]])  # kernels are compiled
    with tempfile.TemporaryDirectory(dir=arguments.memory) as folder:
        where = Path(folder)
        yield _timed("encoded", _store(backbone, where, StoreConfig(disk_gb=0)), pictures, backbone, rounds=1)
        full = _store(backbone, where, StoreConfig())
        full.get(pictures, backbone.encode)
        full.close()  # all is on disk
        yield _timed("device", full, pictures, backbone)
        levels = {"host": StoreConfig(device_gb=0), "disk": StoreConfig(device_gb=0, host_gb=0)}
        for level, settings in levels.items():
            if level == "host" and arguments.tiny:
                continue  # without a GPU the host's memory is the device's
            yield _timed(level, _store(backbone, where, settings), pictures, backbone)


def _different(open_record: Callable[[int], Any], number: int) -> list[Any]:
    found: dict[str, Any] = {}
    index = 0
    while len(found) < number:
        found |= {picture.key: picture for picture in open_record(index).images}
        index += 1
    return list(found.values())[:number]


def _store(backbone: Any, folder: Path, settings: Any) -> Any:
    from vlmbench.features.store import TokenStore

    return TokenStore(folder, "bench", device=backbone.store.device, settings=settings)


def _timed(name: str, store: Any, pictures: list[Any], backbone: Any, *, rounds: int = ROUNDS) -> dict[str, Any]:
    import torch

    def fetch() -> int:
        tokens = store.get(pictures, backbone.encode)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return sum(one.nbytes for one in tokens)

    if rounds > 1:
        fetch()
    store.report()
    found: dict[str, int] = {}
    started = time.monotonic()
    for _ in range(rounds):
        num_bytes = fetch()
    seconds = (time.monotonic() - started) / rounds
    found = dict(store.found)
    return {
        "level": name,
        "pictures": len(pictures),
        "pictures_per_s": len(pictures) / seconds,
        "gb_per_s": num_bytes / seconds / 1e9,
        "mb_per_picture": num_bytes / len(pictures) / 1e6,
        "found": found,
    }


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    main()
