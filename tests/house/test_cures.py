"""Every cure that a message prints is typed back and accepted.

To add a mistake, add a line to one of the lists below: a command without `vlmbench`. DEFAULTS are
added unless the command names others. The files are those of `workplace`.
"""

from __future__ import annotations

import ast
import csv
import json
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from omegaconf import OmegaConf

from tests.conftest import ManifestBuilder, Outcome, image
from tests.helpers.mvtec import mvtec
from tests.helpers.source import location, parse, python_files
from vlmbench.config import CONF, register_plugins

Cli = Callable[..., Outcome]
DEFAULTS = {
    "stage": "prepare",
    "model": "llama32_tiny",
    "trainer": "debug",
    "source": "manifest",
    "source.path": "mine/mine.jsonl",
}
RUN = "runs/2026-01-31_quick/0_llama32_tiny_single_s0"

# One mistake for each way in which a message finds its cure: each costs a second.
NUMBERS = [
    *("seed=-1", "seed=1.5", "seed=null", "'seed=${foo}'", "trainer.epochs=inf"),
    *("data.fold=1", "data.folds=5 data.fold=7", "data.folds=1 data.fold=0"),
    *("trainer.learning_rate=1e", "trainer.max_steps=0", "trainer.batch_size=0"),
    *("trainer.batch_size=1.5", "model.lora.dropout=1.5", "view=rt view.window=4"),
    *("data.split.train=0.9", "source=parts source.num_parts=5"),
    *("source=surfaces source.grid=3", "predict.cost_miss=10"),
    "trainer.early_stopping=2 trainer.eval_steps=null",
    *("baseline.patch_nn.patches=0", "baseline.linear_probe.folds=1"),
]
CHOICES = [
    *("model=smoll", "stage=prepair", "experiment=baselin", "view=rtt", "model=3", "'~model'"),
    *("trainer.engine=unsloht", "trainer.precision=half", "trainer.resume=maybe"),
    *("baseline=[majority,patch_n]", "baseline=untuned_model", "baseline=3"),
]
NAMES = [
    *("mdoel=smol", "max_steps=3", "trianer.max_steps=3", "trainer.max_step=3"),
    *("trainer.foo=1", "+trainer.foo=1", "source=parts source.path=photos"),
]
OPTIONS = [
    *("--model=llama32_tiny", "--seed 3", "--seed", "seed=0,1 --mutlirun"),
    *("data=single -m seed=0,1", "trainer.max_steps", "-cd=conf", "seed=0 --info", "''"),
    *("hydra.sweep.dir=mine", "hydra.run.dir=mine", "+hydra.callbacks.x=1", "hydra/launcher=rq"),
]
VALUES = [
    *("images=a.png", "'images=[a.png'", "source.labels=ng"),
    *("'source.labels={ng: bad}' source=folder", "'source.labels={ng}' source=folder"),
    *(
        "'name=${name}'",
        "trainer.epochs=写",
        "model=写",
        "experiment=../x",
        "-m tracking.project=a,",
    ),
]
FILES = [
    *("source=folder source.path=photo", "source=manifest source.path=mine/mine.json"),
    "data.folds=11 data.fold=0 stage=check",
    *("source=folder", "source=mvtec", "source=llava", "source=huggingface", "view=files"),
    "source=manifest source.path=words/words.jsonl",
    "source=manifest source.path=words/views.jsonl",
    "source=folder source.path=tables",
    "source=folder source.path=tables source.table=label.csv",
    "source=folder source.path=tables source.table=words.csv",
    "source=mvtec source.path=mvtek",
    "source=mvtec source.path=mvtec 'source.categories=[blot]'",
    "source=llava source.path=row.json",
    "source=huggingface source.path=rows.json",
    "source=folder source.path=写真館",
]
RUNS = [
    *("stage=predict", "stage=predict run=runs/2026-01-31_quick"),
    *("stage=report sweep=runs/nothing", "stage=export run=nothing"),
    f"stage=predict run={RUN}",
    f"stage=predict run={RUN} images=[a.png,b.png,c.png]",
    f"stage=predict run={RUN} images=[a.png,b.png] model=smol",
    f"stage=predict run={RUN} images=[a.png,b.png] predict.view=xray",
    f"stage=predict run={RUN} predict.folder=photos/god",
    f"stage=predict run={RUN} predict.folder=photos/bad predict.reference=photos/god",
    f"stage=predict run={RUN} predict.manifest=mine/mine.json",
    f"stage=predict run={RUN} predict.folder=photos/bad predict.reference=photos/good "
    "predict.pairing=name",
]
IN_SETTINGS = [*NUMBERS, *CHOICES, *NAMES, *OPTIONS, *VALUES]  # found before any stage begins
IN_FILES = [*FILES, *RUNS]

