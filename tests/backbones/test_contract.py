"""What every backbone promises. A new one is added to `BACKBONES` and has to keep all of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import picture
from vlmbench.backbones.base import IGNORED, ready
from vlmbench.backbones.chat import ChatBackbone, Layout
from vlmbench.backbones.llama32 import Llama32TinyConfig
from vlmbench.backbones.phi3 import Phi3TinyConfig
from vlmbench.backbones.smol import SmolModelConfig
from vlmbench.config import BuildRequest, Engine, LoraConfig, ModelConfig, StoreConfig, Vision
from vlmbench.types import Record, Sample, Task, UserError

BACKBONES: dict[str, Callable[[], ModelConfig]] = {
    "smol": SmolModelConfig,
    "phi3_tiny": Phi3TinyConfig,
    "phi3_tiny stitched": lambda: Phi3TinyConfig(layout=Layout.stitched),
    "llama32_tiny": Llama32TinyConfig,
    "llama32_tiny stitched": lambda: Llama32TinyConfig(layout=Layout.stitched),
}
QUESTION = "Is the second part normal?"


def sample(
    seed: int = 0, answer: str = "abnormal: a scratch", question: str = QUESTION, size: tuple[int, int] = (40, 30)
) -> Sample:
    record = Record(id=f"r{seed}", task=Task.JUDGE_PAIR, images=(), answer=answer, label=answer[:8], group="g")
    images = (picture(seed, size), picture(seed + 100, size))
    return Sample(record=record, images=images, question=question, answer=answer)


def build(name: str, cache: Path, **changes: Any) -> Any:
    request = BuildRequest(seed=0, engine=Engine.transformers, vision=Vision.frozen, cache_dir=cache)
    return BACKBONES[name]().build(replace(request, **changes))


@pytest.fixture(scope="module", params=list(BACKBONES))
def backbone(request: pytest.FixtureRequest, shared_cache: Path) -> Any:
    built = build(request.param, shared_cache)
    # Fresh adapters do nothing: give them weights, so that what they touch shows.
    with torch.no_grad():
        for name, weight in built.model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.02)
    built.model.eval()
    return built


def answer_logits(backbone: Any, samples: list[Sample], **collate: Any) -> list[torch.Tensor]:
    """Logits that predict each sample's answer tokens, in their order."""
    batch = backbone.collate(samples, with_answer=True, **collate)
    labels = batch["labels"]
    with torch.no_grad():
        logits = backbone.model(**batch).logits
    return [logits[row, :-1][labels[row, 1:] != IGNORED] for row in range(len(samples))]


def test_labels_cover_exactly_the_answer_and_its_end(backbone: Any) -> None:
    samples = [sample(0, "normal"), sample(1, "abnormal: a scratch")]
    for side in ("left", "right"):
        batch = backbone.collate(samples, with_answer=True, padding_side=side)
        for row, one in enumerate(samples):
            learnt = batch["labels"][row]
            ids = learnt[learnt != IGNORED]
            assert torch.equal(batch["input_ids"][row][learnt != IGNORED], ids)
            assert ids[-1] == backbone.tokenizer.eos_token_id
            assert backbone.tokenizer.decode(ids[:-1]).strip() == one.answer
            assert (learnt == backbone.tokenizer.eos_token_id).sum() == 1


def test_every_sequence_long_tensor_is_as_long_as_the_ids(backbone: Any) -> None:
    batch = backbone.collate([sample(0, "normal"), sample(1)], with_answer=True)
    length = batch["input_ids"].shape[1]
    for name in ("attention_mask", "position_ids", "labels", "cross_attention_mask"):
        if name in batch:
            assert batch[name].shape[:2] == (2, length), name


@pytest.mark.parametrize("position", [0, 1])
def test_changing_either_picture_changes_the_answer(backbone: Any, position: int) -> None:
    one = sample(0)
    images = list(one.images)
    images[position] = picture(999, images[position].size)
    (before,), (after,) = answer_logits(backbone, [one]), answer_logits(backbone, [replace(one, images=tuple(images))])
    assert not torch.allclose(before, after, atol=1e-6)


def test_the_order_of_the_pictures_matters(backbone: Any) -> None:
    one = sample(0)
    (before,), (after,) = (
        answer_logits(backbone, [one]),
        answer_logits(backbone, [replace(one, images=one.images[::-1])]),
    )
    assert not torch.allclose(before, after, atol=1e-6)


def test_a_batch_of_four_equals_four_batches_of_one(backbone: Any) -> None:
    samples = [
        sample(0, "normal"),
        sample(1, "abnormal: a dent", size=(90, 30)),
        sample(2, question="Hm?"),
        sample(3, size=(30, 90)),
    ]
    together = answer_logits(backbone, samples)
    for one, expected in zip(samples, together, strict=True):
        (alone,) = answer_logits(backbone, [one])
        torch.testing.assert_close(alone, expected, atol=2e-4, rtol=1e-4)


def test_the_padding_side_changes_nothing(backbone: Any) -> None:
    samples = [sample(0, "normal", question="Hm?"), sample(1)]
    right = answer_logits(backbone, samples, padding_side="right")
    left = answer_logits(backbone, samples, padding_side="left")
    for one, other in zip(right, left, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-4)


