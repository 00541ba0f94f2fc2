"""The border of the command line: which arguments reach Hydra, and in which form.

Hydra can run code, write files and set the environment if a command line says so. So only an
allow-list passes: settings of the schema, choices of its groups, and what is documented of Hydra.
"""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from vlmbench.cli.words import INSTANTIATE_KEYS, hydra_sweep, hydra_value, split_commas, unquoted
from vlmbench.config import CONF, choices, default_choices, find_settings
from vlmbench.config.data import MAX_FOLDS
from vlmbench.config.texts import Kind, TextSetting, find_text_setting, text_settings
from vlmbench.system.text import in_quotes, typed_setting
from vlmbench.types import UserError

OPTIONS = ("-m", "--multirun", "--cfg", "--help", "-h", "--version")
COMPLETION = re.compile(r"(install|query|uninstall)=(bash|fish)")
NAME = re.compile(r"(?P<prefix>~|\+{0,2})(?P<name>[A-Za-z_][\w-]*([./][\w-]+)*)", re.ASCII)
# They name the folder of a whole sweep, so a comma separates no values.
ONE_VALUE = ("name", "sweep")
MULTILINE_GROUPS = ("prompt.",)

LAUNCHERS = ("basic", "ray", "submitit_local", "submitit_slurm")
SAMPLERS = ("tpe", "cmaes", "grid", "motpe", "nsgaii", "random")
HYDRA_CHOICES = {
    "hydra/launcher": LAUNCHERS,
    "hydra/sweeper": ("basic", "optuna"),
    "hydra/sweeper/sampler": SAMPLERS,
}
# Settings of launchers and sweepers that say how much and where; none holds a command or a target.
HYDRA_SETTINGS = re.compile(
    r"hydra\.(mode"
    r"|launcher\.(timeout_min|cpus_per_task|gpus_per_node|tasks_per_node|mem_gb|nodes|name"
    r"|partition|qos|account|constraint|comment|exclude|gres|cpus_per_gpu|gpus_per_task"
    r"|mem_per_gpu|mem_per_cpu|signal_delay_s|max_num_timeout|array_parallelism)"
    r"|launcher\.ray\.remote\.(num_cpus|num_gpus|memory|max_calls|max_retries)"
    r"|launcher\.ray\.init\.(num_cpus|num_gpus)"
    r"|sweeper\.(n_trials|n_jobs|study_name|direction|max_failure_rate|max_batch_size)"
    r"|sweeper\.sampler\.(seed|n_startup_trials|n_ei_candidates|population_size)"
    r"|sweeper\.params\.[\w.]+)",
    re.ASCII,
)
HYDRA_CURES = {
    "hydra.run.dir": "did you mean sweep?",
    "hydra.sweep.dir": "did you mean sweep?",
    "hydra.sweep.subdir": "did you mean run_label?",
    "hydra.job.name": "did you mean name?",
}


@dataclass(frozen=True, slots=True)
class Command:
    """A command line that may run: `options` and `settings` in Hydra's words."""

    options: tuple[str, ...]
    settings: tuple[str, ...]

    @property
    def hydra_arguments(self) -> list[str]:
        """Return the arguments for Hydra's own parser."""
        return [*self.options, *(("--", *self.settings) if self.settings else ())]


def read_command(arguments: Sequence[str]) -> Command:
    """Return what a command line asks for. Raise UserError for everything that may not pass."""
    if len(arguments) == 2 and arguments[0] == "-sc" and COMPLETION.fullmatch(arguments[1]):
        return Command(("-sc",), (arguments[1],))  # documented; it prints and runs nothing

    for argument in arguments:
        refuse_strange_characters(argument)
    options, settings = _split_options(arguments)
    is_sweep = True if "--multirun" in options else None
    return Command(options, tuple(read_settings(settings, is_sweep=is_sweep)))


def read_settings(settings: Sequence[str], *, is_sweep: bool | None) -> list[str]:
    """Return settings in Hydra's words.

    `is_sweep` says whether a comma separates values of a text; None: if the settings describe a
    sweep. Raise UserError for a setting that may not pass.
    """
    texts = text_settings()
    for setting in settings:
        refuse_strange_characters(setting)

    names = [_checked_name(setting) for setting in settings]
    sweeps = is_sweep
    if is_sweep is None:
        sweeps = _is_sweep(dict(zip(names, settings, strict=True)), settings)
    own = [
        _hydra_setting(setting, find_text_setting(name, texts), is_sweep=bool(sweeps))
        for name, setting in zip(names, settings, strict=True)
    ]
    return own + (_all_folds(dict(zip(names, settings, strict=True))) if sweeps else [])


