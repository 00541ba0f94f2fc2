"""The features of a vision tower for the images of records. Each image is encoded once."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from vlmbench.backbones.maps import FeatureMap, Features
from vlmbench.types import LazyImage, Record

if TYPE_CHECKING:
    from vlmbench.backbones.contract import Backbone

CHUNK = 16  # records whose images are encoded together
MAP_BYTES = 2**29  # of the maps that stay in memory; one of smol has 0.5 MB
MAX_EDGE = 48  # patches; a pair with more would take seconds on a CPU


class TowerFeatures:
    """Reads the features of a backbone's tower. `seconds` is the time that this took so far."""

    def __init__(
        self, backbone: Backbone, open_images: Callable[[Record], Sequence[LazyImage]]
    ) -> None:
        self._backbone, self.open_images = backbone, open_images
        self._pooled: dict[str, Features] = {}
        self._maps: OrderedDict[str, FeatureMap] = OrderedDict()  # least recently used first
        self.seconds = 0.0

    def maps(self, records: Sequence[Record]) -> Iterator[tuple[FeatureMap, ...]]:
        """Yield the feature maps of the images of each record. All patches have length 1."""
        for images_of_chunk in self._chunks(records):
            maps = self._maps_of([image for images in images_of_chunk for image in images])
            for images in images_of_chunk:
                yield tuple(maps[image.hash] for image in images)

    def pooled(self, records: Sequence[Record]) -> Iterator[tuple[Features, ...]]:
        """Yield numbers that describe each image of each record."""
        for images_of_chunk in self._chunks(records):
            images = {image.hash: image for row in images_of_chunk for image in row}
            missing = {key: image for key, image in images.items() if key not in self._pooled}

            started = time.perf_counter()
            features = self._backbone.image_features(list(missing.values()))
            self._pooled |= dict(zip(missing, features, strict=True))
            self.seconds += time.perf_counter() - started

            for row in images_of_chunk:
                yield tuple(self._pooled[image.hash] for image in row)

    def _chunks(self, records: Sequence[Record]) -> Iterator[list[Sequence[LazyImage]]]:
        for start in range(0, len(records), CHUNK):
            yield [self.open_images(record) for record in records[start : start + CHUNK]]

    def _maps_of(self, images: Sequence[LazyImage]) -> dict[str, FeatureMap]:
        started = time.perf_counter()
        by_hash = {image.hash: image for image in images}
        missing = {key: image for key, image in by_hash.items() if key not in self._maps}

        made = self._backbone.feature_maps(list(missing.values()))
        for key, feature_map in zip(missing, made, strict=True):
            self._maps[key] = normalize_map(feature_map)

        maps = {}
        for key in by_hash:
            self._maps.move_to_end(key)
            maps[key] = self._maps[key]
        while len(self._maps) > 1 and sum(each.nbytes for each in self._maps.values()) > MAP_BYTES:
            self._maps.popitem(last=False)

        self.seconds += time.perf_counter() - started
        return maps


def normalize_map(feature_map: FeatureMap) -> FeatureMap:
    """Return the map with patches of length 1, and at most MAX_EDGE rows and columns."""
    rows, columns, _ = feature_map.shape
    step = -(-max(rows, columns) // MAX_EDGE)
    if step > 1:
        row_starts, column_starts = np.arange(0, rows, step), np.arange(0, columns, step)
        sums = np.add.reduceat(np.add.reduceat(feature_map, row_starts, 0), column_starts, 1)
        feature_map = sums  # their length does not matter: all become 1

    lengths = np.linalg.norm(feature_map, axis=-1, keepdims=True)
    normalized: FeatureMap = (feature_map / np.maximum(lengths, 1e-6)).astype(np.float32)
    return normalized
