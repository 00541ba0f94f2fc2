"""What surrounds a run: the GPU, W&B's servers, the clock, and people who edit its data."""

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

from bench.faults.fault import Facts, Fault, Inject, Rng, require_message, require_recovery
from bench.faults.moments import at_log_row, die
from bench.faults.trial import LOG_ROWS, STEPS, Action, Reference, Trial

AUTO = ("trainer.batch_size=auto", "trainer.max_steps=4")
ONLINE = ("tracking=online", "tracking.timeout_s=2")
WANDB_S = 60  # that W&B may cost at most here
DAY_S = 86400


def lost_gpu(reference: Reference, rng: Rng) -> Facts:
    """Fail as a GPU that is gone does, in a step."""
    trial, step = reference.new_trial(), int(rng.integers(1, STEPS + 1))
    error = "CUDA error: unspecified launch failure\nCompile with TORCH_USE_CUDA_DSA"
    outcome = trial.run(prepare=_at_step(step, lambda: RuntimeError(error)))
    message = require_message(outcome, f"step {step}: the GPU failed or is gone")
    return {"at_step": step, "message": message, **require_recovery(reference, trial)}


def full_gpu(reference: Reference, rng: Rng) -> Facts:
    """Fail as a GPU whose memory is full does: the message says what to lower."""
    import torch

    trial, step = reference.new_trial(), int(rng.integers(1, STEPS + 1))
    fail = _at_step(step, lambda: torch.OutOfMemoryError("CUDA out of memory"))
    message = require_message(
        trial.run(prepare=fail),
        f"step {step}: the GPU's memory is full with 2 records a step; set trainer.batch_size=auto",
    )
    return {"at_step": step, "message": message, **require_recovery(reference, trial)}


def full_gpu_with_auto(reference: Reference, rng: Rng) -> Facts:
    """Fill the GPU with trainer.batch_size=auto: smaller batches make the same steps.

    The run's files must tell it.
    """
    import torch

    step, num_fitting = int(rng.integers(1, 5)), int(rng.choice([1, 2, 4]))
    undisturbed = reference.new_trial()
    assert undisturbed.run(*AUTO).code == 0

    trial = reference.new_trial()
    fail = _at_step(
        step, lambda: torch.OutOfMemoryError("CUDA out of memory"), more_than=num_fitting
    )
    outcome = trial.run(*AUTO, prepare=fail)
    require_message(outcome, "did not fit into the GPU's memory", code=0)

    choices, notes = trial.run_folder.read_choices(), trial.run_folder.read_metrics()["notes"]
    assert choices["batch_size"] == num_fitting
    assert choices["batch_size"] * choices["gradient_accumulation"] == 8
    assert any("did not fit" in note for note in notes), notes

    losses, expected = trial.losses(), undisturbed.losses()
    assert [row[0] for row in losses] == [row[0] for row in expected]
    values, expected_values = [row[1] for row in losses], [row[1] for row in expected]
    assert np.allclose(values, expected_values, rtol=1e-3), (losses, expected)
    return {
        "at_step": step,
        "fits": num_fitting,
        "choices": choices,
        "then": "the same losses to 0.1 %",
    }


def wandb_killed(reference: Reference, rng: Rng) -> Facts:
    """Kill W&B's own process while a run logs to it."""
    trial, row = reference.new_trial(), int(rng.integers(1, LOG_ROWS))

    def kill() -> None:
        for child in psutil.Process().children(recursive=True):
            child.send_signal(signal.SIGKILL)

    outcome = trial.run("tracking=offline", "tracking.timeout_s=2", prepare=at_log_row(row, kill))
    require_message(outcome, "the run goes on without it", code=0)
    assert trial.predictions() == reference.predictions
    return {"at_row": row, "took_s": outcome.seconds, "then": "the same predictions"}


def clock_backwards(reference: Reference, rng: Rng) -> Facts:
    """Kill the run; then the clock is a day behind the times of its files, and runs backwards."""
    trial, row = reference.new_trial(), int(rng.integers(1, LOG_ROWS))
    trial.run(prepare=at_log_row(row, die))
    for path in (trial.folder / "runs").rglob("*"):
        facts = path.stat()
        os.utime(path, (facts.st_atime + DAY_S, facts.st_mtime + DAY_S))

    def turn_clock() -> None:
        clock, started_at = time.time, time.time()
        time.time = lambda: 2 * started_at - clock()

    return {"at_row": row, **require_recovery(reference, trial, prepare=turn_clock)}


