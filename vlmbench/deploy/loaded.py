"""A finished run, loaded and ready to judge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from PIL import Image

from vlmbench.config import DeployConfig, RunConfig
from vlmbench.data.prompts import Wording
from vlmbench.data.run_records import load_run_data, wording_of
from vlmbench.data.tiles import Tiler, deciding_tile, make_tiler
from vlmbench.data.viewer import RAW, Viewer, make_viewer
from vlmbench.deploy.decide import Decider, load_decider
from vlmbench.pipeline.answer import Asker
from vlmbench.pipeline.precision import as_trained
from vlmbench.pipeline.run import Run
from vlmbench.report.alarms import Alarm, alarms_of_folder
from vlmbench.runs.folder import RunDir
from vlmbench.types import Judgement, Prediction, Record, Task


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedRun:
    """The trained model of a run, with the rules that turn its scores into decisions.

    `alarms` are the controls that the run fails on its own test records.
    """

    folder: RunDir
    asker: Asker
    decider: Decider
    alarms: Sequence[Alarm]
    run: Run

    def judge(
        self, records: Sequence[Record], *, sentence: bool = False, progress: str | None = None
    ) -> list[Judgement]:
        """Return the judgement of each record, in their order.

        With `sentence`, the model also writes its answer, to the tile that decides if images are
        cut. `progress` titles a progress bar.
        """
        store = self.asker.backbone.store
        if store is not None:
            store.begin_run()

        predictions = self.asker.score(records, progress=progress)
        sentences: Sequence[str | None] = [None] * len(records)
        if sentence:
            title = None if progress is None else "sentences"
            tiles = _deciding_tiles(self.asker.tiler, records, predictions)
            written = self.asker.write(tiles, progress=title)
            sentences = [prediction.text or "" for prediction in written]

        return [
            self.decider.decide(record, prediction, text)
            for record, prediction, text in zip(records, predictions, sentences, strict=True)
        ]


def load_run(
    run: Run,
    settings: DeployConfig,
    *,
    kinds: Iterable[tuple[Task, str]],
    inside: Path | None = None,
    derived: Path | None = None,
) -> LoadedRun:
    """Return the run that `run.config.run` names, ready for records of these tasks and views.

    Their images must lie in `inside` (None: anywhere). Processed copies go into the folder
    `derived`, and no vision token is written; None: both go into the cache. Settings and machine
    are checked before anything heavy is loaded.
    """
    kinds = list(kinds)
    folder = finished_folder(run)
    run = as_trained(run, folder)
    run.require_base(folder)
    decider = load_decider(folder, settings, seed=run.config.data.split_seed)
    decider.require(kinds)
    run.require_machine()

    views = {name for _, view in kinds for name in view.split("+")}
    viewer = viewer_for(run, views, inside, cache=derived)
    store = None if derived is None else replace(run.config.store, disk_gb=0.0)
    engine = run.trained_engine(folder)

    asker = Asker(
        backbone=run.build(engine, adapter=folder.adapter, store=store),
        viewer=viewer,
        wording=trained_wording(run.config, folder),
        settings=run.config.eval,
        tiler=make_tiler(run.config.view, viewer.size),
    )
    return LoadedRun(
        folder=folder,
        asker=asker,
        decider=decider,
        alarms=alarms_of_folder(folder),
        run=run,
    )


def _deciding_tiles(
    tiler: Tiler | None, records: Sequence[Record], predictions: Sequence[Prediction]
) -> Sequence[Record]:
    """Return the deciding tile of each record; the record itself if it is not cut."""
    if tiler is None:
        return records

    boxes = [deciding_tile(prediction) for prediction in predictions]
    return [
        record if box is None else tiler.at(record, box)
        for record, box in zip(records, boxes, strict=True)
    ]


def finished_folder(run: Run) -> RunDir:
    """Return the folder of the finished run that a deploy stage uses."""
    return RunDir(Path(run.config.run or ""))


def trained_tasks(folder: RunDir) -> list[Task]:
    """Return the judging tasks that the run trained on; both if its folder does not say."""
    counts = folder.read_metrics().get("data", {}).get("by_task", {})
    both = [Task.JUDGE_PAIR, Task.JUDGE_SINGLE]
    return [task for task in both if counts.get(task, 0)] or both


def trained_wording(config: RunConfig, folder: RunDir) -> Wording:
    """Return the run's words, with the questions that its training records asked."""
    wording = wording_of(config)
    questions = folder.read_metrics().get("data", {}).get("questions", {})
    texts = {task: text for task, text in questions.items() if isinstance(text, str)}
    return replace(wording, questions={**wording.questions, **texts})


def viewer_for(
    run: Run, views: Iterable[str], inside: Path | None, *, cache: Path | None = None
) -> Viewer:
    """Return what shows images in these views. Processed images go into `cache`, or the run's own.

    The processed view is made from the run's own training images, which must then exist.
    """
    config, cache = run.config, run.cache_dir if cache is None else cache
    if set(views) <= {RAW}:
        return Viewer(
            inside,
            name=config.view.name,
            process=partial(Image.Image.copy),
            fingerprint=RAW,
            cache=cache,
        )

    data = load_run_data(config)
    return make_viewer(
        inside,
        data.train,
        view=config.view,
        cache_dir=cache,
        files=data.files,
    )
