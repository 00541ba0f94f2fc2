"""The promises of every backbone. Each tiny twin is tested as soon as its file exists."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.backbones import (
    BACKBONES,
    LABELS,
    SIZES,
    build,
    draw_lora_b,
    lazy_image,
    num_trained,
    sample,
    train_losses,
)
from vlmbench.backbones.batches import IGNORED, complete_batch, count_positions
from vlmbench.backbones.chat import ChatBackbone
from vlmbench.backbones.tokens import TokenBackbone
from vlmbench.config import StoreConfig
from vlmbench.types import Sample, UserError


@pytest.fixture(scope="module", params=list(BACKBONES))
def backbone(request: pytest.FixtureRequest, shared_cache: Path) -> Any:
    built = build(request.param, shared_cache)
    # New adapters change nothing. Give them weights, so that their effect shows.
    draw_lora_b(built)
    built.model.eval()
    return built


def answer_logits(backbone: Any, samples: list[Sample], **collate: Any) -> list[torch.Tensor]:
    """Return the logits that predict each sample's answer tokens, in order."""
    batch = backbone.collate(samples, with_answer=True, **collate)
    labels = batch["labels"]
    with torch.no_grad():
        logits = backbone.model(**batch).logits
    return [logits[row, :-1][labels[row, 1:] != IGNORED] for row in range(len(samples))]


def skip_without_tokens(backbone: Any) -> None:
    if not hasattr(backbone, "encode"):
        pytest.skip("the plain path stores no tokens")


@pytest.mark.slow
def test_labels_cover_exactly_the_answer_and_its_end(backbone: Any) -> None:
    samples = [sample(0, "normal"), sample(1, "abnormal: a scratch")]
    end = backbone.tokenizer.eos_token_id
    for padding_side in ("left", "right"):
        batch = backbone.collate(samples, with_answer=True, padding_side=padding_side)

        for row, expected in enumerate(samples):
            labels = batch["labels"][row]
            ids = labels[labels != IGNORED]
            assert torch.equal(batch["input_ids"][row][labels != IGNORED], ids)
            assert ids[-1] == end
            assert backbone.tokenizer.decode(ids[:-1]).strip() == expected.answer
            assert (labels == end).sum() == 1


def test_every_sequence_long_tensor_is_as_long_as_the_ids(backbone: Any) -> None:
    batch = backbone.collate([sample(0, "normal"), sample(1)], with_answer=True)
    length = batch["input_ids"].shape[1]
    for name in ("attention_mask", "position_ids", "labels", "cross_attention_mask"):
        if name in batch:
            assert batch[name].shape[:2] == (2, length), name


@pytest.mark.parametrize("position", [0, 1])
def test_changing_either_image_changes_the_answer(backbone: Any, position: int) -> None:
    before = sample(0)
    images = list(before.images)
    images[position] = lazy_image(999, images[position].size)
    after = replace(before, images=tuple(images))

    (logits_before,) = answer_logits(backbone, [before])
    (logits_after,) = answer_logits(backbone, [after])
    assert not torch.allclose(logits_before, logits_after, atol=1e-6)


def test_the_order_of_the_images_matters(backbone: Any) -> None:
    before = sample(0)
    after = replace(before, images=before.images[::-1])

    (logits_before,) = answer_logits(backbone, [before])
    (logits_after,) = answer_logits(backbone, [after])
    assert not torch.allclose(logits_before, logits_after, atol=1e-6)


def test_a_batch_of_four_equals_four_batches_of_one(backbone: Any) -> None:
    samples = [
        sample(0, "normal"),
        sample(1, "abnormal: a dent", size=(90, 30)),
        sample(2, question="Hm?"),
        sample(3, size=(30, 90)),
    ]
    together = answer_logits(backbone, samples)
    for record, expected in zip(samples, together, strict=True):
        (alone,) = answer_logits(backbone, [record])
        torch.testing.assert_close(alone, expected, atol=2e-4, rtol=1e-4)


def test_the_padding_side_changes_nothing(backbone: Any) -> None:
    samples = [sample(0, "normal", question="Hm?"), sample(1)]
    right = answer_logits(backbone, samples, padding_side="right")
    left = answer_logits(backbone, samples, padding_side="left")
    torch.testing.assert_close(left, right, atol=2e-4, rtol=1e-4)


