"""Test the report's small parts: escapes, figures, axes, verdicts, confidence, thumbnails."""

from __future__ import annotations

import base64
import math
import re
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPOSITORY
from vlmbench.report.changes import Change, error_words
from vlmbench.report.escape import markdown, markdown_code, one_line
from vlmbench.report.figures import figure
from vlmbench.report.forest import Axis, difference_axis, share_axis
from vlmbench.report.gallery import confidence
from vlmbench.report.images import _thumbnail_uri
from vlmbench.report.provenance import duration, energy
from vlmbench.report.questions import Question
from vlmbench.report.runs import read_runs
from vlmbench.report.verdicts import SENTENCES, Finding
from vlmbench.runs.folder import State
from vlmbench.runs.sweep import SweepDir
from vlmbench.stats import Compared, Comparison, Rule
from vlmbench.types import Prediction, Task


def make_comparison(low: float, high: float, **given: Any) -> Comparison:
    """Return a comparison whose p-values say what the interval says."""
    values: dict[str, Any] = {
        "figure": Compared.BALANCED_ACCURACY,
        "p_value": 0.0421 if low > 0 or high < 0 else 0.4,
        "equivalence_p": 0.01 if max(-low, high) <= 0.02 else 0.4,
        "margin": 0.02,
        "n_records": 60,
        "n_clusters": 20,
        "effective_clusters": 20.0,
        "seeds": (3, 3),
    }
    return Comparison(difference=(low + high) / 2, low=low, high=high, **values | given)


def make_change(low: float, high: float, **given: Any) -> Change:
    comparison = make_comparison(low, high, **given)
    return Change(
        comparison=comparison,
        p_holm=comparison.p_value,
        equivalence_holm=comparison.equivalence_p,
    )


def make_finding(main: Change, **given: Any) -> Finding:
    question = Question(
        model="smol",
        setting="",
        variant="with",
        baseline="without",
        task=Task.JUDGE_PAIR,
        view="raw",
    )
    seeds = ((0, 1, 2), (0, 1, 2))
    rule = Rule(figure=main.comparison.figure)
    return Finding(**{"question": question, "rule": rule, "seeds": seeds, "main": main} | given)


@pytest.mark.parametrize(
    ("low", "high", "verdict", "sentence"),
    [
        (
            0.02,
            0.1,
            "better",
            "smol: with judges held-out raw pairs better than without: "
            "+6.0 points of balanced accuracy",
        ),
        (
            -0.1,
            -0.02,
            "worse",
            "smol: with judges held-out raw pairs worse than without: "
            "−6.0 points of balanced accuracy",
        ),
        (
            0.005,
            0.015,
            "slightly better",
            "smol: with judges held-out raw pairs better than without, by less than 2 points: "
            "+1.0 points",
        ),
        (
            -0.01,
            0.01,
            "no difference larger than 2 points",
            "smol: with and without differ by no more than 2 points of balanced accuracy on "
            "held-out raw pairs: +0.0 points",
        ),
        (
            -0.1,
            0.2,
            "not enough data to tell",
            "smol: These runs do not tell whether with judges held-out raw pairs better or "
            "worse than without",
        ),
    ],
)
def test_the_sentence_follows_from_the_verdict(
    low: float, high: float, verdict: str, sentence: str
) -> None:
    finding = make_finding(make_change(low, high))
    assert finding.verdict == verdict
    assert finding.sentence.startswith(sentence)


def test_a_sentence_ends_with_its_evidence() -> None:
    assert make_finding(make_change(0.02, 0.1)).sentence.endswith(
        "(95 % interval +2.0 to +10.0 points; p = 0.042; 60 records of 20 parts, 3 seeds)."
    )


def test_the_number_of_comparisons_is_inside_the_word() -> None:
    change = replace(make_change(0.02, 0.1), p_holm=0.126, family=3)
    finding = make_finding(change)
    assert finding.verdict == "not enough data to tell"
    assert finding.reservation == "Among 3 such comparisons it may be chance (Holm's p = 0.126)."


def test_a_later_look_must_be_surer() -> None:
    finding = make_finding(replace(make_change(0.02, 0.1), level=0.005))
    assert finding.verdict == "not enough data to tell"
    assert "only below p = 0.005" in finding.reservation


def test_one_seed_tells_about_two_models_only() -> None:
    finding = make_finding(make_change(0.02, 0.1, seeds=(1, 1)), seeds=((0,), (0,)))
    assert finding.verdict == "not enough data to tell"
    assert finding.claim.startswith("smol: The trained models at hand differ on held-out raw pairs")
    same = make_finding(make_change(-0.1, 0.1, seeds=(1, 1)), seeds=((0,), (0,)))
    assert "are not told apart" in same.claim


