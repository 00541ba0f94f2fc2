"""Is anything lost when a fault befalls a run?

    python -m bench.faults [--moments 5] [--seed 0] [--only name ...] [--no-record]

Every row of the matrix (rows.py) is tried at random moments: a small run (phases, checkpoints and evaluations as in a
large one) is broken in that way, and the same command is started again. Held: the next start ends with the predictions
of a run that nothing befell, byte for byte, or says why not and does so once what it names is mended. The processor is
enough; full and read-only disks need root, for small ones are mounted.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import tempfile
import time
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from bench import record
from bench.faults.rows import FAULTS, Fault
from bench.faults.stage import COMMAND, Stage


def main() -> None:
    """Try every row and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moments", type=int, default=5, help="of each row")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--only", nargs="*", default=(), help="names of rows; what is recorded of others stays")
    parser.add_argument("--record", action=argparse.BooleanOptionalAction, default=True)
    arguments = parser.parse_args()
    chosen = [fault for fault in FAULTS if not arguments.only or fault.name in arguments.only]
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        stage = Stage(Path(folder, "stage"))
        rows = [try_fault(stage, fault, seed=arguments.seed, moments=arguments.moments) for fault in chosen]
    spent = round(time.monotonic() - started)
    print(f"\n{record.table([{key: row[key] for key in ('fault', 'held', 'tried')} for row in rows])}")
    if arguments.record:
        print(_record(rows, seconds=spent))
    raise SystemExit(0 if all(row["held"] == row["tried"] for row in rows) else 1)


def _record(rows: list[dict[str, Any]], *, seconds: int) -> Path:
    """Write the rows; what was recorded of other rows stays."""
    path = record.RESULTS / "faults.json"
    before = json.loads(path.read_text(encoding="utf-8"))["rows"] if path.exists() else []
    told = re.sub(r"/[^ \"]*/stage/\d+", "<here>", json.dumps([*before, *rows]))
    newest = {row["fault"]: row for row in json.loads(told)}
    known = [newest[fault.name] for fault in FAULTS if fault.name in newest]
    figures = {"command": " ".join(["python -m vlmbench", *COMMAND]), "last_s": seconds, "rows": known}
    return record.write("faults", {**figures, "all_held": all(row["held"] == row["tried"] for row in known)})


def try_fault(stage: Stage, fault: Fault, *, seed: int, moments: int) -> dict[str, Any]:
    """One row: the fault at so many moments. What does not hold is told with what the runs said."""
    rng = np.random.default_rng([seed, crc32(fault.name.encode())])
    tries = []
    for _ in range(moments):
        try:
            tries.append({"held": True, **fault.befall(stage, rng)})
        except (AssertionError, TimeoutError) as error:
            tries.append({"held": False, "why": str(error)[-3000:]})
        except PermissionError as error:
            tries.append({"held": False, "why": f"not tried: {error}"})
        print(f"{fault.name}: {json.dumps(tries[-1])}", flush=True)
    held = sum(one["held"] for one in tries)
    return {"fault": fault.name, "what": fault.what, "held": held, "tried": len(tries), "seed": seed, "tries": tries}


if __name__ == "__main__":
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    main()
