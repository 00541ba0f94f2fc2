"""Two variants on the same records: the difference, its interval, and the verdict in words."""

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
from vlmbench.stats.spread import Spread, measure_spread, possible_errors, random_draws
from vlmbench.types import Prediction, Probe, UserError


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """How much more often a is right than b, from -1 to 1.

    `low` and `high` are the 95 % interval. `p_value` tests that there is no difference.
    """

    difference: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison(Interval):
    """An interval, the data behind it, and the data that would narrow it.

    `n_seeds` is the smaller of both numbers of seeds. `mcnemar_p` is from the exact McNemar test,
    which takes every record as independent; None unless both variants have one seed.
    """

    n_records: int
    n_parts: int
    n_seeds: int
    power_note: str
    mcnemar_p: float | None


def compare(
    a: Sequence[Sequence[Prediction]],
    b: Sequence[Sequence[Prediction]],
    *,
    seed: int,
    draws: int = 20_000,
) -> Comparison:
    """Return the accuracy of a minus the accuracy of b on the same ordinary records.

    Each outer sequence has an entry for each seed. `interval` says how the interval is computed.
    With one seed each, the interval cannot hold what another seed would change; the power note says
    so.

    Raise UserError where an entry lacks a record, or there are no records.
    """
    parts, correct_a, correct_b = _pair(a, b)
    n_parts = int(parts.max()) + 1
    n_seeds = min(len(a), len(b))
    result = interval(correct_a, correct_b, parts, seed=seed, draws=draws)

    note = "One part says nothing about other parts; at least two are needed."
    if n_parts > 1:
        spread = measure_spread(correct_a, correct_b, parts)
        note = power.power_note(result.difference, spread, n_seeds=n_seeds)

    return Comparison(
        **asdict(result),
        n_records=len(parts),
        n_parts=n_parts,
        n_seeds=n_seeds,
        power_note=note,
        mcnemar_p=_mcnemar(correct_a[0], correct_b[0]) if len(a) == len(b) == 1 else None,
    )


def interval(
    correct_a: Floats,
    correct_b: Floats,
    parts: NDArray[np.intp],
    *,
    seed: int,
    draws: int = 20_000,
) -> Interval:
    """Return the interval of the difference between a and b.

    `correct_a` and `correct_b` are 1 where a variant was right, else 0: (seeds, n). `parts` numbers
    the parts: (n). A single part gives -1 to 1.

    This is a generalized interval (Weerahandi 1993) for records in parts crossed with seeds. It
    uses the variance of the parts' mean paired difference (cluster sandwich) and the variance of
    the seeds' accuracies. It is drawn, not resampled. A bootstrap of three seeds sees two thirds of
    their variance, and finds differences between equal variants.
    """
    difference = float(correct_a.mean() - correct_b.mean())
    if parts.max() < 1:
        return Interval(difference=difference, low=-1.0, high=1.0, p_value=1.0)

    spread = measure_spread(correct_a, correct_b, parts)
    errors = _draw_errors(spread, np.random.default_rng(seed), draws)
    half_width = float(np.quantile(errors, 0.95))

    return Interval(
        difference=difference,
        low=max(difference - half_width, -1.0),
        high=min(difference + half_width, 1.0),
        p_value=float((1 + (errors >= abs(difference)).sum()) / (1 + draws)),
    )


def _draw_errors(spread: Spread, rng: np.random.Generator, number: int) -> Floats:
    return possible_errors(
        random_draws(spread, rng, number),
        parts=max(spread.parts, spread.one_part),
        seeds=spread.seeds,
        chance=spread.chance,
        freedom=spread.freedom,
    )


def verdict(result: Interval, *, margin: float = 0.02) -> str:
    """Return in words what the interval says about a against b; the first rule that applies."""
    if result.low > 0:
        return "better"
    if result.high < 0:
        return "worse"
    if -margin <= result.low and result.high <= margin:
        return f"no difference larger than {100 * margin:g} points"
    return "not enough data to tell"


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values of one family of comparisons, corrected for their number (Holm 1979).

    The order stays.
    """
    if not p_values:
        return []

    return [float(p) for p in multipletests(p_values, method="holm")[1]]


def _pair(
    a: Sequence[Sequence[Prediction]], b: Sequence[Sequence[Prediction]]
) -> tuple[NDArray[np.intp], Floats, Floats]:
    """Return part numbers (n), and whether each of a and b was right: (seeds, n) each."""
    runs = [
        {prediction.id: prediction for prediction in run if prediction.probe is Probe.NONE}
        for run in chain(a, b)
    ]
    ids = list(dict.fromkeys(chain.from_iterable(runs)))

    if not ids:
        raise UserError("there are no records to compare; evaluate both runs on held-out records")
    for record_id in ids:
        if not all(record_id in run for run in runs):
            raise UserError(
                f"record '{record_id}' was predicted by some of the compared runs but not by all; "
                "evaluate them on the same held-out records"
            )

    names = np.array([runs[0][record_id].group for record_id in ids])
    _, parts = np.unique(names, return_inverse=True)
    rows = [[run[record_id].correct for record_id in ids] for run in runs]
    correct = np.array(rows, dtype=np.float64)
    return parts, correct[: len(a)], correct[len(a) :]


def _mcnemar(correct_a: Floats, correct_b: Floats) -> float:
    only_a = int((correct_a > correct_b).sum())
    only_b = int((correct_b > correct_a).sum())
    if only_a + only_b == 0:
        return 1.0

    return float(mcnemar([[0, only_a], [only_b, 0]], exact=True).pvalue)
