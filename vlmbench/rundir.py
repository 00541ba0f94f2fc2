"""The names, reads and writes of every file in a run folder, and nothing else.

runs/<sweep>/<num>_<model>_<data>_s<seed>/    one cell
    .hydra/ config.yaml env.json status.json choices.json train_log.jsonl predictions.jsonl metrics.json
    validation.jsonl calibration.json adapter/ checkpoints/
    answers/ export/                          what stage=predict and stage=export made of it
runs/<sweep>/report/                          index.html report.md verdicts.json
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec
import yaml
from filelock import FileLock, Timeout

from vlmbench.files import damage, digest, no_room, write_whole
from vlmbench.types import Prediction, UserError

log = logging.getLogger(__name__)

WATCHED = "eval_balanced_accuracy"  # in the training log
RESULTS = ("predictions.jsonl", "metrics.json", "validation.jsonl", "calibration.json")  # of a finished cell
_PREDICTION = msgspec.json.Decoder(Prediction)
AGAIN = "start the cell's command again, which makes it anew"


class State(StrEnum):
    """How far a cell has come."""

    RUNNING = "running"
    STOPPED = "stopped"  # asked to; it goes on from its checkpoint
    FAILED = "failed"
    PRUNED = "pruned"  # training was stopped, because the sweep's other cells did better
    FINISHED = "finished"
    CHECKED = "checked"  # by stage=check: nothing was trained
    DONE = "done"  # of any other stage that makes no cell


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """JSON that any parser takes: non-finite floats are refused rather than written as NaN."""
    return json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False, default=str)


def _row(line: bytes) -> dict[str, Any] | None:
    """The object of a line; None where the line is cut short or damaged."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """A JSON-lines file, whole."""
    write_whole(path, "".join(to_json(row, indent=None) + "\n" for row in rows))


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

    def read_config(self) -> dict[str, Any]:
        """The resolved config as plain values, nothing in it interpolated; empty where there is none."""
        if not self.config.exists():
            return {}
        try:
            config = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise UserError(f"{self.config}: no YAML ({error}); run the cell again, or remove the file") from error
        return config if isinstance(config, dict) else {}

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
        """`state`, `hash`, `time` (of writing, s since 1970), `error`, `seconds` and `joules` (None: not known) of the
        last attempt, what tells the cell apart, and of a pruned one `note`; empty for a folder that no run touched,
        without `hash` where the file is damaged."""
        try:
            status = self._read_json("status.json")
        except UserError as error:
            return {"state": State.FAILED, "error": str(error), "time": 0.0}
        if status and not (status.get("state") in list(State) and isinstance(status.get("time"), int | float)):
            return {"state": State.FAILED, "error": f"{self.path / 'status.json'} is no run's status", "time": 0.0}
        return status

    def write_status(self, state: State, *, content_hash: str, **details: Any) -> None:
        """A finished cell's status has the checksums of its RESULTS."""
        status = {"state": state, "hash": content_hash, "time": time.time(), **details}
        sums = {name: digest(path) for name in RESULTS if (path := self.path / name).exists()}
        if state is State.FINISHED and sums:
            status["xxh3_128"] = sums
        write_whole(self.path / "status.json", to_json(status))

    def damage(self) -> str:
        """What of a finished cell is not as it was left; "" where everything is."""
        sums = self.read_status().get("xxh3_128", {})
        for name, expected in sums.items():
            if not (self.path / name).is_file() or digest(self.path / name) != expected:
                return f"{self.path / name} is missing or damaged"
        why = damage(self.adapter)
        return f"{self.adapter} cannot be trusted: {why}" if why else ""

    def note_error(self, error: str, **details: Any) -> None:
        """What stopped an attempt. What was reached before stands: a finished cell stays finished.

        Where even that cannot be written, the log alone has it.
        """
        before = self.read_status()
        state = before["state"] if before.get("state") in (State.FINISHED, State.PRUNED) else State.FAILED
        status = {**details, **before, "state": state, "hash": before.get("hash", ""), "time": time.time()}
        try:
            write_whole(self.path / "status.json", to_json({**status, "error": error}))
        except OSError as reason:
            log.warning("%s", no_room(str(self.path / "status.json"), reason))

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
        self._refuse_damaged("metrics.json")
        return self._read_json("metrics.json")

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        write_whole(self.path / "metrics.json", to_json(dict(metrics)))

    def read_train_log(self) -> list[dict[str, Any]]:
        """Rows of the training log: each has `step`, and `loss` or `eval_*` figures. What a crash cut short, or a disk
        damaged, is left out: nothing is trained from it."""
        if not self.train_log.exists():
            return []
        rows = map(_row, self.train_log.read_bytes().splitlines(keepends=True))
        return [row for row in rows if row is not None and "step" in row]

    def watched(self) -> dict[int, float]:
        """Step -> balanced accuracy on the validation records that training followed."""
        return {row["step"]: row[WATCHED] for row in self.read_train_log() if row.get(WATCHED) is not None}

    def watched_value(self) -> float | None:
        """The best of `watched`, whose adapter is kept; of a pruned cell the last, so that no early luck counts."""
        values = list(self.watched().values())
        if self.read_status().get("state") == State.PRUNED:
            return values[-1]
        return max(values, default=None)

    def append_train_log(self, row: Mapping[str, Any]) -> None:
        with self.train_log.open("a", encoding="utf-8") as file:
            file.write(to_json(dict(row), indent=None) + "\n")

    def cut_train_log(self, after_step: int) -> None:
        """Forget what was logged after a checkpoint's step, so that a resumed run logs each step once."""
        rows = [row for row in self.read_train_log() if row["step"] <= after_step]
        write_lines(self.train_log, rows)

    def read_predictions(self) -> list[Prediction]:
        """Raises UserError where the file, which is written whole, is not as a run writes it."""
        return self._read_predictions("predictions.jsonl")

    def _read_predictions(self, name: str) -> list[Prediction]:
        path, predictions = self.path / name, []
        self._refuse_damaged(path.name)
        for number, line in enumerate(path.read_bytes().splitlines() if path.exists() else (), start=1):
            try:
                predictions.append(_PREDICTION.decode(line))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise UserError(f"{path}:{number}: the line is damaged ({error}); {AGAIN}") from error
        return predictions

    def write_predictions(self, predictions: Iterable[Prediction]) -> None:
        write_lines(self.path / "predictions.jsonl", map(asdict, predictions))

    def read_validation(self) -> list[Prediction]:
        """Answers to validation records, which calibrations and thresholds rest on; none for a run without any."""
        return self._read_predictions("validation.jsonl")

    def write_validation(self, predictions: Iterable[Prediction]) -> None:
        write_lines(self.path / "validation.jsonl", map(asdict, predictions))

    def read_calibration(self) -> dict[str, dict[str, dict[str, Any]]]:
        """`[task][view]`: a calibration's numbers, or `error` where there is none."""
        return self._read_json("calibration.json")

    def write_calibration(self, found: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        write_whole(self.path / "calibration.json", to_json(found))

    def _refuse_damaged(self, name: str) -> None:
        path, expected = self.path / name, self.read_status().get("xxh3_128", {}).get(name)
        if expected is not None and path.exists() and digest(path) != expected:
            raise UserError(f"{path}: the file is damaged (its checksum is another); {AGAIN}")

    def _read_json(self, name: str) -> dict[str, Any]:
        path = self.path / name
        if not path.exists():
            return {}
        try:
            value = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise UserError(f"{path}: the file is damaged; {AGAIN}")
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
