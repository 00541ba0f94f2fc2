"""stage=prepare: write the source's images and manifest, and a datasheet beside them."""

from __future__ import annotations

import logging
from pathlib import Path

from vlmbench.data.load import read_images
from vlmbench.data.manifest import open_manifest
from vlmbench.data.planted import counts_sentence
from vlmbench.data.tiled_records import count_tiles
from vlmbench.data.viewer import RAW
from vlmbench.pipeline.run import Run
from vlmbench.pipeline.split_needs import manifest_needs
from vlmbench.report.datasheet import warnings_before_training, write_datasheet

log = logging.getLogger(__name__)


def prepare(run: Run) -> None:
    """Write images, manifest and datasheet, and log where they are."""
    config = run.config
    manifest = config.source.prepare(Path(config.data_dir))

    page, sheet = write_datasheet(
        manifest,
        labels=config.source.labels,
        views={RAW, config.view.name},
        shares=config.data.split.shares,
        split_seed=config.data.split_seed,
        allow_leak=config.data.allow_leak,
        cache_dir=run.cache_dir,
        group_alike=config.data.group_alike,
    )

    parts = f"{sheet['parts']} {config.source.unit}"
    log.info("%d records of %s, %d images", sheet["records"], parts, sheet["images"])
    for line in (counts_sentence(sheet["planted"]), _count_tiles(manifest, run)):
        if line:
            log.info("%s", line)
    for line in (*warnings_before_training(sheet), *manifest_needs(manifest, config)):
        log.warning("%s", line)
    log.info("datasheet: %s\n%s", page, manifest)  # the manifest last and alone: scripts read it


def _count_tiles(path: Path, run: Run) -> str:
    """Return how many tiles the records have; "" if nothing is cut."""
    config = run.config
    if config.view.tile is None:
        return ""

    views = {RAW, config.view.name}
    manifest = open_manifest(path, labels=config.source.labels, views=views)
    return count_tiles(manifest, read_images(manifest, run.cache_dir), config.view)