def test_a_run_with_one_label_for_everything_is_said_first() -> None:
    said = "without · seed 0 says normal to every record"
    finding = make_finding(make_change(0.02, 0.1), one_label=(said,))
    assert finding.sentence.startswith(f"{said}. smol: with judges")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "fewer"),
        ({"p_holm": 0.126, "family": 3}, "not told apart among 3 comparisons (Holm's p = 0.126)"),
        ({"level": 0.005}, "not told apart below this look's p = 0.005"),
    ],
)
def test_misses_beside_an_interval_without_0_have_a_reason(
    given: dict[str, float], words: str
) -> None:
    misses = replace(make_change(-0.1, -0.02, figure=Compared.MISSES), **given)
    assert error_words(misses, pruned=0) == words


def test_one_seed_is_the_reason_why_misses_are_not_told_apart() -> None:
    misses = make_change(-0.1, -0.02, seeds=(1, 1), figure=Compared.MISSES)
    assert error_words(misses, pruned=0) == "not told apart by one seed"
    unknown = make_change(-0.1, 0.1, seeds=(1, 1), figure=Compared.MISSES)
    assert error_words(unknown, pruned=0) == "not told apart"


def test_pruned_runs_give_no_verdict() -> None:
    finding = make_finding(make_change(0.02, 0.1), pruned=3, account="with · seed 2 was pruned")
    assert finding.verdict == "not enough data to tell"
    assert finding.reservation.startswith(
        "with · seed 2 was pruned. Pruning keeps the runs that do better, so no verdict follows."
    )


@pytest.mark.parametrize(
    ("control", "verdict", "words"),
    [
        ("better", "better", "and better than matched_control: the records help"),
        ("not enough data to tell", "not enough data to tell", "do not show that it is better"),
        ("worse", "not enough data to tell", "do not show that it is better"),
    ],
)
def test_the_control_decides_the_headline(control: str, verdict: str, words: str) -> None:
    finding = make_finding(make_change(0.02, 0.1), control=control)
    assert finding.verdict == verdict
    assert words in finding.claim


def test_other_errors_are_told_where_the_figure_tells_nothing() -> None:
    fewer = make_change(-0.3, -0.2, figure=Compared.MISSES)
    finding = make_finding(make_change(-0.03, 0.05), misses=fewer)
    assert finding.verdict == "not enough data to tell"
    assert finding.claim.endswith("worse than without, but the two make different errors")
    pruned = make_finding(make_change(-0.03, 0.05), misses=fewer, pruned=1)
    assert "different errors" not in pruned.claim


def test_equal_figures_with_other_errors_are_not_called_the_same() -> None:
    finding = make_finding(
        make_change(-0.01, 0.01),
        misses=make_change(0.08, 0.12, figure=Compared.MISSES),
        overkill=make_change(-0.12, -0.08, figure=Compared.OVERKILL),
    )
    assert finding.verdict == "different errors"
    assert "but make different errors" in finding.claim
    assert "misses +10.0 points (95 % interval +8.0 to +12.0 points): more" in finding.errors
    assert "overkill −10.0 points (95 % interval −12.0 to −8.0 points): fewer" in finding.errors


def test_unequal_parts_are_named() -> None:
    finding = make_finding(make_change(0.02, 0.1, effective_clusters=8.2))
    assert "20 parts that tell as much as 8.2 equally large ones" in finding.evidence
    assert finding.verdict == "not enough data to tell"
    assert "a verdict needs at least 10" in finding.reservation


def test_every_field_of_a_verdict_is_on_its_page() -> None:
    page = (REPOSITORY / "docs" / "reference" / "run-folder.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+)`", page.partition("## Fields of")[2].partition("## States")[0]))
    fields = set(make_finding(make_change(0.02, 0.1)).to_row())
    assert fields <= named


def test_every_verdict_has_a_sentence() -> None:
    ends = [(0.03, 0.1), (-0.1, -0.03), (0.005, 0.015), (-0.015, -0.005), (-0.1, 0.2)]
    assert {make_change(low, high).word for low, high in ends} == set(SENTENCES)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("with_comparison", "with_comparison"),
        ("_x_", r"\_x\_"),
        ("a|b", r"a\|b"),
        ("`rm`", r"\`rm\`"),
        ("<b> & c", "&lt;b&gt; &amp; c"),
        ("one\n# two", r"one \# two"),
        ("[a](b)", r"\[a\](b)"),
        ("back\\slash", r"back\\slash"),
        ("red\x1b[0m", "red\ufffd\\[0m"),
    ],
)
def test_markdown_shows_text_as_itself(text: str, expected: str) -> None:
    assert markdown(text) == expected