def _all_folds(given: Mapping[str, str]) -> list[str]:
    """Return what sweeps all folds of a setting such as data.folds=5; nothing with data.fold."""
    number = re.fullmatch(r"\+*data\.folds=(\d{1,3})", given.get("data.folds", ""), re.ASCII)
    if number is None or "data.fold" in given:
        return []

    folds = range(min(int(number[1]), MAX_FOLDS))
    return [f"data.fold={','.join(map(str, folds))}"]


def read_params(config: DictConfig) -> None:
    """Put the values of hydra.sweeper.params, which an experiment sets, into Hydra's words."""
    params = config.hydra.sweeper.get("params") or {}
    texts = text_settings()
    with read_write(config), open_dict(config):
        for name, value in list(params.items()):
            about = find_text_setting(str(name), texts)
            if about.kind is not Kind.value:
                words = hydra_value if name in ONE_VALUE else hydra_sweep
                params[name] = words(str(name), str(value), about)


def refuse_strange_characters(argument: str) -> None:
    """Raise UserError for an argument with control characters, or with bytes that are not UTF-8."""
    name = argument.partition("=")[0]
    allowed = "\n\t" if name.lstrip("+~").startswith(MULTILINE_GROUPS) else ""
    shown = argument.encode("utf-8", "backslashreplace").decode()

    for character in argument:
        category = unicodedata.category(character)
        if category == "Cs":
            raise UserError(
                f"{shown}: the argument is not UTF-8; rename the file, or set the environment "
                "variable PYTHONUTF8=1"
            )
        if category == "Cc" and character not in allowed:
            raise UserError(
                f"{shown}: the argument holds the control character {character!a}; "
                "leave the character out"
            )


def _split_options(arguments: Sequence[str]) -> tuple[tuple[str, ...], list[str]]:
    options: list[str] = []
    settings: list[str] = []
    starts: list[str] = []  # the first setting of each block between options
    words = list(arguments)
    was_setting = False

    while words:
        word = words.pop(0)
        is_setting = not word.startswith("-")
        if is_setting:
            starts += [] if was_setting else [word]
            settings.append(word)
        elif word in ("-m", "--multirun"):
            options.append("--multirun")
        elif word.partition("=")[0] == "--cfg":
            options += _cfg(word, words)
        else:
            raise UserError(_unknown_option(word, arguments))
        was_setting = is_setting

    if {"--multirun", "--cfg"} <= set(options):
        raise UserError("--cfg job shows the settings of one run; leave -m out")
    if len(starts) > 1:
        typed = ["-m" if option == "--multirun" else option for option in options]
        raise UserError(
            f"{starts[1]}: settings stand before and after an option; write "
            f"{shlex.join([*typed, *settings])}"
        )
    return tuple(options), settings


def _cfg(word: str, words: list[str]) -> list[str]:
    """Return the option --cfg job, and take its value from `words`; no other value may pass."""
    _, equals, value = word.partition("=")
    if not equals:
        value = words.pop(0) if words else ""
    if value != "job":
        raise UserError(f"--cfg must be job, got {value or 'nothing'}; write --cfg job")
    return ["--cfg", "job"]


def _unknown_option(option: str, arguments: Sequence[str]) -> str:
    setting = option.lstrip("-")
    is_setting = bool(find_settings(setting.partition("=")[0])) or setting in default_choices()
    closest = get_close_matches(option, OPTIONS, n=1)
    if closest and not is_setting:
        return f"unknown option {option}; did you mean {closest[0]}?"

    following = arguments[arguments.index(option) + 1 :]
    name = setting.partition("=")[0]
    if not is_setting and name not in choices():
        return f"unknown option {option}; leave it out, vlmbench --help lists the options"
    if "=" not in setting:
        is_value = bool(following) and "=" not in following[0]
        setting = typed_setting(setting, following[0] if is_value else example_of(setting))
    return f"unknown option {option}; write the setting without dashes: {setting}"


def example_of(name: str) -> str:
    """Return a valid value of a setting or a config group; "1" for an unknown name."""
    plain = name.lstrip("+~")
    examples = [row.example for row in find_settings(plain) if row.example != "required"]
    return next(iter(examples), default_choices().get(plain, "1"))


