"""Published models from a local folder, in the hub's layout: the tiny ones stand in for the real ones."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants

from tests.backbones.test_contract import sample
from vlmbench.backbones.hub import missing_weights
from vlmbench.backbones.llama32 import Llama32Config
from vlmbench.backbones.phi3 import Phi3Config, Phi35Config
from vlmbench.config import BuildRequest, Engine, Vision
from vlmbench.models.llama32_tiny import tiny_mllama, tiny_processor
from vlmbench.models.phi3_v_tiny import tiny_phi3_processor, tiny_phi3_v
from vlmbench.types import UserError


@pytest.fixture(scope="module")
def phi3_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As the hub has it: flat fields, `su` rope, remote code that must never run."""
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


@pytest.fixture
def request_(tmp_path: Path) -> BuildRequest:
    return BuildRequest(seed=0, engine=Engine.transformers, vision=Vision.frozen, cache_dir=tmp_path)


def trained_names(model: Any) -> set[str]:
    return {name for name, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize("config", [Phi3Config, Phi35Config])
def test_phi3_loads_from_a_folder_and_answers(
    phi3_folder: Path, request_: BuildRequest, config: Any, weights: bool
) -> None:
    backbone = config(path=str(phi3_folder), num_crops=2).build(replace(request_, weights=weights))
    assert backbone.processor.image_processor.num_crops == 2
    assert backbone.count_tokens(sample(0), [(40, 30)] * 2).total > 20
    assert all("lora_" in name and "vision" not in name for name in trained_names(backbone.model))
    kinds = {weight.dtype for name, weight in backbone.model.named_parameters() if "lora_" not in name}
    assert kinds == {torch.bfloat16} if weights else all(weight.is_meta for weight in backbone.model.parameters())
    if weights:
        assert backbone.score([sample(0)], ["normal", "abnormal"]).isfinite().all()


@pytest.mark.parametrize("weights", [True, False])
def test_llama32_loads_from_a_folder_and_answers(llama32_folder: Path, request_: BuildRequest, weights: bool) -> None:
    backbone = Llama32Config(path=str(llama32_folder)).build(replace(request_, weights=weights))
    assert backbone.count_tokens(sample(0), [(40, 30)] * 2).total > 20
    assert trained_names(backbone.model)
    if weights:
        assert backbone.score([sample(0)], ["normal", "abnormal"]).isfinite().all()


def test_another_familys_folder_is_refused_by_name(llama32_folder: Path, request_: BuildRequest) -> None:
    with pytest.raises(UserError, match="it holds a model of type mllama, not phi3_v"):
        Phi3Config(path=str(llama32_folder)).build(request_)


def test_adapters_in_the_tower_are_drawn_only_where_it_runs(phi3_folder: Path, request_: BuildRequest) -> None:
    backbone = Phi3Config(path=str(phi3_folder)).build(replace(request_, vision=Vision.lora))
    layers = {name.split("layers.")[1][0] for name in trained_names(backbone.model) if "vision_model" in name}
    assert layers == {"0", "1"}  # of three: the features are those after the second


def _copy_without(folder: Path, target: Path, suffix: str) -> Path:
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(f"*{suffix}"))
    return target


def test_weights_that_are_pickles_are_refused(phi3_folder: Path, request_: BuildRequest, tmp_path: Path) -> None:
    folder = _copy_without(phi3_folder, tmp_path / "copy", ".safetensors")
    torch.save({}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickles, which are never loaded"):
        Phi3Config(path=str(folder)).build(request_)
    # What is only counted needs no weights.
    assert Phi3Config(path=str(folder)).build(replace(request_, weights=False)).count_tokens(sample(0), [(40, 30)] * 2)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model_type": "phi3_v", "hidden_size": "many"}', '{"a": 1}'])
def test_a_config_that_cannot_be_read_is_refused_by_place(
    phi3_folder: Path, request_: BuildRequest, tmp_path: Path, content: str
) -> None:
    folder = _copy_without(phi3_folder, tmp_path / "copy", "config.json")
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=f"model.path={folder}"):
        Phi3Config(path=str(folder)).build(request_)


@pytest.mark.parametrize("path", ["/nowhere", "./nowhere", "somebody/something", "not a name at all"])
def test_a_path_where_nothing_is_is_refused_by_name(
    request_: BuildRequest, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=f"model.path={path}"):
        Phi3Config(path=path).build(replace(request_, weights=False))


@pytest.mark.parametrize(("bits", "message"), [(8, "set model.bits=16 or model.bits=4")])
def test_other_bits_are_refused(bits: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Phi3Config(bits=bits)


def test_no_crops_are_refused() -> None:
    with pytest.raises(UserError, match=r"model\.num_crops=0"):
        Phi3Config(num_crops=0)


def test_an_adapter_without_safetensors_is_refused(phi3_folder: Path, request_: BuildRequest, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.bin").write_bytes(b"a pickle")
    with pytest.raises(UserError, match=r"no adapter_model\.safetensors"):
        Phi3Config(path=str(phi3_folder)).build(replace(request_, adapter=tmp_path))


def test_what_stands_in_the_way_of_weights_is_named(
    tmp_path: Path, phi3_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert list(missing_weights(str(phi3_folder))) == []
    assert "no config.json" in next(missing_weights(str(tmp_path)))
    assert "there is no folder /nowhere" in next(missing_weights("/nowhere"))
    assert "HF_HUB_OFFLINE" in next(missing_weights("somebody/something"))
