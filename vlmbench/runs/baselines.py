"""The answers of baselines in a sweep's folder. Runs with the same data and model share them.

runs/<sweep>/baselines/<key>/    one baseline
    facts.json predictions.jsonl validation.jsonl heat.jsonl marked.jsonl checksums.json
"""

from __future__ import annotations

import base64
import binascii
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from vlmbench.runs.files import read_rows
from vlmbench.runs.folder import RunDir, to_json, write_json_lines
from vlmbench.system.files import find_damage, make_folder, seal, write_whole
from vlmbench.system.reading import read_regular, refuse_link
from vlmbench.types import Prediction, Task, UserError

FOLDER = "baselines"
KEY = re.compile(r"[0-9a-f]{32}")
MAX_FACTS = 5_000_000  # bytes of facts.json
MAX_HEAT = 256  # rows or columns; a baseline writes at most 48
ASK_AGAIN = "remove the folder and repeat the run's command with stage=evaluate"

HeatKey = tuple[str, Task, str]  # id, task and view of a record


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineFacts:
    """The name and the cost of a baseline, and notes on its answers.

    `seconds` are those of its `features`, its `fit` and its `answers`. `notes` and `errors` map a
    task and view, such as "judge_pair raw", to a sentence: what the fit chose, or why there are no
    answers. `hottest` maps it to the largest value of all heat maps, which they show as 255.
    """

    name: str
    title: str
    seconds: dict[str, float]
    notes: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    hottest: dict[str, float] = field(default_factory=dict)


class _HeatRow(msgspec.Struct, forbid_unknown_fields=True):
    """A heat map: `values` are rows * columns bytes in base64; 255 is the hottest of its kind."""

    id: str
    task: Task
    view: str
    rows: int
    columns: int
    values: str


_FACTS = msgspec.json.Decoder(BaselineFacts)
_HEAT = msgspec.json.Decoder(_HeatRow)


@dataclass(frozen=True, slots=True)
class BaselineDir:
    """The folder of one baseline. It is complete, or it is made again."""

    path: Path

    @property
    def key(self) -> str:
        return self.path.name

    def damage(self) -> str:
        """Return why the folder cannot be trusted; "" if it can."""
        return find_damage(self.path, of=self.key)

    def write(
        self,
        facts: BaselineFacts,
        *,
        validation: Sequence[Prediction],
        predictions: Sequence[Prediction],
        heat: Mapping[HeatKey, NDArray[np.uint8]],
        marked: Mapping[HeatKey, NDArray[np.bool_]] | None = None,
    ) -> None:
        """Write all files beside the folder, then give them its name.

        `marked` are the masks of the known defects; without any, there is no marked.jsonl. The
        answers of another run that was faster stay.
        """
        refuse_link(self.path.parent)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = make_folder(self.path.parent, prefix=f".{self.key}.")

        try:
            write_whole(unfinished / "facts.json", to_json(asdict(facts)) + "\n")
            files = RunDir(unfinished)
            files.write_validation(validation)
            files.write_predictions(predictions)
            write_json_lines(unfinished / "heat.jsonl", _heat_rows(heat))
            if marked:
                masks = {key: np.uint8(255) * mask for key, mask in marked.items()}
                write_json_lines(unfinished / "marked.jsonl", _heat_rows(masks))
            seal(unfinished, of=self.key)

            if not self.damage():
                shutil.rmtree(unfinished)
                return
            shutil.rmtree(self.path, ignore_errors=True)
            unfinished.rename(self.path)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise

    def read_facts(self) -> BaselineFacts:
        path = self.path / "facts.json"
        try:
            return _FACTS.decode(read_regular(path, limit=MAX_FACTS))
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}: the file is damaged ({error}); {ASK_AGAIN}") from error

    def read_validation(self) -> list[Prediction]:
        return RunDir(self.path).read_validation()

    def read_predictions(self) -> list[Prediction]:
        return RunDir(self.path).read_predictions()

    def read_heat(self) -> dict[HeatKey, NDArray[np.uint8]]:
        """Return the heat map (rows, columns) of each held-out record that has one."""
        return self._read_maps("heat.jsonl")

    def read_marked(self) -> dict[HeatKey, NDArray[np.bool_]]:
        """Return the mask (rows, columns) of each held-out record whose defect is marked."""
        if not (self.path / "marked.jsonl").exists():
            return {}
        return {key: mask > 0 for key, mask in self._read_maps("marked.jsonl").items()}

    def _read_maps(self, name: str) -> dict[HeatKey, NDArray[np.uint8]]:
        path = self.path / name
        heat: dict[HeatKey, NDArray[np.uint8]] = {}
        for number, line in enumerate(read_rows(path), start=1):
            try:
                row = _HEAT.decode(line)
                heat[row.id, row.task, row.view] = _to_map(row)
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{path}:{number}: the line is damaged ({error}); {ASK_AGAIN}"
                ) from error
        return heat


def baseline_dir(sweep: Path, key: Any) -> BaselineDir:
    """Return the folder of a baseline. Raise UserError for a key that is none."""
    if not isinstance(key, str) or KEY.fullmatch(key) is None:
        raise UserError(f"{sweep}: {str(key)[:40]!r} is no key of a baseline; {ASK_AGAIN}")
    return BaselineDir(sweep / FOLDER / key)


def to_bytes(heat: NDArray[np.float32], hottest: float) -> NDArray[np.uint8]:
    """Return a heat map in bytes: 0 for nothing, 255 for `hottest` and more."""
    share = heat / hottest if hottest > 0 else np.zeros_like(heat)
    return np.rint(255 * np.clip(share, 0.0, 1.0)).astype(np.uint8)


def _heat_rows(heat: Mapping[HeatKey, NDArray[np.uint8]]) -> Iterator[dict[str, Any]]:
    for (record_id, task, view), values in heat.items():
        rows, columns = values.shape
        encoded = base64.b64encode(np.ascontiguousarray(values).tobytes()).decode("ascii")
        row = _HeatRow(
            id=record_id, task=task, view=view, rows=rows, columns=columns, values=encoded
        )
        yield msgspec.structs.asdict(row)


def _to_map(row: _HeatRow) -> NDArray[np.uint8]:
    if not (0 < row.rows <= MAX_HEAT and 0 < row.columns <= MAX_HEAT):
        raise ValueError(f"a map of {row.rows} x {row.columns}")
    try:
        raw = base64.b64decode(row.values, validate=True)
    except binascii.Error as error:
        raise ValueError("the values are no base64") from error
    return np.frombuffer(raw, dtype=np.uint8).reshape(row.rows, row.columns)
