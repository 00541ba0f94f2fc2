"""What is around a run: the GPU, W&B's servers, the clock, and people who edit its data."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import psutil
from PIL import Image

from bench.faults.fault import Facts, Fault, Rng, recovers, says
from bench.faults.stage import STEPS, Scene, Spoil, Stage, at_row, die

ROWS = STEPS + STEPS // 2
AUTO = ("trainer.batch_size=auto", "trainer.max_steps=4")
ONLINE = ("tracking=online", "tracking.timeout_s=2")
SLACK_S = 60  # that W&B may cost at most here
DAY_S = 86400


def _at_step(number: int, error: Callable[[], Exception], *, more_than: int = 0) -> Spoil:
    """Raise an error in training step `number`; in each from then on that has `more_than` records, if that is given."""

    def spoil() -> None:
        from vlmbench.train.trainer import JudgeTrainer

        step = JudgeTrainer.training_step

        def failing(self: JudgeTrainer, model: object, inputs: dict[str, list[str]], *args: object) -> object:
            now = self.state.global_step + 1
            too_many = len(inputs["record_ids"]) > more_than
            if (now >= number and too_many) if more_than else now == number:
                raise error()
            return step(self, model, inputs, *args)

        JudgeTrainer.training_step = failing

    return spoil


def lost_gpu(stage: Stage, rng: Rng) -> Facts:
    """The GPU falls off its bus in a step."""
    scene, step = stage.scene(), int(rng.integers(1, STEPS + 1))
    words = "CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA"
    said = says(scene.run(spoil=_at_step(step, lambda: RuntimeError(words))), f"step {step}: the GPU is gone or failed")
    return {"at_step": step, "said": said, **recovers(stage, scene)}


def full_gpu(stage: Stage, rng: Rng) -> Facts:
    """The GPU's memory is full in a step: it says what to lower."""
    import torch

    scene, step = stage.scene(), int(rng.integers(1, STEPS + 1))
    outcome = scene.run(spoil=_at_step(step, lambda: torch.OutOfMemoryError("CUDA out of memory")))
    said = says(outcome, f"step {step}: the GPU's memory is full with 2 records a step; set trainer.batch_size=auto")
    return {"at_step": step, "said": said, **recovers(stage, scene)}


def full_gpu_with_auto(stage: Stage, rng: Rng) -> Facts:
    """With trainer.batch_size=auto fewer records at once make the same steps, and that is written down."""
    import torch

    step, fits = int(rng.integers(1, 5)), int(rng.choice([1, 2, 4]))
    alone = stage.scene()
    assert alone.run(*AUTO).code == 0
    scene = stage.scene()
    spoil = _at_step(step, lambda: torch.OutOfMemoryError("CUDA out of memory"), more_than=fits)
    outcome = scene.run(*AUTO, spoil=spoil)
    says(outcome, "did not fit into the GPU's memory", code=0)
    choices, notes = scene.cell.read_choices(), scene.cell.read_metrics()["notes"]
    assert choices["batch_size"] == fits
    assert choices["batch_size"] * choices["gradient_accumulation"] == 8
    assert any("did not fit" in note for note in notes), notes
    losses, expected = scene.losses(), alone.losses()
    assert [row[0] for row in losses] == [row[0] for row in expected]
    assert np.allclose([row[1] for row in losses], [row[1] for row in expected], rtol=1e-3), (losses, expected)
    return {"at_step": step, "fits": fits, "choices": choices, "then": "the same losses to 0.1 %"}


