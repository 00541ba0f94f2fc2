"""Sums over records that belong to clusters, and how much clusters of uneven size can tell."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Fewer effective clusters give no verdict. With a design that is uneven too, no interval keeps its
# level there (MacKinnon, Nielsen & Webb 2023, Journal of Econometrics 232).
MIN_EFFECTIVE = 10.0
LEAST_FREEDOM = 1e-3  # degrees of freedom that are as good as none


def number_clusters(names: Sequence[Hashable] | NDArray[np.generic]) -> NDArray[np.intp]:
    """Return the number of each record's cluster, from 0: (n)."""
    numbers: dict[Hashable, int] = {}
    values = names.tolist() if isinstance(names, np.ndarray) else names
    return np.array([numbers.setdefault(name, len(numbers)) for name in values], dtype=np.intp)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Folded:
    """The cluster and the fold of each record of a cross-validation, by name: (n)."""

    clusters: Sequence[Hashable] | NDArray[np.generic]
    folds: Sequence[Hashable] | NDArray[np.generic]


@dataclass(frozen=True, eq=False, kw_only=True)
class Design:
    """How records fall into clusters and classes; a figure is a weighted sum of class means.

    `clusters` and `classes` number each record's cluster and class: (n). `class_weights` are the
    weights of the class means in the figure: (classes).
    """

    clusters: NDArray[np.intp]
    classes: NDArray[np.intp]
    class_weights: Floats

    @cached_property
    def counts(self) -> Floats:
        """Records of each cluster in each class, (clusters, classes)."""
        return self._sums(np.ones(len(self.clusters)))

    @cached_property
    def shares(self) -> Floats:
        """Share of each class that each cluster holds, (clusters, classes)."""
        shares: Floats = self.counts / self.counts.sum(axis=0)
        return shares

    @cached_property
    def weights(self) -> Floats:
        """Share of the figure that each cluster decides, (clusters)."""
        sizes = np.abs(self.class_weights)
        weights: Floats = self.shares @ (sizes / sizes.sum())
        return weights

    @property
    def num_clusters(self) -> int:
        return len(self.counts)

    @cached_property
    def effective_clusters(self) -> float:
        """Equally large clusters that would tell as much: 1 / sum of squared shares (Kish 1965).

        The class with the fewest decides.
        """
        return round(float((1 / (self.shares**2).sum(axis=0)).min()), 6)

    @cached_property
    def one_record(self) -> float:
        """Least variance that is assumed: one changed record's, times the mean size of its cluster.

        No estimate of zero spread is taken at face value.
        """
        records = self.counts.sum(axis=0)
        mean_size = (self.counts**2).sum(axis=0) / records
        return float((self.class_weights**2 * mean_size / records**2).mean())

    @cached_property
    def whole_clusters(self) -> float:
        """Variance of the figure if one and a half whole clusters changed.

        Two variants that agree on all clusters may still differ on clusters like these.
        """
        shares = (self.shares**2).sum(axis=0)
        return 1.5 * float((np.abs(self.class_weights) @ np.sqrt(shares / self.num_clusters)) ** 2)

    def variance(self, residuals: Floats) -> float:
        """Return the jackknife variance over whole clusters of a figure; inf if it has none.

        `residuals` (n) sum to 0 in each class. Without cluster g, the figure changes by the sum
        over the classes of weight * residuals of g / records of the others. Uneven clusters with
        effects of their own keep their level so (CR3: Bell & McCaffrey 2002, Survey Methodology
        28); the usual sandwich is too small for them.
        """
        others = self.counts.sum(axis=0) - self.counts
        if len(others) < 2 or (others < 1).any():
            return float("inf")

        changes = (self._sums(residuals) / others) @ self.class_weights
        return float((changes**2).sum()) * (self.num_clusters - 1) / self.num_clusters

    def freedom(self, likeness: float) -> float:
        """Return the degrees of freedom of `variance`: G - 1 for G equal clusters, else fewer.

        Satterthwaite's, for records whose correlation within a cluster is `likeness`. Without
        another cluster, whose variance is infinite, it is LEAST_FREEDOM.
        """
        if self.num_clusters < 2:
            return LEAST_FREEDOM

        per_class = (self.class_weights / self.counts.sum(axis=0)) ** 2
        spread = (self.counts * (1 + (self.counts - 1) * likeness).clip(min=1e-9)) @ per_class
        share, total = self.weights, float(spread.sum())
        inverse = 1 / np.maximum(1 - share, 1e-9)

        # Covariance of the clusters' changes: diagonal less two cross terms plus a common one.
        x, y = spread * inverse, share * inverse
        cross, common = -2 * x * y, total * y**2
        off = (
            2 * ((x @ x) * (y @ y) + (x @ y) ** 2)
            + total**2 * (y @ y) ** 2
            - 4 * total * (x @ y) * (y @ y)
        )
        diagonal = spread * inverse**2 + cross + common
        squares = float(off - ((cross + common) ** 2).sum() + (diagonal**2).sum())
        if squares <= 0:  # one cluster has nearly all weight, and the digits are used up
            return LEAST_FREEDOM
        return max(float(diagonal.sum()) ** 2 / squares, LEAST_FREEDOM)

    def likeness(self, residuals: Floats) -> float:
        """Return the correlation of records within a cluster, from 0 to 1 (moment estimate)."""
        scaled = residuals * (self.class_weights / self.counts.sum(axis=0))[self.classes]
        squares = float((scaled**2).sum())
        sizes = np.bincount(self.clusters)
        pairs = float((sizes * (sizes - 1)).sum())
        if squares <= 0 or pairs == 0:
            return 1.0

        sums = np.bincount(self.clusters, scaled)
        between = (float((sums**2).sum()) - squares) / pairs
        return float(np.clip(between / (squares / len(scaled)), 0.0, 1.0))

    def _sums(self, values: Floats) -> Floats:
        """Return the sums of `values` over each cluster and class, (clusters, classes)."""
        classes = len(self.class_weights)
        boxes = self.clusters * classes + self.classes
        cluster_count = int(self.clusters.max()) + 1
        sums = np.bincount(boxes, values, minlength=cluster_count * classes).astype(np.float64)
        return sums.reshape(cluster_count, classes)
