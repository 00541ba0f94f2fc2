"""Sound model folders of four families, and changes that make them something else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.backbones import make_request
from tests.helpers.twins import write_twin
from vlmbench.backbones.anymodel import AnyConfig
from vlmbench.backbones.hub import HubConfig
from vlmbench.backbones.llama32 import Llama32Config
from vlmbench.backbones.phi3 import Phi35Config
from vlmbench.models.llama32_tiny import tiny_mllama, tiny_processor
from vlmbench.models.phi3_v_tiny import tiny_phi3_processor, tiny_phi3_v
from vlmbench.types import UserError

WEIGHTS = "model.safetensors"
Change = Callable[[Path], object]


def write_sound_folders(make: Callable[[str], Path]) -> dict[str, Path]:
    """Write a sound folder of each family that the changes start from; `make` makes a folder."""
    llama = make("llama32")
    processor = tiny_processor()
    tiny_mllama(processor.tokenizer, max_tokens=512).save_pretrained(llama)
    processor.save_pretrained(llama)

    phi = make("phi3")
    phi_processor = tiny_phi3_processor(num_crops=4)
    tiny_phi3_v(phi_processor.tokenizer, max_tokens=512).save_pretrained(phi)
    phi_processor.save_pretrained(phi)
    qwen = write_twin("qwen3_vl", make("qwen3_vl"))
    gemma = write_twin("gemma3", make("gemma3"))
    return {"llama32": llama, "phi35": phi, "qwen3_vl": qwen, "gemma3": gemma}


def make_config(family: str, folder: Path) -> HubConfig:
    if family == "llama32":
        return Llama32Config(path=str(folder))
    if family == "phi35":
        return Phi35Config(path=str(folder))
    return AnyConfig(path=str(folder))


def check(family: str, folder: Path, cache: Path) -> Any:
    """Return the backbone that stage=check builds."""
    return make_config(family, folder).build(make_request(cache, weights=False))


def refusal(case: tuple[str, Change, str], sound: dict[str, Path], folder: Path) -> str:
    """Return the error of a check of `folder`: a sound one that a case changes.

    A case is a family, a change, and an expression that the error must match.
    """
    family, change, words = case
    shutil.copytree(sound[family], folder)
    change(folder)
    with pytest.raises(UserError, match=words) as refused:
        check(family, folder, folder.parent)
    return str(refused.value)


def without(*names: str) -> Change:
    return lambda folder: [(folder / name).unlink() for name in names]


def weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Change:
    def apply(folder: Path) -> None:
        save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS, {"format": "pt"})

    return apply


def edited(file: str, **changes: Any) -> Change:
    """Change entries of a JSON file; None removes one."""

    def apply(folder: Path) -> None:
        path = folder / file
        settings = {**json.loads(path.read_text()), **changes}
        settings = {name: value for name, value in settings.items() if value is not None}
        path.write_text(json.dumps(settings))

    return apply


def images(**changes: Any) -> Change:
    """Change the image processor, in whichever file it is."""

    def apply(folder: Path) -> None:
        for path in (folder / "preprocessor_config.json", folder / "processor_config.json"):
            if not path.exists():
                continue
            settings = json.loads(path.read_text())
            held = settings.get("image_processor", settings)
            if "image_processor_type" in held:
                held.update(changes)
                path.write_text(json.dumps(settings))

    return apply


def text(file: str, content: str) -> Change:
    return lambda folder: (folder / file).write_text(content)
