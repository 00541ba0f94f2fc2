from __future__ import annotations

import pytest
import torch
from transformers import Phi3ForCausalLM

from vlmbench.models.phi3_v import Phi3VForConditionalGeneration

PICTURE = 32044
SHORT_CONTEXT = {"original_max_position_embeddings": 24, "max_position_embeddings": 768}


def with_picture(*words_after: int, tokens: int = 13) -> torch.Tensor:
    return torch.tensor([[1, 5, *[PICTURE] * tokens, 1, *words_after]])


def padded(rows: list[torch.Tensor], side: str, extra: int = 0) -> dict[str, torch.Tensor]:
    length = max(row.shape[1] for row in rows) + extra
    ids, mask = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length, dtype=torch.long)
    for index, row in enumerate(rows):
        place = slice(length - row.shape[1], None) if side == "left" else slice(0, row.shape[1])
        ids[index, place], mask[index, place] = row[0], 1
    return {"input_ids": ids, "attention_mask": mask}


def text_twin(model: Phi3VForConditionalGeneration) -> Phi3ForCausalLM:
    """transformers' own Phi-3 with the model's decoder weights."""
    twin = Phi3ForCausalLM(model.config.text_config).eval()
    own = {name: value for name, value in model.state_dict().items() if "vision_embed_tokens" not in name}
    twin.load_state_dict(own)
    return twin