def _at_step(number: int, error: Callable[[], Exception], *, more_than: int = 0) -> Action:
    """Return what makes a run raise an error in training step `number`.

    With `more_than`, every step from then on that has more records raises it.
    """

    def prepare() -> None:
        from vlmbench.train.trainer import JudgeTrainer

        training_step = JudgeTrainer.training_step

        def failing_step(
            self: JudgeTrainer, model: object, inputs: dict[str, list[str]], *args: object
        ) -> object:
            step = self.state.global_step + 1
            if more_than:
                fails = step >= number and len(inputs["record_ids"]) > more_than
            else:
                fails = step == number
            if fails:
                raise error()
            return training_step(self, model, inputs, *args)

        JudgeTrainer.training_step = failing_step

    return prepare


def _wandb(kind: str) -> Inject:
    """Track online with a W&B server that does not answer as it should."""

    def inject(reference: Reference, rng: Rng) -> Facts:
        trial, code = reference.new_trial(), int(rng.choice([500, 502, 503, 429]))
        with _server(kind, code) as url:
            env = {"WANDB_BASE_URL": url, "WANDB_API_KEY": "0" * 40, "WANDB_SILENT": "true"}
            outcome = trial.run(
                *ONLINE, env=env, prepare=lambda: os.environ.pop("WANDB_MODE", None)
            )

        require_message(outcome, "W&B does not answer", code=0)
        assert outcome.seconds < reference.seconds + WANDB_S, f"it took {outcome.seconds:.0f} s"
        assert trial.predictions() == reference.predictions
        logs = list(trial.run_folder.path.rglob("offline-run-*/*.wandb"))
        assert logs, "nothing was logged offline"
        return {"took_s": outcome.seconds, "then": "the same predictions, logged offline"}

    return inject


@contextmanager
def _server(kind: str, code: int) -> Iterator[str]:
    """Yield the address of a server that is unreachable, hung, or answers with an error code."""
    released = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if kind == "hung":
                released.wait()
            self.send_response(code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_PUT = do_POST  # noqa: N815

        def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if kind == "unreachable":
        server.server_close()
    else:
        threading.Thread(target=server.serve_forever, daemon=True).start()

    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        released.set()
        if kind != "unreachable":
            server.shutdown()
            server.server_close()


def _edited(edit: Callable[[Trial, Rng], Path]) -> Inject:
    """Edit the data after a kill: the run refuses to resume until they are as they were."""

    def inject(reference: Reference, rng: Rng) -> Facts:
        trial, row = reference.new_trial(), int(rng.integers(4, LOG_ROWS))
        trial.run(prepare=at_log_row(row, die))

        files = [path for path in (trial.folder / "data").rglob("*") if path.is_file()]
        before = {path: path.read_bytes() for path in files}
        edited = edit(trial, rng)
        message = require_message(
            trial.run(), "its manifest, an image or the files of its base model have changed since"
        )

        edited.write_bytes(before[edited])
        facts = {"at_row": row, "edited": edited.name, "message": message}
        return {**facts, **require_recovery(reference, trial)}

    return inject


def _edit_manifest(trial: Trial, rng: Rng) -> Path:
    """Remove a random row of the manifest; return its path."""
    (manifest,) = (trial.folder / "data").glob("*/manifest.jsonl")
    lines = manifest.read_text(encoding="utf-8").splitlines(keepends=True)
    lines.pop(int(rng.integers(len(lines))))
    manifest.write_text("".join(lines), encoding="utf-8")
    return manifest


def _edit_image(trial: Trial, rng: Rng) -> Path:
    """Edit a random image, with the same size in bytes and the same times; return its path."""
    paths = sorted((trial.folder / "data").rglob("*.png"))
    path = paths[int(rng.integers(len(paths)))]
    facts = path.stat()
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).copy()

    pixels[:8] = 0  # rows of one colour take fewer bytes
    packed = io.BytesIO()
    Image.fromarray(pixels).save(packed, "PNG", optimize=True)
    data = packed.getvalue()
    assert len(data) <= facts.st_size, "the edited image is larger"

    path.write_bytes(data.ljust(facts.st_size, b"\0"))  # nothing after the end of a PNG is read
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    return path


FAULTS = (
    Fault("lost_gpu", "the GPU fails in a step", lost_gpu),
    Fault("full_gpu", "the GPU's memory is full in a step", full_gpu),
    Fault("full_gpu_with_auto", "the same with trainer.batch_size=auto", full_gpu_with_auto),
    Fault("wandb_unreachable", "W&B's server is unreachable", _wandb("unreachable")),
    Fault("wandb_hung", "W&B's server never answers", _wandb("hung")),
    Fault("wandb_errors", "W&B's server answers with errors", _wandb("errors")),
    Fault("wandb_killed", "W&B's process is killed", wandb_killed),
    Fault("clock_backwards", "killed, then the clock runs backwards", clock_backwards),
    Fault(
        "manifest_edited", "killed, then a row of the manifest is removed", _edited(_edit_manifest)
    ),
    Fault(
        "image_edited",
        "killed, then an image is edited: same size, same times",
        _edited(_edit_image),
    ),
)
