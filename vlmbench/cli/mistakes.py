"""Mistakes on a command line: one message with the location, the value and the cure."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import NoReturn, cast

from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationToMissingValueError,
    MissingMandatoryValue,
    OmegaConfBaseException,
    ValidationError,
)
from yaml import YAMLError

from vlmbench.cli.arguments import example_of
from vlmbench.cli.words import as_typed, unquoted
from vlmbench.config import (
    choices,
    default_choices,
    describe_settings,
    find_settings,
    schemas,
)
from vlmbench.system.text import replace_control_characters, typed_setting
from vlmbench.types import UserError

SWEEP_EXTRA = "; launchers and sweepers come with pip install -c constraints.txt 'vlmbench[sweep]'"
# Words of OmegaConf's message -> what the value must be, and an example that can be typed.
TYPES = {
    "to Integer": ("an integer", "1"),
    "to Float": ("a number", "0.1"),
    "a valid bool": ("true or false", "true"),
    "not a ListConfig": ("a list in brackets", "[{value}]"),
    "to DictConfig": ("a mapping in braces", "{{normal: {value}}}"),
}
NUMBERS = ("to Integer", "to Float")  # the setting's own default is the better example
# Lines that Hydra and OmegaConf add for people who write configurations.
NOISE = re.compile(
    r"^\s*((full_key|reference_type|object_type)\b.*"
    r"|See https://hydra.cc.*|To append to your config.*)$"
)
OVERRIDE = re.compile(r"(?:To append to your config use \+|Error merging override )(.+)")
LOWEST = re.compile(r"(?:at least|between) ([0-9.]+)")  # of a setting's range
NO_GROUP = "is not a subclass of"  # OmegaConf's words for a value in place of settings
MAX_SHOWN = 200  # characters of a value in a message
SEVERAL = re.compile(r"Ambiguous value for argument '(.+?)' 1\. ")  # Hydra's words
MISSING = re.compile(r"Missing mandatory value: (\S+)")
EXPECTED = re.compile(r"expected one of \[(.+)\]")


@contextmanager
def explain_config_errors(arguments: Sequence[str] = ()) -> Iterator[None]:
    """Raise UserError for what Hydra, OmegaConf and YAML refuse in the command's `arguments`."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, YAMLError, RecursionError) as error:
        if isinstance(error.__cause__, OSError):  # in a resolver that reads a folder
            raise error.__cause__ from None
        raise UserError(_explain(error)) from error
    except ValueError as error:
        if not str(error).startswith("Config group override must be"):  # Hydra's, of model=3
            raise
        raise UserError(_no_choice(arguments)) from error


class Refused(SystemExit):
    """Ends a command that the user can mend, with exit code 2.

    Hydra drops or wraps other exceptions of a job and of a callback.
    """

    def __init__(self, error: UserError) -> None:
        super().__init__(2)
        self.error = error


def refuse(error: UserError) -> NoReturn:
    """Raise Refused, which the command line prints and the Python API raises as UserError."""
    raise Refused(error)


def print_error(error: UserError) -> None:
    """Print the message on the standard error output, without control characters."""
    sys.stderr.write(f"error: {replace_control_characters(str(error))}\n")


def unknown_setting(name: str, argument: str, node: DictConfig) -> str:
    """Return the message for a setting that does not exist, with the closest valid names.

    `argument` is what was typed; `node` is where the setting was looked for.
    """
    root = cast("DictConfig", node._get_root())
    settings = [
        setting
        for setting in _setting_names(root)
        if not setting.startswith("hydra.") and setting != name
    ]
    parent, _, key = name.rpartition(".")
    siblings = sorted(str(sibling) for sibling in node if str(sibling) != key)
    in_root = node is root

    closest = [setting for setting in settings if setting.rpartition(".")[2] == key][:3]
    if not in_root:
        near = get_close_matches(key, siblings, n=1)
        closest = [f"{parent}.{sibling}" for sibling in near] or closest
    if not closest and in_root:
        closest = get_close_matches(name, settings, n=1, cutoff=0.75)

    owners = [] if in_root else [row.choice for row in find_settings(name) if row.choice]

    if closest:
        cure = f"did you mean {' or '.join(closest)}?"
    elif owners:
        cure = f"set {parent}={owners[0]} (choices with this setting: {', '.join(owners)})"
    elif in_root:
        cure = "vlmbench --help lists the groups, vlmbench --cfg job all settings"
    else:
        cure = f"leave it out, or use a setting of {parent}: {', '.join(siblings)}"
    return f"{argument}: setting {name} does not exist; {cure}"


