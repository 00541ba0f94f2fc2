"""Logistic regression on what the frozen vision tower sees in the two images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from vlmbench.baselines.contract import Answer, BaselineConfig, Given, Method
from vlmbench.config import schema, setting
from vlmbench.types import Record, UserError

# Inverse strengths of the penalty that cross-validation chooses from.
STRENGTHS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)


@schema("baseline", "linear_probe")
@dataclass(kw_only=True)
class LinearProbeConfig(BaselineConfig):
    """Settings of conf/baseline/linear_probe.yaml."""

    config_group: ClassVar[str] = "baseline.linear_probe"
    title = "logistic regression on the vision tower's features"

    folds: int = setting(5, "Folds of the cross-validation over parts.", at_least=2)
    records: int = setting(
        5000, "Most training records of the fit, spread evenly over the training set.", at_least=20
    )

    def fit(self, given: Given) -> Method:
        """Return the regression on [|query - reference|, query], or on the single image."""
        train = _spread(given.train, self.records)
        parts = [record.group for record in train]
        labels = np.array([given.is_positive(record) for record in train])
        num_folds = min(self.folds, len(set(parts)))
        if num_folds < 2 or labels.all() or not labels.any():
            raise UserError(
                "the training records have one label or one part, so nothing can be fitted; "
                "add parts of both labels"
            )

        fitted, strength = _fit(_columns(given, train), labels, parts, num_folds)

        def answer(records: Sequence[Record]) -> list[Answer]:
            margins = fitted.decision_function(_columns(given, records))
            return [Answer(margin=float(margin)) for margin in margins]

        note = f"C = {strength:g} by {num_folds} folds over {len(set(parts))} parts"
        return Method(answer=answer, note=note)


def _fit(
    columns: NDArray[np.float32], labels: NDArray[np.bool_], parts: Sequence[str], num_folds: int
) -> tuple[Any, float]:
    """Return the fitted steps, and the strength of least log loss on parts that a fold left out.

    The columns are rotated to as many numbers as there are records. That changes no answer of a
    regression with this penalty, and makes each of its 46 fits 4 to 30 times shorter.
    """
    from sklearn.decomposition import PCA
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits

    rotate = make_pipeline(StandardScaler(), PCA(svd_solver="full"))
    rotated = rotate.fit_transform(columns)

    search = GridSearchCV(
        LogisticRegression(max_iter=2000),
        {"C": list(STRENGTHS)},
        scoring="neg_log_loss",
        cv=StratifiedGroupKFold(num_folds),
        error_score="raise",
    )
    # On two busy cores, two threads that wait for each other took 78 s instead of 6 s.
    with threadpool_limits(limits=1):
        search.fit(rotated, labels, groups=parts)

    return make_pipeline(rotate, search.best_estimator_), float(search.best_params_["C"])


def _columns(given: Given, records: Sequence[Record]) -> NDArray[np.float32]:
    """Return the numbers that the regression reads: (records, numbers)."""
    rows = []
    for first, *rest in given.features.pooled(records):
        query = rest[-1] if rest else first
        rows.append(np.concatenate([np.abs(query - first), query]) if rest else query)
    return np.stack(rows)


def _spread(records: Sequence[Record], limit: int) -> list[Record]:
    indices = np.linspace(0, len(records) - 1, min(limit, len(records))).round()
    return [records[int(index)] for index in indices]
