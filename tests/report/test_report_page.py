"""Test the written report: its content, its escapes, and how it copes with missing files."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.helpers.reports import LABEL_ERROR, RunMaker, sweep_of, wrong_prediction
from vlmbench.report import comparison_table, write_report
from vlmbench.report.plan import NO_PLAN
from vlmbench.runs.folder import State
from vlmbench.runs.sweep import SweepDir
from vlmbench.types import UserError

# For each kind of record in conftest, against (18, 10, 9, 8, 1, 3).
FEWER_ERRORS = (12, 6, 5, 2, 1, 3)


class Page(HTMLParser):
    """Collect the visible text, the tags and the addresses of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "xlink:href")
        ]
        if tag != "wbr":
            self.words.append(" ")

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())


def read(sweep: SweepDir) -> tuple[Page, str]:
    """Write the report; return the page and the Markdown."""
    write_report(sweep)
    return read_written(sweep)


def read_written(sweep: SweepDir) -> tuple[Page, str]:
    """Return the page and the Markdown of a report that is there."""
    return Page(html_of(sweep)), (sweep.report / "report.md").read_text(encoding="utf-8")


def html_of(sweep: SweepDir) -> str:
    return (sweep.report / "index.html").read_text(encoding="utf-8")


def verdicts(sweep: SweepDir) -> list[dict[str, Any]]:
    """Write the report; return the findings."""
    write_report(sweep)
    return written_verdicts(sweep)


def written_verdicts(sweep: SweepDir) -> list[dict[str, Any]]:
    verdicts = json.loads((sweep.report / "verdicts.json").read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = verdicts["findings"]
    return rows


@pytest.mark.slow
def test_write_report_gives_the_page_and_writes_all_three_files(sweep: SweepDir) -> None:
    assert write_report(sweep) == sweep.path / "report" / "index.html"
    assert sorted(path.name for path in sweep.report.iterdir()) == [
        "index.html",
        "report.md",
        "verdicts.json",
    ]


@pytest.mark.slow
def test_the_same_folder_gives_the_same_page(sweep: SweepDir) -> None:
    assert write_report(sweep).read_bytes() == write_report(sweep).read_bytes()


def test_a_folder_without_runs_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=str(tmp_path)):
        write_report(SweepDir(tmp_path))


def test_every_figure_has_its_interval_and_its_n(reported: SweepDir) -> None:
    page, markdown = read_written(reported)
    # accuracy 0.7 and 0.8 +- 0.11 on 60 records; misses 0.333 +- 0.16 on 30 records;
    # AUROC 0.78 + 0.1 / 2 +- 0.1
    assert "70.0 % 59.0 to 81.0 % n 60, 20 parts" in page.text
    assert "80.0 % 69.0 to 91.0 % n 60, 20 parts" in page.text
    assert "33.3 % 17.3 to 49.3 % n 30, 20 parts" in page.text
    assert "0.830 0.730 to 0.930 n 60, 20 parts" in page.text
    assert "+7.5 points −5.0 to +20.0 points n 60, 20 parts" in page.text
    assert (
        "| smol · with_comparison · seed 0 | 80.0 % (69.0 to 91.0 %; n 60, 20 parts) |" in markdown
    )


def test_the_headline_gives_the_difference_between_the_variants(reported: SweepDir) -> None:
    page, markdown = read_written(reported)
    # 12 of 60 wrong against 18 of 60
    for text in (page.text, markdown):
        assert "+10.0 points of balanced accuracy (95 % interval" in text
        assert "60 records of 20 parts" in text
        assert ", 1 seed)" in text


def test_the_missing_link_is_in_the_consistency_table(reported: SweepDir) -> None:
    page, _ = read_written(reported)
    table = page.text[page.text.index("Consistency:") : page.text.index("Error gallery")]
    assert "Missing link ↑ raw+rt" in table
    assert "55.0 % 34.0 to 76.0 % n 20, 20 parts" in table


