from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

from vlmbench.models.phi3_v import (
    Phi3VConfig,
    Phi3VForConditionalGeneration,
    Phi3VImageProcessor,
    Phi3VProcessor,
)

HUB_NAMES = {
    "lm_head.weight",
    "model.embed_tokens.weight",
    "model.layers.1.self_attn.qkv_proj.weight",
    "model.layers.1.mlp.gate_up_proj.weight",
    "model.norm.weight",
    "model.vision_embed_tokens.glb_GN",
    "model.vision_embed_tokens.sub_GN",
    "model.vision_embed_tokens.img_projection.0.weight",
    "model.vision_embed_tokens.img_projection.2.bias",
    "model.vision_embed_tokens.img_processor.vision_model.embeddings.class_embedding",
    "model.vision_embed_tokens.img_processor.vision_model.pre_layrnorm.weight",
    "model.vision_embed_tokens.img_processor.vision_model.encoder.layers.2.mlp.fc1.weight",
    "model.vision_embed_tokens.img_processor.vision_model.post_layernorm.bias",
}


@pytest.fixture
def hub_folder(tmp_path, hub_fields, make_model, processor):
    """Return a folder in the hub's layout, whose code files leave a trace if they run."""
    model = make_model()
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    weights["model.vision_embed_tokens.wte.weight"] = weights["model.embed_tokens.weight"].clone()
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    modules = {
        "AutoConfig": "configuration_phi3_v.Phi3VConfig",
        "AutoModelForCausalLM": "modeling_phi3_v.Phi3VForCausalLM",
    }
    config = {
        **hub_fields,
        "model_type": "phi3_v",
        "architectures": ["Phi3VForCausalLM"],
        "auto_map": {**modules, "AutoModelForImageTextToText": "modeling_phi3_v.Phi3VForCausalLM"},
        "_attn_implementation": "flash_attention_2",
        "torch_dtype": "float32",
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text(
        '{"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}'
    )
    preprocessor = {
        "image_processor_type": "Phi3VImageProcessor",
        "processor_class": "Phi3VProcessor",
        "auto_map": {
            "AutoImageProcessor": "processing_phi3_v.Phi3VImageProcessor",
            "AutoProcessor": "processing_phi3_v.Phi3VProcessor",
        },
        "num_crops": 4,
        "num_img_tokens": 4,
        "tile_size": 56,
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    processor.tokenizer.save_pretrained(tmp_path)
    for name in ("configuration", "modeling", "processing", "image_processing"):
        (tmp_path / f"{name}_phi3_v.py").write_text("raise RuntimeError('remote code was run')")
    return tmp_path, model


@pytest.mark.parametrize("trust", [{}, {"trust_remote_code": True}, {"trust_remote_code": False}])
def test_a_hub_folder_loads_without_running_its_code(hub_folder, trust):
    folder, original = hub_folder
    assert type(AutoConfig.from_pretrained(folder, **trust)) is Phi3VConfig
    assert type(AutoProcessor.from_pretrained(folder, **trust)) is Phi3VProcessor
    assert len(AutoTokenizer.from_pretrained(folder, **trust)) > 0
    model = AutoModelForImageTextToText.from_pretrained(folder, **trust)
    assert type(model) is Phi3VForConditionalGeneration
    assert model.config._attn_implementation == "sdpa"
    for (name, value), expected in zip(
        model.state_dict().items(), original.state_dict().values(), strict=True
    ):
        assert torch.equal(value, expected), name


def test_loading_has_no_missing_or_unexpected_weights(hub_folder):
    _, info = Phi3VForConditionalGeneration.from_pretrained(hub_folder[0], output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]


def test_ends_of_turns_are_added_to_the_hubs_stop_id(hub_folder):
    folder, _ = hub_folder
    assert Phi3VForConditionalGeneration.from_pretrained(folder).generation_config.eos_token_id == [
        2,
        32000,
        32007,
    ]
    (folder / "generation_config.json").unlink()
    generation = Phi3VForConditionalGeneration.from_pretrained(folder).generation_config
    assert generation.eos_token_id == [2, 32000, 32007]
    assert generation.pad_token_id == 0


def test_saved_weights_have_the_hubs_names_and_load_back(hub_folder, tmp_path):
    folder, original = hub_folder
    for model in (original, Phi3VForConditionalGeneration.from_pretrained(folder)):
        model.save_pretrained(tmp_path / "saved")
        saved = load_file(tmp_path / "saved" / "model.safetensors")
        assert set(saved) == set(original.state_dict())
        assert set(saved) >= HUB_NAMES
        again = AutoModelForImageTextToText.from_pretrained(tmp_path / "saved")
        for (name, value), expected in zip(
            again.state_dict().items(), original.state_dict().values(), strict=True
        ):
            assert torch.equal(value, expected), name
        assert again.generation_config.eos_token_id == [2, 32000, 32007]


@torch.no_grad()
def test_a_loaded_model_equals_the_original_before_and_after_the_switch(make_model, tmp_path):
    # No file holds the frequencies: loading must compute them, the long ones too.
    model = make_model(original_max_position_embeddings=24, max_position_embeddings=768)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path).eval()
    for length in (20, 30):
        ids = torch.randint(3, 64, (1, length))
        assert torch.equal(loaded(ids).logits, model(ids).logits)


def test_tied_embeddings_stay_tied(make_config, tmp_path):
    model = Phi3VForConditionalGeneration(make_config(tie_word_embeddings=True))
    assert model.lm_head.weight is model.get_input_embeddings().weight
    model.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    loaded = Phi3VForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.get_input_embeddings().weight
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_a_new_model_has_random_separators_and_finite_weights(make_config):
    model = Phi3VForConditionalGeneration(make_config())
    assert all(value.isfinite().all() for value in model.state_dict().values())
    assert model.model.vision_embed_tokens.sub_GN.std().item() == pytest.approx(0.02, rel=0.5)


def test_attention_is_the_callers_choice(hub_folder):
    model = AutoModelForImageTextToText.from_pretrained(hub_folder[0], attn_implementation="eager")
    assert model.config._attn_implementation == "eager"
    assert model.config.text_config._attn_implementation == "eager"


@torch.no_grad()
def test_a_chat_with_images_gets_an_answer(hub_folder, make_image):
    folder, _ = hub_folder
    processor = AutoProcessor.from_pretrained(folder)
    assert type(processor.image_processor) is Phi3VImageProcessor
    model = AutoModelForImageTextToText.from_pretrained(folder)
    model.resize_token_embeddings(len(processor.tokenizer))
    messages = [
        [
            {
                "role": "user",
                "content": [
                    {"type": "image", "image": make_image(60, 60)},
                    {"type": "text", "text": "normal?"},
                ],
            }
        ],
        [{"role": "user", "content": "a dent?"}],
    ]
    inputs = processor.apply_chat_template(
        messages,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={"padding": True, "padding_side": "left"},
    )
    out = model.generate(**inputs, do_sample=False, max_new_tokens=3)
    assert out.shape == (2, inputs["input_ids"].shape[1] + 3)
    assert len(processor.batch_decode(out[:, -3:])) == 2


def test_the_model_has_the_attributes_that_loaders_expect(make_model):
    model = make_model()
    assert type(model).__name__.endswith("ForConditionalGeneration")
    assert hasattr(model.config, "vision_config")
    assert model.config.to_dict()["text_config"]["model_type"] == "phi3"
    assert model.get_input_embeddings() is model.model.embed_tokens
    assert model.get_output_embeddings() is model.lm_head
    assert {type(layer).__module__ for layer in model.model.layers} == {
        "transformers.models.phi3.modeling_phi3"
    }