# The words before a cure that can be typed, and the cure itself.
SETTING = r"(?:'[^']*=[^']*'|[^\s']+=\S+)"
TYPED = re.compile(rf"(?:set|add|write|map it, as in|without dashes:) ({SETTING})")
CLOSEST = re.compile(r"did you mean (\S+?)(?: or .*)?\?")
LEFT_OUT = re.compile(r"leave (?:(it)|(\S+?)=?) out")


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, tables, a manifest, a data set and a run, all small."""
    folder = tmp_path_factory.mktemp("workplace")
    builder = ManifestBuilder(folder / "mine")
    for number in range(10):
        builder.add_part(number)
    builder.write()
    _write_words(folder / "words", builder)

    for name in ("photos", "写真"):
        for label, count in (("good", 16), ("bad", 8)):
            _write_photos(folder / name / label, label, count)
    _write_photos(folder / "tables", "part", 24)
    _write_table(folder / "tables" / "labels.csv", ("normal", "abnormal"))
    _write_table(folder / "tables" / "words.csv", ("normal", "ng"))
    mvtec(folder / "mvtec")
    _write_rows(folder)
    _write_run(folder / RUN)
    return folder


@pytest.fixture(autouse=True)
def _compose_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Hydra compose each command once, and not once more to learn that it is no sweep."""
    monkeypatch.setattr(Hydra, "get_mode", lambda self, config_name, overrides: None)


