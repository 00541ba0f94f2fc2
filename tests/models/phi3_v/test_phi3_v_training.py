from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from transformers.models.phi3.modeling_phi3 import Phi3RMSNorm

IMAGE_ID = 32044
IDS = torch.tensor(
    [[1, 5, *[IMAGE_ID] * 17, 1, 7, 8, 9], [1, *[IMAGE_ID] * 13, 1, 10, 11, 12, 2, 0, 0, 0, 0]]
)
MASK = torch.tensor([[1] * 23, [1] * 19 + [0] * 4])
LABELS = torch.full_like(IDS, -100)
LABELS[0, 20:], LABELS[1, 15:19] = IDS[0, 20:], IDS[1, 15:19]

# The first layer of each tower has one parameter of each kind; the rest are named here.
KINDS = (
    "layers.0.",
    "embed_tokens.weight",
    "GN",
    "img_projection",
    "embeddings",
    "pre_layrnorm",
    "model.norm.",
    "head",
)


def loss_of(model, images):
    logits = model(IDS, attention_mask=MASK, **images).logits
    return cross_entropy(logits[:, :-1].flatten(0, 1), LABELS[:, 1:].flatten())


def frozen_tower(model):
    tower = model.model.vision_embed_tokens.img_processor["vision_model"]
    tower.requires_grad_(False)
    return tower


@pytest.fixture
def exact_norms(monkeypatch):
    """Replace transformers' RMSNorm, which rounds to float32 and disturbs finite differences."""

    def forward(self, hidden):
        variance = hidden.pow(2).mean(-1, keepdim=True)
        return self.weight * hidden * torch.rsqrt(variance + self.variance_epsilon)

    monkeypatch.setattr(Phi3RMSNorm, "forward", forward)


@pytest.mark.parametrize(
    "fields", [{}, {"num_key_value_heads": 2, "original_max_position_embeddings": 8}]
)
def test_gradients_equal_finite_differences(make_model, make_images, exact_norms, fields):
    model = make_model(**fields).double()
    images = make_images((1, 2), (1, 1))
    images["pixel_values"] = images["pixel_values"].double()
    loss_of(model, images).backward()
    checked = {
        name: value
        for name, value in model.named_parameters()
        if any(kind in name for kind in KINDS)
    }
    assert len(checked) == 36  # 9 of the decoder, 6 of the image embedding, 21 of the tower
    generator = torch.Generator().manual_seed(3)
    for name, parameter in checked.items():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        step = 1e-5
        with torch.no_grad():
            losses = []
            for sign in (1, -2, 1):
                parameter.add_(direction, alpha=sign * step)
                losses.append(loss_of(model, images).item())
        numeric = (losses[0] - losses[1]) / (2 * step)
        analytic = (parameter.grad * direction).sum().item()
        assert numeric == pytest.approx(analytic, rel=1e-5, abs=1e-8), name


def test_unused_layers_get_no_gradient(make_model, make_images):
    model = make_model()
    loss_of(model, make_images((1, 2), (1, 1))).backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without
    assert all("encoder.layers.2." in name or "post_layernorm" in name for name in without)


def test_placeholders_give_the_word_embedding_no_gradient(make_model, make_images):
    model = make_model(pad_token_id=None)
    loss_of(model, make_images((1, 2), (1, 1))).backward()
    used = model.get_input_embeddings().weight.grad.abs().sum(-1).nonzero().flatten().tolist()
    # Row 0 replaces placeholders. It is also the pad, which no position attends to. Row 2 is only
    # predicted.
    assert used == [1, 5, 7, 8, 10, 11, 12]


def test_a_frozen_tower_has_no_graph_and_no_checkpointing(make_model, make_images):
    model, images = make_model().train(), make_images((1, 2), (1, 1))
    tower = frozen_tower(model)
    # As trainers do: checkpoint, and let the outputs of all embeddings, CLIP's too, need
    # gradients.
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    checkpointed = []
    for layer in tower.encoder.layers:
        layer._gradient_checkpointing_func = lambda function, *args: (
            checkpointed.append(1) or function(*args)
        )
    features = model.model.vision_embed_tokens.encode(images["pixel_values"][0])
    assert features.grad_fn is None
    assert not features.requires_grad
    loss_of(model, images).backward()
    assert not checkpointed
    assert all(parameter.grad is None for parameter in tower.parameters())
    assert model.model.vision_embed_tokens.sub_GN.grad is not None
    tower.requires_grad_(True)
    loss_of(model, images).backward()
    assert checkpointed


