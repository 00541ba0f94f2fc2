"""The names, reads and writes of every file in a run folder.

runs/<sweep>/<number>_<model>_<data>_s<seed>/   one run
    .hydra/ config.yaml env.json status.json choices.json train_log.jsonl
    predictions.jsonl metrics.json validation.jsonl calibration.json baselines.json
    adapter/ checkpoints/
    answers/ export/                            written by stage=predict and stage=export
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

from filelock import Timeout

from vlmbench.runs import files, schemas
from vlmbench.runs.files import RUN_AGAIN
from vlmbench.system.files import find_damage, hash_file, no_room_message, write_whole
from vlmbench.system.locks import cure_of, hold
from vlmbench.system.reading import UnreadableError, open_to_append, refuse_links
from vlmbench.system.text import typed_setting
from vlmbench.types import Prediction, UserError

log = logging.getLogger(__name__)

VALIDATION_METRIC = "eval_balanced_accuracy"  # its name in the training log
RESULTS = ("predictions.jsonl", "metrics.json", "validation.jsonl", "calibration.json")


class State(StrEnum):
    """How far a run has come."""

    RUNNING = "running"
    STOPPED = "stopped"  # by a signal; the same command goes on from the checkpoint
    FAILED = "failed"
    PRUNED = "pruned"  # training was stopped, because the sweep's other runs did better
    FINISHED = "finished"
    CHECKED = "checked"  # by stage=check: nothing was trained
    DONE = "done"  # of any other stage that makes no run


def to_json(value: Any, *, indent: int | None = 2) -> str:
    """Return JSON that any parser takes. Raise ValueError for NaN and infinite numbers."""
    return json.dumps(
        value,
        indent=indent,
        ensure_ascii=False,
        allow_nan=False,
        default=str,
    )


def write_json_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a JSON-lines file, whole."""
    write_whole(path, "".join(to_json(row, indent=None) + "\n" for row in rows))


