"""Models that load, and are not what they seem: each is refused or mended before it trains.

To add one: a line in FOLDERS (a change of a sound folder, and the words of the refusal). Nothing
here reads weights: stage=check finds all of it.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.backbones import build, draw_lora_b, make_request, sample
from tests.helpers.model_folders import (
    WEIGHTS,
    Change,
    check,
    edited,
    images,
    make_config,
    refusal,
    text,
    weights,
    without,
    write_sound_folders,
)
from tests.helpers.twins import twin_config
from vlmbench.backbones.adapters import fill_adapter, load_adapter
from vlmbench.backbones.base import CACHE, base_hash
from vlmbench.backbones.llama32 import Llama32Config
from vlmbench.types import UserError

PHI_TEMPLATE = (
    "{% for message in messages %}{{'<|' + message['role'] + '|>' + '\n' + message['content'] + "
    "'<|end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{- '<|assistant|>\n' -}}{% endif %}"
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a sound folder of each family that the changes start from."""
    return write_sound_folders(tmp_path_factory.mktemp)


def renamed(held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"module.{name}": weight for name, weight in held.items()}


def without_tower(held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in held.items() if "vis" not in name}


def one_more(held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return held | {"model.language_model.layers.99.mlp.up_proj.weight": torch.zeros(2, 2)}


def longer_head(held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    (name,) = [name for name in held if name.endswith("lm_head.weight")]
    return held | {name: torch.cat([held[name], held[name][:3]])}


def half_fetched(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    held = load_file(folder / "model-00001-of-00002.safetensors")
    index = dict.fromkeys(held, "model-00001-of-00002.safetensors")
    index[next(iter(held))] = "model-00002-of-00002.safetensors"
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": index}))


def one_layer_more(folder: Path) -> None:
    text_config = json.loads((folder / "config.json").read_text())["text_config"]
    text_config["num_hidden_layers"] += 1
    text_config["layer_types"].append("full_attention")
    edited("config.json", text_config=text_config)(folder)


ONLY_TEXT = (
    "{% for message in messages %}{{ message.role }}: {% for part in message.content %}"
    "{{ part.text | default('') }}{% endfor %}<|eot_id|>{% endfor %}"
)


FOLDERS: dict[str, tuple[str, Change, str]] = {
    "all weights under another prefix": ("llama32", weights(renamed), "it lacks"),
    "no tower": ("llama32", weights(without_tower), "vision_model"),
    "no tower of any model": ("qwen3_vl", weights(without_tower), "visual"),
    "a layer too many": ("llama32", weights(one_more), "weights of another model"),
    "a layer too many of any model": ("gemma3", weights(one_more), "weights of another model"),
    "a longer head": ("llama32", weights(longer_head), "have another shape"),
    "more layers in the configuration": ("gemma3", one_layer_more, "it lacks"),
    "a shard that is not there": ("llama32", half_fetched, "model-00002-of-00002.safetensors"),
    "an index that is no JSON": (
        "llama32",
        text(f"{WEIGHTS}.index.json", "{"),
        "the list of weights cannot be read",
    ),
    "no processor": ("llama32", without("processor_config.json"), "no file of the processor"),
    "no tokenizer": (
        "phi35",
        without("tokenizer.json", "tokenizer_config.json"),
        "no file of the tokenizer",
    ),
    "an adapter in the folder": (
        "qwen3_vl",
        text("adapter_config.json", "{}"),
        "adapter_config.json lies beside the model",
    ),
    "weights of an adapter in the folder": (
        "llama32",
        text("adapter_model.safetensors", ""),
        "adapter_model.safetensors lies beside the model",
    ),
    "a template without images": (
        "llama32",
        text("chat_template.jinja", ONLY_TEXT),
        "the chat template leaves images out",
    ),
    "a template of nothing": (
        "qwen3_vl",
        text("chat_template.jinja", "hello"),
        "the chat template leaves images out",
    ),
    "smaller images": (
        "llama32",
        images(size={"height": 14, "width": 14}),
        "size=14, and the tower in config.json has image_size=28",
    ),
    "smaller images of any model": (
        "gemma3",
        images(size={"height": 28, "width": 28}),
        "size=28, and the tower in config.json has image_size=56",
    ),
    "fewer tiles": ("llama32", images(max_image_tiles=2), "max_num_tiles=4"),
    "smaller patches": ("qwen3_vl", images(patch_size=14), "patch_size=16"),
    "patches merged by three": ("qwen3_vl", images(merge_size=3), "spatial_merge_size=2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_a_model_that_is_not_what_it_seems_is_refused_by_the_check(
    sound: dict[str, Path], tmp_path: Path, name: str
) -> None:
    folder = tmp_path / "模型"
    said = refusal(FOLDERS[name], sound, folder)
    assert said.startswith((f"model.path={folder}", str(folder)))
    assert "; " in said  # a cure follows
    assert "\n" not in said


def test_the_sound_folders_pass_the_check(sound: dict[str, Path], tmp_path: Path) -> None:
    for family, folder in sound.items():
        backbone = check(family, folder, tmp_path)
        assert backbone.count_tokens(sample(0), [(40, 30)] * 2).total > 20


def test_weights_that_are_missing_are_refused_when_they_are_loaded(
    sound: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sound["llama32"], folder)
    weights(without_tower)(folder)
    with pytest.raises(UserError, match="it lacks"):
        make_config("llama32", folder).build(make_request(tmp_path))


@pytest.mark.parametrize("family", ["llama32", "qwen3_vl"])
def test_a_missing_end_is_taken_from_the_template_and_said(
    sound: dict[str, Path], tmp_path: Path, family: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sound[family], folder)
    edited("tokenizer_config.json", eos_token=None, pad_token=None)(folder)
    with caplog.at_level(logging.WARNING):
        backbone = check(family, folder, tmp_path)

    end = {"llama32": "<|eot_id|>", "qwen3_vl": "<|im_end|>"}[family]
    assert backbone.tokenizer.eos_token == backbone.tokenizer.pad_token == end
    assert "the tokenizer names no eos_token" in caplog.text
    assert "the tokenizer names no pad_token" in caplog.text
    labels = backbone.collate([sample(0)], with_answer=True)["labels"]
    assert "None" not in backbone.tokenizer.decode(labels[labels >= 0])


def test_no_end_at_all_is_refused(sound: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sound["llama32"], folder)
    edited("tokenizer_config.json", eos_token=None)(folder)
    template = (folder / "chat_template.jinja").read_text().replace("<|eot_id|>", "\n")
    (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(UserError, match=r"add eos_token to tokenizer_config\.json"):
        check("llama32", folder, tmp_path)

    edited("tokenizer_config.json", eos_token="<|eot_id|>")(folder)  # noqa: S106
    check("llama32", folder, tmp_path)


def test_microsofts_own_template_is_served(sound: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sound["phi35"], folder)
    (folder / "chat_template.jinja").write_text(PHI_TEMPLATE)
    served, usual = check("phi35", folder, tmp_path), check("phi35", sound["phi35"], tmp_path)
    for num_images in (1, 2):
        assert served._prompt("Hm?", num_images) == usual._prompt("Hm?", num_images)


def test_an_added_word_is_no_marker(sound: dict[str, Path], tmp_path: Path) -> None:
    backbone = check("qwen3_vl", sound["qwen3_vl"], tmp_path)
    backbone.tokenizer.add_tokens(["abnormal", "\n\n", "傷"])
    markers = re.compile("|".join(backbone.marker_patterns()))
    assert markers.search("abnormal\n\n傷") is None
    assert markers.search("<|image_pad|>")


def test_a_hub_cache_with_the_configuration_alone_is_one_sentence(
    sound: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    commit = "0" * 40
    repository = tmp_path / "hub" / "models--somebody--half"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    shutil.copyfile(sound["llama32"] / "config.json", snapshot / "config.json")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub.is_offline_mode", lambda: True, raising=False)

    config = Llama32Config(path="somebody/half")
    for has_weights in (False, True):
        with pytest.raises(UserError, match=r"model\.path=somebody/half: ") as refused:
            config.build(make_request(tmp_path, weights=has_weights))
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["other names", "some missing", "one more"])
def test_an_adapter_whose_weights_match_nothing_is_refused(
    shared_cache: Path, tmp_path: Path, kind: str
) -> None:
    """Unsloth's engine makes new adapters first, and fills them."""
    backbone = build("llama32_tiny", shared_cache)
    draw_lora_b(backbone)
    backbone.save(tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    sound_ones = held = load_file(path)
    if kind == "other names":
        held = {name.replace("layers.0", "layers.7"): weight for name, weight in held.items()}
    elif kind == "some missing":
        held = dict(list(held.items())[:4])
    else:
        held = held | {"base_model.model.lm_head.lora_A.weight": torch.ones(4, 32)}
    save_file(held, path, {"format": "pt"})
    with pytest.raises(UserError, match="cannot be loaded into this model"):
        fill_adapter(backbone.model, tmp_path)
    with pytest.raises(UserError, match="cannot be loaded into this model"):
        load_adapter(backbone.model.unload(), tmp_path)

    save_file(sound_ones, path, {"format": "pt"})
    fresh = build("llama32_tiny", shared_cache, seed=1)
    fill_adapter(fresh.model, tmp_path)
    named = dict(fresh.model.named_parameters())
    for name, weight in sound_ones.items():
        assert torch.equal(named[name.replace(".weight", ".default.weight")], weight)


def test_a_changed_file_changes_the_base_and_only_changed_files_are_read(tmp_path: Path) -> None:
    folder, cache = tmp_path / "model", tmp_path / "cache"
    folder.mkdir()
    for name in (WEIGHTS, "config.json", "tokenizer.json", "chat_template.jinja"):
        (folder / name).write_text(name)
    first = base_hash(str(folder), "", cache)
    assert base_hash(str(folder), "", cache) == first

    (folder / "README.md").write_text("words")
    assert base_hash(str(folder), "", cache) == first
    for name in (WEIGHTS, "tokenizer.json", "chat_template.jinja"):
        (folder / name).write_text(f"{name} of another seed")
        assert base_hash(str(folder), "", cache) != first
        (folder / name).write_text(name)
    assert base_hash(str(folder), "", cache) == first

    (cache / CACHE).write_text("[]")  # a damaged cache is made again
    assert base_hash(str(folder), "", cache) == first


def test_a_twin_is_a_sound_model(tmp_path: Path) -> None:
    assert twin_config("gemma3").requirements() == [] or torch.cuda.is_available()