def test_one_image_and_two_may_share_a_batch(backbone: Any) -> None:
    pair, single = sample(0), replace(sample(1), images=sample(1).images[:1])
    together = answer_logits(backbone, [pair, single])
    (alone,) = answer_logits(backbone, [single])
    torch.testing.assert_close(alone, together[1], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("labels", [LABELS, ["same part", "different part"]])
def test_scores_are_the_log_probabilities_of_the_labels(backbone: Any, labels: list[str]) -> None:
    """Compare with the sum over the tokens of the label in the whole sequence."""
    samples = [sample(0, question="Hm?"), sample(1)]
    scores = backbone.score(samples, labels)
    assert scores.shape == (2, 2)

    for column, label in enumerate(labels):
        answered = [replace(record, answer=label) for record in samples]
        batch = backbone.collate(answered, with_answer=True)
        for row, logits in enumerate(answer_logits(backbone, answered)):
            ids = batch["labels"][row][batch["labels"][row] != IGNORED][:-1]  # without the end
            expected = logits[:-1].log_softmax(-1).gather(1, ids[:, None]).sum()
            torch.testing.assert_close(scores[row, column], expected, atol=5e-4, rtol=1e-4)


def test_generation_does_not_depend_on_the_batch(backbone: Any) -> None:
    samples = [sample(0, question="Hm?"), sample(1)]
    together = backbone.generate(samples, max_new_tokens=5)
    alone = [backbone.generate([record], max_new_tokens=5)[0] for record in samples]
    assert together == alone


def test_what_is_generated_from_tokens_is_generated_from_pixels(
    backbone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not isinstance(backbone, TokenBackbone):
        pytest.skip("it has one path only")
    single = replace(sample(2), images=sample(2).images[:1])
    samples = [sample(0, question="Hm?"), sample(1), single]

    from_tokens = backbone.generate(samples, max_new_tokens=12)
    assert any(from_tokens)
    monkeypatch.setattr(backbone, "reads_tokens", False)
    assert backbone.generate(samples, max_new_tokens=12) == from_tokens


def test_counted_tokens_are_those_of_the_batch(backbone: Any) -> None:
    for size in SIZES:
        record = sample(0, size=size)
        batch = backbone.collate([record], with_answer=True)
        count = backbone.count_tokens(replace(record, images=()), [size, size])
        assert count.total == batch["input_ids"].shape[1]
        assert count.trained == int((batch["labels"] != IGNORED).sum())


def test_counted_positions_of_a_training_batch_leave_padding_out(backbone: Any) -> None:
    samples = [sample(0, "normal", question="Hm?"), sample(1)]
    counts = [backbone.count_tokens(record, [(40, 30)] * 2).total for record in samples]
    assert count_positions(backbone.train_batch(samples)) == sum(counts)


def test_markers_of_images_in_a_users_words_are_not_images(backbone: Any) -> None:
    markers = {backbone.tokenizer.decode([marker]) for marker in marker_ids(backbone)}
    assert markers
    for marker in markers:
        hostile = sample(0, question=f"Is {marker} normal?")
        if isinstance(backbone, ChatBackbone):  # its processor would read them as images
            with pytest.raises(UserError, match="a marker of the model"):
                backbone.collate([hostile], with_answer=True)
            continue

        batch = backbone.collate([hostile], with_answer=True)
        plain = backbone.collate([sample(0)], with_answer=True)
        for token in marker_ids(backbone):
            assert (batch["input_ids"] == token).sum() == (plain["input_ids"] == token).sum()


def marker_ids(backbone: Any) -> list[int]:
    config = backbone.model.config
    names = ("image_token_id", "readout_token_id", "image_token_index")
    return [getattr(config, name) for name in names if hasattr(config, name)]


@pytest.mark.parametrize("size", [*SIZES, (200, 200)])
def test_the_bytes_of_kept_tokens_are_known_from_the_size(
    backbone: Any, size: tuple[int, int]
) -> None:
    cost = backbone.vision_cost(size)
    assert cost.flops > 0
    if not hasattr(backbone, "encode"):
        assert cost.num_bytes == 0
        return

    (tokens,) = backbone.encode([lazy_image(0, size)])
    assert cost.num_bytes == tokens.nbytes


def test_encoding_is_repeatable_and_tells_images_apart(backbone: Any) -> None:
    skip_without_tokens(backbone)
    first, again, different = backbone.encode([lazy_image(0), lazy_image(0), lazy_image(1)])
    assert torch.equal(first, again)
    assert not torch.allclose(first, different)
    assert backbone.fingerprint() == backbone.fingerprint()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BACKBONES))
def test_the_same_seed_draws_the_same_adapters(name: str, shared_cache: Path) -> None:
    def adapters(seed: int) -> dict[str, torch.Tensor]:
        model = build(name, shared_cache, seed=seed).model
        return {key: weight.clone() for key, weight in model.named_parameters() if "lora_A" in key}

    first, same, different = adapters(0), adapters(0), adapters(1)
    assert first
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not any(torch.equal(first[key], different[key]) for key in first)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BACKBONES))
def test_training_reaches_the_adapters_and_nothing_frozen(name: str, shared_cache: Path) -> None:
    backbone = build(name, shared_cache)
    backbone.model.train()
    batch = backbone.collate([sample(0), sample(1, "normal")], with_answer=True)
    backbone.model(**batch).loss.backward()

    trained = {key for key, weight in backbone.model.named_parameters() if weight.grad is not None}
    assert any("lora_B" in key for key in trained)
    assert all("lora_" in key or "modules_to_save" in key for key in trained), sorted(trained)
    assert not any("vision" in key for key in trained)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BACKBONES))
