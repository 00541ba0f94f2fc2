"""W&B's servers, played by a stand-in: what arrives there, and what happens when they fail."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.conftest import REPOSITORY
from tests.helpers.wandb_server import KEY, Arrived, StandIn, stand_in
from vlmbench.config import TrackingConfig, TrackingMode
from vlmbench.runs.folder import RunDir
from vlmbench.tracking.sent import without_home
from vlmbench.tracking.tracker import NoTracker, WandbTracker, row_key
from vlmbench.train.callbacks import LogCallback
from vlmbench.types import UserError

# A run that logs these steps, after an earlier attempt logged others.
PROGRAM = """
import json, sys, logging
from pathlib import Path
from vlmbench.config import TrackingConfig, TrackingMode
from vlmbench.tracking.tracker import start_tracker
logging.basicConfig(format="%(message)s")
rows, logged, mode = map(json.loads, sys.argv[1:])
settings = TrackingConfig(mode=TrackingMode(mode), timeout_s=3)
config = {"seed": 1, "source": {"path": "/home/hanako/parts/a.jsonl"}}
tracker = start_tracker(settings, folder=Path.cwd(), sweep="s", name="0_x", config=config,
                        logged=logged)
for row in rows:
    tracker.log(row)
tracker.summary({"accuracy": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 10}})
tracker.finish(failed=False)
print("finished")
"""


def loss(step: int) -> dict[str, float]:
    return {"step": step, "loss": 1 / step, "num_tokens": 10 * step}


def evaluation(step: int) -> dict[str, float]:
    return {"step": step, "eval_loss": 2 / step, "num_tokens": 10 * step + 5}


FIRST = [loss(1), loss(2), evaluation(2), loss(3), loss(4)]
SECOND = [loss(3), loss(4), evaluation(4), loss(5), evaluation(5)]  # from a checkpoint of step 2


def attempt(
    folder: Path, rows: list[Any], logged: list[Any], mode: str, env: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    known = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HOME": "/home/hanako", **env}
    # W&B's service of this process, started by another test, takes each run's id only once.
    known.pop("WANDB_SERVICE", None)
    arguments = [json.dumps(part) for part in (rows, logged, mode)]
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=folder,
        env=known,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@dataclass(frozen=True)
class Synced:
    run: Arrived
    server: StandIn
    output: str


@pytest.fixture(scope="module")
def synced(tmp_path_factory: pytest.TempPathFactory) -> Synced:
    """A run of two attempts, logged offline, then sent by `wandb sync` to the stand-in."""
    folder = tmp_path_factory.mktemp("offline")
    offline = {"WANDB_MODE": "offline", "WANDB_API_KEY": KEY}
    for rows, logged in ((FIRST, []), (SECOND, FIRST)):
        done = attempt(folder, rows, logged, "offline", offline)
        assert done.returncode == 0, done.stderr

    with stand_in() as server:
        output = ""
        for path in sorted((folder / "wandb").glob("offline-run-*")):
            done = subprocess.run(
                [sys.executable, "-m", "wandb", "sync", str(path)],
                cwd=folder,
                env={**os.environ, **server.env()},
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            output += done.stdout + done.stderr
            assert done.returncode == 0, output
    (run,) = server.runs.values()
    return Synced(run, server, output)


@pytest.mark.slow
def test_each_step_of_a_resumed_run_arrives_once(synced: Synced) -> None:
    assert synced.run.is_complete, synced.output
    expected = [row_key(row) for row in (*FIRST, *SECOND[2:])]
    found = [row_key(row) for row in synced.run.history]
    assert found == expected
    positions = [row["_step"] for row in synced.run.history]
    assert positions == sorted(set(positions))


@pytest.mark.slow
def test_curves_over_tokens_have_the_tokens_of_their_own_step(synced: Synced) -> None:
    for row in synced.run.history:
        kind = "loss" if "loss" in row else "eval_loss"
        assert row[f"by_tokens/{kind}"] == row[kind]
        assert row["num_tokens"] == 10 * row["step"] + (5 if kind == "eval_loss" else 0)


@pytest.mark.slow
def test_summary_and_config_arrive(synced: Synced) -> None:
    assert synced.run.summary["accuracy"] == 0.5
    assert synced.run.summary["accuracy_high"] == 0.6
    assert synced.run.summary["step"] == 5
    assert synced.run.config["seed"] == 1


@pytest.mark.slow
def test_no_key_and_no_path_of_the_home_arrives(synced: Synced) -> None:
    assert synced.run.config["source"]["path"] == "~/parts/a.jsonl"
    sent = b"".join(synced.server.bodies) + repr(synced.run).encode()
    assert KEY.encode() not in sent
    assert b"/home/hanako" not in sent
    assert "wandb-metadata.json" not in synced.run.files
    assert sys.executable not in repr(synced.run.config)


# The trouble, and the number of requests before it: 5 come before the first rows. `make faults` has
# more at the start; each takes seconds.
CASES = [("garbage", 0), (429, 5), ("garbage", 5)]


@pytest.fixture(scope="module")
def troubled(
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[tuple[int | str, int], subprocess.CompletedProcess[str]]:
    """How runs ended whose server got into trouble; most of their time, they wait."""
    base = tmp_path_factory.mktemp("troubled")

    def run(case: tuple[int | str, int]) -> subprocess.CompletedProcess[str]:
        with stand_in(*case) as server:
            folder = base / f"{case[0]}-{case[1]}".replace(" ", "-")
            return attempt(folder, FIRST, [], "online", server.env())

    with ThreadPoolExecutor(4) as pool:
        return dict(zip(CASES, pool.map(run, CASES), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_run_goes_on_and_says_what_is_missing(
    troubled: dict[tuple[int | str, int], subprocess.CompletedProcess[str]],
    case: tuple[int | str, int],
) -> None:
    done = troubled[case]
    assert done.returncode == 0, done.stderr
    assert "finished" in done.stdout
    assert "Traceback" not in done.stderr
    said = "W&B does not answer" if case[1] == 0 else "W&B did not take all of the run"
    assert said in done.stderr
    assert "wandb sync" in done.stderr


class ListTracker(NoTracker):
    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def log(self, row: Any) -> None:
        self.rows.append(dict(row))


def test_an_evaluation_between_two_losses_has_its_own_tokens(tmp_path: Path) -> None:
    tracker = ListTracker()
    callback = LogCallback(RunDir(tmp_path), tracker, "run")
    callback.bar = SimpleNamespace(set_postfix=lambda figures: None)
    state = SimpleNamespace(global_step=7, num_input_tokens_seen=700)
    callback.on_log(None, state, None, {"eval_loss": 0.5})
    assert tracker.rows == [{"step": 7, "eval_loss": 0.5, "num_tokens": 700}]
    assert RunDir(tmp_path).read_train_log() == [{"step": 7, "eval_loss": 0.5}]


class FakeRun:
    def __init__(self) -> None:
        self.sent: list[tuple[int, dict[str, Any]]] = []

    def log(self, values: dict[str, Any], step: int) -> None:
        self.sent.append((step, values))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (FIRST, SECOND),
        (FIRST, FIRST),
        ([], FIRST),
        (FIRST[:1], FIRST),
        ([loss(10), evaluation(4)], [evaluation(4), loss(10), evaluation(12), loss(20)]),
    ],
)
def test_a_row_is_sent_once_at_a_position_that_only_grows(
    settings: Any, first: list[Any], second: list[Any]
) -> None:
    run = FakeRun()
    for rows, logged in ((first, []), (second, first)):
        tracker = WandbTracker(run, settings, map(row_key, logged))
        for row in rows:
            tracker.log(row)
    keys = [row_key(values) for _, values in run.sent]
    assert len(keys) == len(set(keys))
    assert set(keys) == set(map(row_key, (*first, *second)))
    positions = [position for position, _ in run.sent]
    assert positions == list(range(len(positions)))


@pytest.fixture
def settings() -> Any:
    from vlmbench.config import TrackingConfig

    return TrackingConfig()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("/home/hanako", "~"),
        ("/home/hanako/a", "~/a"),
        ("/home/hanakoko/a", "/home/hanakoko/a"),
        ("file:///home/hanako/a b", "file://~/a b"),
        ("['/home/hanako/a', '/home/hanako']", "['~/a', '~']"),
        ({"a": ["/home/hanako/x", 3, None]}, {"a": ["~/x", 3, None]}),
        (("/data/x",), ["/data/x"]),
        (1.5, 1.5),
    ],
)
def test_the_home_becomes_a_tilde(
    monkeypatch: pytest.MonkeyPatch, value: Any, expected: Any
) -> None:
    monkeypatch.setenv("HOME", "/home/hanako")
    assert without_home(value) == expected


@pytest.mark.parametrize("home", ["/", "", "~"])
def test_without_a_home_nothing_is_changed(monkeypatch: pytest.MonkeyPatch, home: str) -> None:
    monkeypatch.setenv("HOME", home)
    assert without_home("/data/x") == "/data/x"


@pytest.mark.parametrize(
    "name", ["計画 #1", "a/b", "a:b", "50%", "x" * 129, "写" * 129, "", "a\\b?"]
)
def test_a_project_that_wandb_refuses_is_refused_with_a_cure(name: str) -> None:
    with pytest.raises(UserError, match="W&B takes 1 to 128 characters") as refused:
        TrackingConfig(project=name).check_project()
    (typed,) = shlex.split(str(refused.value).rpartition("; set ")[2])
    cured = typed.removeprefix("tracking.project=")
    TrackingConfig(project=cured).check_project()
    TrackingConfig(project=name, mode=TrackingMode.off).check_project()

    settings = pytest.importorskip("wandb").Settings
    settings(project=cured)
    if name:
        with pytest.raises(Exception, match="project name"):
            settings(project=name)
