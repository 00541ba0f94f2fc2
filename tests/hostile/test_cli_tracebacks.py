"""Odd names, folders, terminals and signals: a command ends in a sentence, never in a traceback."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hydra._internal.hydra import Hydra
from omegaconf import OmegaConf

from tests.conftest import REPOSITORY, Outcome
from vlmbench.cli.paths import MAX_BYTES, check_paths
from vlmbench.system.files import explain_disk_errors
from vlmbench.types import UserError

Cli = Callable[..., Outcome]
CURE = re.compile(r"set ('[^']+'|\S+)$")
DEFAULTS = {
    "name": "baseline",
    "run_label": "${label}",
    "sweep": "runs/2026-01-31_${name}",
    "data_dir": "data",
    "cache_dir": ".cache",
    "predict": {"out": None},
    "export": {"out": None},
}

PATHS = {
    "a name of 300 letters": ("name", "a" * 300),
    "a Japanese name of 300 bytes": ("name", "写" * 100),
    "a name that is too long with its date": ("name", "a" * 250),
    "a label of 300 letters": ("run_label", "a" * 300),
    "a label that is too long with its number": ("run_label", "写" * 84),
    "a label with a slash": ("run_label", "a/b"),
    "a label that leaves its folder": ("run_label", "../../x"),
    "a sweep with a long part": ("sweep", f"runs/{'写' * 90}/x"),
    "a sweep with many parts": ("sweep", "a/" * 2000),
    "a sweep in a device": ("sweep", "/dev/null/x"),
    "a sweep that is a device": ("sweep", "/dev/null"),
    "a sweep in /proc": ("sweep", "/proc/x"),
    "a sweep in /proc by a detour": ("sweep", "/tmp/../proc/self/x"),  # noqa: S108
    "a sweep in /sys": ("sweep", "/sys/x"),
    "a sweep at a pipe": ("sweep", "pipe/x"),
    "data in /proc": ("data_dir", "/proc/x"),
    "a cache in /dev": ("cache_dir", "/dev/shm/../null"),  # noqa: S108
    "answers in /proc": ("predict.out", "/proc/x"),
    "a model with a long name": ("export.out", "m" * 256),
}


@pytest.mark.parametrize("case", PATHS)
def test_a_name_that_no_disk_holds_is_refused_and_its_cure_works(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    name, value = PATHS[case]
    config = OmegaConf.create(DEFAULTS)
    check_paths(config)  # right before

    OmegaConf.update(config, name, value)
    with pytest.raises(UserError) as refused:
        check_paths(config)
    message = str(refused.value)
    assert message.startswith(name)

    cure = CURE.search(message)
    assert cure, message
    key, _, mended = shlex.split(cure[1])[0].partition("=")
    assert key == name
    OmegaConf.update(config, name, mended)
    check_paths(config)


@pytest.mark.parametrize("name", ["a" * MAX_BYTES, "写" * (MAX_BYTES // 3), "良 (1)", "a" * 100])
def test_a_long_name_leaves_room_for_what_is_added(name: str, tmp_path: Path) -> None:
    check_paths(OmegaConf.create(DEFAULTS | {"name": name, "run_label": name}))
    folder = tmp_path / f"2026-01-31_{name}_2" / f"12345678_{name}_0a1b2c3d"
    folder.mkdir(parents=True)
    assert folder.is_dir()


TYPED = {
    "a long name": (["stage=train", f"name={'a' * 300}"], "name must have at most 200 bytes"),
    "a long name in a sweep": (["-m", f"name=a,{'写' * 85}"], "name must have at most 200 bytes"),
    "a long source": (["stage=prepare", "source=folder", f"source.path={'a' * 300}"], "too long"),
    "a long run": (["stage=predict", f"run={'a' * 300}"], "; "),
    "a long image": (["stage=predict", f"images=[{'写' * 100}.png]"], "; "),
    "a device for runs": (["stage=train", "sweep=/dev/null/x"], "set sweep=runs/mine"),
    "/proc for runs": (["-m", "sweep=/proc/x"], "set sweep=runs/mine"),
    "a file for runs": (["stage=report", "sweep=file/x"], "; "),
    "a file for data": (["stage=prepare", "data_dir=file"], "file is a file, and a folder must be"),
    "two options": (["-m", "--info"], "unknown option --info"),
    "a sweep that is shown": (["-m", "--cfg", "job"], "; leave -m out"),
    "an empty argument": ([""], "an empty argument: a setting needs an equals sign"),
    "a space": ([" "], "a setting needs an equals sign"),
    "a byte that is not UTF-8": (["name=\udcff\udcfe"], "is not UTF-8"),
    "such a byte in an option": (["--\udcff"], "is not UTF-8"),
    "such a byte in a name": (["\udcff=1"], "is not UTF-8"),
    "a NUL byte": (["name=a\0b"], "control character"),
    "many brackets": ([f"seed={'[' * 500}"], "seed must be an integer"),
    "a million letters": ([f"seed={'a' * 100_000}"], "seed must be an integer"),
}


@pytest.mark.parametrize("case", TYPED)
def test_an_odd_command_line_ends_in_a_sentence(
    cli: Cli, tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Compose once, and not once more to learn that it is no sweep.
    monkeypatch.setattr(Hydra, "get_mode", lambda self, config_name, overrides: None)
    Path("file").touch()
    arguments, message = TYPED[case]
    outcome = cli(*arguments)
    assert outcome.code == 2, outcome
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert message in outcome.err
    assert len(outcome.err) < 2000
    assert "; " in outcome.err
    assert not (tmp_path / "runs").exists()


def test_a_deleted_working_folder_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vlmbench.cli.main import main

    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    monkeypatch.setattr(sys, "argv", ["vlmbench", "stage=check"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert "the working folder does not exist any more" in capsys.readouterr().err


def test_a_loop_of_links_and_a_long_path_are_explained(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for path in (tmp_path / "a" / "x", tmp_path / ("写" * 100)):
        with pytest.raises(UserError, match="name another path"), explain_disk_errors("it"):
            path.read_text()


def start(
    folder: Path, *arguments: str, environment: Mapping[str, str | None] = {}, pipe: str = ""
) -> subprocess.CompletedProcess[str]:
    """Return `python -m vlmbench ...` in a shell; None removes a variable of the environment."""
    changed = os.environ | {"PYTHONPATH": str(REPOSITORY)} | environment
    command = shlex.join([sys.executable, "-m", "vlmbench", *arguments])
    return subprocess.run(
        ["bash", "-c", f"{command} {pipe}"],
        cwd=folder,
        env={name: value for name, value in changed.items() if value is not None},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


TERMINALS: dict[str, dict[str, str | None]] = {
    "20 columns": {"COLUMNS": "20", "TERM": "dumb"},
    "no home": {"HOME": None, "XDG_CACHE_HOME": None},
    "the C locale": {"LC_ALL": "C", "LANG": "C"},
    "an ASCII terminal": {"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "POSIX"},
}


@pytest.mark.parametrize("case", TERMINALS)
def test_any_terminal_shows_japanese_settings(tmp_path: Path, case: str) -> None:
    done = start(tmp_path, "--cfg", "job", "name=写真", environment=TERMINALS[case])
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert "name: 写真" in done.stdout or "name: \\u5199\\u771f" in done.stdout


PIPES = ["| true; exit ${PIPESTATUS[0]}", "| head -c 1 >/dev/null; exit ${PIPESTATUS[0]}", ">&-"]


@pytest.mark.parametrize("pipe", PIPES)
def test_a_reader_may_close_the_output_early(tmp_path: Path, pipe: str) -> None:
    done = start(tmp_path, "--help", pipe=pipe)
    assert done.returncode == 0, done.stderr
    assert not done.stderr


def test_logging_survives_a_closed_pipe() -> None:
    """A run whose output goes to `head` continues, without a traceback for each line."""
    code = (
        "import logging, sys, time; from vlmbench.system import terminal\n"
        "logging.basicConfig(handlers=[terminal.SteadyHandler(sys.stdout)], level=20)\n"
        "for _ in range(3): time.sleep(0.2); logging.info('写真')\n"
        "terminal.discard_output(); sys.exit(7)"
    )
    command = (
        f"{shlex.quote(sys.executable)} -c {shlex.quote(code)} | true; exit ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (7, "")


@pytest.mark.slow
@pytest.mark.parametrize("after_s", [0.05, 0.3])
def test_ctrl_c_while_packages_are_imported_ends_in_a_line(tmp_path: Path, after_s: float) -> None:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    code = (
        "import sys, time, types; sys.argv = ['vlmbench', 'seed=-1']\n"
        "from vlmbench.__main__ import main\n"
        "print('ready', flush=True)\n"
        "main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    time.sleep(after_s)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert "Traceback" not in error
    assert (process.returncode, error) in [(130, "stopped\n"), (130, "")] or (
        process.returncode == 2 and error.startswith("error: ")
    )
