"""Adapters, models and checkpoints that nobody has vouched for: nothing in them is executed.

To add one: a line in ADAPTERS (a change of a valid adapter), MODELS (files of a model's folder) or
TEMPLATES.
"""

from __future__ import annotations

import json
import os
import pickle
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.backbones import build
from vlmbench.backbones.adapters import load_adapter
from vlmbench.backbones.hub import _published_config
from vlmbench.backbones.template import render_template
from vlmbench.config import BuildRequest, Engine, Vision
from vlmbench.types import UserError

PATIENCE_S = 10
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


class Bomb:
    """What a pickle does when it is loaded."""

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, ("touch owned",)


def header(content: bytes, length: int | None = None) -> Callable[[Path], object]:
    """A safetensors file of this header, which may lie about its length."""
    size = struct.pack("<Q", len(content) if length is None else length)
    return lambda folder: (folder / WEIGHTS).write_bytes(size + content)


def tensor(**facts: Any) -> Callable[[Path], object]:
    usual = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    return header(json.dumps({"base_model.model.x": usual | facts}).encode() + b"\0" * 16)


def config(**changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / CONFIG
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickle.dumps(Bomb()))


def raw(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / CONFIG).write_bytes(content)


ADAPTERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickle": (pickled, "no adapter_model.safetensors"),
    "pickle named safetensors": (
        lambda folder: (folder / WEIGHTS).write_bytes(pickle.dumps(Bomb())),
        "cannot be loaded",
    ),
    "empty weights": (lambda folder: (folder / WEIGHTS).write_bytes(b""), "cannot be loaded"),
    "header of 8 exabytes": (header(b"{}", length=2**63), "cannot be loaded"),
    "header of 90 MB that is not there": (header(b"{}", length=90_000_000), "cannot be loaded"),
    "header that is no JSON": (header(b"not json"), "cannot be loaded"),
    "header that is deep": (header(b'{"a":' * 50_000), "cannot be loaded"),
    "tensor beyond the file": (tensor(data_offsets=[0, 2**40]), "cannot be loaded"),
    "tensor that ends before it begins": (tensor(data_offsets=[16, 0]), "cannot be loaded"),
    "tensor of another size": (tensor(shape=[2**40]), "cannot be loaded"),
    "tensor of negative size": (tensor(shape=[-4]), "cannot be loaded"),
    "tensor of an unknown type": (tensor(dtype="OBJ"), "cannot be loaded"),
    "config of another kind": (config(peft_type="XLORA"), "only LORA adapters are loaded"),
    "config of no kind": (config(peft_type=None), "only LORA adapters are loaded"),
    "config that imports": (
        config(megatron_config={"a": 1}, megatron_core="antigravity"),
        "is not what a run saves",
    ),
    "config that replicates layers": (
        config(layer_replication=[[0, 10**9]]),
        "is not what a run saves",
    ),
    "config that starts otherwise": (config(init_lora_weights="pissa"), "is not what a run saves"),
    "config with another decomposition": (config(use_dora=True), "is not what a run saves"),
    "config of a billion ranks": (config(r=10**9), "r=1000000000 is not what a run saves"),
    "config of no rank": (config(r=0), "r=0 is not what a run saves"),
    "config of half a rank": (config(r=1.5), "r=1.5 is not what a run saves"),
    "config with text for a number": (
        config(lora_alpha="${oc.env:HOME}"),
        "is not what a run saves",
    ),
    "config with an endless expression": (
        config(target_modules="(([a-z._0-9])+.)+!"),
        "is not what a run saves",
    ),
    "config with no targets": (config(target_modules=None), "is not what a run saves"),
    "config with targets of numbers": (config(target_modules=[1, 2]), "is not what a run saves"),
    "config with an expression that is none": (
        config(target_modules="["),
        "is not what a run saves",
    ),
    "config with whole modules of numbers": (
        config(modules_to_save=[7]),
        "is not what a run saves",
    ),
    "config that is no JSON": (raw(b"{"), "cannot be read"),
    "config that is no object": (raw(b"[]"), "must be a JSON object"),
    "config that is deep": (raw(b'{"a":' * 200_000), "cannot be read"),
    "config that is a pickle": (raw(pickle.dumps(Bomb())), "cannot be read"),
    "config that is large": (raw(b" " * 1_000_001), "more than 1000000 bytes"),
    "config that is not there": (lambda folder: (folder / CONFIG).unlink(), "cannot be read"),
    "code beside it": (lambda folder: (folder / "peft.py").write_text("open('owned', 'w')"), ""),
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, dict[str, bytes]]:
    """A tiny model without adapters, and the files of a right adapter of it."""
    backbone = build("llama32_tiny", tmp_path_factory.mktemp("cache"))
    folder = tmp_path_factory.mktemp("adapter")
    backbone.save(folder)
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    return backbone.model.unload(), files