def test_verdicts_cover_every_task_and_view_raw_pairs_first(reported: SweepDir) -> None:
    rows = written_verdicts(reported)
    task_views = [
        ("judge_pair", "raw"),
        ("judge_pair", "rt"),
        ("judge_link", "raw+rt"),
        ("compare_views", "raw+rt"),
    ]
    assert [(row["task"], row["view"]) for row in rows] == task_views
    # of 60, 40, 20 and 16 records 6, 4, 4 and 6 fewer are wrong
    assert [row["difference"] for row in rows] == pytest.approx([0.1, 0.1, 0.2, 0.375])
    assert [row["n_records"] for row in rows] == [60, 40, 20, 16]
    page, markdown = read_written(reported)
    titles = ("judge pair · rt", "judge link · raw+rt", "compare views · raw+rt")
    forest = page.text[
        page.text.index("The same question by task and view") : page.text.index(
            "Each difference takes all"
        )
    ]
    positions = [forest.index(f"{title} · 1 comparison") for title in titles]
    assert positions == sorted(positions)
    assert all(f"### The same question: {title}" in markdown for title in titles)
    assert (
        "one seed does not tell whether with_comparison judges them better or worse than "
        "without_comparison" in markdown
    )
    assert {(row["variant"], row["baseline"]) for row in rows} == {
        ("with_comparison", "without_comparison")
    }


@pytest.mark.slow
def test_all_finished_seeds_count_and_the_account_names_the_others(
    make_run: RunMaker,
) -> None:
    first = make_run(0, "without_comparison")
    make_run(1, "with_comparison", wrong=FEWER_ERRORS)
    make_run(2, "without_comparison", details={"seed": 1})
    make_run(3, "with_comparison", details={"seed": 1})
    make_run(4, "with_comparison", details={"seed": 2})
    make_run(5, "with_comparison", state=State.FAILED, details={"seed": 3})
    row = verdicts(sweep_of(first))[0]
    assert (row["seeds_of_variant"], row["seeds_of_baseline"]) == ([0, 1, 2], [0, 1])
    # seed 0: 10 points; seeds 1 and 2: the same errors in both runs
    assert row["difference"] == pytest.approx(0.1 / 3)
    assert "smol · with_comparison · seed 3 failed" in row["sentence"]
    assert (
        "with_comparison has seeds 0, 1, 2, without_comparison has seeds 0, 1." in row["sentence"]
    )


@pytest.mark.slow
def test_runs_of_different_settings_are_not_compared(make_run: RunMaker) -> None:
    first = make_run(
        0,
        "without_comparison",
        details={"overrides": ["data=without_comparison", "trainer.epochs=1"]},
    )
    make_run(
        1, "with_comparison", details={"overrides": ["data=with_comparison", "trainer.epochs=9"]}
    )
    assert verdicts(sweep_of(first)) == []
    page, _ = read(sweep_of(first))
    assert "smol · seed 0 · trainer.epochs=9" in page.text


@pytest.mark.slow
def test_the_control_is_a_baseline_too(make_run: RunMaker) -> None:
    first = make_run(0, "matched_control")
    make_run(1, "with_comparison", wrong=FEWER_ERRORS)
    rows = verdicts(sweep_of(first))
    assert {(row["variant"], row["baseline"]) for row in rows} == {
        ("with_comparison", "matched_control")
    }


@pytest.mark.slow
def test_runs_with_different_records_cost_only_the_comparison(
    make_run: RunMaker,
) -> None:
    first = make_run(0, "without_comparison")
    make_run(1, "with_comparison", predictions=first.read_predictions()[1:])
    page, _ = read(sweep_of(first))
    assert "No comparison: record 'judge_pair-raw-none-000' was predicted by some" in page.text


@pytest.mark.slow
def test_a_failed_run_is_shown_with_its_error_and_without_figures(make_run: RunMaker) -> None:
    run = make_run(
        0, "without_comparison", state=State.FAILED, details={"error": "out of memory at step 7"}
    )
    page, markdown = read(sweep_of(run))
    for text in (page.text, markdown):
        assert "failed: out of memory at step 7" in text
        assert "No run has finished, so there is no result yet." in text
        assert "70.0 %" not in text
    assert verdicts(sweep_of(run)) == []


