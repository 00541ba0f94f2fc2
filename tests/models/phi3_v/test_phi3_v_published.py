"""The port against outputs of the published models' own code; left out where those are not at
hand."""

from __future__ import annotations

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoProcessor

from vlmbench.models.phi3_v import (
    Phi3VConfig,
    Phi3VForConditionalGeneration,
    Phi3VImageProcessor,
    Phi3VProcessor,
)

IMAGE_ID = 32044
CASES = ["text_only", "square_c4", "tall_c4", "two_c4", "labelled_answer_only"]


def read(path):
    return json.loads(path.read_text())


@pytest.fixture(scope="module")
def small(published) -> Phi3VForConditionalGeneration:
    model = Phi3VForConditionalGeneration(
        Phi3VConfig(**read(published / "golden" / "config_tiny.json"))
    ).eval()
    model.load_state_dict(load_file(published / "golden" / "tiny.safetensors"))
    return model


@pytest.fixture(scope="module")
def hub_processor(published, tmp_path_factory) -> Phi3VProcessor:
    folder = tmp_path_factory.mktemp("hub")
    for path in (published / "tokenizer").iterdir():
        shutil.copyfile(path, folder / path.name)
    shutil.copyfile(published / "hub_config" / "phi35.json", folder / "config.json")
    return AutoProcessor.from_pretrained(folder)


def case_inputs(published, name):
    with np.load(published / "golden" / "cases" / f"{name}.npz") as file:
        case = {key: torch.from_numpy(file[key]) for key in file.files}
    ids = case["input_ids"]
    inputs = {
        "input_ids": ids.masked_fill(ids < 0, IMAGE_ID),
        "attention_mask": case["attention_mask"],
    }
    inputs |= {key: case[key] for key in ("pixel_values", "image_sizes", "labels") if key in case}
    return case, inputs


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_logits_and_loss_equal_the_published_code(published, small, name, attention):
    case, inputs = case_inputs(published, name)
    small.set_attn_implementation(attention)
    out = small(**inputs)
    rows, columns = case["logit_positions"].T
    torch.testing.assert_close(out.logits[rows, columns], case["logits"], atol=2e-4, rtol=0)
    if "loss" in case:
        torch.testing.assert_close(out.loss, case["loss"], atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", CASES[1:])
@torch.no_grad()
def test_embedded_images_and_features_equal_the_published_code(published, small, name):
    case, inputs = case_inputs(published, name)
    embedding = small.model.vision_embed_tokens
    features = embedding.encode(inputs["pixel_values"][0, :2])
    torch.testing.assert_close(
        features, case["clip_patch_features_image0_crops01"], atol=2e-4, rtol=0
    )
    embedded = small.model.embed(inputs["input_ids"], inputs["pixel_values"], inputs["image_sizes"])
    expected = case["inputs_embeds"]
    torch.testing.assert_close(embedded[:, : expected.shape[1]], expected, atol=2e-4, rtol=0)


@torch.no_grad()
def test_published_cases_keep_their_logits_in_a_padded_batch(published, small):
    cases = {name: case_inputs(published, name) for name in ("tall_c4", "square_c4")}
    length = max(inputs["input_ids"].shape[1] for _, inputs in cases.values())
    for side in ("left", "right"):
        ids, mask = (
            torch.zeros(2, length, dtype=torch.long),
            torch.zeros(2, length, dtype=torch.long),
        )
        for row, (_, inputs) in enumerate(cases.values()):
            used = inputs["input_ids"].shape[1]
            position = slice(length - used, None) if side == "left" else slice(0, used)
            ids[row, position], mask[row, position] = inputs["input_ids"][0], 1
        images = {
            key: torch.cat([inputs[key] for _, inputs in cases.values()])
            for key in ("pixel_values", "image_sizes")
        }
        logits = small(ids, attention_mask=mask, **images).logits
        for row, (case, _) in enumerate(cases.values()):
            torch.testing.assert_close(
                logits[row][mask[row].bool()], case["logits"], atol=2e-4, rtol=0
            )


def test_pixels_equal_the_published_code(published):
    processor = Phi3VImageProcessor()
    checked = 0
    for case in read(published / "golden" / "processor" / "image_processor.json").values():
        with Image.open(published / "golden" / "images" / f"{case['image']}.png") as image:
            hd = processor.hd_image(image, case["num_crops"])
            out = processor(image, num_crops=case["num_crops"])
        assert hashlib.sha256(hd.tobytes()).hexdigest() == case["hd_rgb_sha256"]
        assert out["image_sizes"].tolist() == [case["image_sizes"]]
        assert out["num_img_tokens"].tolist() == [case["num_img_tokens"]]
        assert out["pixel_values"].shape == tuple(case["pixel_values_shape"])
        assert out["pixel_values"].mean() == pytest.approx(case["mean"], abs=1e-6)
        pixels = published / "golden" / "processor" / f"pv_{case['image']}_c{case['num_crops']}.npz"
        if pixels.exists():
            np.testing.assert_allclose(
                out["pixel_values"], np.load(pixels)["pixel_values"], atol=1e-6, rtol=0
            )
            checked += 1
    assert checked == 4


@pytest.mark.parametrize("name", CASES)
def test_ids_equal_the_published_code(published, hub_processor, name):
    case = read(published / "golden" / "processor" / "input_ids.json")[name]
    images = [
        Image.open(published / "golden" / "images" / f"{image}.png") for image in case["images"]
    ]
    out = hub_processor(text=case["prompt"], images=images or None, num_crops=case["num_crops"])
    expected = [
        IMAGE_ID if number < 0 else number
        for number, count in case["input_ids_run_length"]
        for _ in range(count)
    ]
    assert out["input_ids"] == [expected]
    counts = [
        hub_processor.image_processor.get_num_img_tokens(image.height, image.width)
        for image in images
    ]
    assert hub_processor(text=case["prompt"], num_img_tokens=[counts])["input_ids"] == [expected]


def test_the_chat_template_equals_the_published_one_for_text(hub_processor):
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "<|image_1|>\nIs it bent?"},
        {"role": "assistant", "content": "No."},
        {"role": "user", "content": "Sure?"},
    ]
    for turns in (1, 2, 3, 4):
        for ask in (False, True):
            published_text = hub_processor.tokenizer.apply_chat_template(
                messages[:turns], tokenize=False, add_generation_prompt=ask
            )
            assert (
                hub_processor.apply_chat_template(messages[:turns], add_generation_prompt=ask)
                == published_text
            )


def test_the_published_settings_are_kept(hub_processor):
    assert hub_processor.image_processor.num_crops == 4
    assert (
        hub_processor.tokenizer.convert_tokens_to_ids("<|image|>") == hub_processor.image_token_id
    )


@pytest.mark.parametrize(
    ("file", "name"), [("phi3", "phi-3-vision-128k-instruct"), ("phi35", "phi-3.5-vision-instruct")]
)
def test_parameters_of_the_full_model_equal_the_checkpoint(published, file, name):
    with torch.device("meta"):
        model = Phi3VForConditionalGeneration(
            Phi3VConfig(**read(published / "hub_config" / f"{file}.json"))
        )
    expected = read(published / "golden" / "full_state_dict_shapes.json")[name]
    assert {key: list(value.shape) for key, value in model.state_dict().items()} == expected[
        "shapes"
    ]
    assert sum(parameter.numel() for parameter in model.parameters()) == expected["parameters"]
    assert model.generation_config.eos_token_id == [2, 32000, 32007]
