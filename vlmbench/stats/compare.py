"""Two sides on the same records: the difference, its interval, and the words that it allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from vlmbench.stats import power
from vlmbench.stats.clusters import Floats
from vlmbench.stats.spread import Spread, measure, possible_errors, random_draws
from vlmbench.types import Prediction, Probe, UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """How much more often a is right than b, with the 95 % interval and the p-value of no difference."""

    difference: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Interval):
    """An interval, what it rests on, and what it would take to know better.

    `n_seeds` is that of the side with fewer. `mcnemar_p` is the exact McNemar test, which takes every record as
    independent; None unless each side has one seed.
    """

    n_records: int
    n_groups: int
    n_seeds: int
    power_note: str
    mcnemar_p: float | None


def compare(
    a: Sequence[Sequence[Prediction]], b: Sequence[Sequence[Prediction]], *, seed: int, draws: int = 20_000
) -> Comparison:
    """Accuracy of a minus accuracy of b on the same ordinary records; the outer sequences have an entry a seed.

    See `interval` for how it is computed. With one seed on each side what another seed would change is unknown and left
    out, and the power note says so. Raises UserError where a record is not in every entry, or there is none.
    """
    groups, correct_a, correct_b = _paired(a, b)
    n_groups, n_seeds = int(groups.max()) + 1, min(len(a), len(b))
    found = interval(correct_a, correct_b, groups, seed=seed, draws=draws)
    note = "One record group tells nothing about others; at least two are needed."
    if n_groups > 1:
        note = power.note(found.difference, measure(correct_a, correct_b, groups), n_seeds=n_seeds)
    return Comparison(
        **asdict(found),
        n_records=len(groups),
        n_groups=n_groups,
        n_seeds=n_seeds,
        power_note=note,
        mcnemar_p=_mcnemar(correct_a[0], correct_b[0]) if len(a) == len(b) == 1 else None,
    )


def interval(
    correct_a: Floats, correct_b: Floats, groups: NDArray[np.intp], *, seed: int, draws: int = 20_000
) -> Interval:
    """From whether each side was right, (seeds, n) of 0 and 1, and the numbers of the groups, (n).

    A generalized interval (Weerahandi 1993) for records in groups crossed with seeds, from the variance of the groups'
    mean paired difference (cluster sandwich) and that of the seeds' accuracies. It is drawn rather than resampled: a
    bootstrap of three seeds sees two thirds of their variance and finds differences between equal variants. One group
    alone gives -1 to 1.
    """
    difference = float(correct_a.mean() - correct_b.mean())
    if groups.max() < 1:
        return Interval(difference=difference, low=-1.0, high=1.0, p_value=1.0)
    errors = _errors(measure(correct_a, correct_b, groups), np.random.default_rng(seed), draws)
    half = float(np.quantile(errors, 0.95))
    return Interval(
        difference=difference,
        low=max(difference - half, -1.0),
        high=min(difference + half, 1.0),
        p_value=float((1 + (errors >= abs(difference)).sum()) / (1 + draws)),
    )


def _errors(spread: Spread, rng: np.random.Generator, number: int) -> Floats:
    return possible_errors(
        random_draws(spread, rng, number),
        groups=max(spread.groups, spread.one_group),
        seeds=spread.seeds,
        chance=spread.chance,
        freedom=spread.freedom,
    )


def verdict(found: Interval, *, margin: float = 0.02) -> str:
    """What the interval allows to be said of a against b, in words; the first that applies."""
    if found.low > 0:
        return "better"
    if found.high < 0:
        return "worse"
    if -margin <= found.low and found.high <= margin:
        return f"no difference larger than {100 * margin:g} points"
    return "not enough data to tell"


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of one family of comparisons, corrected for their number (Holm 1979), in the order given."""
    if not p_values:
        return []
    return [float(p) for p in multipletests(p_values, method="holm")[1]]


def _paired(
    a: Sequence[Sequence[Prediction]], b: Sequence[Sequence[Prediction]]
) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Group numbers (n), and whether each side was right (seeds x n)."""
    runs = [{p.id: p for p in run if p.probe is Probe.NONE} for run in chain(a, b)]
    ids = list(dict.fromkeys(chain.from_iterable(runs)))
    if not ids:
        raise UserError("there are no records to compare; evaluate both runs on held-out records")
    for name in ids:
        if not all(name in run for run in runs):
            raise UserError(
                f"record '{name}' was predicted by some of the compared runs and not by others; evaluate them on the "
                "same held-out records"
            )
    _, groups = np.unique(np.array([runs[0][name].group for name in ids]), return_inverse=True)
    correct = np.array([[run[name].correct for name in ids] for run in runs], dtype=np.float64)
    return groups, correct[: len(a)], correct[len(a) :]


def _mcnemar(correct_a: Floats, correct_b: Floats) -> float:
    only_a, only_b = int((correct_a > correct_b).sum()), int((correct_b > correct_a).sum())
    if only_a + only_b == 0:
        return 1.0
    return float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue)
