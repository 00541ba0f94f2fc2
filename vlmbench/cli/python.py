"""vlmbench from Python: the same settings as on the command line, and no process exit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig

from vlmbench.cli.arguments import read_settings
from vlmbench.cli.mistakes import Refused, explain_config_errors
from vlmbench.config import CONF, register_plugins
from vlmbench.runs.folder import RunDir
from vlmbench.runs.sweep import SweepDir
from vlmbench.system import processes
from vlmbench.system.files import explain_disk_errors
from vlmbench.system.secrets import refuse_secrets
from vlmbench.system.text import in_quotes
from vlmbench.types import Judgement, Record, UserError

if TYPE_CHECKING:
    from vlmbench.deploy.loaded import LoadedRun
    from vlmbench.report.verdicts import Finding

Overrides = Sequence[str]
RunPath = RunDir | Path | str


class Judge:
    """A finished run, loaded once and ready to judge images."""

    def __init__(self, loaded: LoadedRun) -> None:
        self._loaded = loaded

    def predict(
        self, images: Sequence[Path | str], *, view: str = "raw", sentence: bool = False
    ) -> Judgement:
        """Judge a reference and a query, or one image if the run trained on single images.

        The result has `decision`, `score` (probability of the positive label), `threshold` and,
        with `sentence`, the model's own `sentence`. Raise UserError for an image that cannot be
        read, and for a number of images that the run did not train on.
        """
        if len(images) not in (1, 2):
            raise UserError(
                f"images must be a reference and a query, or one image, got {len(images)}; "
                "write predict([reference, query])"
            )
        (judgement,) = self._loaded.judge([self._record(images, view)], sentence=sentence)
        return judgement

    def predict_part(
        self,
        photos: Sequence[Path | str],
        references: Sequence[Path | str] = (),
        *,
        view: str = "raw",
        sentence: bool = False,
    ) -> Judgement:
        """Judge all photos of a part, each beside every reference; return one answer.

        The answers are joined by `predict.join`, an override of `load`. The result also has
        `singles`, the answer to each record, and `decided_by`, the id of the deciding one. Raise
        UserError as `predict` does, and without `predict.join`.
        """
        from vlmbench.deploy.join import load_joiner

        config = self._loaded.run.config
        if config.predict.join is None:
            raise UserError('predict.join is not set; write load(run, ["predict.join=max"])')
        if not photos:
            raise UserError("photos is empty; write predict_part([photo], [reference])")

        images: list[list[Path | str]] = [[photo] for photo in photos]
        if references:
            images = [[reference, photo] for photo in photos for reference in references]
        records = [replace(self._record(each, view), group="part") for each in images]
        joiner = load_joiner(self._loaded.folder, config, records, config.predict.join)
        (judgement,) = joiner.join(records, self._loaded.judge(records, sentence=sentence))
        return judgement

    def _record(self, images: Sequence[Path | str], view: str) -> Record:
        """Return the record of these images. Raise UserError unless the run trained on such."""
        from vlmbench.deploy.loaded import trained_tasks
        from vlmbench.deploy.requests import image_record

        paths = [Path(image) for image in images]
        record = image_record("+".join(path.name for path in paths), paths, view)

        trained = trained_tasks(self._loaded.folder)
        if record.task not in trained:
            count = "two images: [reference, query]" if len(paths) == 1 else "one image: [query]"
            raise UserError(
                f"{self._loaded.folder.path}: the run trained on {', '.join(trained)}, "
                f"not on {record.task}; give {count}"
            )
        return record


def run(overrides: Overrides = ()) -> RunDir:
    """Do one run, and return its folder.

    `overrides` are settings as on the command line: `run(["model=smol", "trainer.epochs=1"])`.
    A run that is finished already is returned at once. Raise UserError for everything that the user
    can mend.
    """
    from vlmbench.cli.job import job_folder, run_job

    def task(raw: DictConfig) -> RunDir:
        run_job(raw)
        return job_folder()

    settings = _settings(overrides, is_sweep=False)
    with _hydra() as hydra:
        if hydra.get_mode("config", settings) is RunMode.MULTIRUN:
            raise UserError(
                "these settings describe a sweep; write vlmbench.sweep(...), "
                "or add hydra.mode=RUN for its first run"
            )
        return cast("RunDir", _start(hydra.run, task, settings))


def sweep(overrides: Overrides) -> SweepDir:
    """Do a sweep, and return its folder.

    `sweep(["data=without_comparison,with_comparison", "seed=0,1,2"])` does six runs and writes the
    report. A run that fails does not stop the others: look at `read_status()` of each. Raise
    UserError if a setting is not valid.
    """
    from vlmbench.cli.job import job_folder, run_job

    def task(raw: DictConfig) -> Path:
        run_job(raw)
        return job_folder().path.parent

    settings = _settings(overrides, is_sweep=True)
    with _hydra() as hydra:
        return SweepDir(_start(hydra.multirun, task, settings))


def compare(runs: Sequence[RunPath]) -> list[Finding]:
    """Return the verdicts on finished runs, as the report gives them.

    Each variant is compared with `without_comparison`, and with `matched_control`, for the same
    model and settings, over all finished seeds. Runs of one data variant are compared by their
    settings. The level is that of a first look without a plan to share it with: 5 %.
    `finding.sentence` is the verdict in words; `finding.comparison` has the difference, its
    interval and its p-value. Raise UserError for a damaged file. For arrays
    instead of runs, see `vlmbench.stats.compare`.
    """
    from vlmbench.report.runs import read_folders
    from vlmbench.report.verdicts import findings

    answers, _ = findings(read_folders([_folder(run) for run in runs], strict=True))
    return answers


def load(run: RunPath, overrides: Overrides = ()) -> Judge:
    """Load a finished run, ready to judge images.

    `overrides` change settings of its use, such as `predict.cost_miss=20` or `model.path=...`.
    Raise UserError if the folder holds no finished run.
    """
    from vlmbench.cli.job import job_folder, make_run

    def task(raw: DictConfig) -> Judge:
        from vlmbench.deploy.loaded import finished_folder, load_run, trained_tasks

        this_run = make_run(raw, job_folder())
        settings = this_run.config.predict
        kinds = [(task, settings.view) for task in trained_tasks(finished_folder(this_run))]
        return Judge(load_run(this_run, settings, kinds=kinds))

    named = f"run={in_quotes(str(_folder(run).path))}"
    settings = _settings(["stage=predict", named, *overrides], is_sweep=False)
    with _hydra() as hydra:
        return cast("Judge", _start(hydra.run, task, settings, logs=False))


@contextmanager
def _hydra() -> Iterator[Any]:
    """Yield Hydra on vlmbench's configuration; what was initialised before is put back."""
    register_plugins()
    processes.refuse_stray_ranks()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    processes.let_idle_threads_sleep()
    processes.let_memory_grow()
    with initialize_config_dir(str(CONF), job_name="vlmbench", version_base="1.3"):
        yield GlobalHydra.instance().hydra


def _settings(overrides: Overrides, *, is_sweep: bool) -> list[str]:
    """Return settings in Hydra's words. Raise UserError for what may not pass."""
    arguments = [str(override) for override in overrides]
    refuse_secrets(arguments)
    register_plugins()
    return read_settings(arguments, is_sweep=is_sweep)


def _start(
    method: Callable[..., Any],
    task: Callable[[DictConfig], Any],
    settings: list[str],
    *,
    logs: bool = True,
) -> Any:
    """Return what the task of the (last) job returned. Raise UserError instead of an exit."""
    try:
        with explain_disk_errors("the run's files"), explain_config_errors():
            jobs = method(
                config_name="config",
                task_function=task,
                overrides=settings,
                with_log_configuration=logs,
            )
    except Refused as refused:
        raise refused.error from None

    while isinstance(jobs, Sequence):  # batches of a sweep
        jobs = jobs[-1]
    return jobs.return_value


def _folder(run: RunPath) -> RunDir:
    return run if isinstance(run, RunDir) else RunDir(Path(run))