def _checked_name(setting: str) -> str:
    """Return the name of a setting, without its prefix. Raise UserError if it may not pass."""
    typed, equals, value = setting.partition("=")
    if not equals and not typed.startswith("~"):
        example = typed_setting(typed, example_of(typed)) if typed else "seed=0"
        shown = typed or "an empty argument"
        raise UserError(f"{shown}: a setting needs an equals sign and a value; write {example}")
    if "${" in setting:
        name = typed.lstrip("+~")
        cure = typed_setting(name, example_of(name))
        raise UserError(f"{setting}: ${{ is not read on the command line; set {cure}")

    match = NAME.fullmatch(typed)
    if match is None or INSTANTIATE_KEYS & set(re.split(r"[./]", typed.lstrip("+~"))):
        raise UserError(_no_setting(setting, typed.lstrip("+~")))

    name = match["name"]
    if name == "hydra" or name.startswith(("hydra.", "hydra/")):
        _check_hydra(setting, name, value)
    elif "/" in name:
        raise UserError(_no_setting(setting, name))
    elif name in choices():
        _check_choice(name, value)
    return name


def _check_hydra(setting: str, name: str, value: str) -> None:
    """Raise UserError for a part of Hydra that is not documented."""
    if name in HYDRA_CHOICES:
        if value not in HYDRA_CHOICES[name]:
            allowed = HYDRA_CHOICES[name]
            closest = get_close_matches(value, allowed, n=1) or allowed[:1]
            raise UserError(
                f"{name} must be one of {', '.join(allowed)}, got {value}; set {name}={closest[0]}"
            )
        return

    is_plain = not value.lstrip().startswith(("{", "["))
    if HYDRA_SETTINGS.fullmatch(name) and is_plain:
        return
    cure = HYDRA_CURES.get(name, f"leave {name} out")
    raise UserError(f"{setting}: vlmbench does not pass {name} to Hydra; {cure}")


def _check_choice(group: str, value: str) -> None:
    """Raise UserError for a choice that would be read from outside of the config folders."""
    if "/" in value or "\\" in value or ".." in value:
        names = choices()[group]
        closest = get_close_matches(value, names, n=1) or names[:1]
        raise UserError(
            f"{group} must be one of {', '.join(names)}, got {value}; set {group}={closest[0]}"
        )


def _no_setting(setting: str, name: str) -> str:
    cure = "vlmbench --help lists the groups, vlmbench --cfg job all settings"
    return f"{setting}: setting {name or 'without a name'} does not exist; {cure}"


def _hydra_setting(setting: str, about: TextSetting, *, is_sweep: bool) -> str:
    """Return one setting in Hydra's words."""
    typed, equals, value = setting.partition("=")
    if not equals or typed.startswith("~"):
        return setting

    name = typed.lstrip("+")
    if about.kind is Kind.value:
        smuggled = [key for key in INSTANTIATE_KEYS if key in value]
        if smuggled:
            raise UserError(_no_setting(setting, f"{name}.{smuggled[0]}"))
        return setting if _is_readable(setting) else f"{typed}={in_quotes(value)}"
    if is_sweep and name not in ONE_VALUE:
        _refuse_torn_path(name, value)
        return f"{typed}={hydra_sweep(name, value, about)}"
    return f"{typed}={hydra_value(name, value, about)}"


def _is_readable(setting: str) -> bool:
    """Return whether Hydra can read a setting. If not, the schema says what its value must be."""
    try:
        OverridesParser.create().parse_override(setting)
    except (HydraException, RecursionError, ValueError, OverflowError):
        return False
    return True


def _refuse_torn_path(name: str, value: str) -> None:
    """Raise UserError if a comma tears the path of an existing file or folder in a sweep."""
    pieces = [unquoted(piece) for piece in split_commas(value)]
    if len(pieces) < 2 or not _exists(value) or all(_exists(piece) for piece in pieces):
        return

    raise UserError(
        f"{name}={value}: in a sweep (-m) a comma separates values, and there is a file or folder "
        f"of the whole name; set {typed_setting(name, value)}"
    )


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:  # a name that is too long
        return False


def _is_sweep(given: Mapping[str, str], settings: Sequence[str]) -> bool:
    """Return whether settings without -m describe a sweep, by hydra.mode or by their experiment."""
    mode = given.get("hydra.mode", "").partition("=")[2]
    has_values = "data.folds" in given or any("," in setting for setting in settings)
    if mode or "experiment" not in given or not has_values:
        return mode.upper() == "MULTIRUN"

    # Only now, because composing takes 0.2 s.
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            config = compose("config", [given["experiment"]], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException):  # it is explained when the command composes
        return False
    return config.hydra.mode is RunMode.MULTIRUN
