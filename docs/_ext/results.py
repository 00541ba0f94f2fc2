"""Read the recorded results of the benchmarks, and write their numbers as text and tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).resolve().parents[2] / "bench" / "results"


@cache
def read(name: str) -> dict[str, Any]:
    """Return the result that bench/results/<name>.json holds."""
    result: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return result


def number(value: float, digits: int | None = None) -> str:
    """Return a number with thousands separators; by default with three significant digits."""
    if digits is None:
        digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2

    return f"{value:,.{digits}f}"


def percent(share: float, digits: int = 1) -> str:
    """Return a share in percent, such as "4.0 %"."""
    return f"{100 * share:.{digits}f} %"


def link(name: str) -> str:
    """Return a Markdown link to the file of a result, for a page in docs/."""
    return f"[{name}](../bench/results/{name}.json)"


def device(name: str) -> str:
    """Return the short name of the device that a result was measured on, such as "H100 80 GB"."""
    described = str(read(name)["machine"]["device"])
    if "H100 80GB" in described:
        return "H100 80 GB"

    return described


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"
