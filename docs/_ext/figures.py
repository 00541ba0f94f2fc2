"""The measured figures that pages name as `{{ name }}`: each is read from bench/results/."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from results import number, percent, read


def all_figures() -> dict[str, str]:
    """Return the text of every figure by its name."""
    return {name: text() for name, text in FIGURES.items()}


def _value(name: str, key: str, digits: int | None = None) -> Callable[[], str]:
    return lambda: number(read(name)[key], digits)


def _row(name: str, key: str, digits: int | None = None, **wanted: Any) -> Callable[[], str]:
    return lambda: number(find_row(name, **wanted)[key], digits)


def find_row(name: str, **wanted: Any) -> dict[str, Any]:
    """Return the first row of a result that has the wanted values."""
    rows: list[dict[str, Any]] = read(name)["rows"]
    return next(row for row in rows if all(row[key] == value for key, value in wanted.items()))


def _false_verdicts() -> list[float]:
    return [world["false_verdicts"] for world in read("statistics")["equal_variants"]]


def _differences_that_hold() -> list[float]:
    statistics = read("statistics")
    worlds = [*statistics["equal_variants"], *statistics["unequal_variants"]]
    return [world["coverage"] for world in worlds if world["n"] >= 300 and world["rate"] < 0.98]


def _rare(n: int, share: float, key: str) -> Callable[[], str]:
    rows: list[dict[str, float]] = read("limits")["rare_parts"]
    row = next(row for row in rows if row["n"] == n and row["share"] == share)
    return lambda: percent(row[key], 0)


def _slower_with_4bit() -> str:
    result = read("training-pair-560-4bit")
    return percent(1 - result["ours_4bit_samples_per_s"] / result["ours_samples_per_s"], 0)


def _uncached_share(name: str) -> Callable[[], str]:
    def share() -> str:
        row = find_row(name, side="ours")
        return percent(row["prefilled_on_disk"] / row["prefilled_pictures"], 0)

    return share


PAIR, LORA = "training-pair-560", "training-pair-560-lora-transformers"
STATISTICS = "statistics"

FIGURES: dict[str, Callable[[], str]] = {
    "llama_speed": _value(PAIR, "ours_samples_per_s"),
    "llama_recipe_speed": _value(PAIR, "unsloth_samples_per_s"),
    "llama_ratio": _value(PAIR, "ratio_unsloth"),
    "llama_peak": lambda: percent(read(PAIR)["fraction_of_peak"], 0),
    "llama_computed_peak": lambda: percent(read(PAIR)["computed_fraction_of_peak"], 0),
    "llama_1120_speed": _value("training-pair-1120", "ours_samples_per_s"),
    "host_memory_speed": _value("training-pair-560-12694", "ours_samples_per_s"),
    "disk_speed": _value("training-pair-560-20000", "ours_samples_per_s"),
    "disk_share": _uncached_share("training-pair-560-20000"),
    "lora_speed": _value(LORA, "ours_samples_per_s"),
    "lora_memory": _row(LORA, "peak_gb", side="ours"),
    "lora_ratio": _value(LORA, "ratio_unsloth", 1),
    "bits4_memory": _row("training-pair-560-4bit", "peak_gb", side="ours_4bit"),
    "bits16_memory": _row("training-pair-560-4bit", "peak_gb", side="ours"),
    "bits4_slower": _slower_with_4bit,
    "two_gpus_ratio": _value("parallel-pair-560", "ratio"),
    "first_start": lambda: number(_first_start()),
    "later_start": lambda: number(_later_start()),
    "loss_noise": lambda: percent(
        read("losses-pair-560")["largest_relative_difference_of_two_unstored"]
    ),
    "loss_stored": lambda: percent(
        read("losses-pair-560")["largest_relative_difference_of_stored"]
    ),
    "export_llama_nats": lambda: number(_largest("export-pair-560")),
    "export_phi3_nats": lambda: number(_largest("export-pair-336x4")),
    "faults": lambda: str(len(read("faults")["rows"])),
    "fault_moments": lambda: str(min(row["tried"] for row in read("faults")["rows"])),
    "kills": lambda: str(len(read("killed")["kills"])),
    "ablations": lambda: number(read(STATISTICS)["ablations"], 0),
    "worlds": lambda: str(len(read(STATISTICS)["equal_variants"])),
    "false_verdicts": lambda: percent(sum(_false_verdicts()) / len(_false_verdicts())),
    "worst_false_verdicts": lambda: percent(max(_false_verdicts())),
    "holm_wrong": lambda: percent(read(STATISTICS)["family"][0]["any_wrong"], 2),
    "lowest_coverage": lambda: percent(min(_differences_that_hold()), 0),
    "highest_coverage": lambda: percent(max(_differences_that_hold()), 0),
    "rare_coverage": _rare(100, 0.04, "coverage"),
    "rare_coverage_third": _rare(100, 0.04, "with_a_third"),
    "least_coverage": lambda: percent(
        max(row["least_coverage"] for row in read("limits")["steady_seeds"])
    ),
    "planted_found": lambda: str(read("planted")["informative"]["verdicts"]["better"]),
    "planted_tried": lambda: str(read("planted")["informative"]["ablations"]),
    "planted_points": lambda: number(100 * read("planted")["informative"]["mean_difference"], 0),
}


def _first_start() -> float:
    result = read("startup-pair-560")
    return float(result.get("first_run_starts_s", result.get("first_cell_starts_s")))


def _later_start() -> float:
    result = read("startup-pair-560")
    return float(result.get("later_runs_start_s", result.get("later_cells_start_s")))


def _largest(name: str) -> float:
    rows = [row for row in read(name)["rows"] if row["beside the adapter"] != "recorded"]
    return max(float(row["largest difference, nats"]) for row in rows)
