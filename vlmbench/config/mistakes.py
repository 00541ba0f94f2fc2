"""What is wrong with a command line, in one message that names the place, the value and the cure."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import NoReturn, cast

from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)
from yaml import YAMLError

from vlmbench.plain import visible
from vlmbench.types import UserError

EXTRA = "; launchers and sweepers come with: pip install -c constraints.txt 'vlmbench[sweep]'"
KINDS = {
    "to Integer": "a whole number",
    "to Float": "a number",
    "a valid bool": "true or false",
    "not a ListConfig": "a list in brackets",
}
# What Hydra and OmegaConf add for people who write configurations.
NOISE = re.compile(
    r"^\s*((full_key|reference_type|object_type)\b.*|See https://hydra.cc.*|To append to your config.*)$"
)
OVERRIDE = re.compile(r"(?:To append to your config use \+|Error merging override )(.+)")
MISSING = re.compile(r"Missing mandatory value: (\S+)")
EXPECTED = re.compile(r"expected one of \[(.+)\]")


@contextmanager
def explained() -> Iterator[None]:
    """Within, what Hydra, OmegaConf and YAML refuse is a UserError."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, YAMLError, RecursionError) as error:
        raise UserError(_explain(error)) from error
    except ValueError as error:
        if not str(error).startswith("Config group override must be"):  # Hydra's, of model=3
            raise
        raise UserError(f"{error}; name one of the group's choices, which --help lists") from error


def refuse(error: UserError) -> NoReturn:
    """End the process with this one message, and exit code 2."""
    sys.stderr.write(f"error: {visible(str(error))}\n")
    sys.exit(2)


def refuse_flags(arguments: Sequence[str]) -> None:
    """Raise UserError for flags that Hydra does not have (settings are often written like flags), and for settings on
    both sides of one."""
    _, unknown = get_args_parser().parse_known_args(list(arguments))
    for said in sorted(unknown, key=lambda one: not one.startswith("-")):
        if not said.startswith("-"):
            raise UserError(f"{said}: settings stand on both sides of a flag; put flags such as -m before all settings")
        setting = said.lstrip("-") if "=" in said else f"{said.lstrip('-')}=<a value>"
        raise UserError(
            f"{said}: there is no such flag, --hydra-help lists those that there are; a setting stands without dashes: "
            f"{setting}"
        )


def no_setting(place: str, said: str, node: DictConfig) -> str:
    """That there is no setting of this place, and which the user may have meant; `node` is where it was looked for."""
    root = cast("DictConfig", node._get_root())
    everywhere = [one for one in _settings(root) if not one.startswith("hydra.") and one != place]
    parent, _, name = place.rpartition(".")
    siblings = [str(key) for key in node if str(key) != name]
    near = [one for one in everywhere if one.rpartition(".")[2] == name][:3]
    if node is not root:
        near = [f"{parent}.{one}" for one in get_close_matches(name, siblings, n=1)] or near
    near = near or (get_close_matches(place, everywhere, n=1, cutoff=0.75) if node is root else [])
    if near:
        cure = f"did you mean {' or '.join(near)}?"
    elif node is not root:
        cure = f"{parent}, as chosen, has {', '.join(sorted(siblings))}"
    else:
        cure = "python -m vlmbench --help lists the groups, --cfg job all settings"
    return f"{said}: there is no setting {place}; {cure}"


def _explain(error: Exception) -> str:
    cause = error.__cause__ or error
    found = OVERRIDE.search(str(error))
    said = found[1].strip() if found else ""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file and error.options is not None:
        return _no_choice(error.missing_cfg_file, error.options)
    if isinstance(error, OverrideParseException):
        return _unreadable(error)
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and said and isinstance(cause.parent_node, DictConfig):
        return no_setting(said.partition("=")[0], said, cause.parent_node)
    if isinstance(cause, ValidationError) and (said or cause.full_key):
        return _wrong_value(said or f"{cause.full_key}={cause.value}", _plain(cause))
    words = _plain(error)
    if isinstance(cause, MissingMandatoryValue | InterpolationToMissingValueError):
        missing = MISSING.search(words)
        place = missing[1] if missing else cause.full_key
        return f"{place}: it has no value yet; set {place}=<a value>"
    if cause is error and isinstance(error, OmegaConfBaseException) and error.full_key:
        words = f"{error.full_key}: {words}"
    return words if cause is error or _plain(cause) in words else f"{words}: {_plain(cause)}"


def _no_choice(file: str, options: Sequence[str]) -> str:
    group, _, choice = file.rpartition("/")
    message = f"{group}={choice}: {_one_of(choice, options)}"
    return message + EXTRA if group.startswith("hydra/") else message


def _wrong_value(said: str, why: str) -> str:
    expected = EXPECTED.search(why)
    if expected:
        return f"{said}: {_one_of(said.partition('=')[2], expected[1].split(', '))}"
    kind = next((kind for words, kind in KINDS.items() if words in why), "")
    return f"{said}: it has to be {kind}; set {said.partition('=')[0]}=<{kind}>" if kind else f"{said}: {why}"


def _one_of(choice: str, options: Sequence[str]) -> str:
    near = get_close_matches(choice, options, n=1)
    meant = f"did you mean {near[0]}? " if near else ""
    return f"there is no such choice; {meant}it is one of {', '.join(options)}"


def _unreadable(error: OverrideParseException) -> str:
    """Of what does not follow Hydra's grammar of `key=value`."""
    said = error.override
    if "=" not in said:
        return f"{said}: a setting and its value are joined by an equals sign; write {said}=<a value>"
    key = said.partition("=")[0]
    return (
        f"{said}: the value cannot be read; brackets and quotes have to end, and a setting with spaces or brackets "
        f"stands in quotes of the shell: '{key}={{a: b}}', '{key}=[a, b]'"
    )


def _plain(error: BaseException) -> str:
    """The message on one line, without what only those need who write configurations."""
    lines = str(error).splitlines()
    return " ".join(line.strip() for line in lines if line.strip() and not NOISE.match(line)) or type(error).__name__


def _settings(node: DictConfig, place: str = "") -> Iterator[str]:
    """Every setting by its full name; nothing is interpolated."""
    for key in map(str, node):
        yield f"{place}{key}"
        inner = node._get_node(key)
        if isinstance(inner, DictConfig) and not inner._is_none() and not inner._is_missing():
            yield from _settings(inner, f"{place}{key}.")
