"""The identity of a test split: which records and images a run is scored on."""

from __future__ import annotations

import hashlib
import json
from itertools import chain

from vlmbench.data.load import Data
from vlmbench.data.manifest import hash_name


def hash_test_split(data: Data) -> str:
    """Return the SHA-256 of the ids, labels and images of all records of the test split.

    The order of the records and the paths of the images do not matter. The folds of a
    cross-validation together test all records, so these are one test split.
    """
    lines = []
    tested = (data.train, data.val, data.test) if data.is_fold else (data.test,)
    for record in chain.from_iterable(tested):
        names = [data.manifest.image_name(image.path) for image in record.images]
        hashes = [data.facts[hash_name(name)].sha256 for name in names]
        views = [image.view for image in record.images]
        lines.append(json.dumps([record.id, record.task, record.label, hashes, views]))

    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