@pytest.fixture
def workplace(template: Path, tmp_path: Path, cli: Cli) -> Cli:
    """The command line in a fresh copy of `template`."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    return cli


@pytest.mark.slow
@pytest.mark.parametrize("command", IN_SETTINGS)
def test_the_cure_of_a_wrong_setting_is_accepted(
    cli: Cli, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmbench.cli.stages.do_stage", lambda run: None)
    require_cure(cli, command)


@pytest.mark.slow
@pytest.mark.parametrize("command", IN_FILES)
def test_the_cure_of_a_wrong_file_or_run_is_accepted(workplace: Cli, command: str) -> None:
    require_cure(workplace, command)


def require_cure(cli: Cli, command: str) -> None:
    """Require that a command is refused, and that its cure, typed back, ends the complaint."""
    arguments = with_defaults(shlex.split(command))
    refused = cli(*arguments)
    assert refused.code == 2, f"{command} is no mistake: {refused}"

    message = first_line(refused.err)
    complaint, _, cure = message.partition("; ")
    assert cure, f"{command}: the message has no cure: {message}"
    assert not re.search(r"<[a-z][^>]*>", cure), (
        f"{command}: write a value that can be typed: {cure}"
    )

    mended = typed_back(arguments, message)
    assert mended != arguments, f"{command}: no part of the cure can be typed: {cure}"

    outcome = cli(*mended)
    assert complaint not in outcome.err, (
        f"the cure does not help\ncommand: {shlex.join(arguments)}\nmessage: {message}\n"
        f"typed back: {shlex.join(mended)}\nmessage then: {outcome.err}"
    )
    assert "Traceback" not in outcome.err


def test_there_are_many_mistakes() -> None:
    mistakes = [*IN_SETTINGS, *IN_FILES]
    assert len(set(mistakes)) == len(mistakes) >= 70


def test_a_photo_with_another_name_in_the_table_is_mended(workplace: Cli, tmp_path: Path) -> None:
    table = tmp_path / "tables" / "labels.csv"
    table.write_text(table.read_text().replace("part3.png", "Part3.jpg"))
    arguments = with_defaults(["source=folder", "source.path=tables", "source.table=labels.csv"])

    message = first_line(workplace(*arguments).err)
    (name,) = re.findall(r"did you mean (\S+)\?", message)
    table.write_text(table.read_text().replace("Part3.jpg", name))
    assert workplace(*arguments).code == 0


def test_a_table_without_a_column_is_mended(workplace: Cli, tmp_path: Path) -> None:
    table = tmp_path / "tables" / "labels.csv"
    table.write_text(table.read_text().replace("path,label", "path,verdict"))
    arguments = with_defaults(["source=folder", "source.path=tables", "source.table=labels.csv"])

    message = first_line(workplace(*arguments).err)
    (name,) = re.findall(r"add the column name '(\w+)' to the header", message)
    table.write_text(table.read_text().replace("path,verdict", f"path,{name}"))
    assert workplace(*arguments).code == 0


def test_a_file_at_the_path_of_a_folder_is_mended_by_moving_it(
    workplace: Cli, tmp_path: Path
) -> None:
    (tmp_path / "data").touch()
    arguments = with_defaults(["source=folder", "source.path=photos"])
    assert "; move the file" in first_line(workplace(*arguments).err)

    (tmp_path / "data").rename(tmp_path / "elsewhere")
    assert workplace(*arguments).code == 0


@pytest.mark.slow
def test_no_message_has_a_placeholder() -> None:
    placeholder = re.compile(r"=<[a-z]")
    problems = []
    for path in python_files("vlmbench"):
        tree = parse(path)
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        problems += [
            f"{location(path, node)}: {node.value!r}: write a value that can be typed"
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and id(node) not in docstrings
            and placeholder.search(str(node.value))
        ]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("command", "message", "expected"),
    [
        ("seed=-1 a=b", "seed must be x, got -1; set seed=0", "a=b seed=0"),
        ("a=1", "a=1: setting a does not exist; did you mean b.a or c.a?", "b.a=1"),
        ("-m a=1", "unknown option -m; did you mean --multirun?", "--multirun a=1"),
        ("--a 3 b=1", "unknown option --a; write the setting without dashes: a=3", "b=1 a=3"),
        ("a=1 +b=2", "+b=2: setting b does not exist; leave it out, or use c", "a=1"),
        ("a=1 b", "b: a setting needs a value; write b=1", "a=1 b=1"),
        ("a=1 -m b=2", "b=2: settings stand around an option; write -m a=1 b=2", "-m a=1 b=2"),
    ],
)
def test_a_cure_is_typed_as_a_user_would(command: str, message: str, expected: str) -> None:
    assert typed_back(command.split(), message) == expected.split()


def first_line(error: str) -> str:
    """Return the first line of a message, without its "error: "."""
    assert error.startswith("error: "), error
    return error.removeprefix("error: ").splitlines()[0]


def with_defaults(arguments: Sequence[str]) -> list[str]:
    """Return a command with DEFAULTS in front, but for what it names itself."""
    keys = {key_of(argument) for argument in arguments}
    if "source" in keys:
        keys.add("source.path")
    added = [f"{key}={value}" for key, value in DEFAULTS.items() if key not in keys]
    is_option_first = arguments[0].startswith("-")
    return [*arguments, *added] if is_option_first else [*added, *arguments]


def key_of(argument: str) -> str:
    return argument.lstrip("+~-").partition("=")[0]


def typed_back(arguments: Sequence[str], message: str) -> list[str]:
    """Return the command after doing what the message's cure says."""
    complaint, _, cure = message.partition("; ")
    wrong = wrong_argument(arguments, complaint)

    if match := CLOSEST.search(cure):
        value = wrong.partition("=")[1:]
        right = match[1] if match[1].startswith("-") else "".join((match[1], *value))
        return [right if argument == wrong else argument for argument in arguments]
    if match := re.search(r"write (-\S.*)", cure):
        return shlex.split(match[1])
    if match := TYPED.search(cure):
        (setting,) = shlex.split(match[1].rstrip(",."))
        return replace_setting(arguments, setting, wrong)
    if match := LEFT_OUT.search(cure):
        key = key_of(wrong) if match[1] else match[2]
        return [argument for argument in arguments if key_of(argument) != key]
    return list(arguments)


