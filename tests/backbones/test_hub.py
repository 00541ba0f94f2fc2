"""Published models from a local folder in the hub's layout. Tiny models stand in for real ones."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from huggingface_hub import constants

from tests.helpers import plain_family
from tests.helpers.backbones import LABELS, make_request, sample
from tests.helpers.plain_family import PlainConfig
from vlmbench.backbones.hub import missing_weights
from vlmbench.backbones.llama32 import Llama32Config
from vlmbench.backbones.phi3 import Phi3Config, Phi35Config
from vlmbench.config import BuildRequest, Vision
from vlmbench.models.llama32_tiny import tiny_mllama, tiny_processor
from vlmbench.models.phi3_v_tiny import tiny_phi3_processor, tiny_phi3_v
from vlmbench.types import UserError

SIZES = [(40, 30)] * 2


@pytest.fixture(scope="module")
def phi3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the hub's: flat fields, `su` rope, remote code that must never run."""
    folder = tmp_path_factory.mktemp("phi3")
    processor = tiny_phi3_processor(num_crops=16)
    tiny_phi3_v(processor.tokenizer, max_tokens=512).save_pretrained(folder)
    processor.save_pretrained(folder)

    path = folder / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "auto_map": {"AutoConfig": "evil.Config"}}))
    (folder / "evil.py").write_text("raise SystemExit('remote code ran')")
    return folder


@pytest.fixture(scope="module")
def llama32_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama32")
    processor = tiny_processor()
    tiny_mllama(processor.tokenizer, max_tokens=512).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    processor = plain_family.tiny_processor()
    plain_family.tiny_model(processor.tokenizer, 512).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def build_request(tmp_path: Path) -> BuildRequest:
    return make_request(tmp_path)


def trained_names(model: Any) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("config", [Phi3Config, Phi35Config])
def test_phi3_loads_from_a_folder_and_answers(
    phi3_folder: Path, build_request: BuildRequest, config: Any, weights: bool
) -> None:
    settings = config(path=str(phi3_folder), num_crops=2)
    backbone = settings.build(replace(build_request, weights=weights))
    assert backbone.processor.image_processor.num_crops == 2
    assert backbone.count_tokens(sample(0), SIZES).total > 20
    assert all("lora_" in name and "vision" not in name for name in trained_names(backbone.model))

    if not weights:
        assert all(weight.is_meta for weight in backbone.model.parameters())
        return
    named = backbone.model.named_parameters()
    assert {weight.dtype for name, weight in named if "lora_" not in name} == {torch.bfloat16}
    assert backbone.score([sample(0)], LABELS).isfinite().all()


@pytest.mark.parametrize("weights", [True, False])
def test_llama32_loads_from_a_folder_and_answers(
    llama32_folder: Path, build_request: BuildRequest, weights: bool
) -> None:
    settings = Llama32Config(path=str(llama32_folder))
    backbone = settings.build(replace(build_request, weights=weights))
    assert backbone.count_tokens(sample(0), SIZES).total > 20
    assert trained_names(backbone.model)
    if weights:
        assert backbone.score([sample(0)], LABELS).isfinite().all()


@pytest.mark.parametrize("weights", [True, False])
def test_a_plain_family_loads_from_a_folder_and_answers(
    plain_folder: Path, build_request: BuildRequest, weights: bool
) -> None:
    settings = PlainConfig(path=str(plain_folder))
    backbone = settings.build(replace(build_request, weights=weights))
    assert backbone.count_tokens(sample(0), SIZES).total > 20
    assert trained_names(backbone.model)
    if weights:
        assert backbone.score([sample(0)], LABELS).isfinite().all()
        assert backbone.generate([sample(0)], max_new_tokens=3)


def test_images_go_through_pil_where_transformers_chooses_torchvision(
    plain_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchvision_class = type("CLIPImageProcessor", (), {})
    processor = SimpleNamespace(image_processor=torchvision_class())
    monkeypatch.setattr(
        transformers.AutoProcessor, "from_pretrained", lambda *args, **settings: processor
    )
    loaded = PlainConfig().load_processor(str(plain_folder))
    assert isinstance(loaded.image_processor, transformers.CLIPImageProcessorPil)
    assert loaded.image_processor.crop_size["height"] == plain_family.EDGE


def test_another_familys_folder_is_refused_by_name(
    llama32_folder: Path, build_request: BuildRequest
) -> None:
    with pytest.raises(UserError, match="it holds a model of type mllama, not phi3_v"):
        Phi3Config(path=str(llama32_folder)).build(build_request)


def test_adapters_in_the_tower_are_drawn_only_where_it_runs(
    phi3_folder: Path, build_request: BuildRequest
) -> None:
    request = replace(build_request, vision=Vision.lora)
    model = Phi3Config(path=str(phi3_folder)).build(request).model
    names = [name for name in trained_names(model) if "vision_model" in name]
    layers = {name.split("layers.")[1][0] for name in names}
    assert layers == {"0", "1"}  # of three: the features are those after the second


def copy_without(folder: Path, target: Path, suffix: str) -> Path:
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(f"*{suffix}"))
    return target


def test_weights_that_are_pickles_are_refused(
    phi3_folder: Path, build_request: BuildRequest, tmp_path: Path
) -> None:
    folder = copy_without(phi3_folder, tmp_path / "copy", ".safetensors")
    torch.save({}, folder / "pytorch_model.bin")
    settings = Phi3Config(path=str(folder))
    with pytest.raises(UserError, match="pickles, which are never loaded"):
        settings.build(build_request)

    # Counting needs no weights.
    backbone = settings.build(replace(build_request, weights=False))
    assert backbone.count_tokens(sample(0), SIZES)


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"model_type": "phi3_v", "hidden_size": "many"}', '{"a": 1}']
)
def test_a_config_that_cannot_be_read_is_refused_by_location(
    phi3_folder: Path, build_request: BuildRequest, tmp_path: Path, text: str
) -> None:
    folder = copy_without(phi3_folder, tmp_path / "copy", "config.json")
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match=str(folder)):
        Phi3Config(path=str(folder)).build(build_request)


@pytest.mark.parametrize(
    "path", ["/nowhere", "./nowhere", "somebody/something", "not a name at all"]
)
def test_a_path_where_nothing_is_is_refused_by_name(
    build_request: BuildRequest, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=f"model.path={path}"):
        Phi3Config(path=path).build(replace(build_request, weights=False))


@pytest.mark.parametrize("bits", [8])
def test_other_bits_are_refused(bits: int) -> None:
    with pytest.raises(UserError, match=r"set model\.bits=16 or model\.bits=4"):
        Phi3Config(bits=bits)
    for cure in (16, 4):
        assert Phi3Config(bits=cure).bits == cure


def test_no_crops_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.num_crops"):
        Phi3Config(num_crops=0)


def test_an_adapter_without_safetensors_is_refused(
    phi3_folder: Path, build_request: BuildRequest, tmp_path: Path
) -> None:
    (tmp_path / "adapter_model.bin").write_bytes(b"a pickle")
    request = replace(build_request, adapter=tmp_path)
    with pytest.raises(UserError, match=r"no adapter_model\.safetensors"):
        Phi3Config(path=str(phi3_folder)).build(request)


def test_what_stands_in_the_way_of_weights_is_named(
    tmp_path: Path, phi3_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert list(missing_weights(str(phi3_folder))) == []
    assert "no config.json" in next(missing_weights(str(tmp_path)))
    assert "the folder /nowhere does not exist" in next(missing_weights("/nowhere"))
    assert "HF_HUB_OFFLINE" in next(missing_weights("somebody/something"))
