"""One cell of a sweep: its settings, its folder, and what is built from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmbench.backbones import resident
from vlmbench.config import BuildRequest, Engine, RunConfig, StoreConfig, runnable_models
from vlmbench.data.dataset import RAW
from vlmbench.data.load import data_hash, read_pictures
from vlmbench.data.manifest import open_manifest
from vlmbench.data.prompts import Wording
from vlmbench.experiment import Experiment, make_experiment
from vlmbench.files import damage
from vlmbench.rundir import RunDir
from vlmbench.types import UserError

if TYPE_CHECKING:
    from vlmbench.backbones.base import Backbone


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What the steps of one run share."""

    config: RunConfig
    plain: Mapping[str, Any]  # the resolved config as plain values
    folder: RunDir
    choices: Mapping[str, str]  # config group -> chosen yaml
    identity: Mapping[str, Any]  # model, data, seed, overrides: what tells it apart in its sweep

    @property
    def title(self) -> str:
        return self.folder.path.name

    @property
    def cache(self) -> Path:
        return Path(self.config.cache_dir)


def manifest_of(cell: Cell) -> Path:
    """The source's manifest, written now where it is not there yet."""
    return cell.config.source.prepare(Path(cell.config.data_dir))


def data_of(cell: Cell) -> str:
    """A hash of the run's manifest and pictures, all of which are read, or known from their files' times."""
    config = cell.config
    manifest = open_manifest(manifest_of(cell), labels=config.source.labels, views={RAW, config.view.name})
    return data_hash(manifest, read_pictures(manifest, cell.cache))


def experiment_of(cell: Cell, backbone: Backbone) -> Experiment:
    """The records of the run, by its own settings."""
    config = cell.config
    return make_experiment(
        backbone,
        manifest_of(cell),
        labels=config.source.labels,
        variant=config.data,
        view=config.view,
        wording=wording_of(config),
        trainer=config.trainer,
        evaluation=config.eval,
        seed=config.seed,
        cache_dir=cell.cache,
    )


def wording_of(config: RunConfig) -> Wording:
    """The words of the run's records."""
    prompt = config.prompt
    return Wording(questions=prompt.questions, labels=prompt.labels, phrases=prompt.phrases)


def engine_of(cell: Cell) -> tuple[Engine, str]:
    """What trains, and why."""
    from vlmbench.backbones.base import choose_engine

    engine, reason = choose_engine(cell.config.trainer.engine)
    if engine is Engine.unsloth and cell.config.trainer.engine is Engine.auto and not cell.config.model.unsloth:
        return Engine.transformers, f"model={cell.choices['model']} is not made for Unsloth"
    return engine, reason


def build(
    cell: Cell,
    engine: Engine,
    *,
    adapter: Path | None = None,
    merged: Path | None = None,
    store: StoreConfig | None = None,
    weights: bool = True,
) -> Backbone:
    """The backbone: without `weights`, what counts tokens and no more; `store` instead of the run's own."""
    if adapter is not None and (why := damage(adapter)):
        raise UserError(f"{adapter}: the adapter cannot be trusted: {why}; start the run's command again")
    request = BuildRequest(
        seed=cell.config.seed,
        engine=engine,
        vision=cell.config.trainer.vision,
        cache_dir=cell.cache,
        store=cell.config.store if store is None else store,
        adapter=adapter,
        merged=merged,
        weights=weights,
    )
    return resident.build(cell.config.model, request)


def require_machine(cell: Cell) -> None:
    """Refuse a model that this machine cannot run, before anything is downloaded."""
    lacking = cell.config.model.requirements()
    if lacking:
        raise UserError(
            f"model={cell.choices['model']} cannot run on this machine: {'; '.join(lacking)}. "
            f"These can: {', '.join(f'model={name}' for name in runnable_models())}"
        )