def test_one_picture_and_two_may_share_a_batch(backbone: Any) -> None:
    pair, single = sample(0), replace(sample(1), images=sample(1).images[:1])
    together = answer_logits(backbone, [pair, single])
    (alone,) = answer_logits(backbone, [single])
    torch.testing.assert_close(alone, together[1], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("labels", [["normal", "abnormal"], ["same part", "different part"]])
def test_scores_are_the_log_probabilities_of_the_labels(backbone: Any, labels: list[str]) -> None:
    """Against the plain way: the whole sequence with each label in it, its tokens' log-probabilities summed."""
    samples = [sample(0, question="Hm?"), sample(1)]
    scores = backbone.score(samples, labels)
    for column, label in enumerate(labels):
        said = [replace(one, answer=label) for one in samples]
        batch = backbone.collate(said, with_answer=True)
        for row, logits in enumerate(answer_logits(backbone, said)):
            ids = batch["labels"][row][batch["labels"][row] != IGNORED][:-1]  # without the end
            expected = logits[:-1].log_softmax(-1).gather(1, ids[:, None]).sum()
            torch.testing.assert_close(scores[row, column], expected, atol=5e-4, rtol=1e-4)


def test_generation_does_not_depend_on_the_batch(backbone: Any) -> None:
    samples = [sample(0, question="Hm?"), sample(1)]
    together = backbone.generate(samples, max_new_tokens=5)
    assert together == [backbone.generate([one], max_new_tokens=5)[0] for one in samples]


def test_what_is_generated_from_tokens_is_generated_from_pixels(backbone: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if not isinstance(backbone, ChatBackbone):
        pytest.skip("its tokens have no way around the store's form")
    samples = [sample(0, question="Hm?"), sample(1), replace(sample(2), images=sample(2).images[:1])]
    from_tokens = backbone.generate(samples, max_new_tokens=12)
    assert all(from_tokens)
    monkeypatch.setattr(backbone, "reads_tokens", False)
    assert backbone.generate(samples, max_new_tokens=12) == from_tokens


def test_counted_tokens_are_those_of_the_batch(backbone: Any) -> None:
    one = sample(0)
    batch = backbone.collate([one], with_answer=True)
    count = backbone.count_tokens(replace(one, images=()), [image.size for image in one.images])
    assert count.total == batch["input_ids"].shape[1]
    assert count.trained == int((batch["labels"] != IGNORED).sum())


def test_markers_of_pictures_in_a_users_words_are_not_pictures(backbone: Any) -> None:
    markers = {backbone.tokenizer.decode([i]) for i in _marker_ids(backbone)}
    for marker in markers:
        hostile = sample(0, question=f"Is {marker} normal?")
        if isinstance(backbone, ChatBackbone):  # its processor would take them for pictures
            with pytest.raises(UserError, match="a marker of the model"):
                backbone.collate([hostile], with_answer=True)
            continue
        batch = backbone.collate([hostile], with_answer=True)
        plain = backbone.collate([sample(0)], with_answer=True)
        for i in _marker_ids(backbone):
            assert (batch["input_ids"] == i).sum() == (plain["input_ids"] == i).sum()


def _marker_ids(backbone: Any) -> list[int]:
    config = backbone.model.config
    names = ("image_token_id", "comparison_token_id", "image_token_index")
    return [getattr(config, name) for name in names if hasattr(config, name)]


@pytest.mark.parametrize("size", [(40, 30), (90, 30), (30, 90), (28, 28), (200, 200)])
def test_the_bytes_of_kept_tokens_are_known_from_the_size(backbone: Any, size: tuple[int, int]) -> None:
    (tokens,) = backbone.encode([picture(0, size)])
    cost = backbone.vision_cost(size)
    assert cost.num_bytes == tokens.nbytes
    assert cost.flops > 0


def test_encoding_is_repeatable_and_tells_pictures_apart(backbone: Any) -> None:
    one, again, other = backbone.encode([picture(0), picture(0), picture(1)])
    assert torch.equal(one, again)
    assert not torch.allclose(one, other)
    assert backbone.fingerprint() == backbone.fingerprint()


@pytest.mark.parametrize("name", list(BACKBONES))
def test_the_same_seed_draws_the_same_adapters(name: str, shared_cache: Path) -> None:
    def adapters(seed: int) -> dict[str, torch.Tensor]:
        model = build(name, shared_cache, seed=seed).model
        return {key: weight.clone() for key, weight in model.named_parameters() if "lora_A" in key}

    first, same, other = adapters(0), adapters(0), adapters(1)
    assert all(torch.equal(first[key], same[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)


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


@pytest.mark.parametrize("name", list(BACKBONES))
def test_a_saved_adapter_loads_back_to_the_same_answers(name: str, shared_cache: Path, tmp_path: Path) -> None:
    backbone = build(name, shared_cache)
    with torch.no_grad():
        for weight in backbone.model.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.01)
    backbone.model.eval()
    expected = backbone.score([sample(0)], ["normal", "abnormal"])
    backbone.save(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    loaded = build(name, shared_cache, adapter=tmp_path)
    loaded.model.eval()
    torch.testing.assert_close(loaded.score([sample(0)], ["normal", "abnormal"]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_merged_weights_answer_as_the_adapter_does(name: str, shared_cache: Path) -> None:
    backbone = build(name, shared_cache)
    backbone.model.eval()
    plain = backbone.score([sample(0)], ["normal", "abnormal"])
    with torch.no_grad():
        for key, weight in backbone.model.named_parameters():
            if "lora_B" in key:
                weight.normal_(std=0.02)
    trained = backbone.score([sample(0)], ["normal", "abnormal"])
    backbone.model.merge_adapter()
    assert (trained - plain).abs().max() > 1e-3
    torch.testing.assert_close(backbone.score([sample(0)], ["normal", "abnormal"]), trained, atol=1e-4, rtol=1e-4)


SIZES = ((40, 30), (90, 30), (30, 90), (28, 28))  # of one, two and more tiles


def losses(backbone: Any, steps: int) -> list[float]:
    """Of training steps on batches that mix pictures of all sizes, and pairs with single pictures."""
    backbone.model.train()
    weights = [weight for weight in backbone.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=1e-3)
    samples = [sample(seed, "normal" if seed % 2 else "abnormal: a dent", size=SIZES[seed % 4]) for seed in range(8)]
    samples[3] = replace(samples[3], images=samples[3].images[:1])
    found = []
    for step in range(steps):
        batch = ready(backbone.train_batch([samples[(3 * step + place) % 8] for place in range(4)]))
        loss = backbone.model(**batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("reads_tokens", [True, False], ids=["encoded one by one", "pixels through the model"])
@pytest.mark.parametrize("name", list(BACKBONES))
def test_training_from_stored_tokens_is_training_without(
    name: str, shared_cache: Path, tmp_path: Path, reads_tokens: bool
) -> None:
    steps = 3 if name == "smol" else 50
    stored = build(name, shared_cache if name == "smol" else tmp_path)
    without = build(name, shared_cache, store=StoreConfig(enabled=False))
    without.reads_tokens = reads_tokens
    assert without.store is None
    assert losses(stored, steps) == pytest.approx(losses(without, steps), rel=1e-5)


def test_a_training_batch_has_the_loss_of_the_whole_batch(backbone: Any) -> None:
    samples = [sample(0, "normal", question="Hm?"), sample(1)]
    with torch.no_grad():
        whole = backbone.model(**backbone.collate(samples, with_answer=True)).loss
        step = backbone.model(**ready(backbone.train_batch(samples))).loss
    torch.testing.assert_close(step, whole, atol=1e-5, rtol=1e-5)


def test_a_batch_has_the_mean_loss_of_its_records(backbone: Any) -> None:
    """What pads the shorter ones bears on nothing."""
    samples = [sample(0, "normal"), sample(1, "abnormal: a dent on the left", size=(90, 30)), sample(2, question="Hm?")]
    with torch.no_grad():
        alone = [ready(backbone.train_batch([one])) for one in samples]
        losses_ = torch.stack([backbone.model(**batch).loss for batch in alone])
        counts = torch.tensor([float((batch["labels"] != IGNORED).sum()) for batch in alone])
        together = backbone.model(**ready(backbone.train_batch(samples))).loss
    torch.testing.assert_close(together, (losses_ * counts).sum() / counts.sum(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", list(BACKBONES))
def test_without_weights_it_still_counts(name: str, shared_cache: Path) -> None:
    light, full = build(name, shared_cache, weights=False), build(name, shared_cache)
    assert light.count_tokens(sample(0), [(40, 30)] * 2) == full.count_tokens(sample(0), [(40, 30)] * 2)
    trained = [
        sum(weight.numel() for weight in one.model.parameters() if weight.requires_grad) for one in (light, full)
    ]
    assert trained[0] == trained[1] > 0
    assert all(weight.is_meta for weight in light.model.parameters())


@pytest.mark.parametrize("name", ["llama32_tiny", "phi3_tiny"])
def test_vision_adapters_are_drawn_only_where_they_are_asked_for(name: str, shared_cache: Path) -> None:
    frozen, adapted = (build(name, shared_cache, vision=vision) for vision in (Vision.frozen, Vision.lora))
    for backbone, expected in ((frozen, False), (adapted, True)):
        backbone.model(**backbone.collate([sample(0)], with_answer=True)).loss.backward()
        reached = any("vision_model" in key and w.grad is not None for key, w in backbone.model.named_parameters())
        assert reached is expected


def test_lora_has_the_rank_that_was_asked_for(shared_cache: Path) -> None:
    request = BuildRequest(seed=0, engine=Engine.transformers, vision=Vision.frozen, cache_dir=shared_cache)
    backbone = Llama32TinyConfig(lora=LoraConfig(r=3, alpha=6)).build(request)
    shapes = {weight.shape[0] for key, weight in backbone.model.named_parameters() if "lora_A" in key}
    assert shapes == {3}
