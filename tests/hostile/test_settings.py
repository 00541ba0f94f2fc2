"""Settings from the command line and from files: nothing is called, no secret is written.

To add one: a line in OVERRIDES or FILES.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import ManifestBuilder, Outcome
from vlmbench.system.secrets import refuse_secrets
from vlmbench.types import UserError

Cli = Callable[..., Outcome]
PATIENCE_S = 20
KEY = "0123456789abcdef0123456789abcdef01234567"

OVERRIDES = {
    "a target in a group": "+model._target_=os.system",
    "a target in the source": "+source._target_=subprocess.run",
    "a target at the top": "+_target_=os.system",
    "a target in a callback": "+hydra.callbacks.x._target_=os.system",
    "a callback that is a target": "+hydra.callbacks.x={_target_:os.system,command:touch owned}",
    "a launcher that is a target": "+hydra.launcher._target_=os.system",
    "a key that is none": "+evil=1",
    "a key deep within": "+model.lora.evil=1",
    "a resolver that is none": "seed=${evil:1}",
    "a resolver that reads files": "seed=${oc.decode:${evil}}",
    "an interpolation to itself": "seed=${seed}",
    "a circle of interpolations": "name=${run_label} run_label=${name}",
    "a target in a mapping": "source.labels={_target_:os.system}",
    "a target in a baseline": "+baseline.evil={_target_:os.system}",
    "a baseline that is none": "+baseline.evil=1",
    "a choice from outside": "experiment=../../evil",
    "an infinite number": "trainer.epochs=inf",
    "no number": "trainer.learning_rate=nan",
    "a negative number": "trainer.epochs=-1",
    "a number out of range": "seed=99999999999999999999",
    "a number with an exponent": "seed=1e400",
    "a text for a number": "seed=abc",
    "a list for a number": "seed=[1,2]",
    "a word that is no choice": "stage=os.system",
    "a batch of text": "trainer.batch_size=__import__",
    "a batch of fractions": "trainer.batch_size=1.5",
    "an open list": "images=[[[[[[",
    "an open dictionary": "source.labels={a:",
    "control characters": "name=\x1b[31mred",
    "a choice that is a path": "model=../../../etc/passwd",
    "a choice that is absolute": "model=/etc/passwd",
}


@pytest.mark.parametrize("name", OVERRIDES)
def test_hostile_settings_are_refused(cli: Cli, tmp_path: Path, name: str) -> None:
    started = time.monotonic()
    outcome = cli("stage=prepare", *OVERRIDES[name].split(" "))
    assert time.monotonic() - started < PATIENCE_S
    assert outcome.code == 2, outcome
    assert "Traceback" not in outcome.err
    assert "\x1b" not in outcome.err
    assert not list(tmp_path.rglob("owned"))


FILES = {
    "a call": "!!python/object/apply:os.system ['touch owned']",
    "a new object": "!!python/object/new:os.system ['touch owned']",
    "a module": "!!python/module:antigravity",
    "a name": "!!python/name:os.system",
    "a call within": "seed: !!python/object/apply:os.system ['touch owned']",
    "a bomb": (
        "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\n"
        "c: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
    ),
    "depth": "[" * 2000,
    "no YAML": "\x00\x01{{{",
    "an interpolation": "seed: ${oc.env:WANDB_API_KEY}",
    "a resolver that is none": "seed: ${evil:1}",
    "nothing": "",
    "a list": "- 1\n- 2\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_hostile_runs_settings_run_nothing(
    cli: Cli, tmp_path: Path, manifest: ManifestBuilder, name: str
) -> None:
    """A folder in the sweep that somebody else made is looked through for the run."""
    hydra = tmp_path / "runs" / "s" / "0_x" / ".hydra"
    hydra.mkdir(parents=True)
    (hydra.parent / "config.yaml").write_bytes(FILES[name].encode())
    (hydra / "hydra.yaml").write_bytes(FILES[name].encode())
    started = time.monotonic()
    outcome = cli(
        "sweep=runs/s",
        "source=manifest",
        f"source.path={manifest.path}",
        "model=llama32_tiny",
        "view=raw",
    )
    assert time.monotonic() - started < PATIENCE_S
    assert outcome.code == 2  # if only because the manifest was not written
    assert "Traceback" not in outcome.err
    assert not list(tmp_path.rglob("owned"))


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_among_the_plug_ins_settings_runs_nothing(
    cli: Cli,
    tmp_path: Path,
    manifest: ManifestBuilder,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("VLMBENCH_PLUGINS", str(tmp_path))
    source = ("source=manifest", f"source.path={manifest.write()}")
    (tmp_path / "conf" / "trainer").mkdir(parents=True)
    (tmp_path / "conf" / "trainer" / "evil.yaml").write_bytes(FILES[name].encode())
    outcome = cli("stage=prepare", "trainer=evil", *source)
    assert outcome.code == (0 if name == "nothing" else 2), outcome
    assert "Traceback" not in outcome.err
    assert not list(tmp_path.rglob("owned"))


SECRETS = {
    "as it is": ("tracking.project={key}", "WANDB_API_KEY"),
    "within a name": ("name=run-{key}", "WANDB_API_KEY"),
    "in an address": ("source.path=https://user:{key}@host/x", "WANDB_API_KEY"),
    "from the environment": ("tracking.project=${{oc.env:WANDB_API_KEY}}", "WANDB_API_KEY"),
    "from the environment, spaced": ("name=${{oc.env: WANDB_API_KEY}}", "WANDB_API_KEY"),
    "another one": ("name=${{oc.env:MY_PASSWORD}}", "MY_PASSWORD"),
}


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_in_the_settings_is_refused_and_not_said(
    cli: Cli, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("WANDB_API_KEY", "MY_PASSWORD"):
        monkeypatch.setenv(variable, KEY)
    template, variable = SECRETS[name]
    outcome = cli("stage=prepare", template.format(key=KEY))
    assert outcome.code == 2
    assert variable in outcome.err
    assert KEY not in outcome.err + outcome.out
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()
    ]


def test_words_that_are_no_secrets_may_stand_in_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEYBOARD", "qwertyuiop")
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    monkeypatch.setenv("HOME", "/home/somebody")
    refuse_secrets(["name=qwertyuiop", "name=abc", "path=${oc.env:HOME}/x"])
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefgh")
    with pytest.raises(UserError, match="HF_TOKEN"):
        refuse_secrets(["name=hf_abcdefgh"])


WORDS = st.sampled_from(
    [
        *("seed", "name", "trainer.epochs", "trainer.batch_size"),
        *("data.split.train", "source.labels", "model.lora.r", "grace_s"),
    ]
)
VALUES = st.text(max_size=12) | st.integers().map(str) | st.floats().map(str)


@pytest.mark.slow
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(WORDS, VALUES)
def test_any_value_is_refused_or_taken(cli: Cli, tmp_path: Path, word: str, value: str) -> None:
    argument = f"{word}={value}".replace("\0", "")
    outcome = cli("stage=prepare", "source=manifest", f"source.path={tmp_path}", argument)
    assert outcome.code in (0, 2), outcome


@pytest.mark.slow
def test_no_secret_of_the_environment_is_written_down(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run offline tracking: neither the run's folder nor its caches nor its output has a key."""
    for variable in ("WANDB_API_KEY", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "MY_PASSWORD"):
        monkeypatch.setenv(variable, KEY)
    tiny = (
        "model=llama32_tiny",
        "trainer=debug",
        "source.num_parts=24",
        "eval.limit=4",
        "eval.probes=false",
    )
    outcome = cli(*tiny, "tracking=offline")
    assert outcome.code == 0, outcome.err[-2000:]
    assert KEY not in outcome.out + outcome.err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
