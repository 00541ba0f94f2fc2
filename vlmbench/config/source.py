"""The yaml files of conf/ as Hydra reads them, except that a setting that holds text is text.

YAML reads `name: 2024_05_01` as 20240501, `3.10` as 3.1 and `no` as false.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from functools import lru_cache
from io import StringIO
from pathlib import Path

import yaml
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf

from vlmbench.config.registry import TEXT_SCHEME
from vlmbench.config.texts import Kind, TextSetting, find_text_setting, text_settings

# A sweep's values are read like those of the command line.
PARAMS = "hydra.sweeper.params."
CHANGED = tuple(f"tag:yaml.org,2002:{name}" for name in ("int", "float", "bool"))
TEXT = "tag:yaml.org,2002:str"


class TextSource(FileConfigSource):
    """A folder of yaml files whose text settings are text."""

    @staticmethod
    def scheme() -> str:
        return TEXT_SCHEME

    def load_config(self, config_path: str) -> ConfigResult:
        path = Path(self.path) / self._normalize_file_name(config_path)
        try:
            changed_ns = path.stat().st_mtime_ns
        except OSError:  # Hydra says what is wrong
            return super().load_config(config_path)
        return deepcopy(_load(self.provider, self.path, config_path, changed_ns))


@lru_cache(maxsize=512)
def _load(provider: str, folder: str, config_path: str, changed_ns: int) -> ConfigResult:
    """Return a file of a folder, as it was at this time of change.

    A sweep composes each run three times from the same files.
    """
    source = FileConfigSource(provider, folder)
    result = source.load_config(config_path)
    path = Path(folder) / source._normalize_file_name(config_path)
    package = result.header["package"] or config_path.rpartition("/")[0].replace("/", ".")
    package = "" if package == "_global_" else package.removeprefix("_global_.")

    text = _mended(path, changed_ns, package)
    if text is not None:
        result.config = OmegaConf.load(StringIO(text))
    return result


@lru_cache(maxsize=256)
def _mended(path: Path, changed_ns: int, package: str) -> str | None:
    """Return a file, as it was at this time of change, with its texts in quotes; None if they are
    already."""
    root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    prefix = f"{package}." if package else ""
    wrong = list(_wrong_texts(root, prefix, text_settings()))
    if not wrong:
        return None

    for node in wrong:
        node.tag, node.style = TEXT, '"'
    return str(yaml.serialize(root, Dumper=yaml.SafeDumper, allow_unicode=True))


def _wrong_texts(
    node: yaml.Node | None, prefix: str, settings: Mapping[str, TextSetting]
) -> Iterator[yaml.ScalarNode]:
    """Yield the texts that YAML takes for numbers or truth values."""
    if not isinstance(node, yaml.MappingNode):
        return

    for key, value in node.value:
        name = f"{prefix}{key.value}"
        is_param = name.startswith(PARAMS)
        about = TextSetting(Kind.text) if is_param else find_text_setting(name, settings)

        if about.kind is not Kind.value:
            yield from _scalars(value)
        elif name != "defaults":
            yield from _wrong_texts(value, f"{name}.", settings)


def _scalars(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    """Yield the scalars at and within a node that are no text yet: keys, values and items."""
    if isinstance(node, yaml.ScalarNode):
        if node.tag in CHANGED:
            yield node
        return

    for child in node.value:
        for one in child if isinstance(child, tuple) else (child,):
            yield from _scalars(one)


Plugins.instance().register(TextSource)
