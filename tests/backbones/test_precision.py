"""trainer.precision on cards that are played: what is chosen, what is refused, and its cure."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.helpers.backbones import LABELS, make_request, sample
from tests.helpers.cards import A100, P100, T4, V100, Card, play_card
from tests.helpers.twins import twin_config, twin_folder
from vlmbench.backbones import hub
from vlmbench.backbones.anymodel import AnyConfig
from vlmbench.backbones.hub import HubConfig
from vlmbench.backbones.named import Gemma3Config, Gemma4Config, Qwen3Config, Qwen35Config
from vlmbench.backbones.phi3 import Phi3Config
from vlmbench.backbones.precision import (
    OVERFLOWING,
    choose_precision,
    compute_type,
    refuse_overflow,
    types_of,
)
from vlmbench.config import Engine, Precision
from vlmbench.types import UserError

AUTO, BF16, FP16 = Precision.auto, Precision.bf16, Precision.fp16


def cure_of(error: pytest.ExceptionInfo[UserError], setting: str) -> str:
    """Return the value that a message's cure gives a setting."""
    found = re.search(rf"set {re.escape(setting)}=(\S+?)(?:,| |$)", str(error.value))
    assert found is not None, str(error.value)
    return found[1]


@pytest.mark.parametrize(
    ("card", "setting", "chosen"),
    [
        (A100, AUTO, "bf16"),
        (A100, BF16, "bf16"),
        (A100, FP16, "fp16"),
        (T4, AUTO, "fp16"),
        (T4, FP16, "fp16"),
        (V100, AUTO, "fp16"),
    ],
)
def test_the_card_and_the_setting_choose(
    card: Card, setting: Precision, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_card(monkeypatch, card)
    precision, reason = choose_precision(setting)
    assert precision == chosen
    assert (card[0] in reason) is (setting is AUTO)
    assert compute_type(setting) is {"bf16": torch.bfloat16, "fp16": torch.float16}[chosen]


def test_the_reason_for_fp16_names_what_the_card_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    play_card(monkeypatch, T4)
    assert choose_precision(AUTO)[1] == ("Tesla T4 has compute capability 7.5, and bf16 needs 8.0")


@pytest.mark.parametrize("card", [T4, V100])
def test_bf16_is_refused_by_name_on_a_card_without_it(
    card: Card, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_card(monkeypatch, card)
    with pytest.raises(UserError, match=card[0]) as refused:
        choose_precision(BF16)
    assert str(refused.value).startswith("trainer.precision=bf16: ")
    cure = Precision(cure_of(refused, "trainer.precision"))
    assert choose_precision(cure)[0] == "fp16"


@pytest.mark.parametrize("setting", [AUTO, FP16, BF16])
def test_a_card_older_than_7_is_refused_and_can_be_hidden(
    setting: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_card(monkeypatch, P100)
    with pytest.raises(UserError, match=r"P100.* 6\.0, and training needs 7\.0") as refused:
        choose_precision(setting)

    name, value = re.search(r"(CUDA_VISIBLE_DEVICES)=(\S*) python", str(refused.value)).groups()
    monkeypatch.setenv(name, value)
    assert choose_precision(AUTO) == ("fp32", "there is no CUDA GPU")


@pytest.mark.parametrize("setting", [FP16, BF16])
def test_16_bits_are_refused_without_a_gpu(
    setting: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match="there is no CUDA GPU") as refused:
        choose_precision(setting)
    cure = Precision(cure_of(refused, "trainer.precision"))
    assert choose_precision(cure)[0] == "fp32"
    assert compute_type(cure) is torch.float32


@pytest.mark.parametrize("config", [Gemma3Config(), Gemma4Config(), Qwen35Config()])
def test_types_whose_numbers_exceed_fp16_are_refused_before_any_download(
    config: AnyConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    play_card(monkeypatch, T4)
    with pytest.raises(UserError, match=r"too large for fp16, and bf16 needs a GPU") as refused:
        config.check_precision(AUTO)
    assert cure_of(refused, "model") == "qwen3_vl"
    Qwen3Config().check_precision(AUTO)

    play_card(monkeypatch, A100)
    config.check_precision(AUTO)
    with pytest.raises(UserError, match="too large for fp16; set") as refused:
        config.check_precision(FP16)
    config.check_precision(Precision(cure_of(refused, "trainer.precision")))


def test_the_language_model_of_a_type_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """PaliGemma 2 has the type of PaliGemma, and Gemma 2 as its language model."""
    play_card(monkeypatch, T4)
    for language, is_refused in (("gemma2", True), ("gemma", False)):
        text = SimpleNamespace(model_type=language)
        config = SimpleNamespace(model_type="paligemma", get_text_config=lambda text=text: text)
        if not is_refused:
            refuse_overflow(types_of(config), "here", AUTO)
            continue
        with pytest.raises(UserError, match="of type gemma2"):
            refuse_overflow(types_of(config), "here", AUTO)


def test_the_types_are_those_of_transformers() -> None:
    from transformers import CONFIG_MAPPING

    assert set(CONFIG_MAPPING) >= OVERFLOWING


def test_a_folder_of_such_a_type_is_refused_before_its_weights_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        hub, "load_checkpoint", lambda *args, **settings: pytest.fail("weights were read")
    )
    for weights in (True, False):
        request = make_request(tmp_path, precision=FP16, weights=weights)
        with pytest.raises(UserError, match="a model of type gemma3 are too large for fp16"):
            AnyConfig(path=str(twin_folder("gemma3"))).build(request)


@pytest.mark.parametrize("weights", [True, False])
def test_frozen_weights_have_the_type_and_adapters_float32(tmp_path: Path, weights: bool) -> None:
    request = make_request(tmp_path, precision=FP16, weights=weights)
    model = twin_config("qwen3_vl").build(request).model
    named = dict(model.named_parameters())
    assert {named[name].dtype for name in named if "lora_" not in name} == {torch.float16}
    if weights:
        assert {named[name].dtype for name in named if "lora_" in name} == {torch.float32}


def test_answers_in_fp16_are_close_to_those_in_float32(tmp_path: Path) -> None:
    scores = [
        twin_config("qwen3_vl")
        .build(make_request(tmp_path, precision=precision))
        .score([sample(0), sample(1)], LABELS)
        for precision in (AUTO, FP16)
    ]
    assert not torch.equal(*scores)
    assert torch.allclose(*scores, atol=0.05)


def test_stored_tokens_of_one_type_are_not_those_of_another(tmp_path: Path) -> None:
    fingerprints = {
        twin_config("qwen3_vl").build(make_request(tmp_path, precision=precision)).fingerprint()
        for precision in (AUTO, BF16, FP16)
    }
    assert len(fingerprints) == 3


@pytest.mark.parametrize(("card", "dtype"), [(A100, torch.bfloat16), (T4, torch.float16)])
def test_the_loaders_get_the_type_of_the_card(
    card: Card, dtype: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 bits compute in it on both engines; nothing is loaded here."""
    play_card(monkeypatch, card)
    given: dict[str, Any] = {}

    def load(path: str, **settings: Any) -> Any:
        given.update(settings)
        raise UserError("far enough")

    monkeypatch.setattr(hub, "load_checkpoint", load)
    monkeypatch.setattr(hub, "import_engine", lambda request: None)
    folder = twin_folder("qwen3_vl")
    config = AnyConfig(path=str(folder), bits=4)
    with pytest.raises(UserError, match="far enough"):
        config.build(make_request(tmp_path))
    assert given["dtype"] is dtype
    assert given["quantization_config"].bnb_4bit_compute_dtype is dtype

    given.clear()
    unsloth = SimpleNamespace(load=load)
    monkeypatch.setitem(sys.modules, "vlmbench.backbones._unsloth", unsloth)
    monkeypatch.setattr(hub, "load_checkpoint", lambda *args, **settings: None)
    with pytest.raises(UserError, match="far enough"):
        config.build(make_request(tmp_path, engine=Engine.unsloth))
    assert given["dtype"] is dtype
    assert given["quantization"].bnb_4bit_compute_dtype is dtype


def test_without_a_gpu_nothing_is_chosen_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    phi3: HubConfig = Phi3Config()
    assert phi3.dtype(AUTO) is torch.bfloat16  # it only counts tokens there
    assert AnyConfig(path="a/b").dtype(AUTO) is torch.float32


@pytest.mark.parametrize(
    ("card", "setting", "flags"),
    [
        (A100, AUTO, (True, False)),
        (A100, FP16, (False, True)),
        (T4, AUTO, (False, True)),
        (None, AUTO, (False, False)),
    ],
)
def test_the_trainer_gets_one_flag(
    card: Card | None,
    setting: Precision,
    flags: tuple[bool, bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vlmbench.config import TrainerConfig
    from vlmbench.train import sft_config as module

    play_card(monkeypatch, card)
    job: Any = SimpleNamespace(settings=TrainerConfig(precision=setting))
    device = module._device(job)
    assert (device["bf16"], device["fp16"]) == flags
