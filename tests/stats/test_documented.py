"""The pages on statistics: their example runs, and their figures stand in the code's docstrings."""

from __future__ import annotations

import doctest
import re
from collections.abc import Callable

import pytest

from tests.conftest import REPOSITORY
from vlmbench.stats.estimates import _jackknife_interval
from vlmbench.stats.spread import Spread, half_widths

DOCS = REPOSITORY / "docs"
PYTHON = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHARE = re.compile(r"(?<![\w.])\d+\.\d+(?= %| and)|\d+(?= to \d+ %)")


def test_the_example_of_the_page_runs() -> None:
    text = (DOCS / "how-to" / "use-from-python.md").read_text(encoding="utf-8")
    code = "\n".join(block for block in PYTHON.findall(text) if ">>>" in block)
    example = doctest.DocTestParser().get_doctest(code, {}, "use-from-python.md", None, 0)
    assert len(example.examples) > 10

    said: list[str] = []
    failed, _ = doctest.DocTestRunner(verbose=False).run(example, out=said.append)
    assert not failed, "".join(said)


@pytest.mark.parametrize(
    ("page", "source", "count"),
    [
        ("seed-variance", half_widths, 4),
        ("wide-intervals", half_widths, 2),
        ("folds", Spread.half_width, 3),
        ("clusters", _jackknife_interval, 1),
    ],
)
def test_a_decision_has_the_figures_of_the_docstring_that_it_names(
    page: str, source: Callable[..., object], count: int
) -> None:
    text = (DOCS / "decisions" / f"{page}.md").read_text(encoding="utf-8")
    figures = SHARE.findall(text)
    assert len(figures) == count
    assert f"`{source.__name__}`" in text
    assert set(figures) <= set(SHARE.findall(source.__doc__ or ""))
