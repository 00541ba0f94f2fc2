"""Files from strangers: read only if they are regular, small enough and where they seem to be.

A pipe or a device would block or never end, and a link may lead to any file of this machine.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import yaml

from vlmbench.types import UserError

MAX_DEPTH = 64  # levels of a YAML file
MAX_ENTRIES = 100_000  # names in a folder that is searched for links
INTERPOLATION = "${"  # OmegaConf resolves it, even to a secret of the environment
# Flags that Windows lacks are 0 there.
SAFE = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
BINARY = getattr(os, "O_BINARY", 0)
LINK_CURE = "remove it, and copy the files themselves with cp -rL"


class UnreadableError(ValueError):
    """A file that must not or cannot be read; the message is the reason."""


class NotYamlError(UnreadableError):
    """A text that is not YAML of plain values; the message is the parser's."""


def exists(path: Path) -> bool:
    """Return whether a name is taken, even by a link that leads nowhere."""
    return os.path.lexists(path)


def open_regular(path: Path, *, limit: int) -> IO[bytes]:
    """Return an open regular file of at most `limit` bytes. Raise UnreadableError for others."""
    try:
        handle = os.open(path, os.O_RDONLY | SAFE | BINARY)
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in (errno.ELOOP, errno.EMLINK):
            raise UnreadableError("it is a link, and must be a file") from error
        reason = getattr(error, "strerror", None) or str(error)
        raise UnreadableError(f"it cannot be opened: {reason}") from error

    status = os.fstat(handle)
    why = ""
    if not stat.S_ISREG(status.st_mode):
        why = "it must be a regular file"
    elif status.st_size > limit:
        why = f"it has more than {limit} bytes"
    if why:
        os.close(handle)
        raise UnreadableError(why)
    return os.fdopen(handle, "rb")


def read_regular(path: Path, *, limit: int) -> bytes:
    """Return the content of a regular file of at most `limit` bytes.

    Raise UnreadableError for a link, a pipe, a device and a longer file.
    """
    with open_regular(path, limit=limit) as file:
        content = file.read(limit + 1)

    if len(content) > limit:
        raise UnreadableError(f"it has more than {limit} bytes")
    return content


def read_lines(path: Path, *, limit: int, max_lines: int, max_line: int) -> Iterator[bytes]:
    """Yield the lines of a regular file. Raise UnreadableError for one beyond the limits."""
    with open_regular(path, limit=limit) as file:
        number = 0
        while line := file.readline(max_line + 1):
            number += 1
            if len(line) > max_line:
                raise UnreadableError(f"line {number} has more than {max_line} bytes")
            if number > max_lines:
                raise UnreadableError(f"it has more than {max_lines} lines")
            yield line


def open_to_append(path: Path) -> IO[bytes]:
    """Return a regular file to which lines are added; create it. A link is not followed.

    Raise OSError for a link, a pipe and a device.
    """
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | SAFE | BINARY, 0o644)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it must be a regular file", str(path))
    return os.fdopen(handle, "ab+")


class _PlainLoader(yaml.SafeLoader):
    """YAML of plain values: no aliases, which can multiply without end, and no deep levels."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise UnreadableError("it has a YAML alias, which a run never writes")

        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise UnreadableError(f"it has more than {MAX_DEPTH} levels")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def parse_plain_yaml(content: bytes) -> dict[str, Any]:
    """Return the mapping of a YAML file of plain values.

    Raise UnreadableError for a file that is not UTF-8 or no such mapping, and for aliases, for tags
    and for interpolations, which OmegaConf would resolve.
    """
    try:
        text = content.decode("utf-8-sig")
        values = yaml.load(text, Loader=_PlainLoader)  # noqa: S506 - a safe loader
    except UnicodeDecodeError as error:
        raise UnreadableError(f"byte {error.start} is not UTF-8") from error
    except UnreadableError:
        raise
    except (yaml.YAMLError, ValueError, TypeError, LookupError, RecursionError) as error:
        raise NotYamlError(" ".join(str(error).split())) from error

    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UnreadableError("it must be a mapping of settings")
    _refuse_odd_values(values)
    return values


def _refuse_odd_values(values: dict[Any, Any]) -> None:
    """Raise UnreadableError for a value that no run writes into its YAML files."""
    waiting: list[Any] = [values]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            if not all(isinstance(key, str) for key in node):
                raise UnreadableError("the name of each setting must be a text")
            waiting += [*node.keys(), *node.values()]
        elif isinstance(node, list):
            waiting += node
        elif isinstance(node, str):
            if not node.isascii() and any("\ud800" <= letter <= "\udfff" for letter in node):
                raise UnreadableError("it has half of a character (a surrogate)")
        elif not (node is None or isinstance(node, bool | int | float)):
            raise UnreadableError(f"{str(node)[:60]!r} must be a text, a number, true or false")


def refuse_interpolations(values: Any) -> None:
    """Raise UnreadableError for a text that OmegaConf would resolve, such as ${oc.env:HOME}."""
    waiting = [values]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            waiting += [*node.keys(), *node.values()]
        elif isinstance(node, list):
            waiting += node
        elif isinstance(node, str) and INTERPOLATION in node:
            raise UnreadableError(f"{node[:60]!r} is an interpolation, which a run never writes")


def find_link(folder: Path) -> Path | None:
    """Return a name below a folder that is no file and no folder; None if all are.

    Links, pipes and devices lead a writer out of the folder. W&B makes links of its own, so a
    folder named wandb may contain some.
    """
    waiting, seen = [folder], 0
    while waiting:
        try:
            entries = list(os.scandir(waiting.pop()))
        except (FileNotFoundError, NotADirectoryError):
            continue

        seen += len(entries)
        if seen > MAX_ENTRIES:
            raise UserError(
                f"{folder}: it has more than {MAX_ENTRIES} files; remove those that no run wrote"
            )
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                waiting += [] if entry.name == "wandb" else [Path(entry.path)]
            elif not entry.is_file(follow_symlinks=False):
                return Path(entry.path)
    return None


def refuse_links(folder: Path) -> None:
    """Raise UserError if a link, a pipe or a device lies below a folder that is written to."""
    found = find_link(folder)
    if found is not None:
        raise UserError(
            f"{found}: a link, a pipe or a device must not be in a folder that vlmbench writes "
            f"to; {LINK_CURE}"
        )


def refuse_link(folder: Path) -> None:
    """Raise UserError if a folder that is written to is a link."""
    if folder.is_symlink():
        raise UserError(f"{folder}: the folder is a link to {folder.readlink()}; {LINK_CURE}")


def refuse_odd_file(path: Path) -> None:
    """Raise UserError for a name that is taken by a link, a pipe or a device."""
    is_usual = path.is_file() or path.is_dir() or not exists(path)
    if path.is_symlink() or not is_usual:
        raise UserError(
            f"{path}: a link, a pipe or a device must not be in a folder that vlmbench writes "
            f"to; {LINK_CURE}"
        )
