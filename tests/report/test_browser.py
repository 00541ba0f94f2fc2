"""Test the report in a real browser: keyboard filters, phones, dark pages, paper, scripts."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ManifestBuilder, image
from vlmbench.report import write_report
from vlmbench.report.answers import judgement_page
from vlmbench.report.datasheet import write_datasheet
from vlmbench.runs.sweep import SweepDir
from vlmbench.types import Judgement, Prediction, Split, Task

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")

ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
)
DESK, PHONE = 1200, 420
READABLE = 4.5  # contrast of small text, WCAG 2.2, 1.4.3
TEXTS = (
    "p",
    "small",
    "td",
    "th",
    "dt",
    "dd",
    "summary",
    "figcaption",
    "label",
    "option",
    "b",
    "strong",
    ".chip",
    ".placeholder",
    "a",
)

# Return the lowest contrast between text and background, over the first visible elements.
CONTRAST = """selector => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", {willReadFrequently: true});
  const paint = colours => {
    context.clearRect(0, 0, 1, 1);
    for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const luminance = rgb => rgb.map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const contrast = node => {
    const behind = [];
    for (let at = node; at; at = at.parentElement) {
      behind.unshift(getComputedStyle(at).backgroundColor);
    }
    behind.unshift(getComputedStyle(document.body).backgroundColor);
    const colours = [paint(behind), paint([...behind, getComputedStyle(node).color])];
    const [light, dark] = colours.map(luminance).sort((a, b) => b - a);
    return (light + 0.05) / (dark + 0.05);
  };
  const seen = [...document.querySelectorAll(selector)]
    .filter(node => node.textContent.trim() && node.checkVisibility());
  return Math.min(...seen.slice(0, 200).map(contrast));
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        yield chromium
        chromium.close()


@pytest.fixture
def open_file(browser: Any) -> Iterator[Callable[..., Any]]:
    """Return a function that opens a page.

    A console message, a page error, a dialog or a request fails the test at its end.
    """
    complaints: list[str] = []
    contexts = []

    def open_page(
        file: Path, *, width: int = DESK, scheme: str = "light", scripts: bool = True
    ) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 900},
            color_scheme=scheme,
            java_script_enabled=scripts,
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(20_000)
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "dialog",
            lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()),
        )
        page.on(
            "request",
            lambda request: complaints.append(request.url) if is_external(request.url) else None,
        )
        page.goto(file.resolve().as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def visit(open_file: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that writes and opens the report of a sweep."""
    return lambda sweep, **options: open_file(write_report(sweep), **options)


LONG = "a_name-of.a_photo " + 60 * "unbroken"


@pytest.fixture(params=["answers", "datasheet"])
def other_page(request: pytest.FixtureRequest, tmp_path: Path, manifest: ManifestBuilder) -> Path:
    """Return an answers page or a datasheet with names and words too long for a phone."""
    if request.param == "datasheet":
        for row in manifest.rows:
            row["meta"] = {"defect": LONG[:200]}
        shares = {Split.TRAIN: 0.6, Split.VAL: 0.2, Split.TEST: 0.2}
        sheet, _ = write_datasheet(
            manifest.write(),
            labels={},
            views={"raw"},
            shares=shares,
            split_seed=0,
            allow_leak=False,
            cache_dir=tmp_path / "cache",
        )
        return sheet
    return write_answers(tmp_path)


def write_answers(folder: Path) -> Path:
    """Write an answers page with names and words too long for a phone."""
    photo = folder / f"{LONG[:150]}.png"
    image(1).save(photo)
    images = (str(photo), str(photo))
    prediction = Prediction(
        id="a",
        task=Task.JUDGE_PAIR,
        group="",
        view="raw",
        expected="normal",
        predicted="abnormal",
        answer=LONG,
        images=images,
    )
    judgement = Judgement(
        id="a", task=Task.JUDGE_PAIR, images=images, prediction=prediction, score=0.5, threshold=0.4
    )
    judgement = replace(judgement, decision="abnormal", sentence=f"abnormal: {LONG}")
    judgements = [replace(judgement, id=f"{i} {LONG}") for i in range(12)]
    judgements.append(
        Judgement(id="unread", task=Task.JUDGE_PAIR, images=images, error=f"{LONG}: no image")
    )
    html = judgement_page(
        LONG, judgements, facts=[("Run", LONG)], notes=[LONG], figures={}, most=200
    )
    (folder / "answers.html").write_text(html, encoding="utf-8")
    return folder / "answers.html"


def is_external(url: str) -> bool:
    """Return whether the address is outside the page itself."""
    return not url.startswith(("file:", "data:"))


def unfold(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(node => { node.open = true; })")


def visible(page: Any) -> list[dict[str, Any]]:
    """Return the shown records: what each is about, and (run, mark) of its shown answers."""
    entries: list[dict[str, Any]] = page.evaluate(
        """() => [...document.querySelectorAll("#entries > li")]
        .filter(node => !node.hidden)
        .map(node => ({
          about: node.querySelector("figcaption > small").textContent,
          answers: [...node.querySelectorAll("[data-run]")].filter(item => item.checkVisibility())
            .sort((a, b) => a.style.order - b.style.order)
            .map(item => [
              item.querySelector("small").textContent,
              item.querySelector("b").textContent[0],
            ]),
        }))"""
    )
    return entries


def focused(page: Any) -> str:
    name: str = page.evaluate(
        "document.activeElement.name || document.activeElement.textContent.trim()"
    )
    return name


FIRST, SECOND = "smol · with_comparison · seed 0", "smol · without_comparison · seed 0"


@pytest.mark.slow
def test_two_runs_are_side_by_side_on_the_same_record(
    sweep: SweepDir, visit: Callable[..., Any]
) -> None:
    entries = visible(visit(sweep))
    # 12 + 6 + 5 + 2 of the tasks and 1 + 3 of the controls are wrong with comparison records
    assert len(entries) == 29
    assert all([run for run, _ in entry["answers"]] == [FIRST, SECOND] for entry in entries)
    assert {entry["answers"][0][1] for entry in entries} == {"✗"}


@pytest.mark.slow
def test_filters_work_by_keyboard_alone(sweep: SweepDir, visit: Callable[..., Any]) -> None:
    page = visit(sweep)
    page.get_by_role("link", name="Errors").focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert focused(page) == "first"
    for name in ("second", "outcome"):
        page.keyboard.press("Tab")
        assert focused(page) == name
    # of 18 + 10 + 9 + 8 + 1 + 3 wrong answers without, 49 - 29 are right with
    page.keyboard.type("first right")
    assert page.text_content("#shown") == "20 of 49 records shown"
    assert {tuple(mark for _, mark in entry["answers"]) for entry in visible(page)} == {("✓", "✗")}
    page.keyboard.press("Tab")
    page.keyboard.type("judge link")  # 9 wrong without, 5 with
    assert page.text_content("#shown") == "4 of 49 records shown"
    assert all(entry["about"].startswith("judge link · raw+rt") for entry in visible(page))
    page.keyboard.press("Tab")
    page.keyboard.type("rt")
    assert page.text_content("#shown") == "0 of 49 records shown"
    assert page.locator("#none").is_visible()
    for _ in range(3):  # the defect, all runs, and the button
        page.keyboard.press("Tab")
    assert focused(page) == "Reset"
    page.keyboard.press("Enter")
    page.wait_for_function("document.getElementById('shown').textContent.startsWith('29 ')")


@pytest.mark.slow
def test_defects_are_a_filter_and_all_runs_can_be_shown(
    sweep: SweepDir, visit: Callable[..., Any]
) -> None:
    page = visit(sweep)
    page.locator("[name=outcome]").select_option(label="all records on this page")
    page.locator("[name=defect]").select_option(label="dent")
    entries = visible(page)
    assert 0 < len(entries) < 49
    assert all("defect: dent" in entry["about"] for entry in entries)
    page.locator("[name=first]").select_option(label=f"{SECOND} (45 wrong)")
    assert all([run for run, _ in entry["answers"]] == [SECOND] for entry in visible(page))
    page.get_by_label("answers of all runs").check()
    assert all([run for run, _ in entry["answers"]] == [SECOND, FIRST] for entry in visible(page))


@pytest.mark.slow
def test_a_key_switches_the_curves_to_tokens(sweep: SweepDir, visit: Callable[..., Any]) -> None:
    page = visit(sweep)
    assert [page.locator(f".over-{over}").is_visible() for over in ("step", "tokens")] == [
        True,
        False,
    ]
    page.get_by_label("steps", exact=True).focus()
    page.keyboard.press("ArrowRight")
    assert [page.locator(f".over-{over}").is_visible() for over in ("step", "tokens")] == [
        False,
        True,
    ]


@pytest.mark.slow
@pytest.mark.parametrize("width", [DESK, PHONE, 320])
def test_nothing_is_wider_than_the_screen(
    width: int, sweep: SweepDir, visit: Callable[..., Any]
) -> None:
    page = visit(sweep, width=width)
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_label("answers of all runs").check()
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_enough_contrast(scheme: str, sweep: SweepDir, visit: Callable[..., Any]) -> None:
    page = visit(sweep, scheme=scheme)
    unfold(page)
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 27)"}[scheme]
    lowest = {selector: page.evaluate(CONTRAST, selector) for selector in TEXTS}
    assert {selector: value for selector, value in lowest.items() if value < READABLE} == {}


@pytest.mark.slow
def test_paper_shows_the_folded_details(sweep: SweepDir, visit: Callable[..., Any]) -> None:
    page = visit(sweep, scheme="dark")
    assert page.evaluate("document.querySelectorAll('details:not([open])').length") > 3
    page.emulate_media(media="print")
    heights = page.evaluate(
        "[...document.querySelectorAll('details:not([open])')]"
        ".map(node => node.lastElementChild.offsetHeight)"
    )
    assert min(heights) > 10
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not page.locator("nav").is_visible()
    assert not page.locator("#filters").is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")


@pytest.mark.slow
def test_without_scripts_every_record_is_shown(sweep: SweepDir, visit: Callable[..., Any]) -> None:
    page = visit(sweep, scripts=False)
    assert not page.locator("#filters").is_visible()
    assert page.locator("#entries > li").count() == 49
    assert page.locator("#entries [data-run]").count() == 2 * 49


def test_hostile_text_runs_nothing(hostile_sweep: SweepDir, visit: Callable[..., Any]) -> None:
    page = visit(hostile_sweep)
    unfold(page)
    assert page.title() == "2026-11-22_quick · vlmbench report"
    assert page.locator("script").count() == 1
    assert page.locator("img:not([src^='data:image/webp'])").count() == 0
    assert len(re.findall(r"alert\(1\)", page.inner_text("main"))) > 50


@pytest.mark.slow
def test_the_policy_stops_foreign_scripts(sweep: SweepDir, browser: Any) -> None:
    file = write_report(sweep)
    html = file.read_text(encoding="utf-8")
    foreign = (
        "<script>document.title = 'taken'</script>"
        "<p onclick=\"document.title = 'taken'\" id=trap>x</p>"
    )
    file.write_text(html.replace("<main>", f"<main>{foreign}", 1), encoding="utf-8")
    page = browser.new_page()
    page.goto(file.resolve().as_uri())
    page.locator("#trap").click()
    assert page.title() == "2026-11-22_quick · vlmbench report"
    assert page.locator("#filters").is_visible()
    page.close()


@pytest.mark.parametrize("width", [360, PHONE])
def test_answers_and_datasheets_fit_a_phone(
    width: int, other_page: Path, open_file: Callable[..., Any]
) -> None:
    page = open_file(other_page, width=width)
    unfold(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_answers_and_datasheets_have_enough_contrast(
    scheme: str, other_page: Path, open_file: Callable[..., Any]
) -> None:
    page = open_file(other_page, scheme=scheme)
    unfold(page)
    lowest = {selector: page.evaluate(CONTRAST, selector) for selector in TEXTS}
    assert {
        selector: value
        for selector, value in lowest.items()
        if value is not None and value < READABLE
    } == {}


def test_no_image_is_missing_on_paper(other_page: Path, open_file: Callable[..., Any]) -> None:
    """Images must not load lazily: a page printed without scrolling would miss them."""
    page = open_file(other_page)
    assert page.locator("img").count() > 0
    assert page.evaluate(
        "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
    )


@pytest.mark.slow
def test_no_image_of_the_report_is_missing_on_paper(
    sweep: SweepDir, visit: Callable[..., Any]
) -> None:
    page = visit(sweep)
    assert page.locator("details:not([open]) img").count() > 0
    assert page.evaluate(
        "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
    )


def test_query_and_reference_blink_in_one_location(
    open_file: Callable[..., Any], tmp_path: Path
) -> None:
    page = open_file(write_answers(tmp_path), width=PHONE)
    first, second = (page.locator(".images.pair > div").nth(number) for number in (0, 1))
    assert first.bounding_box()["x"] < second.bounding_box()["x"]

    page.check("#blink")
    assert first.bounding_box() == second.bounding_box()
    second.wait_for(state="hidden")
    second.wait_for(state="visible")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE
