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


def _summary(key: str) -> Callable[[], str]:
    """Return a figure over all simulated worlds of equal variants."""
    return lambda: percent(read(STATISTICS)["summary"][0][key])


def _judged_worlds() -> list[float]:
    """Return the shares of false verdicts in the worlds that have enough parts for a verdict."""
    worlds = read(STATISTICS)["equal_variants"]
    return [world["ours"] for world in worlds if world["effective"] >= MIN_EFFECTIVE]


def _of_fold_rule(rule: str) -> dict[str, Any]:
    """Return the summary of a rule for cross-validations."""
    rows: list[dict[str, Any]] = read("folds")["summary"]
    return next(row for row in rows if row["rule"] == rule)


def _threshold_summary(name: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = read("thresholds")["summary"]
    return next(row for row in rows if row["interval"] == name)


def _largest_family() -> dict[str, float]:
    families: list[dict[str, float]] = read(STATISTICS)["family"]
    return max(families, key=lambda row: row["comparisons"])


def _largest_share(table: str, key: str) -> Callable[[], str]:
    return lambda: percent(max(row[key] for row in read(STATISTICS)[table]))


def _coverages(name: str) -> list[float]:
    """Return the coverage of the intervals of one run's figure, with enough parts for a verdict."""
    rows = read(STATISTICS)[name]
    return [row["coverage"] for row in rows if row["effective"] >= MIN_EFFECTIVE]


def planned(*, rate: float, steady: bool) -> dict[str, Any]:
    """Return the row of plans of the largest test set, for seeds that vary least or most."""
    rows = [row for row in read(STATISTICS)["power"] if row["rate"] == rate and not row["own"]]
    rows = [row for row in rows if row["n"] == max(row["n"] for row in rows)]
    spread = (min if steady else max)(row["seed_spread"] for row in rows)
    return next(row for row in rows if row["seed_spread"] == spread)


def _test_parts(times: int) -> Callable[[], str]:
    """Return the test parts of the plan for 75 % right answers, times a number."""

    def parts() -> str:
        median = planned(rate=0.75, steady=True)["median_parts"]
        return "too many" if median is None else number(times * median, 0)

    return parts


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
MIN_EFFECTIVE = 10  # fewer effective parts give no verdict (vlmbench.stats.clusters)

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
    "lean_speed": _row("lean-steps", "samples_per_s", layers="lean"),
    "usual_speed": _row("lean-steps", "samples_per_s", layers="usual"),
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
    "whole_extrapolated": lambda: str(read("whole-560")["rows"][-1]["extrapolated"].split()[0]),
    "whole_first_step": lambda: f"{read('whole-560')['rows'][0]['first_step_s']:.0f} s",
    "fold_draws": _value("folds", "draws", 0),
    "fold_worlds": lambda: str(_of_fold_rule("ours")["worlds"]),
    "folds_worst": lambda: percent(_of_fold_rule("ours")["largest"]),
    "folds_mean": lambda: percent(_of_fold_rule("ours")["mean"]),
    "folds_power": lambda: percent(_of_fold_rule("ours")["mean_power"], 0),
    "folds_by_parts": lambda: percent(_of_fold_rule("parts_and_seeds")["largest"]),
    "threshold_draws": _value("thresholds", "draws", 0),
    "threshold_worlds": lambda: str(_threshold_summary("ours")["worlds"]),
    "thresholds_worst": lambda: percent(_threshold_summary("ours")["largest"]),
    "thresholds_power": lambda: percent(_threshold_summary("ours")["mean_power"], 0),
    "thresholds_ignored": lambda: percent(_threshold_summary("without")["largest"]),
    "thresholds_ignored_power": lambda: percent(_threshold_summary("without")["mean_power"], 0),
    "ablations": lambda: number(read(STATISTICS)["ablations"], 0),
    "worlds": lambda: str(len(read(STATISTICS)["equal_variants"])),
    "judged_worlds": lambda: str(len(_judged_worlds())),
    "false_verdicts": lambda: percent(sum(_judged_worlds()) / len(_judged_worlds())),
    "worst_false_verdicts": _summary("largest"),
    "worlds_above_6": _summary("above_6_percent"),
    "worlds_above_7": _summary("above_7_percent"),
    "family_size": lambda: str(_largest_family()["comparisons"]),
    "holm_wrong": lambda: percent(_largest_family()["any_wrong"]),
    "looks_wrong": _largest_share("looks", "any_wrong"),
    "looks_wrong_unshared": _largest_share("looks", "any_wrong_without_shares"),
    "wrongly_claimed": _largest_share("claims_of_no_difference", "claimed"),
    "lowest_coverage": lambda: percent(min(_coverages("rates"))),
    "mean_coverage": lambda: percent(sum(_coverages("rates")) / len(_coverages("rates"))),
    "auroc_coverage": lambda: percent(sum(_coverages("aurocs")) / len(_coverages("aurocs"))),
    "plans": lambda: str(planned(rate=0.75, steady=True)["plans"]),
    "plan_test_parts": _test_parts(1),
    "plan_parts": _test_parts(5),
    "planted_found": lambda: str(called_better(read("planted")["informative"])),
    "planted_tried": lambda: str(read("planted")["informative"]["ablations"]),
    "planted_wrong": lambda: str(called_better(read("planted")["empty"])),
    "planted_equal": lambda: str(read("planted")["empty"]["ablations"]),
    "planted_points": lambda: number(100 * read("planted")["informative"]["mean_difference"], 0),
}


def called_better(world: dict[str, Any]) -> int:
    """Return how many planted ablations were called better, slightly or not."""
    verdicts: dict[str, int] = world["verdicts"]
    return sum(number for words, number in verdicts.items() if words.endswith("better"))


def _first_start() -> float:
    result = read("startup-pair-560")
    return float(result.get("first_run_starts_s", result.get("first_cell_starts_s")))


def _later_start() -> float:
    result = read("startup-pair-560")
    return float(result.get("later_runs_start_s", result.get("later_cells_start_s")))


def _largest(name: str) -> float:
    rows = [row for row in read(name)["rows"] if row["beside the adapter"] != "recorded"]
    return max(float(row["largest difference, nats"]) for row in rows)