@pytest.mark.parametrize("grid", [(1, 1), (1, 2), (2, 1), (2, 3), (4, 4)])
@torch.no_grad()
def test_a_pictures_tokens_are_tiles_then_separator_then_whole_view(make_model, make_pictures, grid):
    model, (rows, columns) = make_model(), grid
    embedding = model.model.vision_embed_tokens
    pictures = make_pictures(grid)
    features = embedding.encode(pictures["pixel_values"][0])  # (1 + tiles, 16 patches, 16 channels)
    sub, separator = embedding.sub_GN.flatten(), embedding.glb_GN.flatten()

    def patch(tile: int, row: int, column: int) -> torch.Tensor:
        return features[tile, row * 4 + column]

    def block(tile_at, row: int, column: int) -> torch.Tensor:
        corners = [(0, 0), (0, 1), (1, 0), (1, 1)]
        places = [(2 * row + down, 2 * column + right) for down, right in corners]
        return torch.cat([patch(tile_at(y // 4, x // 4), y % 4, x % 4) for y, x in places])

    expected = []
    for row in range(2 * rows):
        expected += [block(lambda y, x: 1 + y * columns + x, row, column) for column in range(2 * columns)]
        expected.append(sub)
    expected.append(separator)
    for row in range(2):
        expected += [block(lambda y, x: 0, row, column) for column in range(2)] + [sub]
    tokens = embedding.img_projection(torch.stack(expected))

    (got,) = model.get_image_features(**pictures)
    assert got.shape == ((rows * columns + 1) * 4 + 1 + (rows + 1) * 2, 32)
    torch.testing.assert_close(got, tokens)


@pytest.mark.parametrize("layer", [-2, -1, 0, 1, 3])
@torch.no_grad()
def test_features_are_the_hidden_state_that_clip_gives_of_that_layer(make_model, make_pictures, layer):
    model = make_model(img_processor={"layer_idx": layer})
    crops = make_pictures((1, 2))["pixel_values"][0]
    tower = model.model.vision_embed_tokens.img_processor["vision_model"]
    expected = tower(crops, output_hidden_states=True).hidden_states[layer][:, 1:]
    torch.testing.assert_close(model.model.vision_embed_tokens.encode(crops), expected)


@torch.no_grad()
def test_only_the_layers_that_count_are_run(make_model, make_pictures):
    model = make_model()
    tower = model.model.vision_embed_tokens.img_processor["vision_model"]
    calls = []
    for index, layer in enumerate(tower.encoder.layers):
        layer.register_forward_hook(lambda *_, index=index: calls.append(index))
    model.get_image_features(**make_pictures((1, 1), (1, 1)))
    assert calls == [0, 1]


@torch.no_grad()
def test_empty_crops_are_not_encoded(make_model, make_pictures):
    model, pictures = make_model(), make_pictures((1, 1), (1, 3), (2, 1))
    expected = model.get_image_features(**pictures)
    for picture, used in zip(pictures["pixel_values"], (2, 4, 3), strict=True):
        picture[used:] = float("nan")
    for got, want in zip(model.get_image_features(**pictures), expected, strict=True):
        assert torch.equal(got, want)


@torch.no_grad()
def test_pictures_go_to_their_placeholders_in_order(make_model, make_pictures):
    model, pictures = make_model(), make_pictures((1, 1), (1, 2))
    first, second = model.get_image_features(**pictures)
    ids = torch.tensor([[1, *[PICTURE] * 13, 1, 7, *[PICTURE] * 17, 1]])
    embedded = model.model.embed(ids, **pictures)
    torch.testing.assert_close(embedded[0, 1:14], first)
    torch.testing.assert_close(embedded[0, 16:33], second)
    words = model.get_input_embeddings()(torch.tensor([1, 1, 7, 1]))
    assert torch.equal(embedded[0, [0, 14, 15, 33]], words)


@torch.no_grad()
def test_the_placeholder_is_never_looked_up(make_model, make_pictures):
    model = make_model(image_token_id=9)
    model.get_input_embeddings().weight[9] = float("nan")
    ids = with_picture(7).masked_fill(with_picture(7) == PICTURE, 9)
    assert model(ids, **make_pictures((1, 1))).logits.isfinite().all()


@torch.no_grad()
def test_the_callers_ids_are_left_alone(make_model, make_pictures):
    ids = with_picture(7)
    make_model()(ids, **make_pictures((1, 1)))
    assert torch.equal(ids, with_picture(7))


@pytest.mark.parametrize("fields", [{}, {"num_key_value_heads": 2}, {"num_key_value_heads": 1}])
@pytest.mark.parametrize("length", [10, 24, 25, 60])
@torch.no_grad()
def test_text_alone_is_phi3(make_model, fields, length):
    # The original context is 24, so that 25 tokens take the long factors.
    model = make_model(**SHORT_CONTEXT, **fields)
    ids = torch.randint(3, 64, (1, length))
    torch.testing.assert_close(model(ids).logits, text_twin(model)(ids).logits, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_pictures_count_toward_the_long_factors(make_model, make_pictures):
    model, pictures = make_model(**SHORT_CONTEXT), make_pictures((1, 1))
    twin = text_twin(model)
    for words in ([3] * 8, [3] * 9):  # 16 + 8 = 24 and 25 tokens
        ids = with_picture(*words)
        expected = twin(inputs_embeds=model.model.embed(ids, **pictures)).logits
        torch.testing.assert_close(model(ids, **pictures).logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_a_padded_row_is_computed_as_it_is_alone(make_model, make_pictures, side, attention):
    model = make_model()
    model.set_attn_implementation(attention)
    rows = [with_picture(7, 8, 9, 10), torch.tensor([[1, 4, 6]]), with_picture(11, tokens=17)]
    pictures = make_pictures((1, 1), (1, 2))
    batch = padded(rows, side, extra=3)
    logits = model(**batch, **pictures).logits
    alone = [
        model(rows[0], pixel_values=pictures["pixel_values"][:1], image_sizes=pictures["image_sizes"][:1]).logits,
        model(rows[1]).logits,
        model(rows[2], pixel_values=pictures["pixel_values"][1:], image_sizes=pictures["image_sizes"][1:]).logits,
    ]
    for got, mask, want in zip(logits, batch["attention_mask"].bool(), alone, strict=True):
        torch.testing.assert_close(got[mask], want[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_neither_pads_nor_neighbours_count_toward_the_long_factors(make_model, side):
    model = make_model(**SHORT_CONTEXT)
    rows = [torch.randint(3, 64, (1, length)) for length in (40, 24, 10)]
    batch = padded(rows, side, extra=5)
    logits = model(**batch).logits
    for got, mask, row in zip(logits, batch["attention_mask"].bool(), rows, strict=True):
        torch.testing.assert_close(got[mask], model(row).logits[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_attention_implementations_agree(make_model, make_pictures):
    model, pictures = make_model(num_key_value_heads=2), make_pictures((2, 2))
    ids = with_picture(7, 8, 9, tokens=27)
    results = []
    for attention in ("eager", "sdpa"):
        model.set_attn_implementation(attention)
        assert model.model.vision_embed_tokens.img_processor["vision_model"].config._attn_implementation == attention
        results.append(model(ids, **pictures).logits)
    torch.testing.assert_close(*results, atol=1e-4, rtol=1e-4)
    assert model._supports_flash_attn


def padded_attention(query, key, value, attention_mask, *, query_length, is_causal, softmax_scale, **_):
    """What the flash-attention package computes, by hand: (rows, length, heads, head size), a mask of rows x length."""
    key, value = (states.repeat_interleave(query.shape[2] // key.shape[2], dim=2) for states in (key, value))
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) * softmax_scale
    seen = torch.ones(query_length, key.shape[1], dtype=torch.bool).tril(key.shape[1] - query_length)
    seen = (seen if is_causal and query_length > 1 else torch.ones_like(seen))[None, None]
    if attention_mask is not None:
        seen = seen & attention_mask[:, None, None, -key.shape[1] :].bool()
    weights = scores.masked_fill(~seen, -1e9).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, value)


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_flash_attention_gets_the_pads_and_whether_to_look_ahead(make_model, make_pictures, monkeypatch, side):
    monkeypatch.setattr("transformers.integrations.flash_attention._flash_attention_forward", padded_attention)
    model, pictures = make_model(num_key_value_heads=2), make_pictures((1, 1), (1, 2))
    batch = padded([with_picture(7, 8), with_picture(11, tokens=17)], side, extra=2)
    expected = model(**batch, **pictures).logits
    for config in (model.config.text_config, model.config.vision_config):
        config._attn_implementation = "flash_attention_2"
    got = model(**batch, **pictures).logits
    seen = batch["attention_mask"].bool()
    torch.testing.assert_close(got[seen], expected[seen], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("as_list", [True, False])
@torch.no_grad()
def test_ready_tokens_give_what_pixels_give(make_model, make_pictures, as_list):
    model, pictures = make_model(), make_pictures((1, 1), (1, 2))
    batch = padded([with_picture(7), with_picture(8, 9, tokens=17)], "left")
    features = model.get_image_features(**pictures)
    ready = model(**batch, image_features=features if as_list else torch.cat(features)).logits
    assert torch.equal(ready, model(**batch, **pictures).logits)


@torch.no_grad()
def test_cached_steps_by_hand_give_what_one_pass_gives(make_model, make_pictures):
    model, pictures = make_model(), make_pictures((1, 1), (1, 2))
    batch = padded([with_picture(7, 8, 9), with_picture(8, 9, 10, tokens=17)], "left")
    whole = model(**batch, **pictures).logits
    ids, mask = batch.values()
    start = model(ids[:, :-2], attention_mask=mask[:, :-2], **pictures, use_cache=True)
    for back in (2, 1):
        end = None if back == 1 else -back + 1
        step = model(ids[:, -back:end], attention_mask=mask[:, :end], past_key_values=start.past_key_values)
        torch.testing.assert_close(step.logits[:, 0], whole[:, -back], atol=1e-4, rtol=1e-4)


def test_labels_at_picture_positions_never_count(make_model, make_pictures):
    model, pictures = make_model(image_token_id=9), make_pictures((1, 1))
    ids = torch.tensor([[1, 5, *[9] * 13, 1, 7, 8]])
    correct = ids.masked_fill(ids == 9, -100)
    expected = model(ids, **pictures, labels=correct).loss
    assert torch.equal(model(ids, **pictures, labels=ids).loss, expected)
    anything = ids.masked_fill(ids == 9, 3)
    assert torch.equal(model(ids, **pictures, labels=anything).loss, expected)
    # Mean over the 4 words that are predicted: 5, 1, 7, 8.
    logits = model(ids, **pictures).logits[0, [0, 14, 15, 16]]
    by_hand = -logits.log_softmax(-1)[range(4), [5, 1, 7, 8]].mean()
    torch.testing.assert_close(expected, by_hand)


def test_a_placeholder_outside_the_vocabulary_may_stay_in_the_labels(make_model, make_pictures):
    ids = with_picture(7, 8)
    assert make_model()(ids, **make_pictures((1, 1)), labels=ids).loss.isfinite()


@torch.no_grad()
def test_only_the_logits_asked_for_are_computed(make_model):
    model, ids = make_model(), torch.tensor([[1, 4, 6, 8]])
    torch.testing.assert_close(model(ids, logits_to_keep=1).logits, model(ids).logits[:, -1:])


@torch.no_grad()
def test_hidden_states_and_attentions_are_the_decoders(make_model, make_pictures):
    model = make_model()
    model.set_attn_implementation("eager")
    out = model(with_picture(7), **make_pictures((1, 1)), output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in out.hidden_states] == [(1, 17, 32)] * 3
    assert [tuple(weights.shape) for weights in out.attentions] == [(1, 4, 17, 17)] * 2
    assert isinstance(model(with_picture(7), **make_pictures((1, 1)), return_dict=False), tuple)


@pytest.mark.parametrize(
    ("tokens", "given", "message"),
    [
        (12, "pixels", "12 picture positions .*13 tokens"),
        (13, "nothing", "13 picture positions .*0 tokens"),
        (0, "pixels", "0 picture positions .*13 tokens"),
        (13, "both", "not both"),
    ],
)
def test_placeholders_and_pictures_that_do_not_match_are_refused(make_model, make_pictures, tokens, given, message):
    model, pictures = make_model(), make_pictures((1, 1))
    inputs = {"pixels": pictures, "nothing": {}, "both": {**pictures, "image_features": torch.zeros(13, 32)}}[given]
    with pytest.raises(ValueError, match=message):
        model(with_picture(7, tokens=tokens), **inputs)


@pytest.mark.parametrize("size", [[56, 57], [0, 56], [112, 112]])
def test_sizes_that_are_not_the_image_processors_are_refused(make_model, make_pictures, size):
    pixel_values = make_pictures((1, 2))["pixel_values"]
    with pytest.raises(ValueError, match="{}x{} is not 1 to 2 whole tiles of 56".format(*size)):
        make_model().get_image_features(pixel_values, torch.tensor([size]))
    with pytest.raises(ValueError, match="1 pictures in pixel_values, but 2 image_sizes"):
        make_model().get_image_features(pixel_values, [[56, 56], [56, 56]])


def test_embedded_inputs_come_alone(make_model, make_pictures):
    model = make_model()
    embedded = torch.zeros(1, 4, 32)
    with pytest.raises(ValueError, match="pictures in it already"):
        model(inputs_embeds=embedded, **make_pictures((1, 1)))
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model(torch.tensor([[1]]), inputs_embeds=embedded)
    with pytest.raises(ValueError, match="either input_ids or inputs_embeds"):
        model()


@torch.no_grad()
def test_a_resized_vocabulary_is_used_for_text_beside_pictures(make_model, make_pictures):
    model, pictures = make_model(), make_pictures((1, 1))
    before = model(with_picture(7), **pictures).logits
    model.resize_token_embeddings(70)
    after = model(with_picture(7), **pictures).logits
    assert after.shape[-1] == 70
    torch.testing.assert_close(after[..., :64], before)
    assert model(with_picture(69), **pictures).logits.isfinite().all()


@torch.no_grad()
def test_half_precision_runs_end_to_end(make_model, make_pictures):
    model, pictures = make_model(), make_pictures((1, 1))
    exact = model(with_picture(7), **pictures).logits
    half = model.to(torch.bfloat16)(with_picture(7), **pictures).logits
    assert half.dtype is torch.bfloat16
    assert (half.float() - exact).norm() / exact.norm() < 0.1
