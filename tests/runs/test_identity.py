"""What env.json says of where a run was made."""

from __future__ import annotations

import pytest

from vlmbench import __version__
from vlmbench.config import Engine, Vision
from vlmbench.runs import identity as provenance
from vlmbench.runs.plan import variant_hash
from vlmbench.types import Fold


def test_unsloths_versions_are_named_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "version", lambda name: f"{name} 1")
    stock, fast = (
        provenance.environment(engine, "", Vision.frozen)["versions"]
        for engine in (Engine.transformers, Engine.unsloth)
    )
    assert stock["vlmbench"] == __version__
    assert stock["torch"] == "torch 1"
    assert fast == stock | {"unsloth": "unsloth 1", "unsloth_zoo": "unsloth_zoo 1"}


def test_settings_without_folds_keep_the_hashes_of_versions_that_had_none() -> None:
    before = {"seed": 0, "data": {"split_seed": 0}}
    after = {"seed": 0, "data": {"split_seed": 0, "folds": None, "fold": None}}
    assert provenance.figure_settings(after) == before
    assert provenance.run_hash(after, "ab") == provenance.run_hash(before, "ab")
    assert variant_hash(after, model="m", data="d") == variant_hash(before, model="m", data="d")


def test_the_folds_of_a_variant_are_different_runs_of_one_variant() -> None:
    first, second = ({"data": {"folds": 5, "fold": fold}} for fold in (0, 1))
    assert provenance.run_hash(first, "ab") != provenance.run_hash(second, "ab")
    hashes = {variant_hash(config, model="m", data="d") for config in (first, second)}
    assert len(hashes) == 1

    fewer = {"data": {"folds": 4, "fold": 0}}
    assert variant_hash(fewer, model="m", data="d") not in hashes


@pytest.mark.parametrize(
    "data",
    [
        None,
        [],
        {},
        {"folds": 5},
        {"folds": 5, "fold": 5},
        {"folds": 5, "fold": -1},
        {"folds": True, "fold": False},
        {"folds": 10**9, "fold": 3},
        {"folds": "5", "fold": "1"},
    ],
)
def test_settings_of_strangers_have_no_fold(data: object) -> None:
    assert provenance.fold_of({"data": data}) is None


def test_a_fold_is_read_from_the_settings() -> None:
    assert provenance.fold_of({"data": {"folds": 5, "fold": 4}}) == Fold(4, 5)


def test_settings_with_precision_auto_keep_the_hashes_of_versions_that_had_none() -> None:
    before = {"seed": 0, "trainer": {"epochs": 3.0}}
    after = {"seed": 0, "trainer": {"epochs": 3.0, "precision": "auto"}}
    assert provenance.figure_settings(after) == before
    for precision in ("", "bf16", "fp32"):
        assert provenance.run_hash(after, "ab", precision) == provenance.run_hash(before, "ab")
    assert variant_hash(after, model="m", data="d") == variant_hash(before, model="m", data="d")


def test_a_run_in_fp16_is_another_run() -> None:
    auto, chosen = ({"trainer": {"precision": precision}} for precision in ("auto", "fp16"))
    assert provenance.run_hash(auto, "ab", "fp16") != provenance.run_hash(auto, "ab", "bf16")
    assert variant_hash(auto, model="m", data="d") != variant_hash(chosen, model="m", data="d")


@pytest.mark.parametrize("trainer", [None, [], {}, {"precision": ["auto"]}])
def test_a_strangers_trainer_settings_are_left_as_they_are(trainer: object) -> None:
    assert provenance.figure_settings({"trainer": trainer}) == {"trainer": trainer}
