"""What others wrote stays text in the report: on the page, in Markdown, in a terminal and in logs.

To add one: a line in PAYLOADS. Each is written into ids, labels, questions, answers, meta, file
names and errors.
"""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.helpers.reports import make_metrics
from vlmbench import report
from vlmbench.report import comparison_table, write_report
from vlmbench.runs.folder import RunDir, State
from vlmbench.runs.sweep import SweepDir
from vlmbench.system.text import PlainFormatter
from vlmbench.types import Prediction, Task

TEMPLATES = Path(report.__file__).parent / "templates"
TITLE = "document.title='owned'"
PAYLOADS = {
    "script": f"<script>{TITLE}</script>",
    "script in capitals": f"<SCRIPT>{TITLE}</SCRIPT>",
    "script that is not closed": f"<script>{TITLE}//",
    "script with a break": f"<scr\x00ipt>{TITLE}</script>",
    "image that fails": f'<img src=x onerror="{TITLE}">',
    "image in an attribute": f'"><img src=x onerror={TITLE}>',
    "attribute": f'" onmouseover="{TITLE}" autofocus onfocus="{TITLE}" x="',
    "attribute in single quotes": f"' onfocus='{TITLE}' autofocus '",
    "drawing": f'<svg onload="{TITLE}"><animate onbegin="{TITLE}" attributeName=x dur=1s></svg>',
    "drawing's end": f"</svg></text><script>{TITLE}</script>",
    "style's end": f"</style><script>{TITLE}</script>",
    "title's end": f"</title><script>{TITLE}</script>",
    "comment's end": f"--><script>{TITLE}</script><!--",
    "data's end": f"]]><script>{TITLE}</script>",
    "frame": f'<iframe srcdoc="<script>parent.{TITLE}</script>"></iframe>',
    "address": f"javascript:{TITLE}",
    "link": f'<a href="javascript:{TITLE}" id=x>x</a>',
    "details": f'<details open ontoggle="{TITLE}">',
    "base": '<base href="http://127.0.0.1:9/">',
    "refresh": '<meta http-equiv="refresh" content="0;url=http://127.0.0.1:9/">',
    "form": '<form action="http://127.0.0.1:9/"><input autofocus></form>',
    "style": "<style>@import 'http://127.0.0.1:9/x.css';</style>",
    "entity": f"&lt;script&gt;{TITLE}&lt;/script&gt; &#x3C;img&#x3E;",
    "wide bytes": f"\u02bascript\u02ba \uff1cscript\uff1e{TITLE}",
    "template": (
        "{{ runs[0].__class__.__mro__[-1].__subclasses__() }} {% include '/etc/passwd' %} {# x #}"
    ),
    "shell": "$(touch owned) `touch owned` ; touch owned | touch owned",
    "Markdown link": f"[x](javascript:{TITLE}) ![x](http://127.0.0.1:9/x.png)",
    "Markdown table": "| a | b |\n|---|---|\n| c | d |",
    "Markdown heading": "\n# owned\n\n```\ncode",
    "mathematics": r"$\frac{1}{0}$ $x_{$ \input{/etc/passwd}",
    "terminal colours": "\x1b[31mred\x1b[0m \x9b31m",
    "terminal title": "\x1b]0;owned\x07",
    "terminal link": "\x1b]8;;http://127.0.0.1:9/\x1b\\here\x1b]8;;\x1b\\",
    "terminal clipboard": "\x1b]52;c;b3duZWQ=\x07",
    "line that is overwritten": "real\rowned",
    "characters that are taken back": "abc\b\b\bowned",
    "direction": "\u202egnp.exe\u2066",
    "spreadsheet": '=HYPERLINK("http://127.0.0.1:9/","x")',
    "interpolation": "${oc.env:HOME} ${hydra:runtime.cwd} %(levelname)s %s %n {0}",
}
# What a terminal acts on, and what turns the direction of text.
ACTS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.title, self._in_title = "", False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        self._in_title = tag == "title"

    def handle_data(self, data: str) -> None:
        if self._in_title:
            self.title += data
            self._in_title = False


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> SweepDir:
    """Two finished runs and a failed one, every word of which is a payload."""
    folder = tmp_path_factory.mktemp("runs") / "2026-11-22_hostile"
    texts = list(PAYLOADS.values())
    for number, data in enumerate(("without_comparison", "with_comparison")):
        run = RunDir(folder / f"{number}_x")
        run.path.mkdir(parents=True)
        run.write_predictions(_prediction(text, index) for index, text in enumerate(texts))
        run.write_metrics(
            {**make_metrics(0.1 * number), "notes": texts, "data": {"warnings": texts}}
        )
        run.write_start(
            {
                "command": texts[0],
                "engine": texts[1],
                "engine_reason": texts[2],
                "device": texts[3],
            },
            run_hash="x",
        )
        details = {"model": texts[4], "data": data, "seed": 0, "overrides": texts, "seconds": 1.0}
        run.write_status(State.FINISHED, run_hash="x", **details)
    for number, text in enumerate(texts):
        failed = RunDir(folder / f"{number + 2}_y")
        failed.path.mkdir()
        failed.write_status(
            State.FAILED,
            run_hash="x",
            error=text,
            model=text,
            data=text,
            seed=0,
            overrides=[text],
        )
    write_report(SweepDir(folder))
    return SweepDir(folder)


