"""`python -m vlmbench`: Hydra's entry point. Nothing here imports torch before a run needs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hydra

from vlmbench import __version__, interrupt, processes
from vlmbench.config import Stage
from vlmbench.config.mistakes import explained, refuse, refuse_flags
from vlmbench.files import needing_room
from vlmbench.plain import refuse_secrets
from vlmbench.types import UserError

PACKAGE = Path(__file__).resolve().parent
# Beside the package in a checkout, inside it in an installed wheel.
CONF = PACKAGE / "conf" if (PACKAGE / "conf").is_dir() else PACKAGE.parent / "conf"


HELP = """\
vlmbench: fine-tune a vision-language model to judge parts from pairs of pictures, and learn truthfully whether a change
in data or model made the judgement better.

  python -m vlmbench experiment=quick                                        ten minutes on a laptop, ends in a report
  python -m vlmbench stage=check source=manifest source.path=mine.jsonl      read everything, train nothing
  python -m vlmbench model=llama32 data=with_comparison                      one run on a GPU
  python -m vlmbench -m data=without_comparison,with_comparison seed=0,1,2   a sweep, ends in a report
  python -m vlmbench stage=report sweep=runs/2026-01-31_quick                the report of a folder of runs
  python -m vlmbench stage=predict run=runs/.../0_... images=[a.png,b.png]   judge two pictures
  python -m vlmbench stage=export run=runs/.../0_...                         adapter, merged model and model card
  python -m vlmbench stage=serve run=runs/.../0_...                          a local page that judges pictures

Choose one of each, and set anything in it, such as trainer.epochs=5:
{choices}
  stage       {stages}

  python -m vlmbench --cfg job [choices]     every setting and its value (what it means stands in {conf})
  python -m vlmbench --hydra-help            Hydra's own flags
  python -m vlmbench --version               the version
"""


def help_text() -> str:
    """What can be chosen, from the names of the yaml files alone: Hydra's own page takes seconds."""
    groups = {folder.name: sorted(path.stem for path in folder.glob("*.yaml")) for folder in sorted(CONF.iterdir())}
    choices = "\n".join(f"  {group:11} {', '.join(names)}" for group, names in groups.items() if names)
    return HELP.format(choices=choices, stages=", ".join(Stage), conf=CONF)


def main() -> None:
    """Run the command line. Mistakes that the user can mend end in one message and exit code 2, without a traceback."""
    if {"--help", "-h"} & set(sys.argv[1:]):
        sys.stdout.write(help_text())
        return
    if "--version" in sys.argv[1:]:
        sys.stdout.write(f"vlmbench {__version__}\n")
        return
    from vlmbench.task import run_cell

    if not processes.is_leader():
        sys.argv.append("hydra.output_subdir=null")  # the leader writes it
    os.environ["HYDRA_FULL_ERROR"] = "1"  # hands exceptions to us, rather than printing a cut traceback
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        with interrupt.heeded(), needing_room("what the run makes"), explained():
            refuse_secrets(sys.argv[1:])
            refuse_flags(sys.argv[1:])
            hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")(run_cell)()
    except UserError as error:
        refuse(error)


if __name__ == "__main__":
    main()
