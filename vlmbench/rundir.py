"""The names, reads and writes of every file in a run folder, and nothing else.

runs/<sweep>/<num>_<model>_<data>_s<seed>/    one cell
    .hydra/ config.yaml env.json status.json choices.json train_log.jsonl predictions.jsonl metrics.json
    validation.jsonl calibration.json adapter/ checkpoints/
    answers/ export/                          what stage=predict and stage=export made of it
runs/<sweep>/report/                          index.html report.md verdicts.json
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vlmbench.types import Prediction, Probe, Task, UserError

WATCHED = "eval_balanced_accuracy"  # in the training log


class State(StrEnum):
    """How far a cell has come."""

    RUNNING = "running"
    FAILED = "failed"
    FINISHED = "finished"


def write_whole(path: Path, text: str) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """JSON that any parser takes: non-finite floats are refused rather than written as NaN."""
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False, default=str)


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A JSON-lines file, whole."""
    write_whole(path, "".join(to_json(row, indent=None) + "\n" for row in rows))


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSON-lines file; a last line cut short by a crash is left out."""
    if not path.exists():
        return
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.endswith("\n"):
                yield json.loads(line)


@dataclass(frozen=True, slots=True)
class RunDir:
    """One cell's folder."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "config.yaml"

    @property
    def adapter(self) -> Path:
        return self.path / "adapter"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def train_log(self) -> Path:
        return self.path / "train_log.jsonl"

    def write_config(self, text: str) -> None:
        write_whole(self.config, text)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this process. Raises UserError where another process runs this cell."""
        self.path.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.path / ".lock", timeout=0):
                yield
        except Timeout as error:
            message = f"{self.path}: another process runs this cell; wait for it, or choose another name="
            raise UserError(message) from error

    def read_status(self) -> dict[str, Any]:
        """`state`, `hash`, `time` (of writing, s since 1970), `error`, `seconds`, and what tells the cell apart; empty
        for a folder that no run has touched."""
        return self._read_json("status.json")

    def write_status(self, state: State, *, content_hash: str, **details: Any) -> None:
        status = {"state": state, "hash": content_hash, "time": time.time(), **details}
        write_whole(self.path / "status.json", to_json(status))

    def note_error(self, error: str, **details: Any) -> None:
        """What stopped an attempt. What was reached before stands: a finished cell stays finished."""
        before = self.read_status()
        state = State.FINISHED if before.get("state") == State.FINISHED else State.FAILED
        status = {**details, **before, "state": state, "hash": before.get("hash", ""), "time": time.time()}
        write_whole(self.path / "status.json", to_json({**status, "error": error}))

    def forget_error(self) -> None:
        """After an attempt that nothing stopped."""
        status = self.read_status()
        if status.pop("error", None) is not None:
            write_whole(self.path / "status.json", to_json(status))

    def read_env(self) -> dict[str, Any]:
        return self._read_json("env.json")

    def write_env(self, env: Mapping[str, Any]) -> None:
        write_whole(self.path / "env.json", to_json(dict(env)))

    def read_choices(self) -> dict[str, Any]:
        """What the run chose by itself, so that it goes on with the same after a break."""
        return self._read_json("choices.json")

    def write_choices(self, choices: Mapping[str, Any]) -> None:
        write_whole(self.path / "choices.json", to_json(dict(choices)))

    def read_metrics(self) -> dict[str, Any]:
        """`scores[task][view][name] = {value, low, high, n, n_groups}`, beside `data` and `notes`."""
        return self._read_json("metrics.json")

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        write_whole(self.path / "metrics.json", to_json(dict(metrics)))

    def read_train_log(self) -> list[dict[str, Any]]:
        """Rows of the training log: each has `step`, and `loss` or `eval_*` figures."""
        return list(read_lines(self.train_log))

    def best_watched(self) -> float | None:
        """The best balanced accuracy on the validation records that training followed."""
        return max((row[WATCHED] for row in self.read_train_log() if row.get(WATCHED) is not None), default=None)

    def append_train_log(self, row: Mapping[str, Any]) -> None:
        with self.train_log.open("a", encoding="utf-8") as file:
            file.write(to_json(dict(row), indent=None) + "\n")

    def cut_train_log(self, after_step: int) -> None:
        """Forget what was logged after a checkpoint's step, so that a resumed run logs each step once."""
        rows = [row for row in self.read_train_log() if row["step"] <= after_step]
        write_lines(self.train_log, rows)

    def read_predictions(self) -> list[Prediction]:
        return [_prediction(row) for row in read_lines(self.path / "predictions.jsonl")]

    def write_predictions(self, predictions: Iterable[Prediction]) -> None:
        write_lines(self.path / "predictions.jsonl", map(asdict, predictions))

    def read_validation(self) -> list[Prediction]:
        """Answers to validation records, which calibrations and thresholds rest on; none for a run without any."""
        return [_prediction(row) for row in read_lines(self.path / "validation.jsonl")]

    def write_validation(self, predictions: Iterable[Prediction]) -> None:
        write_lines(self.path / "validation.jsonl", map(asdict, predictions))

    def read_calibration(self) -> dict[str, dict[str, dict[str, Any]]]:
        """`[task][view]`: a calibration's numbers, or `error` where there is none."""
        return self._read_json("calibration.json")

    def write_calibration(self, found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        write_whole(self.path / "calibration.json", to_json(found))

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        if not path.exists():
            return {}
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return value


class FollowerDir(RunDir):
    """A cell's folder in a process that follows another one, which alone writes."""

    @contextmanager
    def lock(self) -> Iterator[None]:
        yield

    def write_config(self, text: str) -> None: ...

    def write_status(self, state: State, *, content_hash: str, **details: Any) -> None: ...

    def note_error(self, error: str, **details: Any) -> None: ...

    def forget_error(self) -> None: ...

    def write_env(self, env: Mapping[str, Any]) -> None: ...

    def write_choices(self, choices: Mapping[str, Any]) -> None: ...

    def append_train_log(self, row: Mapping[str, Any]) -> None: ...

    def cut_train_log(self, after_step: int) -> None: ...


@dataclass(frozen=True, slots=True)
class SweepDir:
    """A folder of cells that one report is about."""

    path: Path

    @property
    def report(self) -> Path:
        return self.path / "report"

    def cells(self) -> list[RunDir]:
        """Every cell that a run has touched, in the order of its number.

        Raises UserError where there is none.
        """
        found = [RunDir(path.parent) for path in self.path.glob("*/status.json")]
        if not found:
            raise UserError(f"{self.path}: no run in this folder; name one with sweep=runs/<date>_<experiment>")
        return sorted(found, key=lambda cell: (_position(cell.path), cell.path.name))


def cell_number(folder: Path) -> int | None:
    """The number that a cell's folder begins with."""
    head = folder.name.partition("_")[0]
    return int(head) if head.isdigit() else None


def _position(folder: Path) -> float:
    number = cell_number(folder)
    return float("inf") if number is None else number


def _prediction(row: Mapping[str, Any]) -> Prediction:
    values = dict(row, task=Task(row["task"]), probe=Probe(row["probe"]))
    return Prediction(**dict(values, of=tuple(row["of"]), images=tuple(row["images"])))
