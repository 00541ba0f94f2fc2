"""A text setting is taken as it was typed: on the command line, in sweeps, from Python and yaml."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Outcome
from vlmbench.cli import job  # noqa: F401 - registers the resolvers of conf/config.yaml
from vlmbench.cli.arguments import read_command, read_params, read_settings
from vlmbench.cli.words import as_typed
from vlmbench.config import CONF, register_plugins
from vlmbench.system.text import replace_control_characters, typed_setting
from vlmbench.types import UserError

Cli = Callable[..., Outcome]

TEXTS = [
    *("写真", "photos (1)", "2024_05_01", "3.10", "1e5", "1_000", "true", "False", "inf", "0x10"),
    *("a,b", "a=b", "a#b", "{a}", "a{b", "[1]", "a[b", "a]b", "50%", "%(name)s", "-x", "~x", "+x"),
    *("ｆｕｌｌ　ｗｉｄｔｈ", "写真 [1] 良品", "é", "📷", "a\u00a0b", "👨‍👩‍👧", "が", "か\u3099"),
    *("a$b", "$HOME", "$", "$(id)", "`id`", "a\\b", "a\\", "\\\\host\\x", "C:\\photos", "\\"),
    *("it's", "'abc", 'a"b', '"', "'", "''a", "\"a\" and 'b'", '"a","b"', "a:b", "a@b", "@", ":"),
    *("a;b&c", "a|b", "a<b>c", "a?b", "a*b", "!x", "^x", "_", "...", ".", "..", "/", "a b ", " a"),
    *("choice(a,b)", "range(1,3)", "glob(*)", "_target_", "???x", "null ", "None", "NULL", "-", ""),
]


def read_one(typed: str, *, is_sweep: bool = False) -> Any:
    """Return the value that Hydra reads of one setting as it was typed."""
    (setting,) = read_settings([typed], is_sweep=is_sweep)
    return OverridesParser.create().parse_override(setting).value()


def read_sweep(typed: str) -> list[Any]:
    """Return the values of one setting in a sweep, as each run reads them."""
    (setting,) = read_settings([typed], is_sweep=True)
    override = OverridesParser.create().parse_override(setting)
    if not override.is_sweep_override():
        return [override.value()]
    texts = [f"x={text}" for text in override.sweep_string_iterator()]
    return [parsed.value() for parsed in OverridesParser.create().parse_overrides(texts)]


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("name", ["source.path", "name", "predict.folder"])
def test_a_text_is_taken_as_typed_in_a_single_run(name: str, text: str) -> None:
    assert read_one(f"{name}={text}") == text


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_in_a_message_can_be_typed_back_everywhere(text: str) -> None:
    typed = shlex.split(typed_setting("source.path", text))
    assert len(typed) == 1
    assert read_one(typed[0]) == text
    if not text.startswith("choice("):
        assert read_sweep(typed[0]) == [text]


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12))
def test_any_text_is_taken_as_typed(text: str) -> None:
    if "${" in text:
        with pytest.raises(UserError):
            read_one(f"name={text}")
        return

    quoted = text[:1] in ("'", '"') and text[-1:] == text[:1] and len(text) > 1
    if not quoted:
        assert read_one(f"name={text}") == text
        (setting,) = read_settings([f"name={text}"], is_sweep=False)
        assert read_settings([as_typed(setting)], is_sweep=False) == [setting]


OLD_CURES = {
    'source.path="写真"': "写真",
    "source.path='photos (1)'": "photos (1)",
    'name="3.10"': "3.10",
    'name="a,b"': "a,b",
    'run="null"': "null",
    r'name="a \"b\" c"': 'a "b" c',
}


@pytest.mark.parametrize("typed", OLD_CURES)
@pytest.mark.parametrize("is_sweep", [False, True])
def test_a_text_in_quotes_is_read_without_them(typed: str, is_sweep: bool) -> None:
    assert read_one(typed, is_sweep=is_sweep) == OLD_CURES[typed]


def test_null_is_nothing_where_a_setting_may_be_null() -> None:
    assert read_one("run=null") is None
    assert read_one("source.table=null") is None
    assert read_one("source.labels=null") is None
    assert read_one("name=null") == "null"


SWEEPS = {
    "model.path=a,b": ["a", "b"],
    "tracking.project=3.10,1_000": ["3.10", "1_000"],
    "source.path=写真,photos (1)": ["写真", "photos (1)"],
    "source.path=photos (1,2)": ["photos (1,2)"],
    'source.path="a,b",c': ["a,b", "c"],
    "source.path='a,b','c d'": ["a,b", "c d"],
    "tracking.project=it's,bob's": ["it's", "bob's"],
    "tracking.project=a, b": ["a", "b"],
    "tracking.project=a(,b": ["a(", "b"],
    "tracking.project=a=1,b=2": ["a=1", "b=2"],
    "tracking.project=choice(a,写真)": ["a", "写真"],
    "tracking.project=choice(a,'b,c')": ["a", "b,c"],
    "run=null,x": [None, "x"],
    "trainer.scheduler=linear,cosine": ["linear", "cosine"],
    "seed=0,1": [0, 1],
    "images=[a b.png,写真.png],[c.png]": [["a b.png", "写真.png"], ["c.png"]],
}


@pytest.mark.parametrize("typed", SWEEPS)
def test_a_comma_separates_texts_in_a_sweep(typed: str) -> None:
    assert read_sweep(typed) == SWEEPS[typed]


@pytest.mark.parametrize("name", ["name", "sweep"])
def test_a_sweep_has_one_name(name: str) -> None:
    typed = f"{name}=試し = 1, [a] #2"
    assert read_sweep(typed) == ["試し = 1, [a] #2"]
    assert read_sweep(f'{name}="a, b"') == ["a, b"]


def test_a_comma_that_tears_a_folder_in_a_sweep_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("良,不良").mkdir()
    with pytest.raises(UserError) as refused:
        read_settings(["source.path=良,不良"], is_sweep=True)
    assert str(refused.value) == (
        "source.path=良,不良: in a sweep (-m) a comma separates values, and there is a file or "
        """folder of the whole name; set 'source.path="良,不良"'"""
    )
    assert read_sweep('source.path="良,不良"') == ["良,不良"]
    Path("良").mkdir()
    Path("不良").mkdir()
    assert read_sweep("source.path=良,不良") == ["良", "不良"]


def test_an_experiment_that_is_a_sweep_separates_texts() -> None:
    command = read_command(["experiment=quick", "source=folder", "source.path=a,b"])
    assert command.settings[-1] == "source.path=a,b"
    command = read_command(["experiment=quick", "source.path=a,b", "hydra.mode=RUN"])
    assert command.settings[1] == 'source.path="a,b"'


LISTS = {
    "images=[a.png,b.png]": ["a.png", "b.png"],
    "images=[写真 (1).png, 良 [2].png]": ["写真 (1).png", "良 [2].png"],
    "images=[a[1.png,b.png]": ["a[1.png", "b.png"],
    "images=['a,b.png',\"c d.png\"]": ["a,b.png", "c d.png"],
    "images=[-a.png,#b.png,1.10]": ["-a.png", "#b.png", "1.10"],
    "images=[]": [],
    "source.categories=[ねじ,bottle]": ["ねじ", "bottle"],
}


@pytest.mark.parametrize("typed", LISTS)
def test_a_list_of_texts_is_taken_as_typed(typed: str) -> None:
    assert read_one(typed) == LISTS[typed]
    assert read_sweep(typed) == [LISTS[typed]]


MAPPINGS = {
    "source.labels={良: normal, 不良: abnormal}": {"良": "normal", "不良": "abnormal"},
    "source.labels={良:normal,不良:abnormal}": {"良": "normal", "不良": "abnormal"},
    "source.labels={OK (1): normal, no: abnormal}": {"OK (1)": "normal", "no": "abnormal"},
    "source.labels={1.10: normal, true: abnormal}": {"1.10": "normal", "true": "abnormal"},
    "source.labels={'a,b': normal, \"c: d\": abnormal}": {"a,b": "normal", "c: d": "abnormal"},
    "source.labels={a:b: normal}": {"a:b": "normal"},
    "source.labels={良 [1]: normal, '': abnormal}": {"良 [1]": "normal", "": "abnormal"},
    'source.labels="{良: normal, no: abnormal}"': {"良": "normal", "no": "abnormal"},
    "source.labels={}": {},
}


@pytest.mark.parametrize("typed", MAPPINGS)
@pytest.mark.parametrize("is_sweep", [False, True])
def test_a_mapping_of_texts_is_taken_as_typed(typed: str, is_sweep: bool) -> None:
    from vlmbench.data.sources.folder import FolderConfig

    value = read_one(typed, is_sweep=is_sweep)
    assert FolderConfig(path="x", labels=value).labels == MAPPINGS[typed]


PROMPTS = {
    "prompt.labels={normal: 良 品, abnormal: '1'}": {"normal": "良 品", "abnormal": "1"},
    'prompt.phrases={a scratch: 傷, ", upper left": 左上}': {
        "a scratch": "傷",
        ", upper left": "左上",
    },
    "prompt.questions={judge_pair: Is it: good?}": {"judge_pair": "Is it: good?"},
    "prompt.questions.judge_pair=Is it good, or {not}?": "Is it good, or {not}?",
    "+prompt.rewordings.mine=二つ目は？\n正常 or 異常": "二つ目は？\n正常 or 異常",
}


@pytest.mark.parametrize("typed", PROMPTS)
def test_the_words_of_a_prompt_are_taken_as_typed(typed: str) -> None:
    assert read_one(typed) == PROMPTS[typed]


REFUSED = {
    "name=${oc.env:HOME}": "${ is not read on the command line; set name=baseline",
    "source.path=a${b": "${ is not read on the command line; set source.path=photos",
    "prompt.phrases={傷: a}": "write them into a file such as conf/prompt/mine.yaml",
    "source.labels={良}": "良 has no colon; set 'source.labels={良: abnormal}'",
    "source.labels={a: b, a: c}": "two values for a; leave one of them out",
    "name=a\x00b": "holds the control character '\\x00'; leave the character out",
    "name=a\nb": "holds the control character '\\n'; leave the character out",
    "name=\x1b[31mred": "holds the control character '\\x1b'",
    "name=\udcff": "the argument is not UTF-8; rename the file",
}


@pytest.mark.parametrize("typed", REFUSED, ids=ascii)
@pytest.mark.parametrize("is_sweep", [False, True])
def test_what_cannot_be_a_text_is_refused_plainly(typed: str, is_sweep: bool) -> None:
    with pytest.raises(UserError) as refused:
        read_settings([typed], is_sweep=is_sweep)
    message = str(refused.value)
    assert REFUSED[typed] in message
    assert message.encode()
    assert "\n" not in replace_control_characters(message) or "\n" in typed


def test_a_yaml_file_holds_texts_as_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(
        "# @package _global_\n"
        "name: 2024_05_01\n"
        "data_dir: 3.10\n"
        "run_label: yes\n"
        "seed: 3\n"
        "images: [1.10, no]\n"
        "source: {labels: {no: abnormal, 1.10: normal}}\n"
        "hydra:\n  sweeper:\n    params:\n      seed: 0,1\n      cache_dir: 1_0,写真 (1)\n",
        encoding="utf-8",
    )
    monkeypatch.setenv("VLMBENCH_PLUGINS", str(tmp_path))
    register_plugins()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", ["experiment=mine", "source=folder"], return_hydra_config=True)

    assert [config.name, config.data_dir, config.run_label] == ["2024_05_01", "3.10", "yes"]
    assert config.seed == 3
    assert config.images == ["1.10", "no"]
    assert config.source.labels == {"no": "abnormal", "1.10": "normal"}
    read_params(config)
    assert config.hydra.sweeper.params == {"seed": "0,1", "cache_dir": '"1_0","写真 (1)"'}


def test_our_own_yaml_files_mean_what_yaml_says() -> None:
    from vlmbench.config.source import _mended

    register_plugins()
    for path in CONF.rglob("*.yaml"):
        package = "" if path.parent == CONF else path.parent.name
        assert _mended(path, path.stat().st_mtime_ns, package) is None, path


@pytest.mark.slow
@pytest.mark.parametrize(("options", "name"), [((), "-写真　(1),#{%"), (("-m",), "a,b=[ｃ]$y")])
def test_run_folders_have_the_names_that_were_typed(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: Sequence[str],
    name: str,
) -> None:
    pytest.importorskip("torch")  # `make lowest` has no large packages
    monkeypatch.setattr("vlmbench.cli.stages.do_stage", lambda run: None)
    value = f'"{name}"' if options else name
    typed = [f"{key}={value}" for key in ("run_label", "source.path", "tracking.project")]
    more = ("tracking=off", "stage=train", "source=folder", f"name={name}")
    cli(*options, *more, *typed)

    (folder,) = tmp_path.glob("runs/*/0_*")
    assert folder.parent.name.endswith(f"_{name}")
    assert folder.name == f"0_{name}"
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert config["source"]["path"] == config["tracking"]["project"] == config["name"] == name

    plan = json.loads((folder.parent / "plan.json").read_text(encoding="utf-8"))
    assert f"source.path={name}" in plan["runs"][0]["overrides"] or "," in name
