"""Is anything lost when a fault hits a run?

    python -m bench.faults [--moments 5] [--seed 0] [--only name ...] [--no-record]

Every row of the matrix (rows.py) is tried at random moments. A small run has phases, checkpoints
and evaluations like a large one. The fault breaks it, and the same command is started again. A row
holds if that start ends with the predictions of an undisturbed run, byte for byte. It also holds if
the start says why it cannot, and ends so once the named cause is mended. No GPU is needed. Rows
with full and read-only disks need root, to mount small disks.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from bench import record
from bench.faults.rows import FAULTS, LATER, Fault
from bench.faults.trial import COMMAND, Reference


def main() -> None:
    """Try every row, and write the table."""
    arguments = _parse_arguments()
    named = [fault for fault in (*FAULTS, *LATER) if fault.name in arguments.only]
    chosen = named if arguments.only else FAULTS

    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        reference = Reference(Path(folder, "trials"))
        rows = [
            try_fault(reference, fault, seed=arguments.seed, moments=arguments.moments)
            for fault in chosen
        ]
    seconds = round(time.monotonic() - started)

    columns = [{key: row[key] for key in ("fault", "held", "tried")} for row in rows]
    print(f"\n{record.table(columns)}")
    if arguments.record:
        print(_record(rows, seconds=seconds))
    raise SystemExit(0 if _all_held(rows) else 1)


def _parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--moments", type=int, default=5, help="of each row")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument(
        "--only", nargs="*", default=(), help="names of rows; recorded results of others stay"
    )
    parser.add_argument("--record", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def try_fault(reference: Reference, fault: Fault, *, seed: int, moments: int) -> dict[str, Any]:
    """Try one row at so many moments; return its results. A try that fails has a `reason`."""
    rng = np.random.default_rng([seed, crc32(fault.name.encode())])
    tries = []
    for _ in range(moments):
        tries.append(_try_once(reference, fault, rng))
        print(f"{fault.name}: {json.dumps(tries[-1])}", flush=True)

    return {
        "fault": fault.name,
        "meaning": fault.meaning,
        "held": sum(result["held"] for result in tries),
        "tried": len(tries),
        "seed": seed,
        "tries": tries,
    }


def _try_once(reference: Reference, fault: Fault, rng: np.random.Generator) -> dict[str, Any]:
    try:
        return {"held": True, **fault.inject(reference, rng)}
    except (AssertionError, TimeoutError) as error:
        return {"held": False, "reason": str(error)[-3000:]}
    except PermissionError as error:
        return {"held": False, "reason": f"not tried: {error}"}


def _record(rows: Sequence[dict[str, Any]], *, seconds: int) -> Path:
    """Write the rows; recorded results of other rows stay."""
    path = record.RESULTS / "faults.json"
    recorded = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    without_folder = re.sub(r"/[^ \"]*/trials/\d+", "<here>", json.dumps([*recorded, *rows]))
    newest = {row["fault"]: row for row in json.loads(without_folder)}

    kept = [newest[fault.name] for fault in FAULTS if fault.name in newest]
    figures = {
        "command": " ".join(["python -m vlmbench", *COMMAND]),
        "last_s": seconds,
        "rows": kept,
        "all_held": _all_held(kept),
    }
    return record.write("faults", figures)


def _all_held(rows: Sequence[dict[str, Any]]) -> bool:
    return all(row["held"] == row["tried"] for row in rows)


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    main()