@pytest.mark.parametrize("name", ADAPTERS)
def test_a_hostile_adapter_is_refused(
    saved: tuple[Any, dict[str, bytes]], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "adapter"
    folder.mkdir()
    base, files = saved
    for file, content in files.items():
        (folder / file).write_bytes(content)
    spoil, words = ADAPTERS[name]
    spoil(folder)
    started, said = time.monotonic(), ""
    try:
        load_adapter(base, folder).unload()
    except UserError as error:
        said = str(error)
    assert words in said
    assert bool(words) == bool(said)
    assert time.monotonic() - started < PATIENCE_S
    assert not (tmp_path / "owned").exists()


CODE = {
    "AutoConfig": "evil.Evil",
    "AutoModelForImageTextToText": "evil.Evil",
    "AutoProcessor": "evil.Evil",
}
MODELS: dict[str, tuple[dict[str, bytes], str]] = {
    "code for an unknown type": (
        {"config.json": json.dumps({"model_type": "evil", "auto_map": CODE}).encode()},
        "cannot be read",
    ),
    "code for no type": (
        {"config.json": json.dumps({"auto_map": CODE}).encode()},
        "cannot be read",
    ),
    "code for a known type": (
        {"config.json": json.dumps({"model_type": "mllama", "auto_map": CODE}).encode()},
        "",
    ),
    "code of another repository": (
        {
            "config.json": json.dumps(
                {"model_type": "x", "auto_map": {"AutoConfig": "a/b--evil.Evil"}}
            ).encode()
        },
        "cannot be read",
    ),
    "type that is a path": ({"config.json": b'{"model_type": "../../evil"}'}, "cannot be read"),
    "type that is a list": ({"config.json": b'{"model_type": ["mllama"]}'}, "cannot be read"),
    "config that is a list": ({"config.json": b"[1]"}, "cannot be read"),
    "config that is no JSON": ({"config.json": b"{"}, "cannot be read"),
    "config that is no text": ({"config.json": b"\xff\xfe\x00"}, "cannot be read"),
    "config that is deep": ({"config.json": b'{"a":' * 200_000}, "cannot be read"),
    "config with text for a number": (
        {"config.json": b'{"model_type": "mllama", "image_token_index": {}}'},
        "cannot be read",
    ),
    "no config": ({}, "no config.json"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_hostile_models_configuration_runs_nothing(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "model"
    folder.mkdir()
    files, words = MODELS[name]
    for file, content in files.items():
        (folder / file).write_bytes(content)
    (folder / "evil.py").write_text("open('owned', 'w').close()\nclass Evil: ...")
    (folder / "model.safetensors").write_bytes(b"")
    request = BuildRequest(
        seed=0, engine=Engine.transformers, vision=Vision.frozen, cache_dir=tmp_path
    )
    said = ""
    try:
        _published_config(str(folder), request)
    except UserError as error:
        said = str(error)
    assert words in said
    assert bool(words) == bool(said)
    assert not (tmp_path / "owned").exists()
    assert not (folder / "owned").exists()


def test_weights_that_are_pickles_are_not_loaded(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mllama"}')
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    request = BuildRequest(
        seed=0, engine=Engine.transformers, vision=Vision.frozen, cache_dir=tmp_path
    )
    with pytest.raises(UserError, match="are pickles, which are never loaded"):
        _published_config(str(tmp_path), request)


TEMPLATES = {
    "classes": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ cycler.__init__.__globals__.os.popen('touch owned').read() }}",
    "globals of a filter": "{{ lipsum.__globals__['os'].system('touch owned') }}",
    "attributes by name": "{{ (''|attr('__class__')).__mro__ }}",
    "code of a function": "{{ raise_exception.__code__.co_code }}",
    "format": "{{ '{0.__class__.__init__.__globals__}'.format(messages) }}",
    "import": "{% import 'os' as os %}{{ os.system('touch owned') }}",
    "file": "{% include '/etc/passwd' %}",
    "change of the messages": "{{ messages.append(1) }}",
    "an error": "{{ raise_exception('no') }}",
    "no such thing": "{{ messages[99].content }}",
    "half a template": "{% for message in messages %}",
    "long loop": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "wide loop": "{% for i in range(10000000000) %}{% endfor %}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "power": "{{ 9 ** 9 ** 9 }}",
    "product": "{{ 'a' * 99999999999 }}",
    "product of lists": "{% for x in [0] * 99999999999 %}{% endfor %}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_hostile_chat_template_is_refused(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlmbench.models.llama32_tiny import tiny_processor

    monkeypatch.chdir(tmp_path)
    processor = tiny_processor()
    processor.chat_template = TEMPLATES[name]
    started = time.monotonic()
    with pytest.raises(UserError, match="chat template"):
        render_template(
            processor, [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]
        )
    assert time.monotonic() - started < PATIENCE_S
    assert not (tmp_path / "owned").exists()


@pytest.mark.slow
@pytest.mark.parametrize("file", ["optimizer.pt", "rng_state.pth", "training_args.bin"])
def test_a_pickle_in_a_checkpoint_is_not_loaded(
    tmp_path: Path,
    file: str,
    monkeypatch: pytest.MonkeyPatch,
    checkpoint: Callable[[], Callable[[], Any]],
) -> None:
    """Even under a right seal, which anybody can make."""
    monkeypatch.chdir(tmp_path)
    resume = checkpoint()
    from vlmbench.system.files import seal, unseal

    (folder,) = tmp_path.glob("runs/*/0_*/checkpoints/checkpoint-2")
    (folder / file).write_bytes(pickle.dumps(Bomb()))
    content = json.loads((folder / "checksums.json").read_text())["of"]
    unseal(folder)
    seal(folder, of=content)
    outcome = resume()
    assert not list(tmp_path.rglob("owned"))
    if file == "training_args.bin":  # nobody reads it
        assert outcome.code == 0
    else:
        assert outcome.code == 2
        assert "the checkpoint cannot be loaded" in outcome.err


@pytest.fixture
def checkpoint(
    cli: Callable[..., Any], tmp_path: Path, drawn: str
) -> Callable[[], Callable[[], Any]]:
    """Makes a run that was broken off at step 3, and gives what starts it again."""
    from vlmbench.runs.folder import RunDir

    command = (
        "model=llama32_tiny",
        "trainer=debug",
        "source.num_parts=24",
        "tracking=off",
        "eval.limit=4",
        drawn,
    )

    def make() -> Callable[[], Any]:
        append = RunDir.append_train_log

        def break_off(self: RunDir, row: dict[str, Any]) -> None:
            if row["step"] == 3:
                raise OSError(28, "No space left on device")
            append(self, row)

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(RunDir, "append_train_log", break_off)
            assert cli(*command).code == 2
        return lambda: cli(*command)

    return make