def test_freezing_the_tower_changes_no_other_gradient(make_model, make_images):
    images = make_images((1, 2), (1, 1))
    whole, frozen = make_model(), make_model()
    frozen_tower(frozen)
    for model in (whole, frozen):
        loss_of(model, images).backward()
    for (name, expected), got in zip(whole.named_parameters(), frozen.parameters(), strict=True):
        if "vision_model" not in name:
            torch.testing.assert_close(got.grad, expected.grad)


def test_gradients_reach_pixels_even_through_a_frozen_tower(make_model, make_images):
    model, images = make_model(), make_images((1, 2), (1, 1))
    model.requires_grad_(False)
    images["pixel_values"].requires_grad_()
    loss_of(model, images).backward()
    per_crop = images["pixel_values"].grad.abs().sum((2, 3, 4))
    assert (per_crop > 0).tolist() == [[True, True, True], [True, True, False]]


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_checkpointing_changes_no_gradient_and_stays_out_of_a_frozen_tower(
    make_model, make_images, frozen, reentrant
):
    images = make_images((1, 2), (1, 1))
    plain, checkpointed = make_model().train(), make_model().train()
    checkpointed.gradient_checkpointing_enable({"use_reentrant": reentrant})
    checkpointed.enable_input_require_grads()
    calls = {"tower": 0, "decoder": 0}
    tower = checkpointed.model.vision_embed_tokens.img_processor["vision_model"]
    # A pre-hook, because the second pass of checkpointing may leave the layer early.
    tower.encoder.layers[0].register_forward_pre_hook(
        lambda *_: calls.update(tower=calls["tower"] + 1)
    )
    checkpointed.model.layers[0].register_forward_pre_hook(
        lambda *_: calls.update(decoder=calls["decoder"] + 1)
    )
    for model in (plain, checkpointed):
        if frozen:
            frozen_tower(model)
        loss_of(model, images).backward()
    assert calls == {"tower": 1 if frozen else 2, "decoder": 2}
    for expected, got in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        assert (expected.grad is None) == (got.grad is None)
        if expected.grad is not None:
            torch.testing.assert_close(got.grad, expected.grad, atol=1e-5, rtol=1e-4)


def test_only_the_decoders_adapters_train(make_model, make_images):
    images = make_images((1, 2), (1, 1))
    lora = LoraConfig(
        r=2,
        target_modules=["qkv_proj", "o_proj", "gate_up_proj", "down_proj"],
        init_lora_weights=False,
    )
    model = get_peft_model(make_model(), lora).train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    model.enable_input_require_grads()
    calls = []
    tower = model.get_base_model().model.vision_embed_tokens.img_processor["vision_model"]
    tower.encoder.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    before = loss_of(model, images)
    before.backward()
    assert len(calls) == 1
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in model.named_parameters() if "lora_" in name}
    assert all("model.model.layers." in name for name in trained)
    torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.05).step()
    assert loss_of(model, images) < before


def test_adapters_in_the_tower_are_trained(make_model, make_images):
    model = get_peft_model(
        make_model(), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    )
    loss_of(model, make_images((1, 2), (1, 1))).backward()
    trained = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert trained
    assert all(
        "vision_model.encoder.layers" in name and ".layers.2." not in name for name in trained
    )


def test_image_features_train_the_decoder_like_pixels(make_model, make_images):
    images = make_images((1, 2), (1, 1))
    pixels, ready = make_model(), make_model()
    with torch.no_grad():
        features = ready.get_image_features(**images)
    loss_of(pixels, images).backward()
    loss_of(ready, {"image_features": features}).backward()
    for expected, got in zip(
        pixels.model.layers.parameters(), ready.model.layers.parameters(), strict=True
    ):
        torch.testing.assert_close(got.grad, expected.grad)
    assert all(value.grad is None for value in ready.model.vision_embed_tokens.parameters())


def test_use_cache_of_the_configuration_is_obeyed(make_model):
    model = make_model()
    assert model(torch.tensor([[1, 4]])).past_key_values is not None
    model.config.use_cache = False
    assert model(torch.tensor([[1, 4]])).past_key_values is None


def test_a_batch_without_images_trains(make_model):
    ids = torch.tensor([[1, 4, 6, 8]])
    make_model().train()(ids, labels=ids).loss.backward()