def test_a_saved_adapter_loads_back_to_the_same_answers(
    name: str, shared_cache: Path, tmp_path: Path
) -> None:
    backbone = build(name, shared_cache)
    with torch.no_grad():
        for weight in backbone.model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.01)
    backbone.model.eval()
    expected = backbone.score([sample(0)], LABELS)

    backbone.save(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    loaded = build(name, shared_cache, adapter=tmp_path)
    loaded.model.eval()
    torch.testing.assert_close(loaded.score([sample(0)], LABELS), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BACKBONES))
def test_merged_weights_answer_as_the_adapter_does(name: str, shared_cache: Path) -> None:
    backbone = build(name, shared_cache)
    backbone.model.eval()
    plain = backbone.score([sample(0)], LABELS)
    draw_lora_b(backbone)
    trained = backbone.score([sample(0)], LABELS)
    assert (trained - plain).abs().max() > 1e-3

    backbone.merge()
    torch.testing.assert_close(backbone.score([sample(0)], LABELS), trained, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "reads_tokens", [True, False], ids=["encoded one by one", "pixels through the model"]
)
@pytest.mark.parametrize("name", list(BACKBONES))
def test_training_from_stored_tokens_is_training_without(
    name: str, shared_cache: Path, tmp_path: Path, reads_tokens: bool
) -> None:
    steps = 3 if name == "smol" else 8 if name.startswith("hub ") else 50
    stored = build(name, shared_cache if name == "smol" else tmp_path)
    skip_without_tokens(stored)
    without = build(name, shared_cache, store=StoreConfig(enabled=False))
    without.reads_tokens = reads_tokens
    assert without.store is None
    assert train_losses(stored, steps) == pytest.approx(train_losses(without, steps), rel=1e-5)


def test_a_training_batch_has_the_loss_of_the_whole_batch(backbone: Any) -> None:
    samples = [sample(0, "normal", question="Hm?"), sample(1)]
    with torch.no_grad():
        whole = backbone.model(**backbone.collate(samples, with_answer=True)).loss
        step = backbone.model(**complete_batch(backbone.train_batch(samples))).loss
    torch.testing.assert_close(step, whole, atol=1e-5, rtol=1e-5)


def test_a_batch_has_the_mean_loss_of_its_records(backbone: Any) -> None:
    """Padding of the shorter records changes nothing."""
    samples = [
        sample(0, "normal"),
        sample(1, "abnormal: a dent on the left", size=(90, 30)),
        sample(2, question="Hm?"),
    ]
    batches = [complete_batch(backbone.train_batch([record])) for record in samples]
    counts = torch.tensor([float((batch["labels"] != IGNORED).sum()) for batch in batches])
    with torch.no_grad():
        losses = torch.stack([backbone.model(**batch).loss for batch in batches])
        together = backbone.model(**complete_batch(backbone.train_batch(samples))).loss

    expected = (losses * counts).sum() / counts.sum()
    torch.testing.assert_close(together, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BACKBONES))
def test_without_weights_it_still_counts(name: str, shared_cache: Path) -> None:
    light, full = build(name, shared_cache, weights=False), build(name, shared_cache)
    sizes = [(40, 30)] * 2
    assert light.count_tokens(sample(0), sizes) == full.count_tokens(sample(0), sizes)
    assert light.vision_cost(sizes[0]) == full.vision_cost(sizes[0])
    assert num_trained(light) == num_trained(full) > 0
    assert all(weight.is_meta for weight in light.model.parameters())


def test_a_feature_map_is_that_of_each_image_alone(backbone: Any) -> None:
    images = [lazy_image(1, (90, 30)), lazy_image(2, (30, 90)), lazy_image(3)]
    maps = backbone.feature_maps(images)

    for image, feature_map in zip(images, maps, strict=True):
        assert feature_map.ndim == 3
        assert feature_map.dtype == np.float32
        assert np.isfinite(feature_map).all()
        (alone,) = backbone.feature_maps([image])
        np.testing.assert_array_equal(alone, feature_map)
    assert {feature_map.shape[2] for feature_map in maps} == {maps[0].shape[2]}
    assert not np.allclose(maps[0].mean((0, 1)), maps[2].mean((0, 1)))


def test_the_features_of_an_image_are_some_numbers(backbone: Any) -> None:
    images = [lazy_image(1, (90, 30)), lazy_image(2), lazy_image(1, (90, 30))]
    first, second, again = backbone.image_features(images)
    assert first.ndim == 1
    assert first.shape == second.shape
    np.testing.assert_array_equal(first, again)
    assert not np.allclose(first, second)
