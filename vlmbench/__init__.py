"""Fine-tune vision-language models to judge parts from pairs of images.

The command line is `vlmbench`. From Python: `run`, `sweep`, `compare` and `load`.
"""

from __future__ import annotations

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