@pytest.mark.slow
def test_a_pruned_run_says_where_it_stopped_and_is_not_compared(
    make_run: RunMaker,
) -> None:
    make_run(0, "without_comparison")
    run = make_run(
        1,
        "with_comparison",
        state=State.PRUNED,
        details={"note": "at step 50: balanced accuracy 0.501"},
    )
    page, markdown = read(sweep_of(run))
    assert "1 finished · 1 pruned" in page.text
    for text in (page.text, markdown):
        assert "pruned: at step 50: balanced accuracy 0.501" in text
        assert "No figures from a pruned run: its training was stopped" in text
    assert "- Stopped: at step 50: balanced accuracy 0.501" in markdown
    assert verdicts(sweep_of(run)) == []


def test_warnings_and_notes_are_at_the_top(make_run: RunMaker) -> None:
    metrics = {
        "scores": {},
        "data": {"warnings": ["Leak allowed: a.png"]},
        "notes": ["Unsloth was left out"],
    }
    page, markdown = read(sweep_of(make_run(0, "without_comparison", metrics=metrics)))
    for text in (page.text, markdown):
        for warning in ("Leak allowed: a.png", "Unsloth was left out"):
            assert text.index(warning) < text.index("does the variant help?")


@pytest.mark.slow
def test_a_run_that_may_be_guessing_is_named(make_run: RunMaker) -> None:
    raw = {"balanced_accuracy": {"value": 0.55, "low": 0.45, "high": 0.65, "n": 60, "n_parts": 20}}
    run = make_run(0, "without_comparison", metrics={"scores": {"judge_pair": {"raw": raw}}})
    page, _ = read(sweep_of(run))
    sentence = "Not told apart from guessing, by the interval of their balanced accuracy: "
    assert f"{sentence}smol · without_comparison · seed 0 (45.0 to 65.0 %)." in page.text


@pytest.mark.slow
def test_many_runs_that_may_be_guessing_are_counted(make_run: RunMaker) -> None:
    raw = {"balanced_accuracy": {"value": 0.55, "low": 0.45, "high": 0.65, "n": 60, "n_parts": 20}}
    for seed in range(4):
        run = make_run(
            seed,
            "without_comparison",
            metrics={"scores": {"judge_pair": {"raw": raw}}},
            details={"seed": seed},
        )
    page, _ = read(sweep_of(run))
    assert (
        "Not told apart from guessing, by the interval of their balanced accuracy: all 4 runs."
        in page.text
    )


def test_the_gallery_shows_each_record_once_with_the_answers_of_all_runs(
    reported: SweepDir,
) -> None:
    page, markdown = read_written(reported)
    errors = page.text[
        page.text.index("Error gallery") : page.text.index("What each variant trained on")
    ]
    # 18 + 10 + 9 + 8 records of tasks and 1 + 3 of controls are wrong without comparison records;
    # the errors with them are among these
    assert "The 49 held-out records that a run answered wrong" in errors
    # 49 answers and the two choices of runs
    assert errors.count("smol · without_comparison · seed 0") == 49 + 2
    assert (
        "✗ abnormal, 95 % sure smol · without_comparison · seed 0 ✗ abnormal, 95 % sure smol · with"
        in errors
    )
    assert (
        "✗ abnormal, 83 % sure smol · without_comparison · seed 0 ✓ normal, 80 % sure smol · with"
        in errors
    )
    assert errors.index("judge_pair-raw-none-000") < errors.index("judge_pair-raw-none-017")
    assert "wrong in 1 of 2 runs" in errors
    assert "judge_pair-raw-none-000" in markdown
    assert errors.count("grey image") == 3