def _prediction(text: str, index: int) -> Prediction:
    """Wrong, and surely so: the report shows it."""
    return Prediction(
        id=f"{index} {text}",
        task=Task.JUDGE_PAIR,
        group=text,
        view="raw",
        expected="normal",
        predicted="abnormal",
        scores={"normal": -3.0, "abnormal": -0.05},
        text=text,
        question=text,
        answer=text,
        images=(f"/x/{text}.png", text),
        meta={"defect": text, text: text},
    )


@pytest.fixture(scope="module")
def page(sweep: SweepDir) -> str:
    return (sweep.report / "index.html").read_text(encoding="utf-8")


def test_the_page_has_no_tag_that_acts(page: str) -> None:
    own = f"<script>{(TEMPLATES / 'page.js').read_text(encoding='utf-8')}</script>"
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', page)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "script-src 'sha256-" in policy[1]
    assert page.count(own) == 1  # the gallery's, which the policy lets in by its hash
    parsed = Page()
    parsed.feed(page.replace(own, "").replace(policy[0], ""))
    assert {"script", "iframe", "object", "embed", "base", "animate"}.isdisjoint(parsed.tags)
    assert page.count("<form") == 1  # the filters, which the policy lets lead nowhere
    assert "form-action 'none'" in policy[1]
    assert not [name for name in parsed.attributes if name.startswith("on")]
    assert "srcdoc" not in parsed.attributes
    assert "http-equiv" not in parsed.attributes
    assert not re.search(r"<link(?! rel=\"icon\" href=\"data:,\">)", page)


@pytest.mark.parametrize("name", PAYLOADS)
def test_what_others_wrote_is_not_markup(sweep: SweepDir, page: str, name: str) -> None:
    payload = PAYLOADS[name]
    markdown = (sweep.report / "report.md").read_text(encoding="utf-8")
    assert not ACTS.search(markdown.replace("\n", ""))
    text = "\n".join(
        line for line in markdown.splitlines() if "`" not in line
    )  # in code it is text
    assert "\n# owned" not in text
    assert not re.search(r"(?<!\\)\]\((javascript|http://127)", text)
    if "<" in payload:
        assert payload not in page
        assert payload not in text


@pytest.mark.slow
def test_a_browser_runs_nothing_of_it(sweep: SweepDir, page: str, tmp_path: Path) -> None:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("chromium is not installed")
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-sync",
    ]
    flags += [
        "--disable-background-networking",
        "--disable-component-update",
        f"--user-data-dir={tmp_path}",
    ]
    flags += ["--enable-logging=stderr", "--virtual-time-budget=3000", "--dump-dom"]
    address = (sweep.report / "index.html").resolve().as_uri()
    done = subprocess.run(
        [chromium, *flags, address], capture_output=True, text=True, check=True, timeout=100
    )
    before, after = Page(), Page()
    before.feed(page)
    after.feed(done.stdout)
    assert after.title == before.title
    assert "owned" not in after.title
    assert after.tags <= before.tags | {"tbody", "html", "head", "body"}
    assert "CONSOLE" not in done.stderr, done.stderr[-2000:]


@pytest.mark.parametrize("name", PAYLOADS)
def test_a_terminal_obeys_nothing_of_it(name: str) -> None:
    formatter = PlainFormatter("%(message)s")
    record = logging.LogRecord("x", logging.INFO, "x", 1, "%s", (PAYLOADS[name],), None)
    assert not ACTS.search(formatter.format(record))


def test_the_terminals_tables_obey_nothing_of_it(sweep: SweepDir) -> None:
    assert not ACTS.search(comparison_table(sweep))
