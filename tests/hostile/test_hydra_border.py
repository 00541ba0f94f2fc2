"""Only settings of the schema and the documented parts of Hydra pass the command line.

Everything else could run code, write or delete files, load a pickle or set the environment.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

import vlmbench
from tests.conftest import REPOSITORY, Outcome
from vlmbench.cli import job  # noqa: F401 - registers the resolvers of conf/config.yaml
from vlmbench.cli.arguments import HYDRA_CHOICES, read_command
from vlmbench.types import UserError

Cli = Callable[..., Outcome]

OPTIONS = [
    *("--config-dir=conf", "--config-dir", "-cd", "-cdconf", "-cd=conf", "--config-d=conf"),
    *("--config-path=conf", "--config-path", "-cp", "-cp=conf", "--config-p", "--conf"),
    *("--config-name=evil", "--config-name", "-cn", "-cn=evil", "--config-n=evil"),
    *("--experimental-rerun=job.pickle", "--experimental-rerun", "--exp=job.pickle"),
    *("--package=hydra", "-p", "-p=hydra", "--info", "--info=config", "-i", "-i=all", "--in"),
    *("--shell-completion", "-sc", "-sc=install", "--sh", "--resolve", "--res", "--run", "-r"),
    *("--cfg=hydra", "--cfg=all", "-c=job", "-cjob", "--cf=job", "-c", "--hydra-help", "--hy"),
    *("--multi", "--mult", "-mx", "-mc", "--", "-", "---", "--m", "-M", "--MULTIRUN", "-1"),
    *("--multirun=true", "--help=1", "--versio", "-v", "--verbose", "@file", "--cfg"),
]
SETTINGS = [
    *("hydra.callbacks.x._target_=os.system", "+hydra.callbacks.x._target_=os.system"),
    *("+hydra.callbacks.x={_target_: os.system}", "++hydra.callbacks={}", "~hydra.callbacks"),
    *("hydra.callbacks.sweep._target_=os.system", "~hydra.callbacks.sweep", "~hydra"),
    *("hydra.searchpath=[conf]", "+hydra.searchpath=[pkg://evil]", "hydra.job.chdir=true"),
    *(
        "hydra.job.env_set={WANDB_BASE_URL: x}",
        "+hydra.job.env_set.A=b",
        "hydra.job.env_copy=[HOME]",
    ),
    *("hydra.job.name=x", "hydra.job.config.override_dirname.kv_sep=x", "hydra.verbose=true"),
    *("hydra.run.dir=x", "hydra.sweep.dir=x", "hydra.sweep.subdir=x", "hydra.output_subdir=x"),
    *("hydra.launcher._target_=os.system", "+hydra.launcher.setup=[touch x]", "hydra={}"),
    *("hydra.launcher.submitit_folder=x", "hydra.launcher.python=x", "hydra.launcher={}"),
    *("+hydra.launcher.ray.init.runtime_env={}", "+hydra.launcher.ray.init.address=x"),
    *("hydra.launcher.additional_parameters={}", "+hydra.launcher.srun_args=[x]"),
    *("hydra.sweeper._target_=os.system", "+hydra.sweeper.storage=sqlite:///x", "hydra.sweeper={}"),
    *("hydra.sweeper.sampler._target_=os.system", "hydra.job_logging={}", "hydra.hydra_logging={}"),
    *("hydra.sweeper.sampler={_target_: os.system}", "hydra.runtime.output_dir=x", "hydra.help={}"),
    *("hydra.sweeper.n_trials={_target_: os.system}", "hydra.overrides.task=[x]"),
    *("hydra/launcher=rq", "hydra/launcher=joblib", "hydra/sweeper=ax", "hydra/sweeper=nevergrad"),
    *("hydra/launcher=../x", "hydra/job_logging=none", "+hydra/env=default", "hydra/callbacks=x"),
    *("hydra/output=default", "hydra/help=default", "override hydra/launcher=basic", "hydra/x=y"),
    *("hydra@x=y", "model@evil=smol", "model@_global_=smol", "/model=smol", "schema/model=smol"),
    *("+schema/trainer@x=base", "_target_=os.system", "+_target_=x", "+model._target_=os.system"),
    *("+model={_target_: os.system}", "+baseline.x={_target_: os.system}", "model._args_=[x]"),
    *("source.labels={_target_: os.system}", "+source._partial_=true", "+view._recursive_=false"),
    *("trainer.batch_size={_target_: os.system}", "experiment=../evil", "experiment=/tmp/evil"),
    *("model=[../../evil]", "baseline=[../evil]", "trainer=..", "trainer=a/b", "+experiment=../x"),
    *("name=${oc.env:HOME}", "seed=${oc.env:SEED}", "name=${oc.decode:x}", "name=${now:%Y}"),
    *("name=${hydra:runtime.cwd}", "trainer.epochs=${run_folder:a,0,b}", "model=${oc.env:HOME}"),
    *("source.labels={a: ${oc.env:HOME}}", "images=[${oc.env:HOME}]", 'name="${oc.env:HOME}"'),
    *(
        "hydra.launcher.partition=${oc.env:HOME}",
        "~name=${x}",
        "${x}=1",
        "=x",
        "=",
        "a b=1",
        "++=1",
    ),
]


@pytest.mark.parametrize("argument", [*OPTIONS, *SETTINGS])
def test_what_is_not_documented_is_refused_by_name(argument: str) -> None:
    for arguments in ([argument], ["-m", argument]):
        with pytest.raises(UserError) as refused:
            read_command(arguments)
        message = str(refused.value)
        assert "; " in message, message
        name = re.split(r"[ =@{]", argument.lstrip("+~"))[0]
        assert name in message or not name


DOCUMENTED = [
    (["-m", "hydra/launcher=submitit_slurm", "hydra.launcher.gpus_per_node=1", "seed=0,1"]),
    (["-m", "hydra/launcher=ray", "+hydra.launcher.ray.remote.num_gpus=1", "seed=0,1,2,3"]),
    (["hydra.launcher.partition=gpu"]),
    (["experiment=tune", "hydra.sweeper.n_trials=4", "trainer.learning_rate=choice(5e-4,1e-9)"]),
    (["experiment=quick", "hydra.mode=RUN"]),
    (["--cfg", "job", "model=phi3"]),
    (["seed=0,1", "--multirun"]),
    (["~experiment", "++seed=3", "model.lora.r=8", "+prompt.rewordings.mine=Is it good?"]),
]


@pytest.mark.parametrize("arguments", DOCUMENTED)
def test_what_is_documented_passes(arguments: list[str]) -> None:
    command = read_command(arguments)
    settings = [argument for argument in arguments if "=" in argument or argument[0] == "~"]
    assert len(command.settings) == len(settings)
    assert ("--multirun" in command.options) == (arguments[0] == "-m" or "--multirun" in arguments)


@pytest.mark.parametrize("group", HYDRA_CHOICES)
def test_a_documented_choice_of_hydra_passes(group: str) -> None:
    for name in HYDRA_CHOICES[group]:
        assert read_command([f"{group}={name}"]).settings == (f"{group}={name}",)


def test_the_arguments_that_reach_hydra_are_read_by_it_as_they_are_meant() -> None:
    from hydra._internal.utils import get_args_parser

    command = read_command(["name=--config-dir=x", "-m"])
    args = get_args_parser().parse_args(command.hydra_arguments)
    assert args.overrides == ['name="--config-dir=x"']
    assert args.multirun
    assert args.config_dir is None


@pytest.fixture
def evil(tmp_path: Path) -> Path:
    """A folder of somebody else: its experiment writes a file and sets a variable."""
    folder = tmp_path / "conf" / "experiment"
    folder.mkdir(parents=True)
    (folder / "evil.yaml").write_text(
        "# @package _global_\n"
        "hydra:\n"
        "  job: {env_set: {WANDB_BASE_URL: 'http://127.0.0.1:9'}}\n"
        "  callbacks:\n"
        "    x:\n"
        "      _target_: pathlib.Path.write_text\n"
        "      self: {_target_: pathlib.Path, _args_: [owned]}\n"
        "      data: anything\n"
    )
    return tmp_path / "conf"


ATTACKS = [
    ("--config-dir", "conf", "experiment=evil"),
    ("-cd", "conf", "experiment=evil"),
    ("hydra.searchpath=[conf]", "experiment=evil"),
    ("experiment={up}/conf/experiment/evil",),
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_folder_of_settings_of_somebody_else_runs_nothing(
    cli: Cli, tmp_path: Path, evil: Path, attack: tuple[str, ...]
) -> None:
    up = os.path.relpath(tmp_path, REPOSITORY / "conf" / "experiment")
    before = sorted(tmp_path.rglob("*"))
    outcome = cli(*(word.format(up=up) for word in attack), "stage=check")
    assert outcome.code == 2
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert "WANDB_BASE_URL" not in os.environ


@pytest.mark.parametrize("call", [vlmbench.run, vlmbench.sweep])
@pytest.mark.parametrize("setting", ["hydra.searchpath=[conf]", "name=${oc.env:HOME}", "--info"])
def test_python_has_the_same_border(call: Callable[..., object], setting: str) -> None:
    with pytest.raises(UserError):
        call([setting])
    GlobalHydra.instance().clear()


def test_variables_of_hydra_change_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HYDRA_MAIN_MODULE", "FB_PAR_MAIN_MODULE", "HYDRA_INSTANTIATE_ALLOWLIST_OVERRIDE"):
        monkeypatch.setenv(name, "os:evil")
    assert cli("--cfg", "job").code == 0
    assert "HYDRA_MAIN_MODULE" not in os.environ


def test_no_module_of_the_working_folder_is_imported(tmp_path: Path) -> None:
    """A folder of photos may hold Python files; `python -m` would import them first."""
    for name in ("yaml.py", "torch.py", "hydra_plugins/__init__.py", "hydra_plugins/x/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("open('owned', 'w')")
    done = subprocess.run(
        [sys.executable, "-m", "vlmbench", "seed=-1"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr == "error: seed must be between 0 and 4294967295, got -1; set seed=0\n"
    assert not (tmp_path / "owned").exists()
