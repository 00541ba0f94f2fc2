"""`python -m vlmbench.torchrun`: torchrun, with vlmbench's exit codes.

torchrun itself ends in a traceback and exit code 1 after a signal, even if its processes saved a
checkpoint. This ends as one process does: 0 after SIGTERM, 130 after Ctrl-C, 2 after a mistake.
"""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

from vlmbench.system.signals import Stopped

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

USAGE = (
    "error: write torchrun's options, then -m vlmbench and its settings:\n"
    "python -m vlmbench.torchrun --nproc-per-node=2 -m vlmbench model=llama32_tiny\n"
)


def main() -> None:
    """Start the processes that the command line names, and wait for them."""
    if len(sys.argv) < 2:
        sys.stderr.write(USAGE)
        sys.exit(2)

    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    arguments = parse_args(sys.argv[1:])
    try:
        run(arguments)
    except SignalException as stopped:
        raise Stopped(stopped.sigval) from None
    except ChildFailedError as error:
        sys.exit(_exit_code(error))


def _exit_code(error: ChildFailedError) -> int:
    """Return the exit code of the process that failed; say what killed it."""
    killed = [
        (rank, failure)
        for rank, failure in error.failures.items()
        if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM
    ]
    # The others end because they miss the one that was killed, or by torchrun's SIGTERM.
    rank, failure = killed[0] if killed else error.get_first_failure()
    if failure.exitcode > 0:
        return int(failure.exitcode)

    number = -int(failure.exitcode)
    sys.stderr.write(
        f"error: process {rank} of the run was killed by {signal.Signals(number).name}; "
        "the same command resumes from the last checkpoint\n"
    )
    return 128 + number


if __name__ == "__main__":
    main()
