"""Model folders and adapters of strangers: refused by limits before anything is built from them.

To add one: a line in TARGETS, SETTINGS, CONFIGS, INDEXES, EXPRESSIONS, TOKENIZERS, HEADERS or
TEMPLATES.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vlmbench.backbones.adapters import LANGUAGE_TARGETS, read_adapter_config
from vlmbench.backbones.model_files import check_files
from vlmbench.backbones.smol import LORA_TARGETS
from vlmbench.backbones.template import render_template
from vlmbench.backbones.weights import count_weights
from vlmbench.types import UserError

PATIENCE_S = 10
GIGABYTE = 1 << 20  # in kilobytes
RIGHT = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "target_modules": LANGUAGE_TARGETS,
}


@pytest.fixture(autouse=True, scope="module")
def _imported() -> None:
    import peft  # noqa: F401 - it takes longer than any input may


@pytest.fixture(autouse=True)
def _patience(_imported: None) -> Iterator[None]:
    """No input may take 10 s, or 1 GB."""
    started, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.monotonic() - started < PATIENCE_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < GIGABYTE


TARGETS: dict[str, Any] = {
    "a polynomial of ten": ".*" * 10 + "!",
    "a polynomial of three": ".*.*.*proj",
    "a polynomial in names": ".*a.*b.*c.*d",
    "a repeated group": "(a+)+",
    "a repeated group of words": "(q|k)*_proj",
    "a group in a group": "((q|k)|v)_proj",
    "a back reference": r"(q)\1",
    "a look ahead": "(?=.*q).*",
    "an atomic group": "(?>q)",
    "a class": "[qkv]_proj",
    "a count": "q{1000000000}",
    "a plus": ".+_proj",
    "a question": "q?_proj",
    "an anchor": "^q_proj$",
    "all": "all-linear",
    "nothing": "",
    "a long one": "q|" * 3000 + "q",
    "many alternatives": "|".join([".*q"] * 50),
    "many names": "|".join(["q"] * 300),
    "half a group": "(q",
    "an empty alternative": "q||k",
    "a break": "q_proj\n",
    "a wide letter": "ｑ_proj",
    "a list of expressions": [".*.*.*!"],
    "a list of lists": [["q_proj"]],
    "a list of numbers": [1],
    "an empty list": [],
    "a list without end": ["q_proj"] * 5000,
    "a long name": ["q" * 5000],
    "a number": 7,
    "an object": {"q": 1},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "layers to transform": {"layers_to_transform": [0]},
    "a pattern of layers": {"layers_pattern": "(a+)+", "layers_to_transform": [1]},
    "a pattern of ranks": {"rank_pattern": {"(a+)+": 9}},
    "a pattern of alphas": {"alpha_pattern": {".*.*.*!": 9}},
    "excluded modules": {"exclude_modules": "(a+)+"},
    "saved modules of an expression": {"modules_to_save": [".*"]},
    "saved modules of a text": {"modules_to_save": "projector"},
    "an alpha without end": {"lora_alpha": float("inf")},
    "an alpha that is no number": {"lora_alpha": float("nan")},
    "an alpha below zero": {"lora_alpha": -1},
    "an alpha of true": {"lora_alpha": True},
    "a rank of true": {"r": True},
    "a dropout of more": {"lora_dropout": 1.5},
    "target parameters": {"target_parameters": ["a"]},
    "tokens": {"trainable_token_indices": [1]},
    "eva": {"eva_config": {"rho": 2}},
    "a bias": {"bias": "all"},
}


def adapter(folder: Path, **changes: Any) -> Path:
    (folder / "adapter_model.safetensors").write_bytes(b"")
    (folder / "adapter_config.json").write_text(json.dumps(RIGHT | changes))
    return folder


@pytest.mark.parametrize("name", TARGETS)
def test_an_expression_that_may_not_end_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"target_modules=.* is not what a run saves; train"):
        read_adapter_config(adapter(tmp_path, target_modules=TARGETS[name]))


@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_that_no_run_saves_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="is not what a run saves; train the adapter"):
        read_adapter_config(adapter(tmp_path, **SETTINGS[name]))


def test_what_runs_save_is_read(tmp_path: Path) -> None:
    from types import SimpleNamespace

    from vlmbench.backbones.llama32 import Llama32Family
    from vlmbench.backbones.phi3 import Phi3Family
    from vlmbench.config import Vision

    tower = SimpleNamespace(
        vision_feature_layer=-2, vision_config=SimpleNamespace(num_hidden_layers=24)
    )
    saved = [LANGUAGE_TARGETS, LORA_TARGETS, ["q_proj", "model.layers.0.v_proj"]]
    for family in (Llama32Family(), Phi3Family()):
        saved += [family.targets(tower, vision) for vision in Vision]
    for targets in saved:
        assert read_adapter_config(adapter(tmp_path, target_modules=targets)).r == 4


def test_an_adapter_without_its_weights_is_refused_before_it_is_built(tmp_path: Path) -> None:
    import torch

    from vlmbench.backbones.adapters import load_adapter

    base = torch.nn.ModuleDict({"q_proj": torch.nn.Linear(10_000, 10_000, device="meta")})
    folder = adapter(tmp_path, r=4096, target_modules=["q_proj"])
    write_weights(folder / "adapter_model.safetensors", {"x": tensor(shape=[2**40])})
    with pytest.raises(UserError, match="its files have 16 weights, and its settings need"):
        load_adapter(base, folder)


CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "layers": ("config.json", {"num_hidden_layers": 10**9}),
    "layers of the text": ("config.json", {"text_config": {"num_hidden_layers": 10**9}}),
    "layers of the tower": ("config.json", {"vision_config": {"num_global_layers": 10**9}}),
    "layers below zero": ("config.json", {"num_hidden_layers": -(10**9)}),
    "heads": ("config.json", {"num_attention_heads": 10**9}),
    "key heads": ("config.json", {"text_config": {"num_key_value_heads": 10**9}}),
    "attention heads of the tower": ("config.json", {"vision_config": {"attention_heads": 10**9}}),
    "a vocabulary": ("config.json", {"vocab_size": 10**9}),
    "a width": ("config.json", {"hidden_size": 10**9}),
    "an inner width": ("config.json", {"text_config": {"intermediate_size": 10**12}}),
    "positions": ("config.json", {"max_position_embeddings": 10**15}),
    "an image": ("config.json", {"vision_config": {"image_size": 10**9}}),
    "a patch": ("config.json", {"vision_config": {"patch_size": 10**9}}),
    "tiles": ("config.json", {"vision_config": {"max_num_tiles": 10**9}}),
    "a list": ("config.json", {"cross_attention_layers": list(range(5000))}),
    "layers in a list": ("config.json", {"cross_attention_layers": [10**9]}),
    "experts": ("config.json", {"num_local_experts": 10**9}),
    "a rank": ("config.json", {"lora_rank": 10**9}),
    "crops": ("preprocessor_config.json", {"num_crops": 10**9}),
    "the tiles of an image": ("preprocessor_config.json", {"max_image_tiles": 10**9}),
    "a size": ("preprocessor_config.json", {"size": {"height": 10**9, "width": 1}}),
    "a size of one number": ("preprocessor_config.json", {"size": 10**9}),
    "a crop": ("preprocessor_config.json", {"crop_size": {"height": 1, "width": 10**9}}),
    "an edge": ("preprocessor_config.json", {"size": {"shortest_edge": 10**12}}),
    "a video": ("video_preprocessor_config.json", {"size": {"height": 10**9}}),
    "the processor's tiles": ("processor_config.json", {"image_processor": {"num_crops": 10**9}}),
}
INDEXES: dict[str, Any] = {
    "above": {"weight_map": {"a": "../../secret.safetensors"}},
    "absolute": {"weight_map": {"a": "/etc/passwd"}},
    "a pickle": {"weight_map": {"a": "pytorch_model.bin"}},
    "a folder": {"weight_map": {"a": "x/y.safetensors"}},
    "a drive": {"weight_map": {"a": "C:\\x.safetensors"}},
    "a number": {"weight_map": {"a": 7}},
    "nothing": {"weight_map": {"a": ""}},
    "no map": {},
    "a list": {"weight_map": ["model.safetensors"]},
}
FILES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a pipe": ("config.json", os.mkfifo),
    "a device": ("preprocessor_config.json", lambda path: path.symlink_to("/dev/zero")),
    "a circle": ("config.json", lambda path: path.symlink_to(path)),
    "a folder": ("tokenizer_config.json", Path.mkdir),
    "deep": ("config.json", lambda path: path.write_bytes(b'{"a":' * 100_000)),
    "deep lists": ("generation_config.json", lambda path: path.write_bytes(b"[" * 100_000)),
    "not UTF-8": ("special_tokens_map.json", lambda path: path.write_bytes(b'{"a": "\xff"}')),
    "infinite": ("config.json", lambda path: path.write_bytes(b'{"hidden_size": 1e999}')),
    "large": ("config.json", lambda path: path.write_bytes(b" " * 6_000_000)),
    "a large template": ("chat_template.jinja", lambda path: path.write_bytes(b" " * 6_000_000)),
    "enormous": ("tokenizer.json", lambda path: (path.touch(), os.truncate(path, 5 << 30))),
    "a list": ("added_tokens.json", lambda path: path.write_bytes(b"[]")),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_numbers_without_measure_are_refused(tmp_path: Path, name: str) -> None:
    file, values = CONFIGS[name]
    (tmp_path / file).write_text(json.dumps(values))
    with pytest.raises(UserError, match=rf"{file}: .* (must be at most|has more than) .*; use"):
        check_files(str(tmp_path))


@pytest.mark.parametrize("name", INDEXES)
def test_an_index_names_files_of_the_folder_only(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(INDEXES[name]))
    with pytest.raises(UserError, match=r"index\.json: .*; use the publisher's files"):
        check_files(str(tmp_path))


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    file, make = FILES[name]
    make(tmp_path / file)
    with pytest.raises(UserError, match=rf"{file}: the file cannot be read.*; use the publisher"):
        check_files(str(tmp_path))


def test_the_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    blob = tmp_path / "blob"
    blob.write_text('{"model_type": "mllama", "text_config": {"vocab_size": 128256}}')
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "config.json").symlink_to(blob)
    check_files(str(tmp_path / "snapshot"))


def tokenizer(**changes: Any) -> dict[str, Any]:
    words = {letter: number for number, letter in enumerate("abcdefgh ?.")}
    model = {"type": "WordLevel", "vocab": {**words, "<unk>": 99}, "unk_token": "<unk>"}
    return {"version": "1.0", "added_tokens": [], "model": model, **changes}


def split(pattern: str) -> dict[str, Any]:
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def doubled(times: int) -> dict[str, Any]:
    step = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}
    return {"type": "Sequence", "normalizers": [step] * times}


TOKENIZERS: dict[str, dict[str, Any]] = {
    "a repeated group": tokenizer(pre_tokenizer=split("(a+)+$")),
    "a repeated choice": tokenizer(pre_tokenizer=split("(a|aa)*b")),
    "a counted group": tokenizer(pre_tokenizer=split("(a+){50}b")),
    "a polynomial": tokenizer(pre_tokenizer=split(".*.*.*.*.*.*b")),
    "one in a sequence": tokenizer(
        pre_tokenizer={"type": "Sequence", "pretokenizers": [split("(a+)+$")]}
    ),
    "a normaliser's expression": tokenizer(
        normalizer={"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": ""}
    ),
    "a long expression": tokenizer(pre_tokenizer=split("a" * 5000)),
    "a text that doubles": tokenizer(normalizer=doubled(40)),
    "a text that grows": tokenizer(
        normalizer={"type": "Replace", "pattern": {"String": "a"}, "content": "a " * 100_000},
        pre_tokenizer={"type": "Whitespace"},
    ),
    "no model": {"version": "1.0"},
    "an unknown model": tokenizer(model={"type": "Evil"}),
    "a vocabulary of texts": tokenizer(model={"type": "WordLevel", "vocab": {"a": "0"}}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer_that_does_not_end_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(TOKENIZERS[name]))
    with pytest.raises(UserError, match=r"tokenizer\.json: .*; use the publisher's files"):
        check_files(str(tmp_path))


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    ],
)
def test_the_expressions_of_published_tokenizers_are_taken(tmp_path: Path, pattern: str) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer(pre_tokenizer=split(pattern))))
    check_files(str(tmp_path))


def tensor(**facts: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} | facts


def write_weights(path: Path, header: Any, length: int | None = None) -> None:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    size = struct.pack("<Q", len(content) if length is None else length)
    path.write_bytes(size + content + b"\0" * 16)


HEADERS: dict[str, tuple[Any, int | None]] = {
    "8 exabytes": (b"{}", 2**63),
    "90 MB that are not there": (b"{}", 90_000_000),
    "30 MB": (b" " * 30_000_000, None),
    "no JSON": (b"x", None),
    "deep": (b'{"a":' * 50_000, None),
    "a list": ([], None),
    "no shape": ({"a": {"dtype": "F32", "data_offsets": [0, 16]}}, None),
    "a shape of texts": ({"a": tensor(shape=["4"])}, None),
    "a shape below zero": ({"a": tensor(shape=[-4])}, None),
    "a shape without end": ({"a": tensor(shape=[2**60])}, None),
    "many dimensions": ({"a": tensor(shape=[1] * 50)}, None),
    "beyond the file": ({"a": tensor(data_offsets=[0, 2**40])}, None),
    "backwards": ({"a": tensor(data_offsets=[16, 0])}, None),
    "three offsets": ({"a": tensor(data_offsets=[0, 8, 16])}, None),
    "many tensors": ({str(i): tensor(data_offsets=[0, 0]) for i in range(100_001)}, None),
}


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_that_lies_is_refused(tmp_path: Path, name: str) -> None:
    header, length = HEADERS[name]
    write_weights(tmp_path / "model.safetensors", header, length)
    with pytest.raises(UserError, match=r"the weights cannot be loaded .*; bring the file back"):
        count_weights(tmp_path / "model.safetensors")


def test_weights_are_counted_by_their_bytes_too(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    write_weights(path, {"a": tensor(), "__metadata__": {"format": "pt"}})
    assert count_weights(path) == 4
    write_weights(path, {"a": tensor(shape=[2**40])})
    assert count_weights(path) == 16


TEMPLATES = {
    "a text that doubles": "{% set n = namespace(s='aaaaaaaa') %}"
    "{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}{{ n.s }}",
    "a text that adds itself": "{% set n = namespace(s='aaaaaaaa') %}"
    "{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s }}",
    "a list that doubles": "{% set n = namespace(s=[1,2,3,4]) %}"
    "{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s }}",
    "a text that is joined": "{% set n = namespace(s='aaaaaaaa') %}"
    "{% for i in range(60) %}{% set n.s = [n.s, n.s, n.s]|join(n.s) %}{% endfor %}{{ n.s }}",
    "a text that is replaced": "{% set n = namespace(s='aaaaaaaa') %}"
    "{% for i in range(60) %}{% set n.s = n.s|replace('a', n.s) %}{% endfor %}{{ n.s }}",
    "a wide format": "{{ '%9999999999d' % 1 }}",
    "a wide centre": "{{ 'a'|center(9999999999) }}",
    "a wide adjustment": "{{ 'a'.ljust(9999999999) }}",
    "wide zeros": "{{ 'a'.zfill(9999999999) }}",
    "wide tabs": "{{ '\\t'.expandtabs(9999999999) }}",
    "a wide method": "{{ '{:>9999999999}'.format(1) }}",
    "a deep indent": "{{ [[[1]]]|tojson(indent=9999999999) }}",
    "a wide indent": "{{ 'a\\nb'|indent(9999999999) }}",
    "a long source": "{# " + "x" * 300_000 + " #}",
    "a deep expression": "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}",
    "a long output": "{% for i in range(9999) %}" + "x" * 1000 + "{% endfor %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_that_fills_the_memory_is_refused(name: str) -> None:
    from vlmbench.models.llama32_tiny import tiny_processor

    processor = tiny_processor()
    processor.chat_template = TEMPLATES[name]
    messages = [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
    before = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.raises(UserError, match=r"chat template .*; use the publisher's files"):
        render_template(processor, messages)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