def test_each_task_and_view_has_its_confusion_roc_and_calibration(reported: SweepDir) -> None:
    page, markdown = read_written(reported)
    html = html_of(reported)
    # 18 of 60 wrong, by turns normal and abnormal: 9 of 30 each
    matrix = (
        r"true ↓ predicted → normal abnormal normal n 30 21 70.0 % [^%]*% 9 30.0 % [^%]*% "
        r"abnormal n 30 9 30.0 % "
    )
    assert re.search(matrix, page.text)
    assert "| smol · without_comparison (1 seed) | normal | 30 | 21: 70.0 % (" in markdown
    assert (
        html.count('aria-label="ROC of smol · ')
        == html.count('aria-label="Calibration of smol · ')
        == 8
    )
    assert (
        "AUROC 0.780 (0.680 to 0.880); n 60, 20 parts; 30 abnormal against 30 normal" in page.text
    )


def test_generated_answers_have_a_confusion_but_no_curves(make_run: RunMaker) -> None:
    mute = wrong_prediction(id="r2", predicted=None, text="I cannot tell", scores={})
    run = make_run(0, "without_comparison", predictions=[wrong_prediction(), mute])
    page, _ = read(sweep_of(run))
    assert "true ↓ predicted → normal abnormal no label" in page.text
    assert "The model generated these answers as text, without scores" in page.text
    assert "✗ I cannot tell" in page.text


def test_the_data_section_counts_records_and_reports_the_leak_search(reported: SweepDir) -> None:
    page, markdown = read_written(reported)
    for text in (page.text, markdown):
        assert "No leak: 960 records and 1,600 images were searched" in text
        assert "448 abnormal, 452 normal" in text
    data = page.text[
        page.text.index("What each variant trained on") : page.text.index(
            "What was run 11 min 5 s in total"
        )
    ]
    assert "smol · without_comparison 900 5,400 300 600 judge_pair, 300 compare_views" in data
    assert data.count("judge pair · raw") == data.count("judge pair · rt") == 1
    # one of each label and defect in turn: none, scratch, dent and hole
    assert [f"judge_pair-raw-none-{i:03}" in data for i in range(5)] == [
        True,
        True,
        True,
        True,
        False,
    ]


def test_leaks_that_were_allowed_are_named(make_run: RunMaker) -> None:
    data = {
        "splits": [],
        "images": 9,
        "leaks": {"found": 12, "first": ["mine.jsonl:3 and mine.jsonl:7"]},
    }
    page, _ = read(
        sweep_of(make_run(0, "without_comparison", metrics={"scores": {}, "data": data}))
    )
    assert "12 leaks allowed (data.allow_leak)" in page.text
    assert "mine.jsonl:3 and mine.jsonl:7" in page.text


