"""Control characters and secrets are removed or refused."""

from __future__ import annotations

import logging
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from vlmbench.cli.arguments import read_settings
from vlmbench.system.secrets import refuse_secrets
from vlmbench.system.text import PlainFormatter, replace_control_characters, typed_setting
from vlmbench.types import UserError


def test_control_characters_are_replaced() -> None:
    assert replace_control_characters("a\x1b[2Jb\n\t\u202ec 日本") == "a\ufffd[2Jb\n\t\ufffdc 日本"


def test_the_formatter_replaces_control_characters() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "a%sb", ("\r",), None)

    assert PlainFormatter("%(message)s").format(record) == "a\ufffdb"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("runs/a_1.b", "source.path=runs/a_1.b"),
        (3, "source.path=3"),
        ("写真", "source.path=写真"),
        ("photos (1)", "'source.path=photos (1)'"),
        ('my "best" photos', """'source.path=my "best" photos'"""),
        ('"best" photos', """'source.path="\\"best\\" photos"'"""),
        ("it's", """'source.path=it'"'"'s'"""),
        ("a,b", """'source.path="a,b"'"""),
        ("end ", """'source.path="end "'"""),
    ],
)
def test_a_setting_is_written_as_a_shell_and_the_command_line_read_it(
    value: object, text: str
) -> None:
    typed = typed_setting("source.path", value)
    assert typed == text

    for is_sweep in (False, True):
        (setting,) = read_settings(shlex.split(typed), is_sweep=is_sweep)
        assert OverridesParser.create().parse_override(setting).value() == str(value)


@pytest.mark.parametrize("text", ["name: tell-nobody-1", "name: ${oc.env:HF_TOKEN}"])
def test_a_secret_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("HF_TOKEN", "tell-nobody-1")

    with pytest.raises(UserError, match="HF_TOKEN") as refused:
        refuse_secrets(["seed: 0", text])
    assert "tell-nobody-1" not in str(refused.value)


def test_short_values_and_other_variables_are_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "short")
    monkeypatch.setenv("EDITOR", "tell-nobody-1")

    refuse_secrets(["name: short", "name: tell-nobody-1"])
