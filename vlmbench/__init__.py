"""Fine-tune vision-language models to judge parts from pairs of images.

The command line is `vlmbench`. From Python: `run`, `sweep`, `compare` and `load`.
"""

from __future__ import annotations

import sys

# `python -m vlmbench` puts the working folder first: a file ./yaml.py in it would run. Only the
# folder that vlmbench itself came from may stay. Nothing else is imported before this.
if sys.argv[:1] == ["-m"] and not sys.flags.safe_path:
    sys.path[:] = [path for i, path in enumerate(sys.path) if i or __file__.startswith(f"{path}/")]

from typing import TYPE_CHECKING, Any

from vlmbench.system.version import __version__

if TYPE_CHECKING:
    from vlmbench.cli.python import Judge, compare, load, run, sweep
    from vlmbench.types import UserError

__all__ = ["Judge", "UserError", "__version__", "compare", "load", "run", "sweep"]


def __getattr__(name: str) -> Any:
    """Import the public names when they are first used: reading the version stays fast."""
    if name == "UserError":
        from vlmbench.types import UserError

        return UserError
    if name in __all__:
        from vlmbench.cli import python

        return getattr(python, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
