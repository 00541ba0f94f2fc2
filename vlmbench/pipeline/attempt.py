"""An attempt at a run: its status, its environment, its tracker, and what ended it."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from vlmbench.backbones import resident
from vlmbench.config import Engine, TrackingConfig, TrackingMode
from vlmbench.pipeline.run import Run
from vlmbench.runs.folder import State
from vlmbench.runs.identity import environment
from vlmbench.system import energy, phases, processes
from vlmbench.system.files import no_room_message
from vlmbench.system.signals import Stopped
from vlmbench.tracking.tracker import Tracker, start_tracker

log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Attempt:
    """A context whose end is written into the run's status and to its tracker.

    Call `end` with the state that was reached. An error or a signal becomes the status too, and is
    raised again.
    """

    run: Run
    run_hash: str
    engine: Engine
    tracker: Tracker
    meter: energy.Meter
    started_at: float
    state: State = State.RUNNING
    note: str = ""

    def __enter__(self) -> Attempt:
        return self

    def end(self, state: State, *, note: str = "") -> None:
        """Set what the status becomes; RUNNING leaves it as it is."""
        self.state, self.note = state, note

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None and self.state is not State.RUNNING:
            note = {"note": self.note} if self.note else {}
            try:
                self._write_status(self.state, **note)
            except BaseException as failure:
                self._fail(failure)
                raise
        if error is not None:
            self._fail(error)
            return
        self.tracker.finish(failed=False)
        resident.settle()

    def _fail(self, error: BaseException) -> None:
        resident.release()  # no other run may find the model in the state that it is in
        self._write_failure(error)
        self.tracker.finish(failed=True)

    def _write_failure(self, error: BaseException) -> None:
        if isinstance(error, Stopped):
            state, message = State.STOPPED, ""
            log.warning(
                "%s was stopped by a signal; the same command resumes from its last checkpoint",
                self.run.title,
            )
        else:
            state, message = State.FAILED, str(error) or type(error).__name__

        try:
            self._write_status(state, error=message)
        except OSError as reason:
            path = self.run.folder.path / "status.json"
            log.warning("%s", no_room_message(str(path), reason))

    def _write_status(self, state: State, **details: str) -> None:
        self.run.folder.write_status(
            state,
            run_hash=self.run_hash,
            seconds=time.monotonic() - self.started_at,
            joules=self.meter.joules(),
            phases={name: round(spent, 3) for name, spent in phases.seconds().items()},
            **details,
            **self.run.identity,
        )


def start_attempt(run: Run, run_hash: str) -> Attempt:
    """Write that the run is running, and start its tracker and its energy meter."""
    engine, reason = run.choose_engine()
    vision = run.config.trainer.vision
    log.info("engine %s: %s; trainer.vision=%s", engine, reason, vision)
    precision, why = run.choose_precision()
    log.info("precision %s: %s", precision, why)

    env = environment(engine, reason, vision)
    env |= {"precision": precision, "precision_reason": why}
    if base_hash := run.base_hash():
        env["base_model"] = base_hash

    is_same_run = run.folder.read_status().get("run_hash") == run_hash
    logged = run.folder.read_train_log() if is_same_run else []
    run.folder.write_start(env, run_hash=run_hash, **run.identity)
    started_at, meter = time.monotonic(), energy.start_meter()

    tracking = run.config.tracking
    if not processes.is_leader():
        tracking = TrackingConfig(mode=TrackingMode.off)
    tracker = start_tracker(
        tracking,
        folder=run.folder.path,
        sweep=Path(run.config.sweep).name,
        name=run.title,
        config={
            **run.settings,
            "backbone": run.choices["model"],
            "variant": run.choices["data"],
        },
        logged=logged,
    )
    return Attempt(
        run=run,
        run_hash=run_hash,
        engine=engine,
        tracker=tracker,
        meter=meter,
        started_at=started_at,
    )
