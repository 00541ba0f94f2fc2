"""Small runs in folders of their own, each in a process that can be killed.

A run is forked from this process, which has imported torch and all that a run needs. A new
interpreter would take ten seconds.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmbench.runs.folder import RunDir

STEPS = 8
LOG_ROWS = STEPS + STEPS // 2  # of the training log: losses and evaluations
RUN = "0_llama32_tiny_without_comparison_s0"
COMMAND = (
    *("model=llama32_tiny", "model.lora.dropout=0.1", "trainer=debug"),
    *(f"trainer.max_steps={STEPS}", "source.num_parts=24", "eval.limit=8"),
    *("eval.probes=false", "tracking=off"),
)
# Modules that are imported before the fork.
LIBRARIES = (
    *("trl", "peft", "datasets", "imagehash", "matplotlib.pyplot"),
    *("skimage.filters", "sklearn.metrics", "wandb"),
)
OWN_MODULES = (
    *("cli.main", "cli.job", "cli.stages", "pipeline.execute", "report", "report.plots.curves"),
    *("train.trainer", "train.batch_size", "models.llama32_tiny", "system.processes"),
)
PATIENCE_S = 120  # for a run that takes seconds

Action = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a process ended.

    `code` is its exit code; if negative, the signal that killed it. `text` is its output.
    """

    code: int
    text: str
    seconds: float

    @property
    def last_line(self) -> str:
        return (self.text.strip().splitlines() or [""])[-1][-300:]


@dataclass(frozen=True, slots=True)
class Process:
    """A run that was started."""

    pid: int
    output: Path
    started_at: float

    def send(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self) -> Outcome:
        """Return how the run ended. If it hangs, kill it and raise TimeoutError."""
        while time.monotonic() - self.started_at < PATIENCE_S:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                text = self.output.read_text(encoding="utf-8", errors="replace")
                seconds = time.monotonic() - self.started_at
                return Outcome(os.waitstatus_to_exitcode(status), text, seconds)
            time.sleep(0.01)

        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise TimeoutError(f"a run hangs; its output is in {self.output}")


@dataclass(frozen=True, slots=True)
class Trial:
    """A folder in which a run is started, broken and started again."""

    folder: Path
    sweep: str = "runs/s"

    @property
    def run_folder(self) -> RunDir:
        return RunDir(self.folder / self.sweep / RUN)

    def start(
        self,
        *overrides: str,
        prepare: Action | None = None,
        env: Mapping[str, str] | None = None,
        output: str = "output.txt",
        command: Sequence[str] = COMMAND,
    ) -> Process:
        """Start `python -m vlmbench` in this folder; `prepare` is called in its process first."""
        path = self.folder / output
        path.unlink(missing_ok=True)
        path.touch()

        pid = os.fork()
        if pid == 0:
            sweep = (f"sweep={self.sweep}",) if command else ()
            arguments = (*command, *sweep, *overrides)
            _run_vlmbench(arguments, self.folder, path, prepare=prepare, env=env or {})
        return Process(pid, path, time.monotonic())

    def run(self, *overrides: str, **kwargs: Any) -> Outcome:
        """Start a run, and wait until it ends."""
        return self.start(*overrides, **kwargs).wait()

    def last_output(self) -> str:
        """Return what the last run printed."""
        return (self.folder / "output.txt").read_text(encoding="utf-8")

    def last_step(self) -> int:
        """Return the last step in the training log; 0 if it is empty."""
        rows = self.run_folder.read_train_log()
        return int(rows[-1]["step"]) if rows else 0

    def predictions(self) -> bytes:
        """Return the predictions without the name of this folder; b"" if there are none."""
        path = self.run_folder.path / "predictions.jsonl"
        if not path.exists():
            return b""
        return re.sub(rb'"[^"]*/(data|\.cache)/', rb'"<here>/\1/', path.read_bytes())

    def last_adapter(self) -> bytes:
        """Return the adapter after the last step, even if it is not the best."""
        checkpoint = self.run_folder.checkpoints / f"checkpoint-{STEPS}"
        path = checkpoint / "adapter_model.safetensors"
        return path.read_bytes() if path.exists() else b""

    def losses(self) -> list[tuple[int, float, int]]:
        """Return (step, loss, trained tokens) of every step."""
        rows = self.run_folder.read_train_log()
        return [(row["step"], row["loss"], row["num_tokens"]) for row in rows if "loss" in row]


class Reference:
    """An undisturbed run: what it gives, how long it takes, and copies of its files for trials."""

    def __init__(self, folder: Path) -> None:
        import_modules()
        self._folder, self._number = folder, 0
        self.trial = Trial(folder / "undisturbed")
        self.trial.folder.mkdir(parents=True)
        # The check draws the images: the run finds them, as those of the trials do.
        for overrides in (["stage=check"], []):
            outcome = self.trial.run(*overrides)
            assert outcome.code == 0, outcome.text

        self.seconds = outcome.seconds
        self.predictions = self.trial.predictions()
        self.last_adapter = self.trial.last_adapter()
        self.losses = self.trial.losses()
        assert self.predictions
        assert self.last_adapter
        assert [step for step, _, _ in self.losses] == list(range(1, STEPS + 1))

    def new_trial(self, *, finished: bool = False, prepared: bool = True) -> Trial:
        """Return a trial in a new folder.

        The folder holds images and caches, unless not `prepared`, and the run if `finished`.
        """
        self._number += 1
        trial = Trial(self._folder / str(self._number))
        trial.folder.mkdir()

        for name in ("data", ".cache") if prepared else ():
            shutil.copytree(self.trial.folder / name, trial.folder / name)
        if finished:
            shutil.copytree(self.trial.folder / "runs", trial.folder / "runs")
        return trial


def import_modules() -> None:
    """Import what a run imports, but start nothing: threads do not survive a fork."""
    for name in (*LIBRARIES, *(f"vlmbench.{name}" for name in OWN_MODULES)):
        importlib.import_module(name)


def _run_vlmbench(
    arguments: Sequence[str],
    folder: Path,
    output: Path,
    *,
    prepare: Action | None,
    env: Mapping[str, str],
) -> None:
    """Run vlmbench in this forked process, and end the process."""
    code = 1
    try:
        os.setsid()
        os.chdir(folder)
        os.environ.update(env)
        _redirect_output(output)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        sys.argv = ["vlmbench", *arguments]
        if prepare is not None:
            prepare()

        from vlmbench.cli.main import main

        main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:  # noqa: BLE001  as the interpreter does
        traceback.print_exc()
    finally:
        # The interpreter does this at its end. It lets the token store's writer finish.
        threading._shutdown()  # type: ignore[attr-defined]
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect_output(path: Path) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = (
        os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2)
    )
