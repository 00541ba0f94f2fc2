"""A run keeps its folder; a run with other settings gets the next one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from vlmbench.cli.folders import run_folder, stage_dir

CHOICES = {"tracking": "off", "hydra/launcher": "basic", "experiment": "baseline"}


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Return a sweep with one run, 0_a, and a folder of the user's."""
    run = tmp_path / "0_a"
    (run / ".hydra").mkdir(parents=True)
    choices = {
        "data": "single",
        "tracking": "online",
        "hydra/launcher": "ray",
        "experiment": "quick",
    }
    OmegaConf.save({"hydra": {"runtime": {"choices": choices}}}, run / ".hydra" / "hydra.yaml")
    (run / "config.yaml").write_text("stage: run\nseed: 0\nlora: {r: 16}\n")
    (tmp_path / "notes_of_mine").mkdir()
    return tmp_path


def folder_of(
    sweep: Path, number: int | None, label: str, data: str = "single", **settings: object
) -> str:
    hydra = {"job": "???", "runtime": {"choices": {"data": data, **CHOICES}}}
    root = OmegaConf.create({"hydra": hydra, "stage": "run", "seed": 0, **settings})
    return run_folder(str(sweep), number, label, _root_=root)


def test_a_run_with_the_same_settings_keeps_its_folder(sweep: Path) -> None:
    lora = {"r": 16}

    assert folder_of(sweep, None, "a", lora=lora) == "0_a"
    # Stage and tracking change no figure.
    assert folder_of(sweep, 7, "b", lora=lora, stage="evaluate", tracking="off") == "0_a"


def test_a_run_with_other_settings_or_choices_gets_the_next_folder(sweep: Path) -> None:
    assert folder_of(sweep, None, "a", lora={"r": 8}) == "1_a"
    assert folder_of(sweep, 1, "a", lora={"r": 8}) == "1_a"
    assert folder_of(sweep, None, "b", lora={"r": 16}, data="choices") == "1_b"
    assert folder_of(sweep / "new", None, "a") == "0_a"


def test_a_used_number_gets_a_hash(sweep: Path) -> None:
    first = folder_of(sweep, 0, "a", lora={"r": 8})

    assert re.fullmatch("0_a_[0-9a-f]{8}", first)
    assert first == folder_of(sweep, 0, "a", lora={"r": 8})
    assert first != folder_of(sweep, 0, "a", lora={"r": 4})


def test_only_stages_with_a_run_write_into_runs() -> None:
    assert stage_dir("run", "runs/x/0_y") == "runs/x/0_y"
    assert stage_dir("check", "runs/x/0_y") == ".cache/stages/check"
