"""Run folders of strangers: a damaged file costs its own run, and is named with reason and cure.

To add one: a line in DAMAGES (what happens to any file), in VALUES (a wrong value in a file) or in
CONFIGS (a config.yaml).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers.run_folders import RUN_FILES, SWEEP_FILES, make_sweep
from vlmbench.cli.folders import _read_content, run_folder
from vlmbench.cli.python import _hydra
from vlmbench.cli.reopen import _recorded_choices, _recorded_settings, recorded_config
from vlmbench.config import PredictConfig, register_plugins
from vlmbench.deploy.decide import load_decider
from vlmbench.deploy.loaded import trained_tasks
from vlmbench.report import comparison_table, read_sweep, state_table, write_report
from vlmbench.report.plan import plan_facts
from vlmbench.report.runs import read_runs
from vlmbench.runs.folder import RunDir
from vlmbench.runs.ledger import count_scored
from vlmbench.runs.sweep import SweepDir
from vlmbench.types import UserError

PATIENCE_S = 10
BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def replace_by(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.unlink()
        make(path)

    return change


def grow(path: Path) -> None:
    with path.open("r+b") as file:
        file.truncate(3 << 30)  # without content: it takes no disk


DAMAGES: dict[str, Callable[[Path], object]] = {
    "empty": write(b""),
    "not UTF-8": lambda path: path.write_bytes(b"\xff" + path.read_bytes()),
    "UTF-16": lambda path: path.write_bytes(path.read_text().encode("utf-16")),
    "cut": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "zeros": write(b"\0" * 1000),
    "a list": write(b"[1, 2]\n"),
    "a number": write(b"7\n"),
    "a text": write(b'"x"\n'),
    "infinity": write(b'{"seconds": 1e999, "scores": 1e999}\n'),
    "not a number": write(b'{"time": NaN, "scores": {"a": {"b": {"c": NaN}}}}\n'),
    "a surrogate": write(b'{"device": "\\ud800", "model": "\\udfff"}\n'),
    "deep lists": write(b"[" * 100_000),
    "deep objects": write(b'{"a":' * 100_000),
    "a YAML bomb": write(BOMB.encode()),
    "a Python object": write(b"!!python/object/apply:os.system ['touch owned']\n"),
    "a secret": write(b'{"seed": "${oc.env:WANDB_API_KEY}", "model": "${oc.env:HOME}"}\n'),
    "a pickle": write(b"cos\nsystem\n(S'touch owned'\ntR."),
    "a line without end": write(b'{"a": "' + b"x" * 1_100_000),
    "enormous": grow,
    "a pipe": replace_by(os.mkfifo),
    "a device": replace_by(lambda path: path.symlink_to("/dev/zero")),
    "a link to a secret": replace_by(lambda path: path.symlink_to("/etc/passwd")),
    "a link to itself": replace_by(lambda path: path.symlink_to(path)),
    "a link to nothing": replace_by(lambda path: path.symlink_to("/nowhere/x")),
    "a folder": replace_by(Path.mkdir),
    "missing": Path.unlink,
}
# File, the location of a value in it, and what stands there instead.
VALUES: dict[str, tuple[str, tuple[str, ...], Any]] = {
    "negative seconds": ("status.json", ("seconds",), -1.0),
    "seconds as a text": ("status.json", ("seconds",), "12"),
    "endless seconds": ("status.json", ("seconds",), 1e308),
    "joules of a list": ("status.json", ("joules",), [1]),
    "the year 99999": ("status.json", ("time",), 3_093_527_980_800),
    "a time before 1970": ("status.json", ("time",), -5),
    "a time as a text": ("status.json", ("time",), "2026-11-27"),
    "an unknown state": ("status.json", ("state",), "excellent"),
    "a state of a number": ("status.json", ("state",), 1),
    "a seed of half": ("status.json", ("seed",), 0.5),
    "a seed below 0": ("status.json", ("seed",), -1),
    "a seed without end": ("status.json", ("seed",), 10**300),
    "overrides of a text": ("status.json", ("overrides",), "seed=1"),
    "overrides of numbers": ("status.json", ("overrides",), [1, 2]),
    "a model of a list": ("status.json", ("model",), ["smol"]),
    "an error of an object": ("status.json", ("error",), {"a": 1}),
    "checksums of a list": ("status.json", ("xxh3_128",), ["a"]),
    "checksums of another file": ("status.json", ("xxh3_128",), {"../../../etc/passwd": 1}),
    "a device of a list": ("env.json", ("device",), ["cpu"]),
    "versions of a text": ("env.json", ("versions",), "torch 2"),
    "a version of a number": ("env.json", ("versions", "torch"), 2),
    "processes below 0": ("env.json", ("processes",), -1),
    "data of a list": ("metrics.json", ("data",), []),
    "data of a text": ("metrics.json", ("data",), "x"),
    "scores of a list": ("metrics.json", ("scores",), []),
    "scores of a task": ("metrics.json", ("scores", "judge_pair"), 0.9),
    "scores of a view": ("metrics.json", ("scores", "judge_pair", "raw"), 0.9),
    "a figure of a number": ("metrics.json", ("scores", "judge_pair", "raw", "accuracy"), 0.9),
    "a value of a text": (
        "metrics.json",
        ("scores", "judge_pair", "raw", "accuracy", "value"),
        "0.9",
    ),
    "no lower end": ("metrics.json", ("scores", "judge_pair", "raw", "accuracy", "low"), None),
    "records of half": ("metrics.json", ("scores", "judge_pair", "raw", "accuracy", "n"), 1.5),
    "records below 0": ("metrics.json", ("scores", "judge_pair", "raw", "accuracy", "n"), -1),
    "notes of a text": ("metrics.json", ("notes",), "x"),
    "notes of objects": ("metrics.json", ("notes",), [{}]),
    "steps of a text": ("metrics.json", ("data", "steps"), "300"),
    "tasks of texts": ("metrics.json", ("data", "by_task"), {"judge_pair": "600"}),
    "splits of an object": ("metrics.json", ("data", "splits"), {}),
    "a split of a text": ("metrics.json", ("data", "splits"), ["train"]),
    "leaks of a number": ("metrics.json", ("data", "leaks"), 1),
    "leaks without their number": ("metrics.json", ("data", "leaks"), {}),
    "near images of a text": ("metrics.json", ("data", "nearest"), "x"),
    "near images of one": (
        "metrics.json",
        ("data", "nearest"),
        [
            {
                "splits": ["a"],
                "images": ["a"],
                "distance": 0,
                "orientation": "",
                "judgement": "",
            }
        ],
    ),
    "warnings of numbers": ("metrics.json", ("data", "warnings"), [1]),
    "a calibration of a list": ("calibration.json", ("judge_pair",), []),
    "a slope of a text": ("calibration.json", ("judge_pair", "raw", "slope"), "1"),
    "a slope without end": ("calibration.json", ("judge_pair", "raw", "slope"), 1e308),
    "an error that is a number": ("calibration.json", ("judge_pair", "raw", "error"), 1),
    "a baseline of a text": ("baselines.json", ("patch_nn",), "x"),
    "a key of a number": ("baselines.json", ("patch_nn", "key"), 1),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    register_plugins()
    return make_sweep(tmp_path_factory.mktemp("original") / "sweep").path


@pytest.fixture
def sweep(original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepDir:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_API_KEY", "the-secret-of-this-user")
    shutil.copytree(original, tmp_path / "検査" / "sweep")
    return SweepDir(Path("検査/sweep"))


def first_run(sweep: SweepDir) -> RunDir:
    return RunDir(next(sweep.path.glob("0_*")))


def complaints(sweep: SweepDir) -> list[str]:
    """Read the first run in every way; return the messages. The second run stays whole."""
    started, run = time.monotonic(), first_run(sweep)
    readers: list[Callable[[], object]] = [
        lambda: load_decider(run, PredictConfig(), seed=0),
        lambda: trained_tasks(run),
        lambda: _recorded_choices(run),
        lambda: _recorded_settings(run),
        run.damage,
        run.read_choices,
        run.read_baselines,
        lambda: plan_facts(sweep.path, [], look=None),
        lambda: count_scored(sweep.path / "ledger.jsonl", "x"),
    ]
    found = []
    for reader in readers:
        try:
            found.append(reader())
        except UserError as error:
            found.append(str(error))

    runs = read_runs(sweep)
    whole = [one for one in runs if one.name.startswith("1_")]
    assert [one.finished for one in whole] == [True]
    assert whole[0].predictions
    _read_content(run.config, time.monotonic_ns())
    state_table(sweep)
    assert time.monotonic() - started < PATIENCE_S
    assert not list(Path.cwd().rglob("owned"))

    texts = [one for one in found if isinstance(one, str) and one]
    texts += [one.error for one in runs if one.error]
    assert not [text for text in texts if "the-secret-of-this-user" in text]
    return texts


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", RUN_FILES)
def test_a_damaged_file_of_a_run_costs_this_run_alone(
    sweep: SweepDir, file: str, damage: str
) -> None:
    DAMAGES[damage](first_run(sweep).path / file)
    for text in complaints(sweep):
        assert "0_tiny" in text
        assert "; " in text or "cannot be trusted" in text or "is missing" in text


@pytest.mark.parametrize("name", VALUES)
def test_a_wrong_value_costs_this_run_alone(sweep: SweepDir, name: str) -> None:
    file, location, value = VALUES[name]
    path = first_run(sweep).path / file
    content = json.loads(path.read_bytes())
    node = content
    for key in location[:-1]:
        node = node[key]
    node[location[-1]] = value
    path.write_text(json.dumps(content))

    named = [text for text in complaints(sweep) if f"{file}: the file is damaged" in text]
    assert named
    assert all("bring the file back from a copy, or remove it and start" in text for text in named)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", SWEEP_FILES)
def test_a_damaged_file_of_a_sweep_costs_no_run(sweep: SweepDir, file: str, damage: str) -> None:
    path = sweep.path / file
    if not path.exists():
        path.write_text("{}")
    DAMAGES[damage](path)
    complaints(sweep)


LINES = {
    "no JSON": b"{",
    "a list": b"[]",
    "no id": b'{"task": "judge_pair"}',
    "an unknown task": b'{"id": "a", "task": "guess", "group": "g", "view": "raw"}',
    "scores of texts": b'{"scores": {"normal": "0"}}',
    "scores without end": b'{"scores": {"normal": 1e999}}',
    "scores far away": b'{"scores": {"normal": -1e300}}',
    "three images": b'{"images": ["a", "b", "c"]}',
    "images of numbers": b'{"images": [1, 2]}',
    "no label": b'{"expected": null}',
    "a surrogate": b'{"question": "\\ud83d"}',
    "deep": b'{"meta": ' * 5000,
}


@pytest.mark.parametrize("file", ["predictions.jsonl", "validation.jsonl"])
@pytest.mark.parametrize("name", LINES)
def test_a_damaged_line_is_named(sweep: SweepDir, file: str, name: str) -> None:
    path = first_run(sweep).path / file
    lines = path.read_bytes().splitlines()
    changed = LINES[name]
    try:
        lines[2] = json.dumps(json.loads(lines[2]) | json.loads(changed)).encode()
        if b"Infinity" in lines[2]:
            lines[2] = lines[2].replace(b"Infinity", b"1e999")
    except (ValueError, RecursionError, TypeError):
        lines[2] = changed
    if name in ("no id", "an unknown task"):
        lines[2] = changed
    path.write_bytes(b"\n".join(lines) + b"\n")
    _forget_checksums(first_run(sweep))

    assert [text for text in complaints(sweep) if f"{file}:3: the line is damaged" in text]


def test_records_of_other_runs_are_not_compared(sweep: SweepDir) -> None:
    path = first_run(sweep).path / "predictions.jsonl"
    path.write_text(path.read_text().replace('"id": "r', '"id": "other'))
    _forget_checksums(first_run(sweep))

    read = read_sweep(sweep)
    assert read.answers == []
    assert "was predicted by some of the compared runs but not by all" in read.refusals[0].reason


def test_the_report_names_a_damaged_run_and_shows_the_others(sweep: SweepDir) -> None:
    (first_run(sweep).path / "config.yaml").write_bytes(b"\xff")
    table = comparison_table(sweep)
    page = write_report(sweep).read_text(encoding="utf-8")
    assert "config.yaml: the file is damaged (byte 0 is not UTF-8)" in table
    assert "config.yaml: the file is damaged" in page
    assert "with_comparison" in table
    assert "80.0 (69.0-91.0)" in table


def test_the_cure_of_a_damaged_file_mends_the_report(sweep: SweepDir) -> None:
    path = first_run(sweep).path / "env.json"
    path.write_text("[]")
    assert not read_runs(sweep)[0].finished
    path.unlink()  # the cure: "remove it", and the run's command writes it again
    assert read_runs(sweep)[0].finished


def test_a_run_with_wrong_files_is_made_again(sweep: SweepDir) -> None:
    run = first_run(sweep)
    run.write_metrics({"data": []})
    _forget_checksums(run)
    assert "metrics.json: the file is damaged" in run.damage()


CONFIGS = {
    "a bomb": BOMB,
    "a Python object": "!!python/object/apply:os.system ['touch owned']",
    "a secret": "seed: 0\nmodel: {path: '${oc.env:WANDB_API_KEY}'}\n",
    "a secret as a name": "'${oc.env:WANDB_API_KEY}': 0\n",
    "a tag": "seed: !!binary aGVsbG8=\n",
    "a set": "seed: !!set {a, b}\n",
    "a date": "seed: 2026-01-01\n",
    "names of numbers": "1: 2\n",
    "a surrogate": 'model: "\\ud800"\n',
    "an endless number": f"seed: {'9' * 5000}\n",
    "deep lists": "a: " + "[" * 5000,
    "deep objects": "a: " + "{a: " * 5000,
    "many objects": "a: 1\n---\nb: 2\n",
    "a list": "- 1\n",
    "model of a text": "model: smol\nseed: 0\n",
    "no seed": "".join(f"{group}: {{}}\n" for group in ("model", "source", "data", "view")),
    "an unknown setting": "model: {no_such: 1}\n",
    "large": "a: x\n" + "# " + "x" * 300_000,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_hostile_configuration_is_refused_where_its_settings_are_used(
    sweep: SweepDir, name: str
) -> None:
    run = first_run(sweep)
    run.config.write_text(CONFIGS[name])
    with pytest.raises(UserError, match=r"config\.yaml") as refused, _hydra():
        recorded_config(run)
    assert "the-secret-of-this-user" not in str(refused.value)
    assert "; " in str(refused.value)
    complaints(sweep)


@pytest.mark.parametrize(
    "choice", ["evil", "smol,llama32_tiny", "${oc.env:WANDB_API_KEY}", "../x", "", "1", "smol x=1"]
)
def test_a_hostile_choice_never_reaches_hydra(sweep: SweepDir, choice: str) -> None:
    path = first_run(sweep).path / ".hydra" / "hydra.yaml"
    path.write_text(path.read_text().replace("llama32_tiny", json.dumps(choice)))
    with pytest.raises(UserError, match=r"hydra\.yaml: ") as refused:
        _recorded_choices(first_run(sweep))
    assert "the-secret-of-this-user" not in str(refused.value)


def _config(sweep: SweepDir) -> Any:
    from omegaconf import OmegaConf

    values = first_run(sweep).read_config()
    choices = {"model": "smol", "data": "without_comparison"}
    return OmegaConf.create({**values, "hydra": {"runtime": {"choices": choices}}})


@pytest.mark.parametrize("name", ["0_new", "2_new"])
@pytest.mark.parametrize(
    "trap", [".hydra", "vlmbench.log", "config.yaml", "checkpoints", "answers", "train_log.jsonl"]
)
def test_a_new_run_goes_into_no_folder_with_a_link(sweep: SweepDir, trap: str, name: str) -> None:
    outside = Path("outside")
    outside.mkdir()
    folder = sweep.path / name
    folder.mkdir()
    (folder / trap).symlink_to(outside.absolute())
    chosen = run_folder(str(sweep.path), int(name[0]), "new", _root_=_config(sweep))
    assert chosen != name
    assert chosen.startswith(f"{name}_")


@pytest.mark.slow
def test_a_report_is_not_written_through_a_link(sweep: SweepDir) -> None:
    outside = Path("outside")
    outside.mkdir()
    sweep.report.symlink_to(outside.absolute())
    with pytest.raises(UserError, match=r"report: the folder is a link to .*; remove it"):
        write_report(sweep)
    assert not list(outside.iterdir())
    sweep.report.unlink()  # the cure
    assert write_report(sweep).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["index.html", "report.md", "verdicts.json"])
def test_a_file_of_the_report_is_not_written_through_a_link(sweep: SweepDir, name: str) -> None:
    precious = Path("precious")
    precious.write_text("mine")
    sweep.report.mkdir()
    (sweep.report / name).symlink_to(precious.absolute())
    write_report(sweep)
    assert precious.read_text() == "mine"
    assert not (sweep.report / name).is_symlink()


def test_a_run_that_is_a_link_is_left_out_and_named(
    sweep: SweepDir, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(first_run(sweep).path, "elsewhere")
    (sweep.path / "2_private").symlink_to(Path("elsewhere").absolute())
    assert len(sweep.runs()) == 2
    assert "2_private: this run is left out: the folder is a link" in caplog.text


@pytest.mark.parametrize("name", ["²_a", "٣_a", f"{'9' * 5000}"[:200] + "_a", "1e5_a", "-1_a"])
def test_a_folder_with_an_odd_number_stops_no_new_run(sweep: SweepDir, name: str) -> None:
    shutil.copytree(first_run(sweep).path, sweep.path / name)
    (sweep.path / name / "config.yaml").write_text("seed: 5\n")
    chosen = run_folder(str(sweep.path), None, "new", _root_=_config(sweep))
    assert chosen
    assert len(read_runs(sweep)) == 3


def test_an_append_does_not_follow_a_link(sweep: SweepDir) -> None:
    precious = Path("precious")
    precious.write_text("mine")
    run = first_run(sweep)
    run.train_log.unlink()
    run.train_log.symlink_to(precious.absolute())
    with pytest.raises(OSError, match="train_log"):
        run.append_train_log({"step": 1, "loss": 1.0})
    with (
        pytest.raises(UserError, match=r"train_log\.jsonl: a link, a pipe or a device"),
        run.lock(),
    ):
        pass
    assert precious.read_text() == "mine"


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
    st.just([]),
    st.just({}),
    st.just([[]]),
    st.just("x" * 5000),
)


def _locations(value: Any, location: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield (*location, key)
        if isinstance(inner, dict | list):
            yield from _locations(inner, (*location, key))


@given(data=st.data())
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_value_anywhere_is_read_or_refused(sweep: SweepDir, data: st.DataObject) -> None:
    names = [name for name in RUN_FILES if name.endswith(".json")]
    path = first_run(sweep).path / data.draw(st.sampled_from(names))
    before = path.read_bytes()
    content = json.loads(before)
    location = data.draw(st.sampled_from(list(_locations(content))))
    node = content
    for key in location[:-1]:
        node = node[key]
    node[location[-1]] = data.draw(ODD)
    path.write_text(json.dumps(content))
    try:
        complaints(sweep)
    finally:
        path.write_bytes(before)


def _forget_checksums(run: RunDir) -> None:
    """A stranger can write any checksum; here there is none."""
    path = run.path / "status.json"
    status = json.loads(path.read_bytes())
    status.pop("xxh3_128", None)
    path.write_text(json.dumps(status))
