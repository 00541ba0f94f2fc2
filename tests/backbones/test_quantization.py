"""Folders that store their weights in 4 bits: they train, answer and merge as in 16 bits.

bitsandbytes packs and unpacks on a CPU too. `make nightly` installs it.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import Outcome
from tests.helpers.backbones import LABELS, draw_lora_b, make_request, sample, train_losses
from tests.helpers.packed import WEIGHTS, quantise
from tests.helpers.twins import twin_folder
from vlmbench.backbones.anymodel import AnyConfig
from vlmbench.backbones.hub import HubConfig
from vlmbench.backbones.llama32 import Llama32Config
from vlmbench.backbones.quantization import packed_layers
from vlmbench.config import LoraConfig, Precision, Vision
from vlmbench.models.llama32_tiny import tiny_mllama, tiny_processor
from vlmbench.types import UserError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed"
    ),
]
FAMILIES = ("qwen3_vl", "gemma3", "llama32")
SAMPLES = [sample(0), sample(1)]


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a folder in 4 bits of each family. The tower has 4 bits too."""
    llama = tmp_path_factory.mktemp("llama32")
    processor = tiny_processor()
    tiny_mllama(processor.tokenizer, max_tokens=512).save_pretrained(llama)
    processor.save_pretrained(llama)
    sources = {
        "llama32": llama,
        "qwen3_vl": twin_folder("qwen3_vl"),
        "gemma3": twin_folder("gemma3"),
    }
    target = tmp_path_factory.mktemp("packed")
    return {name: quantise(sources[name], target / name) for name in FAMILIES}


def make_config(family: str, folder: Path, bits: int) -> HubConfig:
    config = Llama32Config if family == "llama32" else AnyConfig
    return config(path=str(folder), bits=bits, lora=LoraConfig(r=4, alpha=8))


def build(family: str, folder: Path, cache: Path, bits: int, **changes: Any) -> Any:
    return make_config(family, folder, bits).build(make_request(cache, **changes))


def frozen_types(backbone: Any) -> set[torch.dtype]:
    named = backbone.model.named_parameters()
    return {weight.dtype for name, weight in named if "lora_" not in name}


