"""The read-out of the small model: what it learns, and what it must not depend on."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from vlmbench.models.smol import readout as module
from vlmbench.models.smol.readout import NO_KEY, ROWS, STRENGTH, Choice, SmolReadout, key_of

SIZE = 12  # features of an image
NORMAL = (key_of("Normal?\nnormal"), key_of("negative"))
ABNORMAL = (key_of("Normal?\nabnormal"), key_of("positive"))


def pairs(num_records: int, seed: int = 0) -> tuple[torch.Tensor, list[int]]:
    """Return features of pairs; the second image is abnormal where feature 3 differs much."""
    rng = np.random.default_rng(seed)
    features = rng.normal(5, 2, (num_records, 2, SIZE))
    difference = np.abs(features[:, 1, 3] - features[:, 0, 3])
    truth = difference > np.median(difference)
    return torch.tensor(features, dtype=torch.float32), truth.astype(int).tolist()


def fit(features: torch.Tensor, truth: list[int], keys: tuple = (NORMAL, ABNORMAL)) -> SmolReadout:
    readout = SmolReadout(SIZE)
    module.fit_readout(readout, features, [Choice(keys=keys, truth=one) for one in truth])
    return readout


def margins(readout: SmolReadout, features: torch.Tensor, keys: tuple = (NORMAL, ABNORMAL)):
    scores = readout(features, torch.tensor([keys] * len(features)))
    return scores[:, 1] - scores[:, 0]


def test_it_judges_pairs_that_it_has_not_seen() -> None:
    readout = fit(*pairs(300))
    features, truth = pairs(300, seed=1)
    found = (margins(readout, features) > 0).int()
    assert (found == torch.tensor(truth)).float().mean() > 0.85


def test_two_labels_are_a_logistic_regression() -> None:
    """Four rows share the weights, so the penalty is a quarter of that on their difference.

    The bias is the weight of a large constant input.
    """
    features, truth = pairs(300)
    images = features.flatten(0, 1).double()
    normalised = (features.double() - images.mean(0)) / images.std(0)
    inputs = module.compare_features(normalised).numpy()
    inputs = np.pad(inputs, ((0, 0), (0, 1)), constant_values=inputs.shape[1] ** 0.5)
    expected = LogisticRegression(C=4 * STRENGTH, tol=1e-8, fit_intercept=False).fit(inputs, truth)

    found = margins(fit(features, truth), features).numpy()
    np.testing.assert_allclose(found, expected.decision_function(inputs), atol=0.05)


def test_equal_records_give_equal_rows() -> None:
    first, second = fit(*pairs(100)), fit(*pairs(100))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


def test_without_a_fit_and_for_unknown_answers_it_is_silent() -> None:
    features, truth = pairs(100)
    assert margins(SmolReadout(SIZE), features).abs().max() == 0

    readout = fit(features, truth)
    unknown = ((key_of("a"), NO_KEY), (key_of("b"), NO_KEY))
    assert margins(readout, features, unknown).abs().max() == 0


def test_records_of_one_task_teach_another_through_the_shared_rows() -> None:
    features, truth = pairs(300)
    readout = fit(features, truth)
    other = ((key_of("Same?\nsame"), NORMAL[1]), (key_of("Same?\ndifferent"), ABNORMAL[1]))
    found = (margins(readout, features, other) > 0).int()
    assert (found == torch.tensor(truth)).float().mean() > 0.85


def test_options_are_known_by_their_text_and_not_by_their_letter() -> None:
    """Three kinds of defect, of which each record offers two, in either order."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 3, 300)
    features = rng.normal(5, 1, (300, 2, SIZE))
    features[np.arange(300), 1, kinds] += 6
    features = torch.tensor(features, dtype=torch.float32)

    choices = []
    for kind in kinds.tolist():
        other = (kind + int(rng.integers(1, 3))) % 3
        offered = [kind, other] if rng.random() < 0.5 else [other, kind]
        keys = [(key_of(f"Which?\n{option}"), key_of(f"\n{option}")) for option in offered]
        choices.append(Choice(keys=keys, truth=offered.index(kind)))

    readout = SmolReadout(SIZE)
    module.fit_readout(readout, features[:200], choices[:200])
    scores = readout(features[200:], torch.tensor([choice.keys for choice in choices[200:]]))
    truth = torch.tensor([choice.truth for choice in choices[200:]])
    assert (scores.argmax(1) == truth).float().mean() > 0.9


def test_a_feature_that_never_varies_does_not_decide_later() -> None:
    features, truth = pairs(200)
    features[..., 5] = 1.0
    readout = fit(features, truth)

    later, _ = pairs(50, seed=1)
    later[..., 5] = 1.0
    moved = later.clone()
    moved[:, 1, 5] = 1.5
    assert (margins(readout, moved) - margins(readout, later)).abs().max() < 0.5


def test_it_holds_the_commonest_answers_and_none_that_occurs_once() -> None:
    features, _ = pairs(ROWS + 40)
    common = (key_of("yes"), key_of("no"))
    choices = [
        Choice(keys=[(common[0], key_of(f"yes {i // 2}")), (common[1], NO_KEY)], truth=i % 2)
        for i in range(ROWS + 40)
    ]
    choices[0] = Choice(keys=[(common[0], key_of("once")), (common[1], NO_KEY)], truth=0)
    readout = SmolReadout(SIZE)
    module.fit_readout(readout, features, choices)
    assert set(common) <= set(readout.keys.tolist())
    assert key_of("once") not in readout.keys.tolist()
    assert NO_KEY not in readout.keys.tolist()


def test_a_record_with_fewer_answers_has_no_others() -> None:
    """Records of four options beside those of two labels change nothing in the labels' fit."""
    inputs = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    truth = (inputs[:, 0] > 0).long()
    two = [Choice(keys=[[1], [2]], truth=int(one)) for one in truth]
    four = Choice(keys=[[3], [4], [5], [6]], truth=0)

    alone = module._minimise(inputs, module._is_row(two, [1, 2]), module._exists(two), truth)
    mixed = [*two, four]
    beside = module._minimise(
        torch.cat([inputs, torch.zeros(1, 6, dtype=torch.float64)]),
        module._is_row(mixed, [1, 2]),
        module._exists(mixed),
        torch.cat([truth, torch.zeros(1, dtype=torch.long)]),
    )
    torch.testing.assert_close(beside, alone, atol=1e-4, rtol=1e-3)