@dataclass(frozen=True, slots=True)
class RunDir:
    """The folder of one run."""

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

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this process. Raise UserError if another process runs this run.

        Raise UserError too for a link in the folder: what is written must not leave it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        refuse_links(self.path)

        try:
            with hold(self.path / ".lock", timeout=0):
                yield
        except Timeout as error:
            raise UserError(
                f"{self.path}: another process works in this folder; "
                f"wait for it, or set {typed_setting('sweep', f'{self.path.parent}_2')}"
                f"{cure_of(error)}"
            ) from error

    # Configuration and environment

    def write_config(self, text: str) -> None:
        write_whole(self.config, text)

    def read_config(self) -> dict[str, Any]:
        """Return the resolved configuration as plain values; empty if there is none.

        Raise UserError if the file is damaged. Nothing in it is resolved.
        """
        return files.read_config(self.config)

    def read_config_choices(self) -> dict[str, str]:
        """Return the choice of each config group; empty if Hydra wrote none."""
        return files.read_choices(self.path / ".hydra" / "hydra.yaml")

    def read_env(self) -> dict[str, Any]:
        return self._read_json("env.json", schemas.Env)

    def read_choices(self) -> dict[str, Any]:
        """Return what the run chose by itself, so that it goes on with the same after a break."""
        return self._read_json("choices.json", schemas.Choices)

    def write_choices(self, choices: Mapping[str, Any]) -> None:
        write_whole(self.path / "choices.json", to_json(dict(choices)))

    # Status

    def read_status(self) -> dict[str, Any]:
        """Return the status of the last attempt; empty for a folder that no run touched.

        Keys: `state`, `run_hash`, `time` (of writing, s since 1970), `error`, `seconds`, `joules`
        (None: unknown), `phases` (name -> s), what identifies the run in its sweep, and `note` for
        a pruned run. A damaged file gives a failed state without `run_hash`.
        """
        try:
            return self._read_json("status.json", schemas.Status)
        except UserError as error:
            return {"state": State.FAILED, "error": str(error), "time": 0.0}

    def write_start(self, env: Mapping[str, Any], *, run_hash: str, **identity: Any) -> None:
        """Write that an attempt is running, and in which environment."""
        self.write_status(State.RUNNING, run_hash=run_hash, **identity)
        write_whole(self.path / "env.json", to_json(dict(env)))

    def write_status(self, state: State, *, run_hash: str, **details: Any) -> None:
        """Write the status. A finished run's status has the checksums of its RESULTS."""
        status = {"state": state, "run_hash": run_hash, "time": time.time(), **details}

        existing = [name for name in RESULTS if (self.path / name).exists()]
        checksums = {name: hash_file(self.path / name) for name in existing}
        if state is State.FINISHED and checksums:
            status["xxh3_128"] = checksums

        write_whole(self.path / "status.json", to_json(status))

    def write_error(self, error: str, **details: Any) -> None:
        """Write down what stopped an attempt. A finished run stays finished, a pruned one pruned.

        If the status cannot be written either, only the log has the error.
        """
        status = self.read_status()
        is_done = status.get("state") in (State.FINISHED, State.PRUNED)
        state = status["state"] if is_done else State.FAILED
        run_hash = status.get("run_hash", "")
        status = {**details, **status, "state": state, "run_hash": run_hash, "time": time.time()}

        try:
            write_whole(self.path / "status.json", to_json({**status, "error": error}))
        except OSError as reason:
            log.warning("%s", no_room_message(str(self.path / "status.json"), reason))

    def clear_error(self) -> None:
        """Remove the last attempt's error after an attempt that nothing stopped."""
        status = self.read_status()
        if status.pop("error", None) is not None:
            write_whole(self.path / "status.json", to_json(status))

    def damage(self) -> str:
        """Return which file of a finished run has changed since it was written; "" if none has."""
        for name in self.read_status().get("xxh3_128", {}):
            if name not in RESULTS or not (self.path / name).is_file():
                return f"{self.path / name} is missing"

        readers = (self.read_env, self.read_metrics, self.read_calibration, self.read_baselines)
        try:
            for read in (*readers, self.read_predictions, self.read_validation):
                read()
        except UserError as error:
            return str(error)

        why = find_damage(self.adapter)
        return f"{self.adapter} cannot be trusted: {why}" if why else ""

    # Training log

    def read_train_log(self) -> list[dict[str, Any]]:
        """Return the rows of the training log: each has `step`, and `loss` or `eval_*` figures.

        Lines that a crash cut short or a disk damaged are left out: nothing is trained from them.
        """
        return files.read_log(self.train_log)

    def append_train_log(self, row: Mapping[str, Any]) -> None:
        with open_to_append(self.train_log) as file:
            file.write(to_json(dict(row), indent=None).encode() + b"\n")

    def cut_train_log(self, after_step: int) -> None:
        """Remove rows after a checkpoint's step, so that a resumed run logs each step once."""
        rows = [row for row in self.read_train_log() if row["step"] <= after_step]
        write_json_lines(self.train_log, rows)

    def validation_curve(self) -> dict[int, float]:
        """Return step -> balanced accuracy on the validation records that training followed.

        The adapter of the highest value is kept, so that value is too good a figure of it.
        """
        return {
            row["step"]: row[VALIDATION_METRIC]
            for row in self.read_train_log()
            if isinstance(row["step"], int) and isinstance(row.get(VALIDATION_METRIC), int | float)
        }

    def validation_value(self) -> float | None:
        """Return the best value of `validation_curve`, whose adapter is kept; None if it is empty.

        A pruned run gives its last value, so that early luck does not count. This is what Optuna
        maximises. As a figure of the adapter it is too good.
        """
        values = list(self.validation_curve().values())
        if self.read_status().get("state") == State.PRUNED:
            return values[-1]
        return max(values, default=None)

    # Results

    def read_metrics(self) -> dict[str, Any]:
        """Return `scores[task][view][name]` (value, low, high, n, n_parts), `data` and `notes`.

        With a sealed test split, `validation_scores` has the figures, and `test` is "sealed".
        """
        self._refuse_damaged("metrics.json")
        return self._read_json("metrics.json", schemas.Metrics)

    def write_metrics(self, metrics: Mapping[str, Any]) -> None:
        write_whole(self.path / "metrics.json", to_json(dict(metrics)))

    @property
    def is_sealed(self) -> bool:
        """Whether the run was evaluated on validation records only."""
        return self.read_metrics().get("test") == "sealed"

    def read_predictions(self) -> list[Prediction]:
        """Return the predictions. Raise UserError if a line is not as a run writes it."""
        return self._read_predictions("predictions.jsonl")

    def write_predictions(self, predictions: Iterable[Prediction]) -> None:
        write_json_lines(self.path / "predictions.jsonl", map(asdict, predictions))

    def read_validation(self) -> list[Prediction]:
        """Return the predictions on validation records, from which calibrations are made."""
        return self._read_predictions("validation.jsonl")

    def write_validation(self, predictions: Iterable[Prediction]) -> None:
        write_json_lines(self.path / "validation.jsonl", map(asdict, predictions))

    def read_calibration(self) -> dict[str, dict[str, dict[str, Any]]]:
        """Return `[task][view]`: the numbers of a calibration, or `error` if there is none."""
        self._refuse_damaged("calibration.json")
        return self._read_json("calibration.json", schemas.Calibrations)

    def write_calibration(self, numbers: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> None:
        write_whole(self.path / "calibration.json", to_json(numbers))

    def read_baselines(self) -> dict[str, Any]:
        """Return name -> {`key`: of its answers in the sweep} or {`error`: why it has none}."""
        return self._read_json("baselines.json", schemas.Baselines)

    def write_baselines(self, rows: Mapping[str, Mapping[str, str]]) -> None:
        write_whole(self.path / "baselines.json", to_json(rows))

    def _read_predictions(self, name: str) -> list[Prediction]:
        self._refuse_damaged(name)
        return files.read_predictions(self.path / name)

    def _refuse_damaged(self, name: str) -> None:
        path = self.path / name
        expected = self.read_status().get("xxh3_128", {}).get(name)
        if expected is None or not path.is_file():
            return

        try:
            is_same = hash_file(path, limit=files.MAX_LINES_BYTES) == expected
        except UnreadableError as error:
            raise files.damaged_file(path, error) from error
        if not is_same:
            raise UserError(f"{path}: the file is damaged (its checksum changed); {RUN_AGAIN}")

    def _read_json(self, name: str, schema: Any) -> dict[str, Any]:
        return files.read_json(self.path / name, schema)
