"""What all tests share: small data, and the command line called in this process."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")

REPOSITORY = Path(__file__).resolve().parents[1]
CARDS = (
    "CUDA_VISIBLE_DEVICES",
    os.environ.get("CUDA_VISIBLE_DEVICES", "0"),
)  # a run sets it: patch it before


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        action="store_true",
        help="write the golden figures instead of comparing with them",
    )


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., Outcome]:
    """Return `vlmbench ...` in an empty folder, in this process: importing torch takes seconds."""
    from hydra.core.global_hydra import GlobalHydra

    from vlmbench.cli.main import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(*CARDS)

    def call(*arguments: str) -> Outcome:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["vlmbench", *arguments])
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            GlobalHydra.instance().clear()
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


def call_vlmbench(folder: Path, *arguments: str) -> str:
    """Call `vlmbench ...` in a folder, in this process; return what it printed."""
    from hydra.core.global_hydra import GlobalHydra

    from vlmbench.backbones import resident
    from vlmbench.cli.main import main

    output = StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(output):
        patch.chdir(folder)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv(*CARDS)
        patch.setattr(sys, "argv", ["vlmbench", *arguments])
        try:
            main()
        finally:
            GlobalHydra.instance().clear()
            resident.release()
    return output.getvalue()


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return one folder for all test processes."""
    base = tmp_path_factory.getbasetemp()
    is_worker = "PYTEST_XDIST_WORKER" in os.environ  # its base folder is in that of the session
    folder = (base.parent if is_worker else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def shared_cache(shared_folder: Path) -> Path:
    """Return one cache for all test processes: unpacking the small model takes half a minute."""
    cache = shared_folder / "cache"
    cache.mkdir(exist_ok=True)
    return cache


@pytest.fixture(scope="session")
def drawn(shared_folder: Path) -> str:
    """Return the setting for one set of generated images: drawing 24 parts takes 5 s."""
    return f"data_dir={shared_folder / 'data'}"


@pytest.fixture(scope="session")
def parts(drawn: str, shared_folder: Path) -> tuple[str, str]:
    """Return the settings for generated images and for what earlier runs read of them."""
    return drawn, f"cache_dir={shared_folder / 'cache_of_parts'}"


def image(seed: int, size: tuple[int, int] = (64, 56)) -> Image.Image:
    """An image like no other: smooth random colours, so that no two look alike."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


class ManifestBuilder:
    """Writes a small right manifest that a test then spoils."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, Any]] = []
        (folder / "img").mkdir(parents=True, exist_ok=True)

    @property
    def path(self) -> Path:
        return self.folder / "mine.jsonl"

    def add_part(self, number: int) -> None:
        """A part with a reference, a normal and an abnormal query, and three records of them."""
        for index, name in enumerate(("ref", "good", "bad")):
            image(10 * number + index).save(self.folder / "img" / f"{number}-{name}.png")
        for label, name in (("normal", "good"), ("abnormal", "bad")):
            self.add_row(
                id=f"{number}-{name}", group=f"part-{number}", label=label, images=("ref", name)
            )
        self.add_row(
            id=f"{number}-single", group=f"part-{number}", label="normal", images=("good",)
        )

    def add_row(self, *, id: str, group: str, label: str, images: Sequence[str]) -> None:  # noqa: A002
        number = group.removeprefix("part-")
        roles = ("reference", "query")[-len(images) :]
        self.rows.append(
            {
                "id": id,
                "task": "judge_pair" if len(images) == 2 else "judge_single",
                "group": group,
                "label": label,
                "answer": label if label == "normal" else f"{label}: a scratch",
                "images": [
                    {"path": f"img/{number}-{name}.png", "role": role, "view": "raw"}
                    for name, role in zip(images, roles, strict=True)
                ],
            }
        )

    def write(self) -> Path:
        self.path.write_text("".join(json.dumps(row) + "\n" for row in self.rows), encoding="utf-8")
        return self.path


@pytest.fixture
def manifest(tmp_path: Path) -> ManifestBuilder:
    """Ten parts, thirty records; not written yet."""
    builder = ManifestBuilder(tmp_path / "mine")
    for number in range(10):
        builder.add_part(number)
    return builder


@pytest.fixture(autouse=True)
def _no_kept_model() -> Iterator[None]:
    """No test finds another's model."""
    from vlmbench.backbones import resident

    yield
    resident.release()


@pytest.fixture(autouse=True)
def _quiet_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test asks the network."""
    monkeypatch.setenv("WANDB_MODE", "offline")
