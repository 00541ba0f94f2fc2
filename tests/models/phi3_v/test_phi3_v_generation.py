from __future__ import annotations

import pytest
import torch

IMAGE_ID = 32044
# The switch from the short to the long factors after 24 tokens, as after 4096 in the released
# models.
SHORT_CONTEXT = {"original_max_position_embeddings": 24, "max_position_embeddings": 768}
GREEDY = {
    "do_sample": False,
    "max_new_tokens": 20,
    "return_dict_in_generate": True,
    "output_logits": True,
}


def prompt(*words: int, tokens: int = 13) -> torch.Tensor:
    return torch.tensor([[1, 5, *[IMAGE_ID] * tokens, 1, *words]])


def left_padded(*rows: torch.Tensor, extra: int = 0) -> dict[str, torch.Tensor]:
    length = max(row.shape[1] for row in rows) + extra
    fill = [torch.zeros(1, length - row.shape[1], dtype=torch.long) for row in rows]
    ids = torch.cat([torch.cat([pad, row], 1) for pad, row in zip(fill, rows, strict=True)])
    mask = torch.cat(
        [torch.cat([pad, torch.ones_like(row)], 1) for pad, row in zip(fill, rows, strict=True)]
    )
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture
def endless(make_model):
    """Return a model that never ends its turn and has clear greedy choices."""

    def make(**fields):
        model = make_model(eos_token_id=2, **fields)
        with torch.no_grad():
            model.lm_head.weight.mul_(5)
            model.lm_head.weight[2] = 0
        model.generation_config.eos_token_id = None
        return model

    return make


def greedy_by_hand(model, ids, steps, **images):
    """Generate with one pass for each word, without cache and generate()."""
    for _ in range(steps):
        with torch.no_grad():
            choice = model(ids, **images).logits[:, -1].argmax(-1, keepdim=True)
        ids = torch.cat([ids, choice], dim=1)
    return ids


@pytest.mark.parametrize("length", [17, 23, 24, 25, 40])
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_cached_generation_equals_uncached_generation_across_the_switch(
    endless, make_images, length, cache
):
    model, images = endless(**SHORT_CONTEXT), make_images((1, 1))
    ids = prompt(*[7] * (length - 16))
    expected = greedy_by_hand(model, ids, 20, **images)
    out = model.generate(ids, **images, **GREEDY, cache_implementation=cache)
    assert torch.equal(out.sequences, expected)
    whole = model(expected, **images).logits[:, -2]
    torch.testing.assert_close(out.logits[-1], whole, atol=1e-3, rtol=1e-4)
    uncached = model.generate(ids, **images, **GREEDY, use_cache=False)
    assert torch.equal(uncached.sequences, expected)


def test_the_released_models_switch_after_4096_tokens(endless, make_images):
    model, images = endless(), make_images((1, 1))
    ids = prompt(*[7, 8, 9] * 1359)
    assert ids.shape == (1, 4093)
    out = model.generate(ids, **images, **{**GREEDY, "max_new_tokens": 6})
    expected = greedy_by_hand(model, ids, 6, **images)
    assert torch.equal(out.sequences, expected)
    torch.testing.assert_close(
        out.logits[-1], model(expected, **images).logits[:, -2], atol=1e-3, rtol=1e-4
    )


def test_without_recomputation_the_switch_changes_logits(endless, make_images, monkeypatch):
    model, images = endless(**SHORT_CONTEXT), make_images((1, 1))
    ids = prompt(*[7] * 6)
    right = model.generate(ids, **images, **GREEDY)
    monkeypatch.setattr(type(model), "_outgrows_context", lambda *_: False)
    wrong = model.generate(ids, **images, **GREEDY)
    gap = [(a - b).abs().max().item() for a, b in zip(right.logits, wrong.logits, strict=True)]
    assert max(gap[:3]) < 1e-3  # computed from 22, 23 and 24 positions
    assert gap[3] > 0.02  # from 25, of which 24 were rotated by the short factors


