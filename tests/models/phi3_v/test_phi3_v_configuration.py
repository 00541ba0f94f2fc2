from __future__ import annotations

import json
import math

import pytest
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from vlmbench.models.phi3_v import Phi3VConfig


def test_flat_fields_become_a_text_and_a_vision_configuration(make_config):
    config = make_config()
    assert (config.text_config.model_type, config.vision_config.model_type) == (
        "phi3",
        "clip_vision_model",
    )
    assert (config.text_config.vocab_size, config.text_config.hidden_size) == (64, 32)
    assert (config.vision_config.hidden_size, config.vision_config.image_size) == (16, 56)
    assert config.get_text_config() is config.text_config


def test_the_default_tower_is_clip_large_336():
    vision = Phi3VConfig().vision_config
    assert (vision.hidden_size, vision.num_hidden_layers, vision.num_attention_heads) == (
        1024,
        24,
        16,
    )
    assert (vision.intermediate_size, vision.image_size, vision.patch_size) == (4096, 336, 14)
    assert (vision.hidden_act, vision.layer_norm_eps) == ("quick_gelu", 1e-5)


def test_given_tower_sizes_override_the_default_ones():
    vision = Phi3VConfig(clip_vision_config={"num_hidden_layers": 2}).vision_config
    assert (vision.num_hidden_layers, vision.hidden_size) == (2, 1024)


def test_su_rope_is_longrope_with_the_attention_scaling_of_the_paper(make_config):
    text = make_config().text_config
    assert text.rope_parameters["rope_type"] == "longrope"
    frequencies, scaling = ROPE_INIT_FUNCTIONS["longrope"](text, None)
    # sqrt(1 + ln(131072 / 4096) / ln(4096)) = sqrt(1 + 3.4657 / 8.3178) = 1.19024
    assert scaling == pytest.approx(math.sqrt(1 + math.log(32) / math.log(4096)))
    assert scaling == pytest.approx(1.1902381, abs=1e-7)
    # Frequency 3 of 4 at head size 8: 1 / (2.0 * 10000^(6/8)) = 1 / 2000
    assert frequencies[3].item() == pytest.approx(1 / 2000)


def test_the_callers_rope_dictionary_is_unchanged():
    scaling = {"type": "su", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}
    Phi3VConfig(rope_scaling=scaling)
    assert scaling == {"type": "su", "short_factor": [1.0] * 48, "long_factor": [2.0] * 48}


def test_ends_of_turns_are_added_to_the_files_stop_ids(make_config):
    assert make_config(eos_token_id=2).text_config.eos_token_id == [2, 32000, 32007]
    assert make_config(eos_token_id=[2, 32000]).text_config.eos_token_id == [2, 32000, 32007]


def test_stop_ids_of_a_nested_configuration_are_unchanged(make_config):
    nested = make_config().to_dict()
    nested["text_config"]["eos_token_id"] = [5]
    assert Phi3VConfig(**nested).text_config.eos_token_id == [5]


@pytest.mark.parametrize(("given", "expected"), [(0, 0), (63, 63), (64, None), (None, None)])
def test_a_pad_id_outside_the_vocabulary_is_none(make_config, given, expected):
    assert make_config(pad_token_id=given).text_config.pad_token_id == expected


@pytest.mark.parametrize(
    ("window", "expected"), [(262144, None), (131072, None), (2048, 2048), (None, None)]
)
def test_only_a_window_shorter_than_the_context_is_kept(make_config, window, expected):
    assert make_config(sliding_window=window).text_config.sliding_window == expected


@pytest.mark.parametrize(
    ("layer", "expected"), [({}, -2), ({"layer_idx": -1}, -1), ({"layer_idx": 1}, 1)]
)
def test_the_hub_names_the_layer_of_features(make_config, layer, expected):
    section = {"name": "clip_vision_model", "image_dim_out": 16, "num_img_tokens": 144, **layer}
    assert make_config(img_processor=section).vision_feature_layer == expected


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        (
            {"embd_layer": {"hd_transform_order": "glb_sub"}},
            r"embd_layer\.hd_transform_order='glb_sub'",
        ),
        ({"embd_layer": {"use_hd_transform": False}}, r"embd_layer\.use_hd_transform=False"),
        ({"embd_layer": {"projection_cls": "linear"}}, r"embd_layer\.projection_cls='linear'"),
        (
            {"img_processor": {"type_feature": "cls_patch"}},
            r"img_processor\.type_feature='cls_patch'",
        ),
        ({"rope_scaling": {"type": "yarn"}}, r"rope_scaling\.type='yarn'"),
    ],
)
def test_unsupported_fields_are_refused_by_name(make_config, fields, field):
    with pytest.raises(ValueError, match=field):
        make_config(**fields)


def test_attention_and_remote_code_of_the_file_are_dropped(make_config):
    config = make_config(
        _attn_implementation="flash_attention_2", auto_map={"AutoConfig": "x.Phi3VConfig"}
    )
    assert config._attn_implementation is None
    assert not hasattr(config, "auto_map")
    assert make_config(attn_implementation="eager").vision_config._attn_implementation == "eager"


def test_the_architecture_is_the_class_that_loads_it(make_config):
    config = make_config(architectures=["Phi3VForCausalLM"])
    assert config.architectures == ["Phi3VForConditionalGeneration"]


@pytest.mark.parametrize(
    "fields", [{}, {"image_token_id": 9, "num_key_value_heads": 2, "tie_word_embeddings": True}]
)
def test_a_saved_configuration_loads_back_equal(make_config, tmp_path, fields):
    config = make_config(**fields)
    config.save_pretrained(tmp_path)
    loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is Phi3VConfig
    assert loaded.to_dict() == {**config.to_dict(), "_name_or_path": str(tmp_path)}
    assert json.loads((tmp_path / "config.json").read_text())["text_config"]["model_type"] == "phi3"


def test_the_default_placeholder_is_32044(make_config):
    assert make_config().image_token_id == 32044
    assert make_config(image_token_id=7).image_token_id == 7
