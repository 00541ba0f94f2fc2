"""Llama-3.2-Vision at its real size with random weights, through the command line, on both engines.

Needs a GPU with 80 GB and 25 GB of /dev/shm: `python -m pytest -m gpu -s tests/gpu`. Each run is a process of its own:
Unsloth changes transformers when it is imported.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vlmbench.rundir import RunDir, State, SweepDir

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")]
STEPS = 12


@pytest.fixture(scope="module")
def model_folder() -> Path:
    """Random weights in the publisher's layout and size, 21 GB, with the tiny model's tokenizer."""
    from transformers import MllamaConfig, MllamaForConditionalGeneration, MllamaImageProcessorPil, MllamaProcessor

    from vlmbench.models.llama32_tiny import IMAGE, tiny_processor

    folder = Path("/dev/shm/llama32-random")  # noqa: S108
    tiny = tiny_processor()
    tokenizer = tiny.tokenizer
    if not (folder / "config.json").exists():
        config = MllamaConfig(
            vision_config={"image_size": 560}, image_token_index=tokenizer.convert_tokens_to_ids(IMAGE)
        )
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(config.text_config, name, getattr(tokenizer, name))
        torch.set_default_dtype(torch.bfloat16)
        with torch.device("cuda"):
            model = MllamaForConditionalGeneration(config)
        torch.set_default_dtype(torch.float32)
        model.save_pretrained(folder)
        del model
        gc.collect()
        torch.cuda.empty_cache()
        images = MllamaImageProcessorPil(size={"height": 560, "width": 560}, max_image_tiles=4)
        MllamaProcessor(images, tokenizer, chat_template=tiny.chat_template).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("gpu")
    return f"data_dir={folder / 'data'}", f"cache_dir={folder / 'cache'}"


@pytest.mark.parametrize(
    ("engine", "bits"), [("unsloth", 16), ("transformers", 16), ("unsloth", 4), ("transformers", 4)]
)
def test_it_trains_scores_and_reports(
    model_folder: Path, places: tuple[str, ...], tmp_path: Path, engine: str, bits: int
) -> None:
    command = [
        *(sys.executable, "-m", "vlmbench", "model=llama32", f"model.path={model_folder}", f"model.bits={bits}"),
        *(f"trainer.engine={engine}", "trainer.batch_size=2", "trainer.learning_rate=1e-4"),
        *(f"trainer.max_steps={STEPS}", "trainer.log_steps=1", "trainer.eval_steps=6", "trainer.eval_records=8"),
        *("source.num_parts=24", "data=with_comparison", "tracking=off", "eval.limit=4", "eval.probes=false", *places),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=dict(os.environ))
    out = os.environ.get("OUT")
    if out:
        (Path(out) / f"{engine}-{bits}.log").write_text(done.stdout[-200_000:] + done.stderr[-200_000:])
    assert done.returncode == 0, done.stderr[-4000:]
    (sweep,) = (tmp_path / "runs").iterdir()
    (cell,) = SweepDir(sweep).cells()
    losses = [row["loss"] for row in RunDir(cell.path).read_train_log() if "loss" in row]
    assert cell.read_status()["state"] == State.FINISHED
    assert cell.read_env()["engine"] == engine
    assert len(losses) == STEPS
    assert losses[-1] < losses[0]
    print(json.dumps({"engine": engine, "bits": bits, "first": losses[0], "last": losses[-1]}))  # noqa: T201
