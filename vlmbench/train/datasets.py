"""Samples as a `datasets.Dataset`, which is the form that SFTTrainer takes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from vlmbench.types import Sample


def lazy_dataset(samples: Sequence[Sample]) -> Any:
    """Return a dataset that opens a sample when a batch needs it: memory stays flat."""
    from datasets import Dataset

    # It warns that it cannot name this function for its cache on disk, which is not used here.
    logging.getLogger("datasets.fingerprint").setLevel(logging.ERROR)

    numbers = Dataset.from_dict({"index": range(len(samples))})
    return numbers.with_transform(
        lambda rows: {"sample": [samples[index] for index in rows["index"]]}
    )
