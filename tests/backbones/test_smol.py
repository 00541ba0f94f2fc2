"""The small model: its read-out is fitted before the first step, and reaches the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.backbones import LABELS, build, sample
from vlmbench.backbones.adapters import draw_adapters
from vlmbench.types import LazyImage, Record, Sample, Task

JAPANESE = ("正常", "異常")


def shade(seed: int, value: int) -> LazyImage:
    rng = np.random.default_rng(seed)
    pixels = np.clip(rng.normal(value, 12, (32, 32, 3)), 0, 255).astype(np.uint8)
    return LazyImage.of(Image.fromarray(pixels))


def dark_and_light(number: int, words: Sequence[str] = LABELS) -> list[Sample]:
    """Return pairs: the second image is as dark as the first (normal), or light (abnormal)."""
    samples = []
    for seed in range(number):
        is_bad = seed % 2
        one = sample(seed, words[is_bad])
        record = replace(one.record, label=LABELS[is_bad], answer=LABELS[is_bad])
        images = (shade(seed, 60), shade(1000 + seed, 180 if is_bad else 60))
        samples.append(replace(one, record=record, images=images, words=tuple(words)))
    return samples


@pytest.fixture(scope="module")
def smol(shared_cache: Path) -> Any:
    return build("smol", shared_cache)


@pytest.fixture
def fresh(smol: Any) -> Any:
    draw_adapters(smol.model, 0)
    smol.model.eval()
    return smol


def readout(backbone: Any) -> Any:
    return backbone.model.get_base_model().projector.modules_to_save["default"].readout


def train(backbone: Any, samples: Sequence[Sample], steps: int) -> None:
    torch.manual_seed(0)
    weights = [weight for weight in backbone.model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=5e-4)
    for step in range(steps):
        rows = [samples[(4 * step + row) % len(samples)] for row in range(4)]
        backbone.model(**backbone.train_batch(rows)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.slow
@pytest.mark.parametrize("words", [LABELS, JAPANESE], ids=["English", "Japanese"])
def test_a_dozen_steps_put_the_read_out_into_words(fresh: Any, words: Sequence[str]) -> None:
    samples = dark_and_light(32, words)
    fresh.prepare_training(samples[:20])
    train(fresh, samples[:20], steps=12)

    scores = fresh.score(samples[20:], list(words))
    expected = [LABELS.index(one.record.label) for one in samples[20:]]
    assert scores.argmax(1).tolist() == expected


@pytest.mark.slow
def test_the_word_changes_the_answer_and_a_single_image_has_one_too(fresh: Any) -> None:
    pairs = dark_and_light(12)
    singles = [replace(one, images=one.images[1:]) for one in pairs]
    for samples in (pairs, singles):
        draw_adapters(fresh.model, 0)
        before = fresh.score(samples, LABELS)
        fresh.prepare_training(samples)
        assert (fresh.score(samples, LABELS) - before).abs().min() > 1e-3


def test_preparation_needs_no_seed_and_new_adapters_forget_it(fresh: Any) -> None:
    fresh.prepare_training(dark_and_light(12))
    weight = readout(fresh).weight.clone()
    assert weight.abs().max() > 0

    draw_adapters(fresh.model, 1)
    assert readout(fresh).weight.abs().max() == 0
    fresh.prepare_training(dark_and_light(12))
    assert torch.equal(readout(fresh).weight, weight)


def test_training_steps_leave_the_read_out_alone(fresh: Any) -> None:
    samples = dark_and_light(8)
    fresh.prepare_training(samples)
    before = {name: value.clone() for name, value in readout(fresh).state_dict().items()}
    train(fresh, samples, steps=1)
    for name, value in readout(fresh).state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.slow
def test_the_read_out_is_saved_with_the_adapter(
    fresh: Any, shared_cache: Path, tmp_path: Path
) -> None:
    samples = dark_and_light(12)
    fresh.prepare_training(samples)
    expected = fresh.score(samples, LABELS)
    fresh.save(tmp_path / "adapter")
    loaded = build("smol", shared_cache, adapter=tmp_path / "adapter")
    loaded.model.eval()
    assert torch.equal(readout(loaded).weight, readout(fresh).weight)
    torch.testing.assert_close(loaded.score(samples, LABELS), expected, atol=1e-5, rtol=1e-5)

    loaded.merge()
    loaded.save_merged(tmp_path / "merged")
    exported = build("smol", shared_cache, merged=tmp_path / "merged")
    exported.model.eval()
    torch.testing.assert_close(exported.score(samples, LABELS), expected, atol=1e-4, rtol=1e-4)


def test_comparison_records_change_how_pairs_are_read(fresh: Any) -> None:
    judged = dark_and_light(12)
    compared = []
    for one in dark_and_light(12):
        label = "different_part" if one.record.label == "normal" else "same_part"
        record = replace(one.record, task=Task.COMPARE_VIEWS, label=label, answer=label)
        compared.append(
            replace(one, record=record, question="Same part?", words=("same", "different"))
        )

    fresh.prepare_training(judged)
    alone = readout(fresh)(fresh._features(judged), _keys(fresh, judged))
    fresh.prepare_training([*judged, *compared])
    together = readout(fresh)(fresh._features(judged), _keys(fresh, judged))
    # The comparison records say the opposite of the pairs: the common rows lose what they knew.
    assert (together[:, 1] - together[:, 0]).abs().mean() < (alone[:, 1] - alone[:, 0]).abs().mean()


def _keys(backbone: Any, samples: Sequence[Sample]) -> torch.Tensor:
    return backbone.collate(samples, with_answer=False)["answer_keys"]


def test_options_keep_their_text_whatever_their_letter(fresh: Any) -> None:
    samples = []
    for seed, one in enumerate(dark_and_light(24)):
        texts = ["dark", "light"] if seed % 3 else ["Light.", "Dark."]
        options = dict(zip("AB", texts, strict=True))
        truth = ("dark", "light")[one.record.label == "abnormal"]
        letter = next(key for key, text in options.items() if text.lower().startswith(truth))
        record = Record(
            id=f"c{seed}",
            task=Task.CHOOSE_OPTION,
            images=(),
            answer=letter,
            label=letter,
            group=f"{seed}",
            question="Which shade?",
            options=options,
        )
        samples.append(replace(one, record=record, answer=letter, words=("A", "B")))

    fresh.prepare_training(samples[:16])
    scores = readout(fresh)(fresh._features(samples[16:]), _keys(fresh, samples[16:]))
    expected = ["AB".index(one.record.label) for one in samples[16:]]
    assert scores.argmax(1).tolist() == expected
