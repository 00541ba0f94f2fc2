"""Write the tables on verdicts of the page "Benchmarks": are words true, and what do they need?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from figures import MIN_EFFECTIVE, called_better, planned
from results import number, percent, read, table

# Worlds of bench.worlds, and how their parts look.
PARTS = {
    "5 x 20": "5 parts of 20 records",
    "10 x 15": "10 parts of 15",
    "12 x 4": "12 parts of 4",
    "28 x 4": "28 parts of 4",
    "100 x 2": "100 parts of 2",
    "500 x 2": "500 parts of 2",
    "100 + 40 x 2": "one part of 100 and 40 of 2",
    "2 x 60 + 20 x 4": "2 parts of 60 and 20 of 4",
    "one in three": "one part with a third of the records, 60 of 2",
    "one in four": "one part with a quarter of the records, 60 of 2",
    "one in seven": "one part with a seventh of the records, 60 of 2",
    "3 in seven": "3 parts of 15 and 60 of 1",
    "falling": "40 parts, each a tenth smaller than the one before",
}
RULES = {
    "ours": "the mixture that vlmbench uses",
    "sharper": "the mixture with a larger share of Satterthwaite's rule",
    "satterthwaite": "Satterthwaite's degrees of freedom alone",
    "howe": "Howe's rule alone",
    "sandwich": "the usual sandwich instead of the jackknife, with Satterthwaite's",
}
ERRORS = ("false verdicts, mean", "largest", "power", "best power of a valid rule")


def pages() -> dict[str, str]:
    """Return the text of each generated table by its file name."""
    return {
        "parts.md": _by("world", "parts and records", PARTS),
        "compared.md": _by("figure", "figure", {}),
        "seeds.md": _seeds(),
        "rules.md": _rules(),
        "claims.md": _claims(),
        "power.md": _power(),
        "planted.md": _planted(),
    }


def _by(key: str, title: str, words: Mapping[str, str]) -> str:
    """Return false verdicts and power of the worlds, by their value of `key`."""
    worlds = read("statistics")["equal_variants"]
    rows = []
    for value in dict.fromkeys(world[key] for world in worlds):
        members = [world for world in worlds if world[key] == value]
        name = words.get(value, str(value).replace("_", " "))
        rows.append((name, *_parts_of(members), *_errors(members)))
    columns = () if key == "figure" else ("parts", "effective parts")
    rows = rows if columns else [(row[0], *row[3:]) for row in rows]
    return table((title, *columns, "worlds", *ERRORS), rows)


def _parts_of(worlds: Sequence[dict[str, Any]]) -> tuple[str, str, int]:
    first = worlds[0]
    return number(first["parts"], 0), number(first["effective"], 1), len(worlds)


def _errors(worlds: Sequence[dict[str, Any]]) -> tuple[str, str, str, str]:
    """Return the columns ERRORS; dashes for power where no world has enough parts."""
    rates = [world["ours"] for world in worlds]
    judged = [world for world in worlds if world["effective"] >= MIN_EFFECTIVE]
    best = [world["best_valid_power"] for world in judged if world["best_valid_power"] is not None]
    power = [world["ours_power"] for world in judged]
    return percent(_mean(rates)), percent(max(rates)), _share(power), _share(best)


def _share(values: Sequence[float]) -> str:
    return percent(_mean(values), 0) if values else "-"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _seeds() -> str:
    """Return false verdicts and power by the numbers of seeds and how much they vary."""
    worlds = read("statistics")["equal_variants"]
    rows = []
    for seeds, spreads in dict.fromkeys((world["seeds"], world["spreads"]) for world in worlds):
        members = [w for w in worlds if (w["seeds"], w["spreads"]) == (seeds, spreads)]
        rows.append((seeds.replace("+", " and "), spreads, len(members), *_errors(members)))
    return table(("seeds", "seed spreads", "worlds", *ERRORS), rows)


def _rules() -> str:
    """Return how the rules that were tried do in the worlds with enough parts."""
    worlds = read("statistics")["equal_variants"]
    worlds = [world for world in worlds if world["effective"] >= MIN_EFFECTIVE]
    rows = []
    for rule, meaning in RULES.items():
        rates = [world[rule] for world in worlds]
        above = _mean([float(rate > 0.06) for rate in rates])
        power = _mean([world[f"{rule}_power"] for world in worlds])
        row = (percent(_mean(rates)), percent(max(rates)), percent(above, 0), percent(power, 0))
        rows.append((meaning, *row))
    header = ("rule", "false verdicts, mean", "largest", "worlds above 6 %", "power")
    return table(header, rows)


def _claims() -> str:
    """Return how often no difference is claimed where whole parts differ."""
    rows = read("statistics")["claims_of_no_difference"]
    cases = list(dict.fromkeys((row["difference"], row["records_of_a_part"]) for row in rows))
    lines = []
    for parts in dict.fromkeys(row["parts"] for row in rows):
        claimed = {
            (row["difference"], row["records_of_a_part"]): row["claimed"]
            for row in rows
            if row["parts"] == parts
        }
        lines.append((parts, *(percent(claimed[case]) for case in cases)))
    heads = [f"{100 * share:.0f} % of parts differ, {size} a part" for share, size in cases]
    return table(("parts", *heads), lines)


def _power() -> str:
    rows = []
    rates = {row["rate"] for row in read("statistics")["power"]}
    for rate in sorted(rates):
        for steady in (True, False):
            row = planned(rate=rate, steady=steady)
            needed = [_count(row[key]) for key in ("median_parts", "median_seeds")]
            difference = f"{100 * row['difference']:.1f} points"
            rows.append((percent(rate, 0), difference, row["seed_spread"], *needed))
    header = ("right answers", "difference", "seed spread", "test parts", "or seeds a variant")
    return table(header, rows)


def _count(median: int | None) -> str:
    return "no number" if median is None else number(median, 0)


def _planted() -> str:
    rows = []
    for world, meaning in (("informative", "explain the defect"), ("empty", "explain nothing")):
        result = read("planted")[world]
        better = result["better"]
        rows.append(
            (
                meaning,
                result["ablations"],
                called_better(result),
                f"{percent(better['low'], 0)} to {percent(better['high'], 0)}",
                f"{100 * result['mean_difference']:.1f} points",
            )
        )
    header = ("comparison records", "ablations", "called better", "95 % interval", "difference")
    return table(header, rows)