def test_the_nearest_images_of_two_splits_are_shown(make_run: RunMaker, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        Image.new("RGB", (8, 8), "red").save(tmp_path / name)
    pair = {
        "images": [str(tmp_path / "a.png"), str(tmp_path / "b.png")],
        "splits": ["train", "test"],
        "distance": 0.734,
        "orientation": "mirrored",
        "judgement": "perhaps a copy",
    }
    data = {"splits": [], "images": 2, "leaks": {"found": 0, "first": []}, "nearest": [pair]}
    run = make_run(0, "without_comparison", metrics={"scores": {}, "data": data})
    page, markdown = read(sweep_of(run))
    assert "perhaps a copy, distance 0.73" in page.text
    assert "the second image, mirrored" in page.text
    assert "| 0.73 | perhaps a copy | a.png, b.png | mirrored |" in markdown


def test_runs_of_an_older_version_have_no_leak_search(make_run: RunMaker) -> None:
    metrics = {"scores": {}, "data": {"train_records": 9, "parts": {"train": 3}, "warnings": []}}
    page, _ = read(sweep_of(make_run(0, "without_comparison", metrics=metrics)))
    assert "These runs do not record a leak search" in page.text


def test_only_settings_that_differ_are_in_the_table(reported: SweepDir) -> None:
    page, markdown = read_written(reported)
    table = page.text[page.text.index("Settings that differ") : page.text.index("Each run")]
    assert table == (
        "Settings that differ Setting smol · without_comparison smol · with_comparison "
        "smol · matched_control data without_comparison with_comparison matched_control "
        'data.comparison – ["views", "shapes"] – '
    )
    assert "| data.comparison | – |" in markdown


@pytest.mark.slow
def test_time_and_energy_are_summed_where_they_are_known(make_run: RunMaker) -> None:
    make_run(0, "without_comparison", details={"joules": 9000.0})
    page, _ = read(sweep_of(make_run(1, "with_comparison")))
    assert "10 min 24 s in total, 2.5 Wh of the GPU" in page.text


def test_a_missing_image_leaves_a_placeholder_with_its_name(
    make_run: RunMaker, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n broken")
    wrong = wrong_prediction(images=(str(tmp_path / "gone.png"), str(broken)))
    page, _ = read(sweep_of(make_run(0, "without_comparison", predictions=[wrong])))
    assert "image not found: gone.png" in page.text
    assert "image not found: broken.png" in page.text


def test_one_run_alone_says_why_there_is_no_comparison(make_run: RunMaker) -> None:
    page, markdown = read(sweep_of(make_run(0, "without_comparison")))
    assert "These runs do not answer the main question" in page.text
    assert "These runs do not answer the main question" in markdown
    assert "70.0 % 59.0 to 81.0 % n 60, 20 parts" in page.text


def test_runs_without_predictions_metrics_and_log_say_so(make_run: RunMaker) -> None:
    run = make_run(0, "without_comparison", predictions=None, metrics=None, log=[], env={})
    page, markdown = read(sweep_of(run))
    assert "No finished run has predictions." in page.text
    assert "No run has a training log." in page.text
    assert "No finished run has these figures." in page.text
    assert "No finished run has predictions." in markdown
    assert "<svg viewBox" not in (sweep_of(run).report / "index.html").read_text(encoding="utf-8")


def test_an_undescribed_metric_is_shown_under_its_name(make_run: RunMaker) -> None:
    raw = {"edge_score": {"value": 3.14159, "low": 2.5, "high": 4.0, "n": 60, "n_parts": 20}}
    run = make_run(0, "without_comparison", metrics={"scores": {"judge_pair": {"raw": raw}}})
    page, _ = read(sweep_of(run))
    assert "edge score" in page.text
    assert "3.142 2.5 to 4 n 60, 20 parts" in page.text


def test_the_page_has_the_command_that_repeats_a_run(reported: SweepDir) -> None:
    page, markdown = read_written(reported)
    command = "python -m vlmbench experiment=quick data=with_comparison hydra.mode=RUN"
    assert command in page.text
    assert f"`{command}`" in markdown
    for fact in (
        "Engine transformers because no CUDA GPU",
        "Vision tower frozen",
        "Hardware cpu: AMD EPYC 7B13",
        "Seed 0",
        "finished 5 min 12 s",
        "Trained on 900 records, 5,400 tokens",
        "Parts by split 224 train, 32 val, 64 test",
        "torch 2.13.0, transformers 5.17.0",
    ):
        assert fact in page.text


def test_curves_follow_the_pages_colours_and_share_no_ids(reported: SweepDir) -> None:
    html = html_of(reported)
    plots = html[html.index('class="plots over-step"') : html.index("Last values")]
    assert plots.count("<svg viewBox") == 6
    for title in ("Training loss", "Held-out loss", "Held-out balanced accuracy"):
        for over in ("step", "tokens trained on"):
            assert f'aria-label="{title} by {over}"' in plots
    assert "var(--series-1)" in plots
    assert "#0072b2" not in plots
    ids = re.findall(r' id="([^"]*)"', html)
    assert len(ids) == len(set(ids))


def test_without_matplotlib_the_page_says_how_to_get_the_plots(
    sweep: SweepDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlmbench.report.build.find_spec", lambda name: None)
    page, _ = read(sweep)
    assert 'The plots need matplotlib: pip install "vlmbench[report]"' in page.text
    assert "The curves need matplotlib" in page.text
    # the last values are there
    assert "smol · with_comparison · seed 0 300 0.3646 0.4646 71.0 %" in page.text


def test_the_page_loads_nothing(reported: SweepDir) -> None:
    page, _ = read_written(reported)
    assert all(address.startswith(("#", "data:")) for address in page.addresses)
    assert {"iframe", "object", "embed", "link"} & set(page.tags) <= {"link"}
    assert page.addresses.count("data:,") == page.tags.count("link") == 1
    assert "url(http" not in html_of(reported)


def test_the_pages_policy_lets_its_own_script_run_and_nothing_else(reported: SweepDir) -> None:
    html = html_of(reported)
    script = html[html.index("<script>") + len("<script>") : html.index("</script>")]
    digest = b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    policy = html.index("Content-Security-Policy")
    sources = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert f"{sources}; script-src 'sha256-{digest}'" in html
    assert policy < html.index("<style>")


def test_hostile_text_becomes_no_markup_on_the_page(hostile_sweep: SweepDir) -> None:
    page, _ = read(hostile_sweep)
    assert page.tags.count("script") == 1  # its own
    assert page.text.count("<script>alert(1)</script>") > 50  # it is all there, as text


def test_hostile_text_becomes_no_markup_in_markdown(hostile_sweep: SweepDir) -> None:
    _, markdown = read(hostile_sweep)
    lines = markdown.splitlines()
    # code spans may have it, where it is text
    assert not any("<script" in line for line in lines if "``" not in line)
    assert not any(line.startswith("# ") for line in lines[1:])
    assert "\x1b" not in markdown
    rows = [line.replace(r"\|", "") for line in lines if line.startswith("|")]
    # the headline table has 6 columns: head, rule and three runs
    assert {row.count("|") for row in rows[:5]} == {7}


TERMINAL_TABLE = """\
judge_pair raw, held out: % (95 % interval)
run                             accuracy          balanced accuracy  misses            overkill
smol without_comparison seed 0  70.0 (59.0-81.0)  69.0 (57.0-81.0)   33.3 (17.3-49.3)  26.7 (11.7-41.7)
smol with_comparison seed 0     80.0 (69.0-91.0)  79.0 (67.0-91.0)   23.3 (7.3-39.3)   16.7 (1.7-31.7)
records (parts)                 60 (20)           60 (20)            30 (20)           30 (20)
smol matched_control seed 0  failed: <error>

other held-out records, accuracy: % (95 % interval)
run                             judge_pair rt     compare_views raw+rt  judge_link raw+rt
smol without_comparison seed 0  75.0 (62.0-88.0)  50.0 (30.0-70.0)      55.0 (34.0-76.0)
smol with_comparison seed 0     85.0 (72.0-98.0)  80.0 (60.0-100.0)     65.0 (44.0-86.0)
records (parts)                 40 (20)           16 (20)               20 (20)
smol matched_control seed 0  failed: <error>
"""  # noqa: E501 - a terminal's lines


def test_the_terminals_table_is_as_written_by_hand(reported: SweepDir) -> None:
    tables, _, rest = comparison_table(reported).partition("\nverdict\n")
    assert tables == TERMINAL_TABLE.replace("<error>", LABEL_ERROR)
    verdict, _, plan = rest.partition("\n\nplan\n")
    assert verdict.startswith(
        "smol: The trained models at hand differ on held-out raw pairs; one seed does not tell "
        "whether with_comparison judges them better or worse than without_comparison: "
        "+10.0 points of balanced accuracy (95 % interval +2.3 to +17.7 points; p = 0.014; "
    )
    assert plan == f"{NO_PLAN}\nThis is the first look at the answers."


def test_the_terminals_table_lets_no_escape_sequence_through(hostile_sweep: SweepDir) -> None:
    assert "\x1b" not in comparison_table(hostile_sweep)
