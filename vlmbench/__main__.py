"""`python -m vlmbench`: Hydra's entry point. Nothing here imports torch before a run needs it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vlmbench.config import RunConfig, Stage, register_plugins
from vlmbench.provenance import NOT_CONTENT
from vlmbench.rundir import RunDir, SweepDir, write_whole
from vlmbench.types import UserError

log = logging.getLogger("vlmbench")

PACKAGE = Path(__file__).resolve().parent
# Beside the package in a checkout, inside it in an installed wheel.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"
CELL_STAGES = (Stage.run, Stage.train, Stage.evaluate)


HELP = """\
vlmbench: fine-tune a vision-language model to judge parts from pairs of pictures, and learn truthfully whether a change
in data or model made the judgement better.

  python -m vlmbench experiment=quick                                        ten minutes on a laptop, ends in a report
  python -m vlmbench stage=check source=manifest source.path=mine.jsonl      read everything, train nothing
  python -m vlmbench model=llama32 data=with_comparison                      one run on a GPU
  python -m vlmbench -m data=without_comparison,with_comparison seed=0,1,2   a sweep, ends in a report
  python -m vlmbench stage=report sweep=runs/2026-01-31_quick                the report of a folder of runs
  python -m vlmbench stage=predict run=runs/.../0_... images=[a.png,b.png]   judge two pictures

Choose one of each, and set anything in it, such as trainer.epochs=5:
{choices}
  stage       {stages}

  python -m vlmbench --cfg job [choices]     every setting and its value (what it means stands in {conf})
  python -m vlmbench --hydra-help            Hydra's own flags
"""


def help_text() -> str:
    """What can be chosen, from the names of the yaml files alone: Hydra's own page takes seconds."""
    groups = {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in sorted(CONF.iterdir())}
    choices = "\n".join(f"  {group:11} {', '.join(names)}" for group, names in groups.items() if names)
    return HELP.format(choices=choices, stages=", ".join(Stage), conf=CONF)


def cell_number(sweep: str, overrides: Sequence[str]) -> int:
    """The number of the cell in a sweep's folder that the same overrides made, else the next free one."""
    numbers = [-1]
    wanted = _of_content(overrides)
    for path in Path(sweep).glob("[0-9]*_*"):
        number = int(path.name.partition("_")[0]) if path.name.partition("_")[0].isdigit() else -1
        made_by = path / ".hydra" / "overrides.yaml"
        if made_by.exists() and _of_content(list(OmegaConf.load(made_by))) == wanted:
            return number
        numbers.append(number)
    return max(numbers) + 1


def _of_content(overrides: Sequence[str]) -> list[str]:
    """Those that change a run's figures."""
    return [override for override in overrides if override.lstrip("+").partition("=")[0] not in NOT_CONTENT]


def run_dir(stage: str, cell: str) -> str:
    """Where Hydra writes: a cell's folder for stages that make one, else out of the way."""
    return cell if Stage(stage) in CELL_STAGES else f".cache/stages/{stage}"


class ReportCallback(Callback):
    """Writes the report when a sweep ends, whatever launched it."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if Stage(config.get("stage", Stage.run)) is Stage.run:
            _report(Path(config.hydra.sweep.dir))


def _report(sweep: Path) -> None:
    from vlmbench.run import print_report

    print_report(SweepDir(sweep))


def refuse_unknown_keys(node: DictConfig, place: str = "") -> None:
    """Raise UserError for keys that a `+` on the command line added to a schema."""
    schema = OmegaConf.get_type(node)
    for key in map(str, node):
        if is_dataclass(schema) and key not in {field.name for field in fields(schema)}:
            raise UserError(f"{place}{key} is not a setting; leave out +{place}{key}")
        if not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            refuse_unknown_keys(node[key], f"{place}{key}.")


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def _task(raw: DictConfig) -> None:
    from vlmbench.run import Cell, run

    hydra_config = HydraConfig.get()
    folder = RunDir(Path(hydra_config.runtime.output_dir))
    refuse_unknown_keys(raw)
    plain = OmegaConf.to_container(raw, resolve=True, enum_to_str=True)
    config: RunConfig = OmegaConf.to_object(raw)  # type: ignore[assignment]
    if config.stage in CELL_STAGES:
        write_whole(folder.config, OmegaConf.to_yaml(raw, resolve=True))
    run(
        Cell(
            config=config,
            plain=plain,  # type: ignore[arg-type]
            folder=folder,
            choices=hydra_config.runtime.choices,
            overrides=list(hydra_config.overrides.task),
        )
    )
    if config.stage is Stage.run and hydra_config.mode is RunMode.RUN:
        _report(Path(config.sweep))


def main() -> None:
    """Run the command line. Mistakes that the user can mend end in one message and exit code 2, without a traceback."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        sys.stdout.write(help_text())
        return
    register_plugins()
    OmegaConf.register_new_resolver("cell_number", cell_number, replace=True)
    OmegaConf.register_new_resolver("run_dir", run_dir, replace=True)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hands exceptions to us, rather than printing a cut traceback
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        _task()
    except (UserError, HydraException, OmegaConfBaseException) as error:
        sys.stderr.write(f"error: {_message(error)}\n")
        sys.exit(2)


def _message(error: Exception) -> str:
    """Hydra's own wording, with the cause where it names one."""
    cause = error.__cause__
    return str(error) if cause is None or str(cause) in str(error) else f"{error}\n{cause}"


if __name__ == "__main__":
    main()