def _explain(error: Exception) -> str:
    cause = error.__cause__ or error
    match = OVERRIDE.search(str(error))
    argument = as_typed(match[1].strip()) if match else ""

    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        options = error.options or choices().get(error.missing_cfg_file.rpartition("/")[0])
        if options:
            return _unknown_choice(error.missing_cfg_file, options)
    if isinstance(error, OverrideParseException):  # of a yaml file: arguments are read before
        return f"{error.override}: the value cannot be read; put the value into quotes"
    if isinstance(cause, ConfigAttributeError | ConfigKeyError) and argument:
        node = cause.parent_node
        if isinstance(node, DictConfig):
            return unknown_setting(argument.partition("=")[0], argument, node)
    if isinstance(cause, ValidationError) and (argument or cause.full_key):
        return _wrong_value(argument or f"{cause.full_key}={cause.value}", _one_line(cause))

    message = _one_line(error)
    several = SEVERAL.search(message)
    if several:
        setting, _, value = as_typed(several[1]).partition("=")
        return (
            f"{setting} has several values, {value}, and this is one run; add -m for a sweep, or "
            f"set {typed_setting(setting, example_of(setting))}"
        )
    if isinstance(cause, MissingMandatoryValue | InterpolationToMissingValueError):
        missing = MISSING.search(message)
        name = missing[1] if missing else cause.full_key
        return _no_value(str(name), cause)
    if cause is error and isinstance(error, OmegaConfBaseException) and error.full_key:
        name = str(error.full_key)
        message = f"{name}: {message}; set {typed_setting(name, example_of(name))}"

    is_complete = cause is error or _one_line(cause) in message
    return message if is_complete else f"{message}: {_one_line(cause)}"


def _unknown_choice(file: str, options: Sequence[str]) -> str:
    group, _, choice = file.rpartition("/")
    message = _not_among(group, choice, options)
    return message + SWEEP_EXTRA if group.startswith("hydra/") else message


def _no_choice(arguments: Sequence[str]) -> str:
    """Return the message for a config group that got a number or a list: Hydra does not name it."""
    defaults = default_choices()
    for argument in arguments:
        group, _, value = argument.partition("=")
        if group in defaults and value not in choices().get(group, []):
            return (
                f"{group} must be the name of a choice, got {value}; set {group}={defaults[group]}"
            )

    return "a config group such as model must be the name of a choice; set model=smol"


def _wrong_value(argument: str, why: str) -> str:
    name, _, typed = argument.partition("=")
    value = unquoted(typed)
    value = value if len(value) <= MAX_SHOWN else f"{value[:MAX_SHOWN]}..."
    expected = EXPECTED.search(why)
    if expected:
        return _not_among(name, value, expected[1].split(", "))

    if "is not Optional" in why:
        cure = (
            f"set {typed_setting(name, example_of(name))}"
            if find_settings(name)
            else "leave it out"
        )
        return f"{name} must have a value, got {value}; {cure}"

    for words, (kind, template) in TYPES.items():
        if words in why:
            example = _example(name, value, template, is_number=words in NUMBERS)
            return f"{name} must be {kind}, got {value}; set {typed_setting(name, example)}"

    within = [row for row in describe_settings() if row.name.startswith(f"{name}.")]
    if NO_GROUP in why and within:
        cure = typed_setting(within[0].name, within[0].example)
        return f"{name} is a group of settings and takes no value of its own; set {cure}"
    return f"{argument}: {why}"


def _example(name: str, value: str, template: str, *, is_number: bool) -> str:
    """Return a valid value in place of a `value` of the wrong type."""
    valid, rows = example_of(name), find_settings(name)
    is_list = value.startswith("[") and value.endswith("]")  # its elements are wrong
    if rows and (is_list or is_number) and valid != "null":
        return valid

    lowest = LOWEST.match(rows[0].range) if rows and is_number else None
    if lowest and float(lowest[1]) > float(template):
        return lowest[1]
    return template.format(value=value.strip("[]{}"))


def _not_among(name: str, value: str, options: Sequence[str]) -> str:
    closest = get_close_matches(value, options, n=1) or options[:1]
    return f"{name} must be one of {', '.join(options)}, got {value}; set {name}={closest[0]}"


def _no_value(name: str, error: OmegaConfBaseException) -> str:
    """Return the message for a setting that must be given, or that was removed with `~`."""
    rows = find_settings(name)
    if not rows:
        return f"{name} has no value; set {typed_setting(name, example_of(name))}"

    node = error.parent_node
    schema = OmegaConf.get_type(node) if isinstance(node, DictConfig) else error.object_type
    chosen = [row for row in rows if schemas(row.group).get(row.choice) is schema]
    row = (chosen or rows)[0]
    meaning = row.meaning.rstrip(".")
    return f"{name} has no value ({meaning}); set {typed_setting(name, row.example)}"


def _one_line(error: BaseException) -> str:
    """Return the message on one line, without what is meant for authors of configurations."""
    lines = [line for line in str(error).splitlines() if line.strip() and not NOISE.match(line)]
    return " ".join(line.strip() for line in lines) or type(error).__name__


def _setting_names(node: DictConfig, prefix: str = "") -> Iterator[str]:
    """Yield every setting by its full name; nothing is interpolated."""
    for key in map(str, node):
        yield f"{prefix}{key}"
        child = node._get_node(key)
        if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
            yield from _setting_names(child, f"{prefix}{key}.")