@pytest.mark.parametrize("family", FAMILIES)
def test_4_bits_answer_and_train_as_their_unpacked_weights(
    packed: dict[str, Path], tmp_path: Path, family: str
) -> None:
    """The layers that get adapters stay packed; in float32 the same numbers are multiplied."""
    four = build(family, packed[family], tmp_path, 4)
    whole = build(family, packed[family], tmp_path, 16)
    targets = [name for name, _ in packed_layers(four.model)]
    assert len(targets) >= 8
    assert not any("vision" in name or "visual" in name for name in targets)
    assert not list(packed_layers(whole.model))
    assert len(frozen_types(four) - {torch.uint8}) == len(frozen_types(whole)) == 1

    tolerance = 1e-5 if torch.float32 in frozen_types(whole) else 2e-2  # Mllama has bf16
    for backbone in (four, whole):
        draw_lora_b(backbone)
    whole.model.load_state_dict(
        {name: w for name, w in four.model.state_dict().items() if "lora_" in name}, strict=False
    )
    scores = [backbone.score(SAMPLES, LABELS) for backbone in (four, whole)]
    torch.testing.assert_close(*scores, atol=tolerance, rtol=tolerance)
    losses = [train_losses(backbone, 4) for backbone in (four, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=tolerance)
    assert losses[0][-1] < losses[0][0]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tower_is_that_of_the_folder(
    packed: dict[str, Path], tmp_path: Path, family: str
) -> None:
    from transformers import AutoModelForImageTextToText

    theirs = AutoModelForImageTextToText.from_pretrained(packed[family], dtype=torch.float32)
    whole = theirs.dequantize(torch.float32).state_dict()
    four = build(family, packed[family], tmp_path, 4).model.get_base_model().state_dict()
    tower = [name for name in four if re.search("vis|projector", name)]
    assert len(tower) > 20
    for name in tower:
        assert torch.equal(whole[name].to(four[name].dtype), four[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_check_counts_what_the_run_counts(
    packed: dict[str, Path], tmp_path: Path, family: str
) -> None:
    run = build(family, packed[family], tmp_path, 4)
    for bits in (4, 16):
        light = build(family, packed[family], tmp_path, bits, weights=False)
        assert (
            light.count_tokens(sample(0), [(40, 30)] * 2).total
            == run.count_tokens(sample(0), [(40, 30)] * 2).total
        )
        assert light.vision_cost((40, 30)) == run.vision_cost((40, 30))


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_in_a_packed_tower_learn(
    packed: dict[str, Path], tmp_path: Path, family: str
) -> None:
    backbone = build(family, packed[family], tmp_path, 4, vision=Vision.lora)
    backbone.model.train()
    backbone.model(**backbone.collate(SAMPLES, with_answer=True)).loss.backward()
    learnt = [name for name, w in backbone.model.named_parameters() if w.grad is not None]
    assert any("vis" in name for name in learnt)
    assert all("lora_" in name for name in learnt)


def test_the_run_chooses_the_type_and_not_the_folder(
    packed: dict[str, Path], tmp_path: Path
) -> None:
    """The folder says bfloat16. fp16 is played without a card, as on a T4."""
    backbone = build("qwen3_vl", packed["qwen3_vl"], tmp_path, 4, precision=Precision.fp16)
    assert frozen_types(backbone) == {torch.uint8, torch.float16}
    layers = [
        layer for _, layer in packed_layers(backbone.model) if hasattr(layer, "compute_dtype")
    ]
    assert {layer.compute_dtype for layer in layers} == {torch.float16}


def test_16_bits_say_what_they_cost(
    packed: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        build("qwen3_vl", packed["qwen3_vl"], tmp_path, 16)
    said = re.search(r"(model\.bits)=(\d+) takes a quarter of the memory", caplog.text)
    assert said is not None
    assert list(packed_layers(build("qwen3_vl", packed["qwen3_vl"], tmp_path, int(said[2])).model))


def cut(key: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(held: dict[str, torch.Tensor]) -> None:
        name = next(name for name in held if name.endswith(key))
        held[name] = held[name][: len(held[name]) // 2].clone()

    return change


def lie(**changes: Any) -> Callable[[dict[str, torch.Tensor]], None]:
    def change(held: dict[str, torch.Tensor]) -> None:
        name = next(name for name in held if ".quant_state." in name)
        state = json.loads(bytes(held[name].numpy())) | changes
        held[name] = torch.frombuffer(bytearray(json.dumps(state).encode()), dtype=torch.uint8)

    return change


DAMAGES: dict[str, Callable[[dict[str, torch.Tensor]], None]] = {
    "half of the scales": cut(".absmax"),
    "half of the scales' scales": cut(".nested_absmax"),
    "half of the codes": cut(".quant_map"),
    "half of the state": cut(".bitsandbytes__nf4"),
    "larger weights": lie(shape=[1 << 20, 1 << 20]),
    "turned weights": lie(shape=[32, 32, 1]),
    "smaller blocks": lie(blocksize=1),
    "no blocks": lie(blocksize=0),
    "blocks of words": lie(blocksize="many"),
    "another type": lie(dtype="int64"),
    "a function for a type": lie(dtype="load"),
    "another packing": lie(quant_type="af4"),
    "other scales": lie(nested_blocksize=1),
    "one thing more": lie(evil=1),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_scales_that_are_not_the_weights_own_are_refused(
    packed: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """They would be read out of bounds, or fill the memory."""
    folder = tmp_path / "model"
    shutil.copytree(packed["qwen3_vl"], folder)
    held = load_file(folder / WEIGHTS)
    DAMAGES[name](held)
    save_file(held, folder / WEIGHTS, {"format": "pt"})
    for bits in (4, 16):
        with pytest.raises(UserError, match=r"scales .*; download the model again") as refused:
            build("qwen3_vl", folder, tmp_path, bits)
        assert "\n" not in str(refused.value)


def test_a_run_in_4_bits_is_exported_in_16_and_parity_is_stated(
    packed: dict[str, Path], cli: Callable[..., Outcome], tmp_path: Path, drawn: str
) -> None:
    command = (
        "model=hub",
        f'model.path="{packed["qwen3_vl"]}"',
        "model.bits=4",
        "trainer.max_steps=2",
        "trainer.batch_size=8",
        "trainer.learning_rate=1e-3",
        "trainer.eval_steps=null",
        "tracking=off",
        "eval.limit=8",
        "eval.probes=false",
        "view=raw",
        "source.num_parts=24",
        "sweep=runs/packed",
        "baseline=[majority]",
        drawn,
    )
    for stage in ("stage=check", "stage=run"):
        done = cli(stage, *command)
        assert done.code == 0, done.err
    (run,) = (tmp_path / "runs" / "packed").glob("0_*")
    assert json.loads((run / "env.json").read_text())["base_model"].startswith("sha256 ")

    accept = 'export.accept="self_pair,one_label,reference"'  # a random model knows nothing
    exported = cli("stage=export", f"run={run}", "export.out=out", accept)
    assert exported.code == 0, exported.err
    parity = json.loads(Path("out/decision_rules.json").read_text())["parity"]
    assert {name: facts["changed"] for name, facts in parity.items()} == {
        "merged": {},
        "reloaded": {},
        "recorded": {},
    }
    assert parity["merged"]["largest_difference"] < 1e-4
    assert parity["reloaded"]["largest_difference"] < 1e-4
    assert parity["recorded"]["largest_difference"] < 0.05  # adapters train in bf16 beside 4 bits

    assert "quantization_config" not in json.loads(Path("out/merged/config.json").read_text())
    types = {weight.dtype for weight in load_file(Path("out/merged") / WEIGHTS).values()}
    assert types == {torch.float32}  # without a GPU
    assert "had 4 bits" in Path("out/README.md").read_text()
