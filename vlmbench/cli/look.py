"""A folder of photos without a source: look what it holds, and write the command that reads it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from vlmbench.cli.words import unquoted
from vlmbench.types import UserError

SETTING = "source.path="


def explain_folder(arguments: Sequence[str]) -> None:
    """Raise UserError with the right command for source.path=... without source=...

    The default source draws images of its own and reads no folder. Nothing happens if the path does
    not exist, or if its layout is not recognised.
    """
    given = [argument for argument in arguments if argument.startswith(SETTING)]
    if not given or any(argument.startswith("source=") for argument in arguments):
        return

    path = Path(unquoted(given[-1].removeprefix(SETTING)))
    if not path.exists():
        return

    from vlmbench.data.annotations.recognise import recognise, typed_command  # late: NumPy, Pillow

    layout = recognise(path)
    if layout is None:
        return

    others = [shlex.quote(argument) for argument in arguments if argument not in given]
    raise UserError(
        f"{given[-1]}: the source is not named, and the default source, parts, reads no folder. "
        f"{path} looks like {layout.name}; set {layout.settings[0]}, as in:\n"
        f"{typed_command(layout, path, others)}"
    )
