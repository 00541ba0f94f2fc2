"""Whether new scores are spread like those of the records that a run's decisions were measured on.

The distance is Kolmogorov's and Smirnov's: the largest difference between the two shares of records
below a score. Records of a part are not independent, so whole parts are exchanged at random to see
how large the distance becomes by chance (a permutation test: Ernst 2004, Statistical Science 19).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

DOUBT = 0.1  # p-values between the two levels are told as a doubt
LEVEL = 0.01  # of a false alarm: a page that is looked at weekly gives one in two years
MIN_PARTS = 10  # on each of the two; fewer tell too little
DRAWS = 1999

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """The distance between new scores and earlier ones.

    `shift` is the difference of shares where it is largest: positive if more of the new records
    have high scores. `p_value` is the share of random exchanges of parts with a distance as large.
    `n` and `n_parts` are (new, earlier).
    """

    shift: float
    p_value: float
    n: tuple[int, int]
    n_parts: tuple[int, int]

    @property
    def has_drifted(self) -> bool:
        return self.p_value < LEVEL

    @property
    def may_have_drifted(self) -> bool:
        """Whether chance is an unlikely reason, but not unlikely enough."""
        return LEVEL <= self.p_value < DOUBT


def find_drift(
    new: Sequence[float],
    earlier: Sequence[float],
    *,
    new_parts: Sequence[str],
    earlier_parts: Sequence[str],
    seed: int = 0,
) -> Drift | None:
    """Compare scores in any unit; return None with fewer than MIN_PARTS parts on either.

    `new_parts` and `earlier_parts` name the part of each score. `seed` is that of the exchanges.
    """
    n_parts = (len(set(new_parts)), len(set(earlier_parts)))
    if min(n_parts) < MIN_PARTS:
        return None

    owners = [("new", part) for part in new_parts] + [("earlier", part) for part in earlier_parts]
    parts = {owner: number for number, owner in enumerate(dict.fromkeys(owners))}
    part_of = np.array([parts[owner] for owner in owners])
    is_new = np.array([kind == "new" for kind, _ in parts])

    scores = np.array([*new, *earlier], dtype=np.float64)
    order = np.argsort(scores, kind="stable")
    part_of, scores = part_of[order], scores[order]
    ends = np.append(scores[1:] != scores[:-1], True)  # equal scores count together

    shift = _shift(is_new[part_of], ends)
    rng = np.random.default_rng(seed)
    by_chance = [abs(_shift(rng.permutation(is_new)[part_of], ends)) for _ in range(DRAWS)]
    as_large = int(np.sum(np.array(by_chance) >= abs(shift) - 1e-12))
    return Drift(
        shift=shift,
        p_value=(1 + as_large) / (1 + DRAWS),
        n=(len(new), len(earlier)),
        n_parts=n_parts,
    )


def _shift(is_new: NDArray[np.bool_], ends: NDArray[np.bool_]) -> float:
    """Return the largest difference of shares; the records are in the order of their scores."""
    new = np.cumsum(is_new) / max(1, is_new.sum())
    earlier = np.cumsum(~is_new) / max(1, (~is_new).sum())
    differences = (earlier - new)[ends]
    return float(differences[np.abs(differences).argmax()])