def test_a_code_span_is_fenced_by_more_backticks_than_it_holds() -> None:
    assert markdown_code("a=1") == "`a=1`"
    assert markdown_code("a `b`` c") == "``` a `b`` c ```"


def test_direction_characters_lose_their_effect() -> None:
    assert one_line("a\u202eb\tc") == "a\ufffdb c"


def test_figures_are_written_in_the_metrics_unit() -> None:
    row = {"value": 0.8125, "low": 0.7, "high": 0.9, "n": 48, "n_parts": 12}
    assert figure("accuracy", row).sentence == "81.2 % (70.0 to 90.0 %; n 48, 12 parts)"
    assert figure("auroc", row).sentence == "0.812 (0.700 to 0.900; n 48, 12 parts)"
    assert (
        figure("reference_gain", row).sentence
        == "+81.2 points (+70.0 to +90.0 points; n 48, 12 parts)"
    )
    assert figure("accuracy", None).sentence == "–"


def test_an_unknown_interval_is_named_unknown() -> None:
    row = {"value": 0.8, "low": -1.0, "high": 1.0, "n": 48, "n_parts": 1}
    assert figure("auroc", row).interval == "interval unknown"
    sentence = make_finding(make_change(-1.0, 1.0)).sentence
    assert "of balanced accuracy (interval unknown; p" in sentence
    sentence = make_finding(make_change(-0.9, 1.0)).sentence
    assert "of balanced accuracy (95 % interval −90.0 to +100.0 points; p" in sentence


def test_axes_hold_their_values() -> None:
    # half a step below 0.43, rounded down: 0.3
    assert share_axis([0.43, None]).low == pytest.approx(0.3)
    assert share_axis([]).low == pytest.approx(0.4)
    assert difference_axis([-0.2, 0.1, math.inf]).high == pytest.approx(0.21)
    assert difference_axis([]).high == pytest.approx(0.0525)
    assert Axis(0.5, 1.0).at(0.75) == "50.00%"
    assert Axis(0.5, 1.0).at(0.1) == "0.00%"
    assert Axis(-0.2, 0.2).width(0.04) == "10.00%"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (7.4, "7 s"), (312.0, "5 min 12 s"), (7260, "2 h 1 min"), (0, "0 s")],
)
def test_durations_are_written_in_two_units(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("joules", "text"), [(None, ""), (0.0, "0.0 Wh"), (9000.0, "2.5 Wh"), (7.2e6, "2.00 kWh")]
)
def test_energy_is_written_in_watt_hours(joules: float | None, text: str) -> None:
    assert energy(joules) == text


def prediction(**given: Any) -> Prediction:
    values: dict[str, Any] = {
        "task": Task.JUDGE_PAIR,
        "group": "g",
        "view": "raw",
        "expected": "normal",
    }
    return Prediction(id="r", predicted="abnormal", **values | given)


def test_confidence_is_the_share_of_the_labels_probability() -> None:
    # exp(-1) / (exp(-1) + exp(-1 - ln 3)) = 1 / (1 + 1/3)
    scores = {"normal": -1 - math.log(3), "abnormal": -1.0}
    assert confidence(prediction(scores=scores)) == pytest.approx(0.75)
    assert confidence(prediction()) is None
    assert confidence(prediction(scores={"normal": 5000.0, "abnormal": 0.0})) == pytest.approx(0.0)


def test_thumbnails_are_small_and_keep_sixteen_bit_greys(tmp_path: Path) -> None:
    path = tmp_path / "grey.png"
    Image.fromarray(np.full((300, 600), 128 * 256, np.uint16)).save(path)
    head, _, body = _thumbnail_uri(str(path)).partition(",")
    image = Image.open(BytesIO(base64.b64decode(body)))
    assert head == "data:image/webp;base64"
    assert image.size == (224, 112)
    assert image.convert("L").getpixel((50, 50)) == pytest.approx(128, abs=2)


def test_the_setting_of_a_run_is_what_the_other_runs_do_not_share(make_run: Any) -> None:
    run = make_run(
        0,
        "with_comparison",
        details={"overrides": ["experiment=quick", "data=x", "trainer.epochs=1"]},
    )
    make_run(
        1,
        "with_comparison",
        state=State.RUNNING,
        details={"overrides": ["experiment=quick", "seed=1"]},
    )
    first, second = read_runs(SweepDir(run.path.parent))
    assert (first.setting, second.setting) == ("trainer.epochs=1", "")
    assert first.label == "smol · with_comparison · trainer.epochs=1 · seed 0"
