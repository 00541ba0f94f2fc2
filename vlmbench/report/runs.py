"""The files of each run as a report reads them, and the names that tell runs apart."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vlmbench.runs.folder import RunDir, State
from vlmbench.runs.identity import fold_of
from vlmbench.runs.sweep import SweepDir
from vlmbench.types import Prediction, Probe, Task, UserError

# These overrides are shown as properties of the run, so they are no part of its setting.
NAMED_OVERRIDES = ("model", "data", "seed", "data.fold")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """A run as read once from its folder.

    `setting` holds the overrides, besides model, data, seed and fold, that not all runs share.
    `folds` are the runs whose answers this one joins: see `pool_folds`.
    """

    name: str
    model: str
    data: str
    seed: int | None
    setting: str
    config: Mapping[str, Any]
    status: Mapping[str, Any]
    env: Mapping[str, Any]
    metrics: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    predictions: Sequence[Prediction]
    calibration: Mapping[str, Any] = field(default_factory=dict)
    validation: Sequence[Prediction] = ()
    folds: tuple[RunResult, ...] = ()

    @property
    def state(self) -> str:
        return str(self.status.get("state", "unknown"))

    @property
    def error(self) -> str:
        return str(self.status.get("error") or "")

    @property
    def note(self) -> str:
        """Return why the run stopped: its error, or where it was pruned."""
        return self.error or str(self.status.get("note") or "")

    @property
    def finished(self) -> bool:
        return self.state == State.FINISHED

    @property
    def series(self) -> str:
        """Return the name that all seeds of this run share."""
        return (
            join_names(
                self.model,
                self.data,
                self.setting,
            )
            or self.name
        )

    @property
    def label(self) -> str:
        """Return the name of the series, the seed and the fold."""
        return join_names(self.series, self._seed_words)

    @property
    def title(self) -> str:
        """Return the first line of a two-line label: the data variant."""
        return self.data or self.name

    @property
    def subtitle(self) -> str:
        """Return the second line of a two-line label: model, seed and setting."""
        return join_names(self.model, self._seed_words, self.setting)

    @property
    def _seed_words(self) -> str:
        seed = "" if self.seed is None else f"seed {self.seed}"
        fold = fold_of(self.config)
        if self.folds:
            return join_names(seed, f"{len(self.folds)} folds")
        return join_names(seed, "" if fold is None else f"fold {fold.index}")

    @property
    def scores(self) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
        """Return `[task][view][metric]`.

        It is empty for an unfinished run, whose figures would mislead.
        """
        return self.metrics.get("scores", {}) if self.finished else {}

    @property
    def command(self) -> str:
        """Return the command that repeats this run alone.

        An experiment that carries a sweep would start the whole sweep; hydra.mode=RUN prevents it.
        """
        overrides = [str(override) for override in self.status.get("overrides", ())]

        if any(override.startswith("experiment=") for override in overrides):
            overrides.append("hydra.mode=RUN")

        return shlex.join(["python", "-m", "vlmbench", *overrides])

    def answers(
        self,
        task: Task,
        view: str,
    ) -> list[Prediction]:
        """Return the predictions on ordinary held-out records; none for an unfinished run."""
        if not self.finished:
            return []

        return [
            prediction
            for prediction in self.predictions
            if prediction.task == task
            and prediction.view == view
            and prediction.probe == Probe.NONE
        ]


def read_runs(sweep: SweepDir) -> list[RunResult]:
    """Return every run of the sweep in any state. Raise UserError if there is none."""
    return read_folders(sweep.runs())


def read_folders(folders: Sequence[RunDir], *, strict: bool = False) -> list[RunResult]:
    """Return the runs of these folders, in any state and in this order.

    A run with a damaged file counts as failed. With `strict`, its UserError is raised.
    """
    overrides = [_other_overrides(folder) for folder in folders]
    common = frozenset.intersection(*(frozenset(own) for own in overrides))

    runs = []
    for folder, own in zip(folders, overrides, strict=True):
        runs.append(_read_run(folder, own, common, strict=strict))
    return runs


def _other_overrides(folder: RunDir) -> list[str]:
    """Return the overrides of a run besides NAMED_OVERRIDES."""
    overrides = [str(override) for override in folder.read_status().get("overrides", ())]
    return [
        override
        for override in overrides
        if override.lstrip("+").partition("=")[0] not in NAMED_OVERRIDES
    ]


def _read_run(
    folder: RunDir,
    overrides: Sequence[str],
    common: frozenset[str],
    *,
    strict: bool,
) -> RunResult:
    """Return the run in `folder`; the overrides in `common` are left out of its setting.

    A run with a damaged file counts as failed, and its error names the file.
    """
    status = folder.read_status()
    try:
        files = _read_files(folder)
    except UserError as error:
        if strict:
            raise
        known = str(status.get("error") or "") if status.get("state") == State.FAILED else ""
        status = {**status, "state": State.FAILED, "error": known or str(error)}
        files = {"config": {}, "env": {}, "metrics": {}, "log": (), "predictions": ()}

    return RunResult(
        name=folder.path.name,
        model=str(status.get("model", "")),
        data=str(status.get("data", "")),
        seed=status.get("seed"),
        setting=" ".join(override for override in overrides if override not in common),
        status=status,
        **files,
    )


def _read_files(folder: RunDir) -> dict[str, Any]:
    return {
        "config": folder.read_config(),
        "env": folder.read_env(),
        "metrics": folder.read_metrics(),
        "log": folder.read_train_log(),
        "predictions": folder.read_predictions(),
        "calibration": folder.read_calibration(),
        "validation": folder.read_validation(),
    }


def join_names(*names: str) -> str:
    """Return the names with a dot between them, without empty ones."""
    return " · ".join(name for name in names if name)
