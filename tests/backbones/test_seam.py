"""model=hub: each type that the seam serves, with a tiny random twin loaded from a folder.

The whole contract runs for three types, and for all in the nightly tests (VLMBENCH_ALL_TYPES=1).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
import torch

from tests.helpers.backbones import LABELS, SIZES, draw_lora_b, lazy_image, make_request, sample
from tests.helpers.twins import END, KINDS, twin_config, twin_folder
from vlmbench.backbones.anymodel import UNSERVED, AnyConfig, count_weights, refuse_unserved
from vlmbench.backbones.batches import IGNORED, complete_batch
from vlmbench.backbones.features import num_levels
from vlmbench.backbones.hub import read_published
from vlmbench.backbones.turns import close_thoughts
from vlmbench.config import StoreConfig, Vision
from vlmbench.types import UserError

SOME = ("qwen2_5_vl", "internvl", "idefics3")


@lru_cache
def built(kind: str) -> Any:
    """Return a backbone with adapters that have an effect."""
    request = make_request(Path(mkdtemp()), store=StoreConfig(disk_gb=0))
    backbone = twin_config(kind).build(request)
    draw_lora_b(backbone)
    backbone.model.eval()
    return backbone


@contextmanager
def pixels(backbone: Any) -> Iterator[None]:
    """Let the model see pixels, as its publisher meant it."""
    backbone.reads_tokens = False
    try:
        yield
    finally:
        backbone.reads_tokens = True


def losses(backbone: Any, samples: list[Any]) -> tuple[float, torch.Tensor]:
    batch = complete_batch(backbone.train_batch(samples))
    with torch.no_grad():
        output = backbone.model(**batch)
    return float(output.loss), output.logits[batch["labels"] != IGNORED]


@pytest.mark.parametrize("kind", KINDS)
def test_stored_features_give_the_losses_of_pixels_without_the_tower(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = built(kind)
    pair = sample(0, "normal")
    single = replace(
        sample(1, "abnormal: a dent", size=(90, 30)), images=(lazy_image(7, (90, 30)),)
    )
    samples = [pair, single, sample(2, question="Hm?", size=(30, 90))]
    with pixels(backbone):
        expected, expected_logits = losses(backbone, samples)

    backbone.collate(samples, with_answer=True)  # encodes
    monkeypatch.setattr(backbone, "_encode_pixels", None)
    stored, logits = losses(backbone, samples)
    assert stored == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(logits, expected_logits, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_are_counted_and_answers_end_their_turn(kind: str) -> None:
    backbone = built(kind)
    for size in SIZES:
        record = sample(0, "abnormal: a scratch", size=size)
        batch = backbone.collate([record], with_answer=True)
        count = backbone.count_tokens(replace(record, images=()), [size, size])
        labels = batch["labels"][batch["labels"] != IGNORED]
        assert count.total == batch["input_ids"].shape[1]
        assert count.trained == len(labels)
        assert backbone.tokenizer.decode(labels[:-1]).strip() == record.answer

    end = "<end_of_utterance>" if kind in ("smolvlm", "idefics3") else END
    assert backbone.tokenizer.eos_token == end
    assert "position_ids" not in batch
    (tokens,) = backbone.encode([lazy_image(0, size)])
    assert backbone.vision_cost(size).num_bytes == tokens.nbytes
    assert tokens.shape[1] == num_levels(backbone.model.config)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_and_answers_come_from_stored_features(kind: str) -> None:
    backbone = built(kind)
    records = [sample(0, question="Hm?"), sample(1)]
    scores = backbone.score(records, LABELS)
    answers = backbone.generate(records, max_new_tokens=4)
    with pixels(backbone):
        torch.testing.assert_close(backbone.score(records, LABELS), scores, atol=1e-4, rtol=1e-4)
        assert backbone.generate(records, max_new_tokens=4) == answers

    changed = replace(records[0], images=(records[0].images[0], lazy_image(999, (40, 30))))
    other = backbone.score([changed], LABELS)
    assert not torch.allclose(other, scores[:1], atol=1e-6)


@pytest.mark.parametrize("kind", SOME)
def test_adapters_reach_the_tower_only_where_they_are_asked_for(kind: str, tmp_path: Path) -> None:
    backbone = twin_config(kind).build(make_request(tmp_path, vision=Vision.lora))
    batch = backbone.collate([sample(0)], with_answer=True)
    backbone.model(**batch).loss.backward()
    tower = [weight for module in backbone.vision_modules() for weight in module.parameters()]
    assert any(weight.grad is not None for weight in tower)


def test_an_image_has_other_tokens_in_a_pair_where_the_type_says_so() -> None:
    backbone = built("llava_onevision")
    image = lazy_image(0, (90, 30))
    alone = backbone._fetch_rows([[image]]).wait()
    pair = backbone._fetch_rows([[image, image]]).wait()
    assert len(pair) == 2
    assert len(pair[0]) < len(alone[0])


@pytest.mark.parametrize("model_type", [*UNSERVED, "blip-2", "t5gemma2", "bert", "no such type"])
def test_a_type_that_cannot_be_served_is_refused_with_the_nearest_that_can(model_type: str) -> None:
    with pytest.raises(
        UserError, match=f"of type {model_type} cannot be served, because"
    ) as refused:
        refuse_unserved(model_type, "somebody/model")
    nearest = str(refused.value).rsplit("model=", 1)[1]
    from vlmbench.config import schemas

    assert nearest in schemas("model")


def test_a_small_model_trains_without_a_gpu_and_a_large_one_does_not() -> None:
    config = twin_config("qwen3_vl")
    published = read_published(config.path)
    assert 50_000 < count_weights(published) < 200_000
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert config.requirements() == []

    published.text_config.vocab_size = 40_000_000
    assert count_weights(published) > 1e9


def test_a_model_without_a_path_names_the_setting() -> None:
    assert "model.path is not set" in AnyConfig().requirements()[0]


def test_an_open_thought_is_closed() -> None:
    assert close_thoughts("[assistant]\n<think>\n") == "[assistant]\n<think>\n\n</think>\n\n"
    assert close_thoughts("[assistant]\n") == "[assistant]\n"


def test_a_folder_of_another_type_is_refused_with_the_choice_that_takes_it() -> None:
    class OnlyGemma(AnyConfig):
        model_types = ("gemma3",)

    folder = twin_folder("qwen3_vl")
    with pytest.raises(UserError, match=f"set model=hub model.path={folder}"):
        OnlyGemma(path=str(folder)).check_type(read_published(str(folder)), str(folder))
