"""`python -m vlmbench`, and the console script `vlmbench`."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

INTERRUPTED = 130  # the exit code of shells after Ctrl-C


def main() -> None:
    """Run the command line. Ctrl-C ends it in one line, also while packages are imported."""
    try:
        _leave_working_folder()
        from vlmbench.cli.main import main as start

        start()
    except KeyboardInterrupt:
        sys.stderr.write("stopped\n")
        sys.exit(INTERRUPTED)


def _leave_working_folder() -> None:
    """Stop Python from importing modules of the working folder, such as one of a photo collection.

    `python -m` puts this folder first. It stays if vlmbench itself is in it, as in a checkout.
    """
    package = Path(__file__).resolve().parents[1]
    with suppress(OSError):  # the working folder may be gone
        first = Path(sys.path[0]).resolve()
        if first == Path.cwd() and first != package:
            del sys.path[0]


if __name__ == "__main__":
    main()
