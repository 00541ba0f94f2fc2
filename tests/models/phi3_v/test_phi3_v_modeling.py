from __future__ import annotations

import pytest
import torch
from transformers import Phi3ForCausalLM

from vlmbench.models.phi3_v import Phi3VForConditionalGeneration

IMAGE_ID = 32044
SHORT_CONTEXT = {"original_max_position_embeddings": 24, "max_position_embeddings": 768}


def with_image(*words_after: int, tokens: int = 13) -> torch.Tensor:
    return torch.tensor([[1, 5, *[IMAGE_ID] * tokens, 1, *words_after]])


def padded(rows: list[torch.Tensor], side: str, extra: int = 0) -> dict[str, torch.Tensor]:
    length = max(row.shape[1] for row in rows) + extra
    ids, mask = (
        torch.zeros(len(rows), length, dtype=torch.long),
        torch.zeros(len(rows), length, dtype=torch.long),
    )
    for index, row in enumerate(rows):
        position = slice(length - row.shape[1], None) if side == "left" else slice(0, row.shape[1])
        ids[index, position], mask[index, position] = row[0], 1
    return {"input_ids": ids, "attention_mask": mask}


def text_twin(model: Phi3VForConditionalGeneration) -> Phi3ForCausalLM:
    """Return transformers' Phi-3 with the model's decoder weights."""
    twin = Phi3ForCausalLM(model.config.text_config).eval()
    own = {
        name: value
        for name, value in model.state_dict().items()
        if "vision_embed_tokens" not in name
    }
    twin.load_state_dict(own)
    return twin


@torch.no_grad()
def test_images_go_to_their_placeholders_in_order(make_model, make_images):
    model, images = make_model(), make_images((1, 1), (1, 2))
    first, second = model.get_image_features(**images)
    ids = torch.tensor([[1, *[IMAGE_ID] * 13, 1, 7, *[IMAGE_ID] * 17, 1]])
    embedded = model.model.embed(ids, **images)
    torch.testing.assert_close(embedded[0, 1:14], first)
    torch.testing.assert_close(embedded[0, 16:33], second)
    words = model.get_input_embeddings()(torch.tensor([1, 1, 7, 1]))
    assert torch.equal(embedded[0, [0, 14, 15, 33]], words)


@torch.no_grad()
def test_the_placeholder_is_never_looked_up(make_model, make_images):
    model = make_model(image_token_id=9)
    model.get_input_embeddings().weight[9] = float("nan")
    ids = with_image(7).masked_fill(with_image(7) == IMAGE_ID, 9)
    assert model(ids, **make_images((1, 1))).logits.isfinite().all()


@torch.no_grad()
def test_the_callers_ids_are_unchanged(make_model, make_images):
    ids = with_image(7)
    make_model()(ids, **make_images((1, 1)))
    assert torch.equal(ids, with_image(7))


