"""Each baseline answers as its description says, on features that are known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.helpers.baselines import FakeFeatures, given, pair
from vlmbench.baselines import features as features_module
from vlmbench.baselines.contract import Answer
from vlmbench.baselines.features import TowerFeatures, normalize_map
from vlmbench.baselines.linear_probe import LinearProbeConfig
from vlmbench.baselines.majority import MajorityConfig
from vlmbench.baselines.patch_nn import PatchNNConfig
from vlmbench.baselines.untuned import UntunedConfig
from vlmbench.types import LazyImage, Task, UserError


def test_scores_are_log_probabilities_with_the_given_log_odds() -> None:
    scores = Answer(margin=2.0).scores(Task.JUDGE_PAIR)
    assert math.exp(scores["normal"]) + math.exp(scores["abnormal"]) == pytest.approx(1)
    assert scores["abnormal"] - scores["normal"] == pytest.approx(2)

    extreme = Answer(margin=-1e4).scores(Task.JUDGE_PAIR)
    assert extreme == {"normal": pytest.approx(0.0), "abnormal": pytest.approx(-1e4)}


def test_majority_gives_the_training_shares_whatever_the_record() -> None:
    train = [pair(number, "abnormal" if number < 3 else "normal") for number in range(10)]
    answers = MajorityConfig().fit(given(train)).answer([pair(90, "normal"), pair(91, "abnormal")])
    assert [answer.margin for answer in answers] == [pytest.approx(math.log(3.5 / 7.5))] * 2


def test_untuned_passes_the_records_to_the_untrained_model() -> None:
    asked = []

    def ask(records: list[object]) -> list[Answer]:
        asked.extend(records)
        return [Answer(margin=0.25) for _ in records]

    records = [pair(1, "normal"), pair(2, "abnormal")]
    method = UntunedConfig().fit(given([], ask=ask))
    assert [answer.margin for answer in method.answer(records)] == [0.25, 0.25]
    assert asked == records


def one_hot_map(letters: str) -> np.ndarray:
    """Return a map whose patches are one-hot vectors: "ab/cd" has two rows."""
    codes = np.eye(8, dtype=np.float32)
    rows = letters.split("/")
    return np.array([[codes["abcdefgh".index(letter)] for letter in row] for row in rows])


def test_patch_nn_finds_the_patch_that_the_reference_lacks() -> None:
    method = PatchNNConfig(patches=1)
    heat = method.distances(one_hot_map("ab/cd"), one_hot_map("dc/eb"))
    np.testing.assert_allclose(heat, [[0, 0], [1, 0]])

    images = {
        "0-ref": one_hot_map("ab/cd"),
        "0-query": one_hot_map("dc/eb"),
        "1-ref": one_hot_map("ab/cd"),
        "1-query": one_hot_map("ab/cd"),
    }
    tower = FakeFeatures(images)
    answers = method.fit(given([], tower)).answer([pair(0, "abnormal"), pair(1, "normal")])
    assert [answer.margin for answer in answers] == [1.0, 0.0]
    np.testing.assert_allclose(answers[0].heat, heat)


def test_patch_nn_scores_the_mean_of_its_most_distant_patches() -> None:
    images = {"0-ref": one_hot_map("aaaa"), "0-query": one_hot_map("abca")}
    for patches, expected in ((1, 1.0), (2, 1.0), (4, 0.5), (9, 0.5)):
        method = PatchNNConfig(patches=patches).fit(given([], FakeFeatures(images)))
        (answer,) = method.answer([pair(0, "abnormal")])
        assert answer.margin == pytest.approx(expected)


def test_the_reach_limits_how_far_a_part_may_have_moved() -> None:
    reference, query = one_hot_map("abcd"), one_hot_map("bcda")
    np.testing.assert_allclose(PatchNNConfig().distances(reference, query), [[0, 0, 0, 0]])
    np.testing.assert_allclose(PatchNNConfig(reach=0).distances(reference, query), [[1, 1, 1, 1]])
    np.testing.assert_allclose(PatchNNConfig(reach=1).distances(reference, query), [[0, 0, 0, 1]])

    # Maps of other shapes have no common location.
    other = PatchNNConfig(reach=0).distances(one_hot_map("abcd"), one_hot_map("ba/cc"))
    np.testing.assert_allclose(other, [[0, 0], [0, 0]])


def probe_images(number: int, label: str) -> dict[str, np.ndarray]:
    """Return features where only the distance of query and reference tells the label."""
    rng = np.random.default_rng(number)
    reference = rng.normal(size=6).astype(np.float32)
    shift = np.float32(2.0 if label == "abnormal" else 0.1)
    signs = rng.choice([-1, 1], 6).astype(np.float32)
    return {f"{number}-ref": reference, f"{number}-query": reference + shift * signs}


def test_the_probe_learns_what_the_distance_of_both_images_tells() -> None:
    records = [pair(n, "abnormal" if n % 2 else "normal", f"part-{n // 4}") for n in range(120)]
    images = {}
    for number, record in enumerate(records):
        images |= probe_images(number, record.label)

    method = LinearProbeConfig().fit(given(records[:80], FakeFeatures(images)))
    answers = method.answer(records[80:])
    judged = np.array([answer.margin > 0 for answer in answers])
    right = judged == np.array([record.label == "abnormal" for record in records[80:]])
    assert np.mean(right) >= 0.95
    assert "5 folds over 20 parts" in method.note


def test_the_probe_fits_single_images_on_the_query_alone() -> None:
    records = [pair(n, "abnormal" if n % 2 else "normal") for n in range(60)]
    singles = [replace(record, images=record.images[1:]) for record in records]
    images = {f"{n}-query": np.array([n % 2, 0.5], dtype=np.float32) for n in range(60)}
    method = LinearProbeConfig().fit(given(singles[:40], FakeFeatures(images)))
    judged = [answer.margin > 0 for answer in method.answer(singles[40:])]
    assert judged == [n % 2 == 1 for n in range(40, 60)]


@pytest.mark.parametrize(
    "train",
    [
        [pair(n, "normal") for n in range(20)],
        [pair(n, "abnormal" if n % 2 else "normal", "the-only-part") for n in range(20)],
    ],
)
def test_the_probe_refuses_records_of_one_label_or_part(train: list[object]) -> None:
    with pytest.raises(UserError, match="one label or one part"):
        LinearProbeConfig().fit(given(train, FakeFeatures({})))


def test_the_probe_spreads_its_records_over_the_training_set() -> None:
    records = [pair(n, "abnormal" if n % 2 else "normal") for n in range(200)]
    images = {}
    for number, record in enumerate(records):
        images |= probe_images(number, record.label)
    used: list[str] = []

    class Counting(FakeFeatures):
        def maps(self, records):
            used.extend(record.id for record in records)
            return super().maps(records)

        pooled = maps

    LinearProbeConfig(records=20).fit(given(records, Counting(images)))
    assert len(used) == 20
    assert used[0] == "r0"
    assert used[-1] == "r199"


def test_a_large_map_is_pooled_and_every_patch_has_length_one() -> None:
    normalized = normalize_map(
        np.random.default_rng(0).normal(size=(100, 49, 3)).astype(np.float32)
    )
    assert normalized.shape == (34, 17, 3)
    np.testing.assert_allclose(np.linalg.norm(normalized, axis=-1), 1, rtol=1e-5)
    assert normalize_map(np.zeros((2, 2, 3), np.float32)).tolist() == [[[0, 0, 0]] * 2] * 2


class CountingBackbone:
    """Counts the images that it encodes."""

    def __init__(self) -> None:
        self.encoded = 0

    def feature_maps(self, images: list[LazyImage]) -> list[np.ndarray]:
        return [np.full((2, 2, 3), shade + 1) for (shade,) in self.image_features(images)]

    def image_features(self, images: list[LazyImage]) -> list[np.ndarray]:
        self.encoded += len(images)
        return [np.array([image.rgb.getpixel((0, 0))[0]], np.float32) for image in images]


def test_each_image_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    shades = {f"{n}-ref": 0 for n in range(3)} | {f"{n}-query": 10 + n for n in range(3)}
    backbone = CountingBackbone()
    tower = TowerFeatures(
        backbone,
        lambda record: [
            LazyImage.of(Image.new("RGB", (4, 4), (shades[image.path.name], 0, 0)))
            for image in record.images
        ],
    )
    records = [pair(n, "normal") for n in range(3)]
    pooled = [[float(x[0]) for x in row] for row in tower.pooled(records)]
    assert pooled == [[0, 10], [0, 11], [0, 12]]
    list(tower.pooled(records))
    assert backbone.encoded == 4  # the reference is the same in all three

    assert len(list(tower.maps(records))) == 3
    list(tower.maps(records))
    assert backbone.encoded == 8

    # Without room in memory, maps are made again and are still right.
    monkeypatch.setattr(features_module, "MAP_BYTES", 1)
    monkeypatch.setattr(features_module, "CHUNK", 1)
    assert all(a.shape == (2, 2, 3) for a, _ in tower.maps(records))
