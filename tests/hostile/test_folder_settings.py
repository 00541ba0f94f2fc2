"""Settings in a model's folder that would change answers, or end a run: the run's own win.

To add one: a line in GENERATION, ATTENTION or TYPES.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers.backbones import LABELS, make_request, sample
from tests.helpers.model_folders import edited
from tests.helpers.twins import twin_folder
from vlmbench.backbones.anymodel import AnyConfig
from vlmbench.types import UserError

SAMPLES = [sample(0), sample(1)]
GENERATION: dict[str, dict[str, Any]] = {
    "sampling": {"do_sample": True, "temperature": 3.0, "top_p": 0.5},
    "a temperature without sampling": {"temperature": 0.6},
    "short answers": {"max_length": 3},
    "long answers": {"min_new_tokens": 8},
    "a first token": {"forced_bos_token_id": 9},
    "suppressed tokens": {"suppress_tokens": list(range(200))},
    "words that stop": {"stop_strings": ["a"]},
    "beams": {"num_beams": 3},
    "beams in words": {"num_beams": "many"},
    "several answers": {"num_return_sequences": 2},
    "a penalty": {"repetition_penalty": 5.0},
    "no word twice": {"no_repeat_ngram_size": 1},
    "another end": {"eos_token_id": 77, "pad_token_id": 5},
    "an end in words": {"eos_token_id": "x"},
    "guidance": {"guidance_scale": 3.0},
    "another form": {"return_dict_in_generate": True, "output_scores": True},
    "a static cache": {"cache_implementation": "static"},
    "guessed tokens": {"prompt_lookup_num_tokens": 3},
}
ATTENTION: tuple[Any, ...] = (
    "flash_attention_2",
    "flex_attention",
    "eager",
    "somebody/kernel",
    "no such word",
    3,
    {"text_config": "flash_attention_2"},
)
TYPES: tuple[Any, ...] = ("float16", "float64", "int8", "float8_e4m3fn", 3)


def answers(folder: Path, cache: Path) -> tuple[torch.Tensor, list[str], Any]:
    """Return scores, generated answers and backbone of the model in a folder."""
    backbone = AnyConfig(path=str(folder)).build(make_request(cache))
    scores = backbone.score(SAMPLES, LABELS)
    return scores, backbone.generate(SAMPLES, max_new_tokens=8), backbone


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.Tensor, list[str], Any]:
    found = answers(twin_folder("qwen3_vl"), tmp_path_factory.mktemp("cache"))
    assert all(found[1])
    return found


def changed(tmp_path: Path, file: str, **settings: Any) -> Path:
    folder = tmp_path / "model"
    shutil.copytree(twin_folder("qwen3_vl"), folder)
    if not (folder / file).exists():
        (folder / file).write_text("{}")
    edited(file, **settings)(folder)
    return folder


@pytest.mark.parametrize("name", GENERATION)
def test_generation_settings_of_a_folder_change_no_answer_and_no_export(
    usual: tuple[torch.Tensor, list[str], Any], tmp_path: Path, name: str
) -> None:
    folder = changed(tmp_path, "generation_config.json", **GENERATION[name])
    scores, texts, backbone = answers(folder, tmp_path)
    assert torch.equal(scores, usual[0])
    assert texts == usual[1]

    backbone.merge()
    backbone.save_merged(tmp_path / "merged")
    exported = json.loads((tmp_path / "merged" / "generation_config.json").read_text())
    assert exported["eos_token_id"] == backbone.tokenizer.eos_token_id
    assert exported.get("do_sample") is not True
    assert not (set(GENERATION[name]) - {"do_sample", "eos_token_id", "pad_token_id"}) & set(
        exported
    )


def test_generation_settings_in_config_json_change_nothing(
    usual: tuple[torch.Tensor, list[str], Any], tmp_path: Path
) -> None:
    settings = {"num_beams": 3, "repetition_penalty": 5.0, "suppress_tokens": [1, 2, 3]}
    scores, texts, _ = answers(changed(tmp_path, "config.json", **settings), tmp_path)
    assert torch.equal(scores, usual[0])
    assert texts == usual[1]


@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
@pytest.mark.parametrize("value", ATTENTION, ids=str)
def test_the_machine_chooses_the_attention_and_not_the_folder(
    usual: tuple[torch.Tensor, list[str], Any], tmp_path: Path, key: str, value: Any
) -> None:
    """A name such as somebody/kernel is that of code on the hub."""
    folder = changed(tmp_path, "config.json", **{key: value})
    for weights in (False, True):
        backbone = AnyConfig(path=str(folder)).build(make_request(tmp_path, weights=weights))
        config = backbone.model.config
        parts = (config, config.get_text_config(), config.vision_config)
        assert {part._attn_implementation for part in parts} == {"sdpa"}
    assert torch.equal(backbone.score(SAMPLES, LABELS), usual[0])


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", TYPES, ids=str)
def test_the_run_chooses_the_type_of_numbers(
    usual: tuple[torch.Tensor, list[str], Any], tmp_path: Path, key: str, value: Any
) -> None:
    scores, _, backbone = answers(changed(tmp_path, "config.json", **{key: value}), tmp_path)
    assert {weight.dtype for weight in backbone.model.parameters()} == {torch.float32}
    assert torch.equal(scores, usual[0])


def test_a_type_that_is_none_is_refused(tmp_path: Path) -> None:
    folder = changed(tmp_path, "config.json", dtype="no such type")
    for weights in (False, True):
        with pytest.raises(UserError, match=r"config\.json cannot be read .*; check the name"):
            AnyConfig(path=str(folder)).build(make_request(tmp_path, weights=weights))
