"""The command line. Nothing here imports torch before a run needs it."""

from __future__ import annotations

import os
import sys

import hydra

from vlmbench.cli.arguments import read_command
from vlmbench.cli.look import explain_folder
from vlmbench.cli.mistakes import (
    Refused,
    explain_config_errors,
    print_error,
)
from vlmbench.config import CONF, Stage, choices
from vlmbench.system import phases, processes, signals, terminal
from vlmbench.system.files import explain_disk_errors, refuse_lost_folder
from vlmbench.system.secrets import refuse_secrets
from vlmbench.system.version import __version__
from vlmbench.types import UserError

HYDRA_VARIABLES = ("HYDRA_", "FB_PAR_", "FB_XAR_")  # they change how Hydra starts
HELP = """\
vlmbench fine-tunes a vision-language model to judge parts from pairs of images, and tells
whether a change in data or model made the judgement better.

Run an experiment:
  vlmbench experiment=quick                          20 minutes on a laptop, ends in a report
  vlmbench model=llama32 data=with_comparison        one run on a GPU
  vlmbench -m data=without_comparison,with_comparison seed=0,1,2    a sweep, ends in a report

Before and after:
  vlmbench stage=check source=manifest source.path=mine.jsonl       read everything, train nothing
  vlmbench stage=report sweep=runs/2026-01-31_quick                 write a sweep's report again
  vlmbench stage=reveal sweep=runs/2026-01-31_quick                 answer a sealed test split

Use a finished run:
  vlmbench stage=predict run=runs/.../0_... images=[a.png,b.png]    judge two images
  vlmbench stage=export run=runs/.../0_...           write adapter, merged model and model card
  vlmbench stage=serve run=runs/.../0_...            open a local page that judges images

Choose one of each, and set anything in it, such as trainer.epochs=5:
{choices}
  stage       {stages}

Options:
  --cfg job       print every setting with its value; {conf} explains them
  --version       print the version

`python -m vlmbench` does the same as `vlmbench`.
"""


def help_text() -> str:
    """Return the help page, with the choices read from the names of the yaml files.

    Hydra's own page takes seconds.
    """
    lines = [f"  {group:11} {', '.join(names)}" for group, names in choices().items()]
    return HELP.format(
        choices="\n".join(lines),
        stages=", ".join(Stage),
        conf=CONF,
    )


def main() -> None:
    """Run the command line.

    A mistake that the user can mend ends in one message and exit code 2, without a traceback. A
    reader that closes its pipe early, such as `head`, is no mistake.
    """
    terminal.prepare_streams()
    try:
        _main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        terminal.discard_output()


def _main(arguments: list[str]) -> None:
    if {"--help", "-h"} & set(arguments):
        sys.stdout.write(help_text())
        return
    if "--version" in arguments:
        sys.stdout.write(f"vlmbench {__version__}\n")
        return

    try:
        processes.refuse_stray_ranks()
    except UserError as error:
        print_error(error)
        sys.exit(2)

    for name in [name for name in os.environ if name.startswith(HYDRA_VARIABLES)]:
        del os.environ[name]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra passes exceptions on, instead of printing a part
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    phases.count_process()
    processes.let_idle_threads_sleep()
    processes.let_memory_grow()

    try:
        with (
            signals.handle_signals(),
            explain_disk_errors("the run's files"),
            explain_config_errors(arguments),
        ):
            _start_hydra(arguments)
    except Refused as refused:
        print_error(refused.error)
        raise
    except UserError as error:
        print_error(error)
        sys.exit(2)


def _start_hydra(arguments: list[str]) -> None:
    refuse_lost_folder()
    from vlmbench.cli.job import run_job  # reads the plug-ins, which may be invalid

    refuse_secrets(arguments)
    explain_folder(arguments)
    sys.argv[1:] = read_command(arguments).hydra_arguments
    if not processes.is_leader():
        sys.argv.append("hydra.output_subdir=null")  # the leader writes it

    start = hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    start(run_job)()
