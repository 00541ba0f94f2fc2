"""Folders whose weights are quantised: those of 4 bits are served, the others refused.

To add one: a line in FOLDERS or OTHER_METHODS. Nothing here reads weights, and nothing needs
bitsandbytes.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.backbones import make_request, sample
from tests.helpers.model_folders import (
    Change,
    edited,
    make_config,
    refusal,
    weights,
    write_sound_folders,
)
from tests.helpers.packed import pretend
from vlmbench.backbones import hub
from vlmbench.backbones.anymodel import AnyConfig
from vlmbench.config import Engine
from vlmbench.types import UserError


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a sound folder of each family that the changes start from."""
    return write_sound_folders(tmp_path_factory.mktemp)


def packed_without(*words: str) -> Change:
    """Store weights in 4 bits, without those that have one of the words in their names."""

    def apply(folder: Path) -> None:
        pretend(folder)
        weights(
            lambda held: {n: w for n, w in held.items() if not any(word in n for word in words)}
        )(folder)

    return apply


def packed_and_cut(end: str) -> Change:
    def cut(held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        name = next(name for name in held if name.endswith(end))
        return held | {name: held[name][2:].clone()}

    def apply(folder: Path) -> None:
        pretend(folder)
        weights(cut)(folder)

    return apply


def one_scale_more(folder: Path) -> None:
    pretend(folder)
    name = "model.language_model.layers.99.mlp.up_proj.weight.absmax"
    weights(lambda held: held | {name: torch.ones(2)})(folder)


def quantised(**changes: Any) -> Change:
    return lambda folder: pretend(folder, **changes)


FOLDERS: dict[str, tuple[str, Change, str]] = {
    "a file of 4 bits without a tower": ("qwen3_vl", packed_without("visual"), "it lacks"),
    "4 bits of another shape": ("llama32", packed_and_cut("o_proj.weight"), "have another shape"),
    "4 bits without scales": ("gemma3", packed_without("absmax", "quant_"), "have another shape"),
    "scales without 4 bits": ("gemma3", one_scale_more, "weights of another model"),
    "4 bits of no known kind": ("gemma3", quantised(bnb_4bit_quant_type="af4"), "nf4 or fp4"),
    "4 bits in words": (
        "gemma3",
        quantised(bnb_4bit_quant_storage="many"),
        "bnb_4bit_quant_storage",
    ),
    "4 bits but one number": ("gemma3", quantised(llm_int8_skip_modules=3), "list of strings"),
}
OTHER_METHODS: dict[str, Any] = {
    "gptq": {"quant_method": "gptq", "bits": 4},
    "awq": {"quant_method": "awq", "bits": 4},
    "fp8": {"quant_method": "fp8", "weight_block_size": [128, 128]},
    "bitsandbytes, 8 bits": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "compressed-tensors": {"quant_method": "compressed-tensors", "config_groups": {}},
    "bitsandbytes": {"quant_method": "bitsandbytes", "load_in_4bit": "yes"},
}


@pytest.mark.parametrize("name", FOLDERS)
def test_weights_that_are_not_the_models_are_refused_by_the_check(
    sound: dict[str, Path], tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "模型"
    said = refusal(FOLDERS[name], sound, folder)
    assert said.startswith(f"model.path={folder}")
    assert "; " in said  # a cure follows
    assert "\n" not in said


@pytest.mark.parametrize("name", OTHER_METHODS)
@pytest.mark.parametrize("has_weights", [False, True], ids=["stage=check", "stage=run"])
def test_another_quantisation_is_refused_before_weights_are_read(
    sound: dict[str, Path],
    tmp_path: Path,
    name: str,
    has_weights: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sound["gemma3"], folder)
    edited("config.json", quantization_config=OTHER_METHODS[name])(folder)
    with monkeypatch.context() as patch:
        patch.setattr(hub, "load_checkpoint", lambda *args, **settings: pytest.fail("read"))
        with pytest.raises(UserError, match=re.escape(f"quantised ({name})")) as refused:
            make_config("gemma3", folder).build(make_request(tmp_path, weights=has_weights))

    cure = re.search(
        r"name the publisher's model in 16 bits, and set (model\.bits)=(\d+)", str(refused.value)
    )
    assert cure is not None
    published = AnyConfig(path=str(sound["gemma3"]), bits=int(cure[2]))
    published.build(make_request(tmp_path, weights=False))


@pytest.mark.parametrize("bits", [4, 16])
@pytest.mark.parametrize("family", ["llama32", "qwen3_vl", "gemma3", "phi35"])
def test_weights_stored_in_4_bits_pass_the_check(
    sound: dict[str, Path], tmp_path: Path, family: str, bits: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The check reads headers, so it needs no bitsandbytes."""
    folder = tmp_path / "model"
    shutil.copytree(sound[family], folder)
    pretend(folder)
    config = replace(make_config(family, folder), bits=bits)
    packed, whole = (
        one.build(make_request(tmp_path, weights=False))
        for one in (config, make_config(family, sound[family]))
    )
    sizes = [(40, 30)] * 2
    assert packed.count_tokens(sample(0), sizes) == whole.count_tokens(sample(0), sizes)
    assert packed.vision_cost(sizes[0]) == whole.vision_cost(sizes[0])
    assert "LOAD REPORT" not in caplog.text  # of every packed weight


def test_unsloth_is_not_given_weights_that_are_stored_in_4_bits(
    sound: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sound["llama32"], folder)
    assert make_config("llama32", folder).why_not_unsloth() == ""
    pretend(folder)
    config = replace(make_config("llama32", folder), bits=4)
    assert "4 bits" in config.why_not_unsloth()

    monkeypatch.setattr(hub, "import_engine", lambda request: None)
    with pytest.raises(UserError, match="stored in 4 bits, which trainer") as refused:
        config.build(make_request(tmp_path, engine=Engine.unsloth))
    cure = re.search(r"set trainer\.engine=(\w+)", str(refused.value))
    assert cure is not None
    config.build(make_request(tmp_path, engine=Engine(cure[1]), weights=False))


def test_4_bits_without_bitsandbytes_say_what_to_install(
    sound: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "transformers.quantizers.quantizer_bnb_4bit.is_bitsandbytes_available", lambda: False
    )
    folder = tmp_path / "model"
    shutil.copytree(sound["gemma3"], folder)
    for change in (lambda folder: None, pretend):
        change(folder)
        config = replace(make_config("gemma3", folder), bits=4)
        with pytest.raises(
            UserError, match=r"not installed; install it with: pip install bitsandbytes$"
        ):
            config.build(make_request(tmp_path))
