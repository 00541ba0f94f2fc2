"""What each metric is called, how it is written, and what it tells a quality engineer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MISSING_FIGURE = "–"
UNKNOWN = "interval unknown"


def percent(value: float) -> str:
    """A share."""
    return f"{100 * value:.1f} %"


def points(value: float) -> str:
    """A difference of shares, with its sign."""
    return f"{100 * value:+.1f} points".replace("-", "−")


def plain(value: float) -> str:
    """Any number, of whose range nothing is known."""
    return f"{value:.4g}".replace("-", "−")


def index(value: float) -> str:
    """A number from 0 to 1 that is no share."""
    return f"{value:.3f}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """`better` is "higher" or "lower", "" where neither is."""

    title: str
    meaning: str
    better: str = ""
    write: Callable[[float], str] = plain


METRICS: Mapping[str, Metric] = {
    "accuracy": Metric(title="Accuracy", better="higher", write=percent, meaning="Share of records answered right."),
    "balanced_accuracy": Metric(
        title="Balanced accuracy",
        better="higher",
        write=percent,
        meaning="Mean of the shares answered right under each label: guessing gives 50 %, however rare defects are.",
    ),
    "mean_type_accuracy": Metric(
        title="Mean over types",
        better="higher",
        write=percent,
        meaning="Mean of the accuracies on each type of multiple choice, every type counting the same.",
    ),
    "miss_rate": Metric(
        title="Misses",
        better="lower",
        write=percent,
        meaning="Share of abnormal (or different) records not judged so: defects that reach the customer.",
    ),
    "overkill_rate": Metric(
        title="Overkill",
        better="lower",
        write=percent,
        meaning="Share of normal (or same) records not judged so: good parts that are scrapped.",
    ),
    "auroc": Metric(
        title="AUROC",
        better="higher",
        write=index,
        meaning="Chance that an abnormal record is ranked above a normal one, whatever the threshold: "
        "0.5 is guessing, 1 is perfect.",
    ),
    "ece": Metric(
        title="Calibration error (ECE)",
        better="lower",
        write=index,
        meaning="Mean gap between how sure the model says it is and how often it is right: 0 is honest.",
    ),
    "unparsed": Metric(
        title="Unparsed",
        better="lower",
        write=percent,
        meaning="Share of written answers that name no label. Each of them counts as wrong.",
    ),
    "swap_symmetry": Metric(
        title="Swap",
        better="higher",
        write=percent,
        meaning="Share of pairs that keep their label when the two pictures change places.",
    ),
    "self_pair": Metric(
        title="Self pair",
        better="higher",
        write=percent,
        meaning="Share of references, each beside itself, that are judged normal (or the same).",
    ),
    "transitivity": Metric(
        title="Transitivity",
        better="higher",
        write=percent,
        meaning="Where A with B and A with C were both judged the same, the share of B with C judged the same too.",
    ),
    "blank_reference_accuracy": Metric(
        title="Blank reference",
        better="",
        write=percent,
        meaning="Accuracy with a grey picture as the reference: what the model does without comparing.",
    ),
    "reference_gain": Metric(
        title="Reference gain",
        better="higher",
        write=points,
        meaning="Accuracy that the reference adds. Around 0, the model does not compare the two pictures.",
    ),
}

CONSISTENCY = ("swap_symmetry", "self_pair", "transitivity", "blank_reference_accuracy", "reference_gain")


def metric(name: str) -> Metric:
    """The metric of this name; one that nobody described here is shown under its own name."""
    if name not in METRICS and name.startswith("accuracy_"):  # of a type of multiple choice, as its benchmark calls it
        title = name.removeprefix("accuracy_").replace("_", " ").capitalize()
        return Metric(title=title, better="higher", write=percent, meaning="")
    return METRICS.get(name) or Metric(title=name.replace("_", " "), meaning="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A metric of one cell; everything is None where the cell has none, or it is undefined."""

    metric: Metric
    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    n_groups: int | None = None

    @property
    def text(self) -> str:
        return MISSING_FIGURE if self.value is None else self.metric.write(self.value)

    @property
    def interval(self) -> str:
        return "" if self.low is None or self.high is None else span(self.metric.write, self.low, self.high)

    @property
    def count(self) -> str:
        return (
            "" if self.n is None else f"n {self.n}" if self.n_groups is None else f"n {self.n}, {self.n_groups} parts"
        )

    @property
    def sentence(self) -> str:
        """All of it on one line."""
        details = "; ".join(part for part in (self.interval, self.count) if part)
        return f"{self.text} ({details})" if details else self.text


def figure(name: str, estimate: Mapping[str, Any] | None) -> Figure:
    """`estimate` is a row of metrics.json: value, low, high, n, n_groups."""
    known = estimate or {}
    return Figure(metric=metric(name), **{key: known.get(key) for key in ("value", "low", "high", "n", "n_groups")})


def span(write: Callable[[float], str], low: float, high: float) -> str:
    """Both ends of an interval, the unit once. From -1 to 1 is what `vlmbench.stats` gives where it can give none."""
    if low <= -1 and high >= 1:
        return UNKNOWN
    first, last = write(low), write(high)
    _, space, unit = last.partition(" ")
    return f"{first.removesuffix(space + unit)} to {last}"


def interval_words(interval: str) -> str:
    """What a sentence says of a `span`; "" of none."""
    return interval if interval in ("", UNKNOWN) else f"95 % interval {interval}"