@pytest.mark.parametrize("fields", [{}, {"num_key_value_heads": 2}, {"num_key_value_heads": 1}])
@pytest.mark.parametrize("length", [10, 24, 25, 60])
@torch.no_grad()
def test_text_without_images_equals_phi3(make_model, fields, length):
    # The original context is 24, so that 25 tokens take the long factors.
    model = make_model(**SHORT_CONTEXT, **fields)
    ids = torch.randint(3, 64, (1, length))
    torch.testing.assert_close(
        model(ids).logits, text_twin(model)(ids).logits, atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
def test_image_tokens_cause_long_factors_too(make_model, make_images):
    model, images = make_model(**SHORT_CONTEXT), make_images((1, 1))
    twin = text_twin(model)
    for words in ([3] * 8, [3] * 9):  # 16 + 8 = 24 and 25 tokens
        ids = with_image(*words)
        expected = twin(inputs_embeds=model.model.embed(ids, **images)).logits
        torch.testing.assert_close(model(ids, **images).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_a_padded_row_has_the_logits_of_the_row_alone(make_model, make_images, side, attention):
    model = make_model()
    model.set_attn_implementation(attention)
    rows = [with_image(7, 8, 9, 10), torch.tensor([[1, 4, 6]]), with_image(11, tokens=17)]
    images = make_images((1, 1), (1, 2))
    batch = padded(rows, side, extra=3)
    logits = model(**batch, **images).logits
    alone = [
        model(
            rows[0],
            pixel_values=images["pixel_values"][:1],
            image_sizes=images["image_sizes"][:1],
        ).logits,
        model(rows[1]).logits,
        model(
            rows[2],
            pixel_values=images["pixel_values"][1:],
            image_sizes=images["image_sizes"][1:],
        ).logits,
    ]
    for got, mask, want in zip(logits, batch["attention_mask"].bool(), alone, strict=True):
        torch.testing.assert_close(got[mask], want[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_padding_and_other_rows_do_not_cause_long_factors(make_model, side):
    model = make_model(**SHORT_CONTEXT)
    rows = [torch.randint(3, 64, (1, length)) for length in (40, 24, 10)]
    batch = padded(rows, side, extra=5)
    logits = model(**batch).logits
    for got, mask, row in zip(logits, batch["attention_mask"].bool(), rows, strict=True):
        torch.testing.assert_close(got[mask], model(row).logits[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_attention_implementations_agree(make_model, make_images):
    model, images = make_model(num_key_value_heads=2), make_images((2, 2))
    ids = with_image(7, 8, 9, tokens=27)
    results = []
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        assert (
            model.model.vision_embed_tokens.img_processor[
                "vision_model"
            ].config._attn_implementation
            == attention
        )
        results.append(model(ids, **images).logits)
    torch.testing.assert_close(*results, atol=1e-4, rtol=1e-4)
    assert model._supports_flash_attn


def padded_attention(
    query, key, value, attention_mask, *, query_length, is_causal, softmax_scale, **_
):
    """What the flash-attention package computes, by hand: (rows, length, heads, head size), a mask
    of rows x length."""
    key, value = (
        states.repeat_interleave(query.shape[2] // key.shape[2], dim=2) for states in (key, value)
    )
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * softmax_scale
    seen = torch.ones(query_length, key.shape[1], dtype=torch.bool).tril(
        key.shape[1] - query_length
    )
    seen = (seen if is_causal and query_length > 1 else torch.ones_like(seen))[None, None]
    if attention_mask is not None:
        seen = seen & attention_mask[:, None, None, -key.shape[1] :].bool()
    weights = scores.masked_fill(~seen, -1e9).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, value)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_flash_attention_gets_padding_and_causality(make_model, make_images, monkeypatch, side):
    monkeypatch.setattr(
        "transformers.integrations.flash_attention._flash_attention_forward", padded_attention
    )
    model, images = make_model(num_key_value_heads=2), make_images((1, 1), (1, 2))
    batch = padded([with_image(7, 8), with_image(11, tokens=17)], side, extra=2)
    expected = model(**batch, **images).logits
    for config in (model.config.text_config, model.config.vision_config):
        config._attn_implementation = "flash_attention_2"
    got = model(**batch, **images).logits
    seen = batch["attention_mask"].bool()
    torch.testing.assert_close(got[seen], expected[seen], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("as_list", [True, False])
@torch.no_grad()
def test_image_features_equal_pixels(make_model, make_images, as_list):
    model, images = make_model(), make_images((1, 1), (1, 2))
    batch = padded([with_image(7), with_image(8, 9, tokens=17)], "left")
    features = model.get_image_features(**images)
    ready = model(**batch, image_features=features if as_list else torch.cat(features)).logits
    assert torch.equal(ready, model(**batch, **images).logits)


@torch.no_grad()
def test_cached_steps_equal_one_pass(make_model, make_images):
    model, images = make_model(), make_images((1, 1), (1, 2))
    batch = padded([with_image(7, 8, 9), with_image(8, 9, 10, tokens=17)], "left")
    whole = model(**batch, **images).logits
    ids, mask = batch.values()
    start = model(ids[:, :-2], attention_mask=mask[:, :-2], **images, use_cache=True)
    for back in (2, 1):
        end = None if back == 1 else -back + 1
        step = model(
            ids[:, -back:end], attention_mask=mask[:, :end], past_key_values=start.past_key_values
        )
        torch.testing.assert_close(step.logits[:, 0], whole[:, -back], atol=1e-4, rtol=1e-4)


def test_labels_at_image_positions_never_count(make_model, make_images):
    model, images = make_model(image_token_id=9), make_images((1, 1))
    ids = torch.tensor([[1, 5, *[9] * 13, 1, 7, 8]])
    correct = ids.masked_fill(ids == 9, -100)
    expected = model(ids, **images, labels=correct).loss
    assert torch.equal(model(ids, **images, labels=ids).loss, expected)
    anything = ids.masked_fill(ids == 9, 3)
    assert torch.equal(model(ids, **images, labels=anything).loss, expected)
    # Mean over the 4 words that are predicted: 5, 1, 7, 8.
    logits = model(ids, **images).logits[0, [0, 14, 15, 16]]
    by_hand = -logits.log_softmax(-1)[range(4), [5, 1, 7, 8]].mean()
    torch.testing.assert_close(expected, by_hand)


def test_labels_may_contain_a_placeholder_outside_the_vocabulary(make_model, make_images):
    ids = with_image(7, 8)
    assert make_model()(ids, **make_images((1, 1)), labels=ids).loss.isfinite()


@torch.no_grad()
def test_logits_to_keep_limits_the_logits(make_model):
    model, ids = make_model(), torch.tensor([[1, 4, 6, 8]])
    torch.testing.assert_close(model(ids, logits_to_keep=1).logits, model(ids).logits[:, -1:])


@torch.no_grad()
def test_hidden_states_and_attentions_are_the_decoders(make_model, make_images):
    model = make_model()
    model.set_attn_implementation("eager")
    out = model(
        with_image(7), **make_images((1, 1)), output_hidden_states=True, output_attentions=True
    )
    assert [tuple(state.shape) for state in out.hidden_states] == [(1, 17, 32)] * 3
    assert [tuple(weights.shape) for weights in out.attentions] == [(1, 4, 17, 17)] * 2
    assert isinstance(model(with_image(7), **make_images((1, 1)), return_dict=False), tuple)


@pytest.mark.parametrize(
    ("tokens", "given", "message"),
    [
        (12, "pixels", "12 image positions .*13 tokens"),
        (13, "nothing", "13 image positions .*0 tokens"),
        (0, "pixels", "0 image positions .*13 tokens"),
        (13, "both", "not both"),
    ],
)
def test_placeholders_and_images_that_do_not_match_are_refused(
    make_model, make_images, tokens, given, message
):
    model, images = make_model(), make_images((1, 1))
    inputs = {
        "pixels": images,
        "nothing": {},
        "both": {**images, "image_features": torch.zeros(13, 32)},
    }[given]
    with pytest.raises(ValueError, match=message):
        model(with_image(7, tokens=tokens), **inputs)


@pytest.mark.parametrize("size", [[56, 57], [0, 56], [112, 112]])
def test_invalid_image_sizes_are_refused(make_model, make_images, size):
    pixel_values = make_images((1, 2))["pixel_values"]
    with pytest.raises(
        ValueError, match="1 to 2 whole tiles of 56 pixels, got {}x{}".format(*size)
    ):
        make_model().get_image_features(pixel_values, torch.tensor([size]))
    with pytest.raises(ValueError, match="1 images in pixel_values, but 2 image_sizes"):
        make_model().get_image_features(pixel_values, [[56, 56], [56, 56]])


def test_inputs_embeds_exclude_other_inputs(make_model, make_images):
    model = make_model()
    embedded = torch.zeros(1, 4, 32)
    with pytest.raises(ValueError, match="already contains the images"):
        model(inputs_embeds=embedded, **make_images((1, 1)))
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(torch.tensor([[1]]), inputs_embeds=embedded)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()


@torch.no_grad()
def test_a_resized_vocabulary_works_with_images(make_model, make_images):
    model, images = make_model(), make_images((1, 1))
    before = model(with_image(7), **images).logits
    model.resize_token_embeddings(70)
    after = model(with_image(7), **images).logits
    assert after.shape[-1] == 70
    torch.testing.assert_close(after[..., :64], before)
    assert model(with_image(69), **images).logits.isfinite().all()


@torch.no_grad()
def test_half_precision_is_close_to_float32(make_model, make_images):
    model, images = make_model(), make_images((1, 1))
    exact = model(with_image(7), **images).logits
    half = model.to(torch.bfloat16)(with_image(7), **images).logits
    assert half.dtype is torch.bfloat16
    assert (half.float() - exact).norm() / exact.norm() < 0.1
