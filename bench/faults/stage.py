"""Where faults are tried: small runs in folders of their own, each in a process that can be killed.

A process is forked from this one, which has imported torch and all that a run needs: to start anew takes ten seconds.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlmbench.rundir import RunDir

STEPS = 8
CELL = "0_llama32_tiny_without_comparison_s0"
COMMAND = (
    *("model=llama32_tiny", "model.lora.dropout=0.1", "trainer=debug", f"trainer.max_steps={STEPS}"),
    *("source.num_parts=24", "eval.limit=8", "eval.probes=false", "tracking=off"),
)
NEEDED = ("trl", "peft", "datasets", "imagehash", "matplotlib.pyplot", "skimage.filters", "sklearn.metrics", "wandb")
OURS = (
    "task",
    "run",
    "report",
    "report.plots.curves",
    "train.trainer",
    "train.batch",
    "models.llama32_tiny",
    "processes",
)
PATIENCE_S = 120  # for a run that takes seconds
PAGE = 4096  # bytes: a small disk is filled to a page

Spoil = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a process ended: its exit code (negative: the signal that killed it), what it said, how long it took."""

    code: int
    text: str
    seconds: float

    @property
    def last_line(self) -> str:
        return (self.text.strip().splitlines() or [""])[-1][-300:]


@dataclass(frozen=True, slots=True)
class Process:
    """A run on its way."""

    pid: int
    output: Path
    started: float

    def send(self, number: int) -> None:
        os.kill(self.pid, number)

    def ended(self) -> Outcome:
        """Wait for it. Kills it, and raises TimeoutError, where it hangs."""
        while time.monotonic() - self.started < PATIENCE_S:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                text = self.output.read_text(encoding="utf-8", errors="replace")
                return Outcome(os.waitstatus_to_exitcode(status), text, time.monotonic() - self.started)
            time.sleep(0.01)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        raise TimeoutError(f"a run hangs; what it said: {self.output}")


def warm() -> None:
    """Import what a run imports, but start nothing: threads do not outlive a fork."""
    for name in (*NEEDED, *(f"vlmbench.{name}" for name in OURS)):
        importlib.import_module(name)


@dataclass(frozen=True, slots=True)
class Scene:
    """A folder in which a run is started, broken and started again."""

    folder: Path
    sweep: str = "runs/s"

    @property
    def cell(self) -> RunDir:
        return RunDir(self.folder / self.sweep / CELL)

    def start(
        self,
        *overrides: str,
        spoil: Spoil | None = None,
        env: Mapping[str, str] | None = None,
        output: str = "output.txt",
    ) -> Process:
        """`python -m vlmbench ...` in this folder; `spoil` changes the process before it begins."""
        said = self.folder / output
        said.unlink(missing_ok=True)
        said.touch()
        pid = os.fork()
        if pid == 0:
            self._be_vlmbench((*COMMAND, f"sweep={self.sweep}", *overrides), said, spoil, env or {})
        return Process(pid, said, time.monotonic())

    def run(self, *overrides: str, **kwargs: Any) -> Outcome:
        return self.start(*overrides, **kwargs).ended()

    def _be_vlmbench(
        self, arguments: tuple[str, ...], output: Path, spoil: Spoil | None, env: Mapping[str, str]
    ) -> None:
        code = 1
        try:
            os.setsid()
            os.chdir(self.folder)
            handle = os.open(output, os.O_WRONLY | os.O_APPEND)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
            os.environ.update(env)
            sys.argv = ["vlmbench", *arguments]
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            if spoil is not None:
                spoil()
            from vlmbench.__main__ import main

            main()
            code = 0
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:  # noqa: BLE001  as the interpreter does
            traceback.print_exc()
        finally:
            threading._shutdown()  # as an interpreter does at its end: the token store's writer finishes
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def predictions(self) -> bytes:
        """As written, but for the name of this folder; b"" where there are none."""
        path = self.cell.path / "predictions.jsonl"
        return re.sub(rb'"[^"]*/(data|\.cache)/', rb'"<here>/\1/', path.read_bytes()) if path.exists() else b""

    def trained(self) -> bytes:
        """The adapter after the last step, whichever was the best."""
        path = self.cell.checkpoints / f"checkpoint-{STEPS}" / "adapter_model.safetensors"
        return path.read_bytes() if path.exists() else b""

    def losses(self) -> list[tuple[int, float, int]]:
        """(step, loss, trained tokens) of every step."""
        rows = self.cell.read_train_log()
        return [(row["step"], row["loss"], row["num_tokens"]) for row in rows if "loss" in row]


class Stage:
    """Makes scenes; knows what an undisturbed run gives, and how long it takes."""

    def __init__(self, folder: Path) -> None:
        warm()
        self._folder, self._number = folder, 0
        self.first = Scene(folder / "undisturbed")
        self.first.folder.mkdir(parents=True)
        for _ in range(2):  # the second one finds its pictures
            shutil.rmtree(self.first.folder / "runs", ignore_errors=True)
            outcome = self.first.run()
            assert outcome.code == 0, outcome.text
        self.seconds, self.expected = outcome.seconds, self.first.predictions()
        self.trained, self.losses = self.first.trained(), self.first.losses()
        assert self.expected
        assert self.trained
        assert [step for step, _, _ in self.losses] == list(range(1, STEPS + 1))

    def scene(self, *, finished: bool = False, prepared: bool = True) -> Scene:
        """A new folder: with pictures and caches, unless not `prepared`; with the run, if `finished`."""
        self._number += 1
        scene = Scene(self._folder / str(self._number))
        scene.folder.mkdir()
        for name in ("data", ".cache") if prepared else ():
            shutil.copytree(self.first.folder / name, scene.folder / name)
        if finished:
            shutil.copytree(self.first.folder / "runs", scene.folder / "runs")
        return scene


def at_row(number: int, action: Spoil) -> Spoil:
    """Do `action` when a run writes row `number` (from 1) of its training log."""

    def spoil() -> None:
        append, rows = RunDir.append_train_log, iter(range(1, 10_000))

        def counting(self: RunDir, row: Mapping[str, Any]) -> None:
            append(self, row)
            if next(rows) == number:
                action()

        RunDir.append_train_log = counting  # type: ignore[method-assign]

    return spoil


def die() -> None:
    """As a kill does it: at once."""
    os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def small_disk(at: Path, size: int) -> Iterator[Path]:
    """A disk of `size` bytes at a folder. Raises PermissionError where this process may not mount one."""
    at.mkdir(parents=True, exist_ok=True)
    command = ["/bin/mount", "-t", "tmpfs", "-o", f"size={max(size, PAGE)}", "tmpfs", str(at)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        raise PermissionError("no small disk can be mounted here")
    try:
        yield at
    finally:
        subprocess.run(["/bin/umount", "--lazy", str(at)], check=True)


def fill(disk: Path, leave: int) -> None:
    """Leave `leave` bytes of a disk."""
    facts = os.statvfs(disk)
    with (disk / "filler").open("wb") as file:
        file.write(b"\0" * max(0, facts.f_bavail * facts.f_frsize - leave))


def when_opened(part: str, action: Spoil, *, event: str = "open") -> Spoil:
    """Do `action` once, when a run opens for writing (`event`: "os.mkdir": makes) what has `part` in its path."""

    def spoil() -> None:
        waiting = [action]

        def hook(name: str, arguments: tuple[Any, ...]) -> None:
            if name != event or not waiting or part not in str(arguments[0]):
                return
            if event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR):
                waiting.pop()()

        sys.addaudithook(hook)

    return spoil
