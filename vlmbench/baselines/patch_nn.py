"""The largest distance of a query's patch to the nearest patch of its reference. Nothing trains.

The idea is that of PatchCore (Roth et al. 2022, arXiv:2106.08265), with one reference as the bank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vlmbench.backbones.maps import FeatureMap
from vlmbench.baselines.contract import Answer, BaselineConfig, Given, HeatMap, Method
from vlmbench.config import schema, setting
from vlmbench.types import Record, Task


@schema("baseline", "patch_nn")
@dataclass(kw_only=True)
class PatchNNConfig(BaselineConfig):
    """Settings of conf/baseline/patch_nn.yaml."""

    config_group: ClassVar[str] = "baseline.patch_nn"
    tasks = frozenset({Task.JUDGE_PAIR})
    title = "distance to the nearest patch of the reference"
    learns = False

    reach: int | None = setting(
        None,
        "Patches that a part may have moved between its two images; null: any distance.",
        at_least=0,
        cure="null",
    )
    patches: int = setting(3, "Most distant patches whose mean is the score.", at_least=1)

    def fit(self, given: Given) -> Method:
        """Return the method; it reads the feature maps of both images."""

        def answer(records: Sequence[Record]) -> list[Answer]:
            answers = []
            for reference, query in given.features.maps(records):
                distances = self.distances(reference, query)
                answers.append(Answer(margin=self._score(distances), heat=distances))
            return answers

        return Method(answer=answer)

    def distances(self, reference: FeatureMap, query: FeatureMap) -> HeatMap:
        """Return the cosine distance of each patch of the query to its nearest one.

        Patches have length 1. The result has the shape (rows, columns).
        """
        if self.reach is None or reference.shape != query.shape:
            flat = reference.reshape(-1, reference.shape[-1])
            nearest: HeatMap = (query @ flat.T).max(-1)
            return np.float32(1.0) - nearest

        rows, columns, _ = query.shape
        reach = self.reach
        padded = np.pad(reference, ((reach, reach), (reach, reach), (0, 0)))
        nearest = np.full((rows, columns), -1.0, dtype=np.float32)
        for down in range(2 * reach + 1):
            for right in range(2 * reach + 1):
                shifted = padded[down : down + rows, right : right + columns]
                nearest = np.maximum(nearest, (query * shifted).sum(-1))
        return np.float32(1.0) - nearest

    def _score(self, distances: HeatMap) -> float:
        flat = np.sort(distances, axis=None)
        return float(flat[-self.patches :].mean())
