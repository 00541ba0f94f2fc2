"""Every example runs from its first to its last line, on a small random model."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from hydra.core.config_store import ConfigStore

from tests.conftest import CARDS, REPOSITORY
from tests.helpers.prose import RIDDLE, sentences_of
from vlmbench.config.registry import PLUGIN_PACKAGES, PLUGINS_VARIABLE

EXAMPLES = REPOSITORY / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("[0-9]*.py"))
NOTEBOOK = EXAMPLES / "08_notebook.ipynb"
MAX_LINES = 66
TINY = (
    *("model=llama32_tiny", "trainer=debug", "trainer.max_steps=2"),
    *("eval.limit=2", "eval.probes=false"),
)
FEW_PARTS = "source.num_parts=16"
RAW_PARTS = (FEW_PARTS, "view=raw", "source.processed_view=raw")
RAW_PHOTOS = ("view=raw", "source.processed_view=null", "source.compare_views=false")

# The size that the test gives to the notebook, instead of its own.
TINY_PARAMETERS = f"""
PHOTOS, NUM_GOOD, NUM_BAD = None, 24, 12
MODEL, SIZE = {list(TINY)}, ["seed=0"]
"""

Run = Callable[..., str]


@pytest.fixture
def run_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Return a function that runs the main function of an example and returns its output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(*CARDS)
    monkeypatch.syspath_prepend(str(EXAMPLES))

    def run(name: str, *arguments: str) -> str:
        runpy.run_path(str(EXAMPLES / name))["main"](arguments)
        return capsys.readouterr().out

    yield run
    sys.modules.pop("photos", None)


@pytest.fixture
def _own_plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remove the plug-ins of a test after it."""
    monkeypatch.setenv(PLUGINS_VARIABLE, "")
    packages = [import_module(name) for name in (*PLUGIN_PACKAGES, "vlmbench.metrics")]
    for package in packages:
        monkeypatch.setattr(package, "__path__", list(package.__path__))

    yield

    sys.modules.pop("vlmbench.metrics.alarm_rate", None)
    sys.modules.pop("vlmbench.data.views.edges", None)
    ConfigStore.instance().repo["schema"]["view"].pop("edges.yaml", None)


@pytest.mark.slow
def test_own_photos(run_example: Run) -> None:
    output = run_example("01_own_photos.py", *TINY, *RAW_PHOTOS)

    report = re.search(r"report: (.+/report/index\.html)", output)
    assert report is not None
    assert Path(report[1]).is_file()
    assert re.search(r"plate40\.png: (ab)?normal, P\(abnormal\) = [01]\.\d\d", output)


@pytest.mark.slow
def test_a_manifest(run_example: Run) -> None:
    output = run_example("02_manifest.py", *TINY)

    record = re.search(r"first record: (.+)", output)
    assert record is not None
    assert json.loads(record[1])["label"] == "normal"
    assert "accuracy on 2 held-out records:" in output


@pytest.mark.slow
def test_a_sweep_with_a_verdict(run_example: Run, drawn: str) -> None:
    output = run_example("03_sweep_with_a_verdict.py", *TINY, *RAW_PARTS, drawn, "seed=0")

    assert re.search(r"- .*with_comparison.* points of (?:balanced )?accuracy \(", output)


@pytest.mark.slow
@pytest.mark.usefixtures("_own_plugins")
def test_a_plugin_metric(run_example: Run, drawn: str) -> None:
    output = run_example("04_plugin_metric.py", *TINY, *RAW_PARTS, drawn)

    assert re.search(r"alarms: \d+% of 2 records \(\d+% to \d+%\)", output)
    report = Path(re.search(r"report: (.+/report/index\.html)", output)[1])
    assert "Share of records that the model calls abnormal" in report.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.usefixtures("_own_plugins")
def test_a_plugin_view(run_example: Run) -> None:
    output = run_example("05_plugin_view.py", *TINY, FEW_PARTS)

    assert re.search(r"^raw: accuracy \d+% of 2 records$", output, re.MULTILINE)
    assert re.search(r"^edges: accuracy \d+% of 2 records$", output, re.MULTILINE)


@pytest.mark.slow
def test_predict_from_python(run_example: Run) -> None:
    output = run_example("06_predict_from_python.py", *TINY, *RAW_PHOTOS)

    assert re.search(r"good\.png: (ab)?normal, P\(abnormal\) = [01]\.\d\d, '", output)
    assert re.search(r"bad\.png: (ab)?normal, P\(abnormal\) = [01]\.\d\d, '", output)
    assert re.search(r"text\.png: not judged: .*text\.png", output)


def test_phi3_vision_alone(run_example: Run) -> None:
    output = run_example("07_phi3_vision_alone.py")

    assert re.search(r"image tokens: \d+\nanswer: '", output)


@pytest.mark.slow
def test_the_notebook_runs_top_to_bottom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(*CARDS)

    names: dict[str, Any] = {}
    for number, block in enumerate(code_blocks(), start=1):
        lines = [line for line in block["source"] if not line.startswith("%")]
        exec(compile("".join(lines), f"block {number}", "exec"), names)  # noqa: S102
        if "parameters" in block["metadata"].get("tags", ()):
            exec(TINY_PARAMETERS, names)  # noqa: S102

    output = capsys.readouterr().out
    assert output.count("finished") >= 2
    assert re.search(r"- .*with_comparison.* points of (?:balanced )?accuracy \(", output)
    assert Path("runs/notebook/report/index.html").is_file()
    assert re.search(r"(ab)?normal, P\(abnormal\) = [01]\.\d\d\n$", output)


def test_the_notebook_installs_first_and_is_committed_without_outputs() -> None:
    blocks = code_blocks()
    first = "".join(blocks[0]["source"])
    assert first.count("%pip install") == 2

    pinned = re.findall(r"[\w-]+==[\d.]+", first)
    constraints = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert len(pinned) == 2
    assert set(pinned) <= set(constraints)

    assert "torch.cuda.is_available()" in "".join(blocks[1]["source"])
    assert all(block["outputs"] == [] and block["execution_count"] is None for block in blocks)


def code_blocks() -> list[dict[str, Any]]:
    """Return the notebook's blocks of code in order."""
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [block for block in notebook["cells"] if block["cell_type"] == "code"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_is_short_and_names_its_command(name: str) -> None:
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    docstring = text.split('"""')[1]

    assert f"    python examples/{name}" in docstring
    assert re.search(r"\bprints\b", docstring)
    assert len(text.splitlines()) <= MAX_LINES


def test_the_table_lists_every_file() -> None:
    listed = re.findall(r"\]\(([\w.]+)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"))
    files = {path.name for path in EXAMPLES.iterdir() if path.is_file()}

    assert set(listed) == files - {"README.md"}
    numbered = [name for name in listed if name[0].isdigit()]
    assert numbered == sorted({*SCRIPTS, NOTEBOOK.name})


def test_the_sentences_are_short() -> None:
    texts = [path.read_text(encoding="utf-8").split('"""')[1] for path in EXAMPLES.glob("*.py")]
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    texts += ["".join(block["source"]) for block in notebook["cells"] if "outputs" not in block]
    texts.append((EXAMPLES / "README.md").read_text(encoding="utf-8"))

    without_commands = [re.sub(r"(?m)^    .*$", "", text) for text in texts]
    sentences = sentences_of(without_commands)
    assert sentences.mean <= 15
    assert max(sentences.lengths) <= 25, sentences.longest[0]
    assert not [text for text in sentences.texts if RIDDLE.match(text)]
