"""What only Phi-3-vision needs: numbered images, LongRoPE, training without a mask."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.backbones import make_request, sample
from vlmbench.backbones.batches import IGNORED, complete_batch, count_positions
from vlmbench.backbones.phi3 import Phi3TinyConfig
from vlmbench.types import Sample, UserError

SAMPLES = [sample(0, "normal"), sample(1, "abnormal: a long scratch")]


def build(tmp_path: Path, **settings: Any) -> Any:
    backbone = Phi3TinyConfig(**settings).build(make_request(tmp_path))
    backbone.model.eval()
    return backbone


def plain_score(backbone: Any, record: Sample, label: str) -> torch.Tensor:
    """Return the log-probability of the label after the prompt, in one pass without a cache."""
    batch = backbone.collate([replace(record, answer=label)], with_answer=True)
    labels = batch.pop("labels")[0]
    ids = labels[labels != IGNORED][:-1]  # without the end of the turn

    # The model needs neither the label's last token, which it predicts, nor the end of the turn.
    sequences = ("input_ids", "attention_mask", "position_ids")
    inputs = {name: value[:, :-2] if name in sequences else value for name, value in batch.items()}
    with torch.no_grad():
        logits = backbone.model(**inputs).logits[0].log_softmax(-1)
    return logits[-len(ids) :].gather(1, ids[:, None]).sum()


def set_original_context(backbone: Any, length: int) -> None:
    rope = backbone.model.config.text_config.rope_parameters
    rope["original_max_position_embeddings"] = length


@pytest.mark.parametrize("past_the_context", [-3, 0, 1, 20])
def test_a_label_that_passes_the_original_context_is_scored_by_long_factors(
    tmp_path: Path, past_the_context: int
) -> None:
    record, label = sample(0), "different part"
    answered = replace(record, answer=label)
    sizes = [lazy.size for lazy in record.images]
    length = build(tmp_path).count_tokens(answered, sizes).total - 2

    # The tiny model's original context is half of its longest sequence.
    backbone = build(tmp_path, max_tokens=2 * (length - past_the_context))
    assert len(backbone._ids(label)) > 2
    torch.testing.assert_close(
        backbone.score([record], [label, "normal"])[0, 0],
        plain_score(backbone, record, label),
        atol=1e-4,
        rtol=1e-4,
    )


def test_a_record_is_one_turn_with_numbered_images(tmp_path: Path) -> None:
    backbone = build(tmp_path)
    ids = backbone.collate([sample(0, "normal")], with_answer=True)["input_ids"][0].tolist()
    image_token = backbone.processor.image_token_id

    text = backbone.tokenizer.decode([token for token in ids if token != image_token])
    images, question = "<s><|user|>\n<s>\n<s>\n", "Is the second part normal?<|end|>\n"
    assert text == f"{images}{question}<|assistant|>\nnormal<|end|>"

    count = backbone.processor.image_processor.get_num_img_tokens
    sizes = [lazy.size for lazy in sample(0).images]
    assert ids.count(image_token) == sum(count(height, width) for width, height in sizes)


@pytest.mark.parametrize("text", ["<|end|>", "<|image_1|>", "<|image_7|>", "<|user|>", "<s>"])
@pytest.mark.parametrize("field", ["question", "answer"])
def test_markers_in_a_users_words_are_refused(tmp_path: Path, field: str, text: str) -> None:
    hostile = replace(sample(0), **{field: f"normal {text}"})
    with pytest.raises(UserError, match="a marker of the model"):
        build(tmp_path).collate([hostile], with_answer=True)


def test_more_crops_give_more_tokens(tmp_path: Path) -> None:
    counts = [
        build(tmp_path, num_crops=num_crops).count_tokens(sample(0), [(100, 100)] * 2).total
        for num_crops in (1, 4, 16)
    ]
    assert counts == sorted(set(counts))


def test_rows_of_different_lengths_train_without_a_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone, masks = build(tmp_path), []
    stock = torch.nn.functional.scaled_dot_product_attention

    def attention(*args: Any, attn_mask: Any = None, **kwargs: Any) -> torch.Tensor:
        masks.append(attn_mask)
        return stock(*args, attn_mask=attn_mask, **kwargs)

    whole = backbone.collate(SAMPLES, with_answer=True)
    loss = backbone.model(**whole).loss

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", attention)
    batch = complete_batch(backbone.train_batch(SAMPLES))
    assert not {"attention_mask", "position_ids"} & batch.keys()
    assert count_positions(batch) == whole["attention_mask"].sum() < batch["input_ids"].numel()
    torch.testing.assert_close(backbone.model(**batch).loss, loss, rtol=1e-5, atol=1e-5)
    assert masks
    assert set(masks) == {None}


def test_a_short_row_beside_one_past_the_original_context_keeps_its_positions(
    tmp_path: Path,
) -> None:
    backbone = build(tmp_path)
    long = backbone.collate(SAMPLES[1:], with_answer=True)["input_ids"].shape[1]
    set_original_context(backbone, long - 1)

    whole = backbone.collate(SAMPLES, with_answer=True)
    batch = complete_batch(backbone.train_batch(SAMPLES))
    assert torch.equal(batch["position_ids"], whole["position_ids"])
    assert count_positions(batch) == whole["attention_mask"].sum()

    loss = backbone.model(**whole).loss
    torch.testing.assert_close(backbone.model(**batch).loss, loss, rtol=1e-5, atol=1e-5)

    # Without positions, the short row's keys are rotated like the long one's.
    batch.pop("position_ids")
    assert abs(backbone.model(**batch).loss - loss) > 1e-4


def test_rows_that_are_all_past_the_original_context_train_without_a_mask(tmp_path: Path) -> None:
    backbone = build(tmp_path)
    short = backbone.collate(SAMPLES[:1], with_answer=True)["input_ids"].shape[1]
    set_original_context(backbone, short - 1)

    whole = backbone.collate(SAMPLES, with_answer=True)
    batch = complete_batch(backbone.train_batch(SAMPLES))
    assert not {"attention_mask", "position_ids"} & batch.keys()
    torch.testing.assert_close(
        backbone.model(**batch).loss, backbone.model(**whole).loss, rtol=1e-5, atol=1e-5
    )