def wrong_argument(arguments: Sequence[str], complaint: str) -> str:
    """Return the argument that a complaint begins with or names; "" if it names none."""
    candidates = [
        argument
        for argument in arguments
        if complaint.startswith((f"{argument}:", f"{argument.partition('=')[0]}:"))
        or complaint.endswith(f"unknown option {argument}")
    ]
    return next(iter(candidates), "")


def replace_setting(arguments: Sequence[str], setting: str, wrong: str) -> list[str]:
    """Return the arguments with `setting` at their end, in place of `wrong` and of its own key."""
    kept = []
    skips_value = False
    for argument in arguments:
        if skips_value and "=" not in argument:  # the value after an option: --seed 3
            skips_value = False
            continue
        skips_value = argument == wrong and argument.startswith("-") and "=" not in argument
        is_wrong = argument == wrong and ("=" not in argument or argument.startswith("-"))
        if not is_wrong and key_of(argument) != key_of(setting):
            kept.append(argument)
    return [*kept, setting]


def _write_photos(folder: Path, label: str, count: int) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        image(1000 * len(label) + number).save(folder / f"{label}{number}.png")


def _write_table(path: Path, labels: tuple[str, str]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label"))
        writer.writerows((f"part{i}.png", labels[i % 3 == 0]) for i in range(24))


def _write_words(folder: Path, builder: ManifestBuilder) -> None:
    """Write two manifests: one with labels in other words, one with an unknown view."""
    shutil.copytree(builder.folder, folder)
    for name, old, new in (("words", "abnormal", "ng"), ("views", '"view": "raw"', '"view": "ct"')):
        lines = [json.dumps(row) for row in builder.rows]
        lines[1:] = [line.replace(old, new) for line in lines[1:]] if name == "words" else lines[1:]
        lines[0] = lines[0].replace(old, new)
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _write_rows(folder: Path) -> None:
    """Write conversations in LLaVA's format."""
    rows = [
        {
            "id": f"{number}",
            "image": f"photos/{label}/{label}{number}.png",
            "conversations": [
                {"from": "human", "value": "<image>\nIs this part normal?"},
                {"from": "gpt", "value": "normal" if label == "good" else "abnormal: a scratch"},
            ],
        }
        for label, count in (("good", 16), ("bad", 8))
        for number in range(count)
    ]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")


def _write_run(folder: Path) -> None:
    """Write what the command line reads of a finished run: its settings, not its weights."""
    (folder / "adapter").mkdir(parents=True)
    (folder / ".hydra").mkdir()
    (folder / "status.json").write_text('{"state": "finished", "time": 0}')
    register_plugins()

    overrides = [f"{key}={value}" for key, value in DEFAULTS.items()]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides, return_hydra_config=True)
    (folder / ".hydra" / "hydra.yaml").write_text(
        OmegaConf.to_yaml({"hydra": {"runtime": {"choices": config.hydra.runtime.choices}}})
    )
    at_start = {"hydra", "sweep", "run_label"}  # Hydra knows them only once a run starts
    settings = OmegaConf.masked_copy(config, [key for key in config if key not in at_start])
    OmegaConf.save(settings, folder / "config.yaml", resolve=True)