def test_a_prompt_is_recomputed_once(endless, make_images):
    model, images = endless(**SHORT_CONTEXT), make_images((1, 1))
    lengths = []
    model.model.register_forward_pre_hook(
        lambda _, args, kwargs: lengths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    model.generate(prompt(*[7] * 6), **images, **GREEDY)
    assert lengths == [22, 1, 1, 25, *[1] * 16]


@pytest.mark.parametrize("ready", [False, True])
def test_a_padded_row_generates_the_same_answer_alone(endless, make_images, ready):
    # Rows of 36, 22 and 17 tokens: one past the switch already, one crosses it at once, one in the
    # middle.
    model, images = endless(**SHORT_CONTEXT), make_images((1, 1), (1, 2), (1, 1))
    rows = [prompt(*[7] * 20), prompt(8, 9, tokens=17), prompt(10)]
    features = model.get_image_features(**images)
    batch = left_padded(*rows, extra=4)
    shown = {"image_features": features} if ready else images
    out = model.generate(**batch, **shown, **GREEDY)
    for index, row in enumerate(rows):
        alone = model.generate(row, image_features=[features[index]], **GREEDY)
        assert torch.equal(out.sequences[index, -20:], alone.sequences[0, -20:])
        torch.testing.assert_close(out.logits[-1][index], alone.logits[-1][0], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("num_beams", [2, 3])
def test_beams_keep_each_rows_own_images(endless, make_images, num_beams):
    model, images = endless(**SHORT_CONTEXT), make_images((1, 1), (1, 2), (1, 1))
    two = torch.tensor([[1, *[IMAGE_ID] * 13, 1, *[IMAGE_ID] * 17, 1, 7]])
    features = model.get_image_features(**images)
    batch = left_padded(two, prompt(10))
    out = model.generate(**batch, **images, **GREEDY, num_beams=num_beams)
    first = model.generate(two, image_features=features[:2], **GREEDY, num_beams=num_beams)
    second = model.generate(prompt(10), image_features=features[2:], **GREEDY, num_beams=num_beams)
    assert torch.equal(out.sequences[0, -20:], first.sequences[0, -20:])
    assert torch.equal(out.sequences[1, -20:], second.sequences[0, -20:])


def test_several_answers_to_one_prompt_see_its_images(endless, make_images):
    model, images = endless(), make_images((1, 1), (1, 2))
    batch = left_padded(prompt(7), prompt(8, tokens=17))
    # top_k=1 is greedy, through the code of sampling
    sampled = {**GREEDY, "do_sample": True, "top_k": 1}
    out = model.generate(**batch, **images, **sampled, num_return_sequences=2)
    once = model.generate(**batch, **images, **GREEDY)
    assert torch.equal(out.sequences, once.sequences.repeat_interleave(2, dim=0))


def test_images_are_encoded_once_a_prompt(endless, make_images):
    model, images = endless(), make_images((1, 1))
    calls = []
    model.model.vision_embed_tokens.register_forward_hook(lambda *_: calls.append(1))
    model.generate(prompt(7), **images, **GREEDY)
    model.generate(prompt(7), **images, **GREEDY, num_beams=3)
    assert len(calls) == 2


def test_a_conversation_continues_from_its_cache(endless, make_images):
    model, images = endless(), make_images((1, 1))
    first = model.generate(prompt(7), **images, **GREEDY)
    longer = torch.cat([first.sequences, torch.tensor([[5, 6, 7]])], dim=1)
    again = model.generate(longer, **images, **GREEDY, past_key_values=first.past_key_values)
    assert torch.equal(again.sequences, model.generate(longer, **images, **GREEDY).sequences)


def test_a_switch_without_the_prompt_is_refused(endless):
    model = endless(**SHORT_CONTEXT)
    embedded = model.get_input_embeddings()(torch.randint(3, 64, (1, 20))).detach()
    assert model.generate(inputs_embeds=embedded, do_sample=False, max_new_tokens=4).shape == (1, 4)
    with pytest.raises(ValueError, match=r"passes 24 tokens.*input_ids"):
        model.generate(inputs_embeds=embedded, do_sample=False, max_new_tokens=10)


def test_generation_stops_at_each_of_the_stop_ids(make_model):
    ids = torch.tensor([[1, 4, 6]])
    choice = make_model()(ids).logits[0, -1].argmax().item()
    for stop in ([choice], [2, choice]):
        model = make_model()
        text = model.config.text_config.to_dict() | {"eos_token_id": stop}
        again = type(model)(
            type(model.config)(text_config=text, vision_config=model.config.vision_config)
        ).eval()
        again.load_state_dict(model.state_dict())
        assert again.generate(ids, do_sample=False, max_new_tokens=5)[0, 3:].tolist() == [choice]


def test_the_ends_of_turns_are_stop_ids(make_model):
    generation = make_model().generation_config
    assert generation.eos_token_id == [2, 32000, 32007]
    assert generation.pad_token_id == 0


def test_the_placeholder_is_never_generated(make_model):
    model = make_model(image_token_id=9)
    with torch.no_grad():
        for parameter in model.lm_head.parameters():
            parameter.zero_()
            parameter[9] = model(torch.tensor([[1, 4]]), output_hidden_states=True).hidden_states[
                -1
            ][0, -1]
    assert model(torch.tensor([[1, 4]])).logits[0, -1].argmax() == 9
    said = model.generate(torch.tensor([[1, 4]]), do_sample=False, max_new_tokens=3)
    assert 9 not in said