def _wandb(name: str) -> Callable[[Stage, Rng], Facts]:
    """W&B is asked online, and its server does not answer as it should."""

    def befall(stage: Stage, rng: Rng) -> Facts:
        scene, code = stage.scene(), int(rng.choice([500, 502, 503, 429]))
        with _server(name, code) as url:
            env = {"WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40, "WANDB_SILENT": "true"}
            outcome = scene.run(*ONLINE, env=env, spoil=lambda: os.environ.pop("WANDB_MODE", None))
        says(outcome, "W&B does not answer", code=0)
        assert outcome.seconds < stage.seconds + SLACK_S, f"it took {outcome.seconds:.0f} s"
        assert scene.predictions() == stage.expected
        assert list(scene.cell.path.rglob("offline-run-*/*.wandb")), "nothing was logged offline"
        return {"took_s": outcome.seconds, "then": "the same predictions, logged offline"}

    return befall


@contextmanager
def _server(name: str, code: int) -> Iterator[str]:
    """A server on this machine that is not there, never answers, or answers with an error."""
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if name == "hung":
                released.wait()
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_PUT = do_POST  # noqa: N815

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    if name == "unreachable":
        server.server_close()
    else:
        thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        released.set()
        if name != "unreachable":
            server.shutdown()
            server.server_close()


def wandb_killed(stage: Stage, rng: Rng) -> Facts:
    """W&B's own process is killed while a run logs to it."""
    scene, row = stage.scene(), int(rng.integers(1, ROWS))

    def kill() -> None:
        for child in psutil.Process().children(recursive=True):
            child.send_signal(signal.SIGKILL)

    outcome = scene.run("tracking=offline", "tracking.timeout_s=2", spoil=at_row(row, kill))
    says(outcome, "the run goes on without it", code=0)
    assert scene.predictions() == stage.expected
    return {"at_row": row, "took_s": outcome.seconds, "then": "the same predictions"}


def clock_backwards(stage: Stage, rng: Rng) -> Facts:
    """Killed; then the clock is a day behind what the files say, and runs backwards."""
    scene, row = stage.scene(), int(rng.integers(1, ROWS))
    scene.run(spoil=at_row(row, die))
    for path in (scene.folder / "runs").rglob("*"):
        facts = path.stat()
        os.utime(path, (facts.st_atime + DAY_S, facts.st_mtime + DAY_S))

    def spoil() -> None:
        clock, started = time.time, time.time()
        time.time = lambda: 2 * started - clock()

    return {"at_row": row, **recovers(stage, scene, spoil=spoil)}


def _edited(edit: Callable[[Scene, Rng], Path]) -> Callable[[Stage, Rng], Facts]:
    """The data is edited after a kill: that is refused, until it is as it was."""

    def befall(stage: Stage, rng: Rng) -> Facts:
        scene, row = stage.scene(), int(rng.integers(4, ROWS))
        scene.run(spoil=at_row(row, die))
        before = {path: path.read_bytes() for path in (scene.folder / "data").rglob("*") if path.is_file()}
        edited = edit(scene, rng)
        said = says(scene.run(), "its manifest or a picture has changed since")
        edited.write_bytes(before[edited])
        return {"at_row": row, "edited": edited.name, "said": said, **recovers(stage, scene)}

    return befall


def _edit_manifest(scene: Scene, rng: Rng) -> Path:
    (manifest,) = (scene.folder / "data").glob("*/manifest.jsonl")
    lines = manifest.read_text(encoding="utf-8").splitlines(keepends=True)
    lines.pop(int(rng.integers(len(lines))))
    manifest.write_text("".join(lines), encoding="utf-8")
    return manifest


def _edit_picture(scene: Scene, rng: Rng) -> Path:
    """Of the same size in bytes and with the same time of writing."""
    pictures = sorted((scene.folder / "data").rglob("*.png"))
    path = pictures[int(rng.integers(len(pictures)))]
    size, times = path.stat().st_size, path.stat()
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).copy()
    pixels[:8] = 0  # one colour: it takes fewer bytes
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "PNG", optimize=True)
    content = packed.getvalue()
    assert len(content) <= size, "the edited picture is larger"
    path.write_bytes(content + b"\0" * (size - len(content)))  # what follows a PNG's end is not read
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return path


FAULTS = (
    Fault("lost_gpu", "the GPU fails in a step", lost_gpu),
    Fault("full_gpu", "the GPU's memory is full in a step", full_gpu),
    Fault("full_gpu_with_auto", "the same with trainer.batch_size=auto", full_gpu_with_auto),
    Fault("wandb_unreachable", "W&B's server is not there", _wandb("unreachable")),
    Fault("wandb_hung", "W&B's server never answers", _wandb("hung")),
    Fault("wandb_errors", "W&B's server answers with errors", _wandb("errors")),
    Fault("wandb_killed", "W&B's process is killed", wandb_killed),
    Fault("clock_backwards", "killed, then the clock runs backwards", clock_backwards),
    Fault("manifest_edited", "killed, then a row of the manifest is taken out", _edited(_edit_manifest)),
    Fault("picture_edited", "killed, then a picture is edited: same size, same time", _edited(_edit_picture)),
)
