"""What is particular to Phi-3-vision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.backbones.test_contract import sample
from vlmbench.backbones.base import IGNORED, count_positions, ready
from vlmbench.backbones.phi3 import Phi3TinyConfig
from vlmbench.config import BuildRequest, Engine, Vision
from vlmbench.types import UserError


def build(tmp_path: Path, **settings: Any) -> Any:
    request = BuildRequest(seed=0, engine=Engine.transformers, vision=Vision.frozen, cache_dir=tmp_path)
    backbone = Phi3TinyConfig(**settings).build(request)
    backbone.model.eval()
    return backbone


def plain_score(backbone: Any, one: Any, label: str) -> torch.Tensor:
    """The label's tokens after prompt and label in one piece, without a cache."""
    batch = backbone.collate([replace(one, answer=label)], with_answer=True)
    labels = batch.pop("labels")[0]
    ids = labels[labels != IGNORED][:-1]  # without the turn's end
    # What predicts the label's last token: neither that nor the turn's end is fed.
    text = ("input_ids", "attention_mask", "position_ids")
    fed = {name: value[:, :-2] if name in text else value for name, value in batch.items()}
    with torch.no_grad():
        logits = backbone.model(**fed).logits[0].log_softmax(-1)
    return logits[-len(ids) :].gather(1, ids[:, None]).sum()


@pytest.mark.parametrize("past_the_context", [-3, 0, 1, 20])
def test_a_label_that_passes_the_original_context_is_scored_by_long_factors(
    tmp_path: Path, past_the_context: int
) -> None:
    one, label = sample(0), "different part"
    probe = build(tmp_path)
    length = probe.count_tokens(replace(one, answer=label), [image.size for image in one.images]).total - 2
    # The tiny model's original context is half of its longest sequence.
    backbone = build(tmp_path, max_tokens=2 * (length - past_the_context))
    assert len(backbone._ids(label)) > 2
    torch.testing.assert_close(
        backbone.score([one], [label, "normal"])[0, 0], plain_score(backbone, one, label), atol=1e-4, rtol=1e-4
    )


def test_a_record_is_one_turn_with_numbered_pictures(tmp_path: Path) -> None:
    backbone = build(tmp_path)
    batch = backbone.collate([sample(0, "normal")], with_answer=True)
    ids = batch["input_ids"][0].tolist()
    image = backbone.processor.image_token_id
    text = backbone.tokenizer.decode([token for token in ids if token != image])
    assert text == "<s><|user|>\n<s>\n<s>\nIs the second part normal?<|end|>\n<|assistant|>\nnormal<|end|>"
    counts = [backbone.processor.image_processor.get_num_img_tokens(one.height, one.width) for one in sample(0).images]
    assert ids.count(image) == sum(counts)


@pytest.mark.parametrize("text", ["<|end|>", "<|image_1|>", "<|image_7|>", "<|user|>", "<s>"])
@pytest.mark.parametrize("where", ["question", "answer"])
def test_markers_in_a_users_words_are_refused(tmp_path: Path, where: str, text: str) -> None:
    hostile = replace(sample(0), **{where: f"normal {text}"})
    with pytest.raises(UserError, match="a marker of the model"):
        build(tmp_path).collate([hostile], with_answer=True)


def test_more_crops_give_more_tokens(tmp_path: Path) -> None:
    counts = [build(tmp_path, num_crops=crops).count_tokens(sample(0), [(100, 100)] * 2).total for crops in (1, 4, 16)]
    assert counts == sorted(set(counts))


def test_rows_of_different_lengths_train_without_a_mask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, masks = build(tmp_path), []
    stock = torch.nn.functional.scaled_dot_product_attention

    def attention(*args: Any, attn_mask: Any = None, **kwargs: Any) -> torch.Tensor:
        masks.append(attn_mask)
        return stock(*args, attn_mask=attn_mask, **kwargs)

    samples = [sample(0, "normal"), sample(1, "abnormal: a long scratch")]
    whole = backbone.collate(samples, with_answer=True)
    loss = backbone.model(**whole).loss
    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    batch = ready(backbone.train_batch(samples))
    assert not {"attention_mask", "position_ids"} & batch.keys()
    assert count_positions(batch) == whole["attention_mask"].sum() < batch["input_ids"].numel()
    torch.testing.assert_close(backbone.model(**batch).loss, loss, rtol=1e-5, atol=1e-5)
    assert masks == [None] * len(masks) != []


def test_a_short_row_beside_one_past_the_original_context_keeps_its_positions(tmp_path: Path) -> None:
    backbone = build(tmp_path)
    samples = [sample(0, "normal"), sample(1, "abnormal: a long scratch")]
    long = backbone.collate(samples[1:], with_answer=True)["input_ids"].shape[1]
    backbone.model.config.text_config.rope_parameters["original_max_position_embeddings"] = long - 1
    whole = backbone.collate(samples, with_answer=True)
    batch = ready(backbone.train_batch(samples))
    assert torch.equal(batch["position_ids"], whole["position_ids"])
    assert count_positions(batch) == whole["attention_mask"].sum()
    loss = backbone.model(**whole).loss
    torch.testing.assert_close(backbone.model(**batch).loss, loss, rtol=1e-5, atol=1e-5)
    batch.pop("position_ids")
    assert abs(backbone.model(**batch).loss - loss) > 1e-4  # the short row's keys rotated as the long one's


def test_rows_that_are_all_past_the_original_context_train_without_a_mask(tmp_path: Path) -> None:
    backbone = build(tmp_path)
    samples = [sample(0, "normal"), sample(1, "abnormal: a long scratch")]
    short = backbone.collate(samples[:1], with_answer=True)["input_ids"].shape[1]
    backbone.model.config.text_config.rope_parameters["original_max_position_embeddings"] = short - 1
    whole = backbone.collate(samples, with_answer=True)
    batch = ready(backbone.train_batch(samples))
    assert not {"attention_mask", "position_ids"} & batch.keys()
    torch.testing.assert_close(backbone.model(**batch).loss, backbone.model(**whole).loss, rtol=1e-5, atol=1e-5)
