"""A run: its settings, its folder, and what is built from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlmbench.backbones import resident
from vlmbench.config import BuildRequest, Engine, RunConfig, StoreConfig, Vision, runnable_models
from vlmbench.data.run_records import RunRecords, open_run_manifest
from vlmbench.pipeline.answer import Asker
from vlmbench.runs.folder import RunDir
from vlmbench.system.files import find_damage
from vlmbench.types import Split, UserError

if TYPE_CHECKING:
    from vlmbench.backbones.contract import Backbone


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A training with one configuration, and its folder.

    `settings` is the resolved `config` as plain values. `choices` maps each config group to the
    yaml that was chosen. `identity` (model, data, seed, overrides) names the run in its sweep.
    """

    config: RunConfig
    settings: Mapping[str, Any]
    folder: RunDir
    choices: Mapping[str, str]
    identity: Mapping[str, Any]

    @property
    def title(self) -> str:
        return self.folder.path.name

    @property
    def cache_dir(self) -> Path:
        return Path(self.config.cache_dir)

    def asker(self, backbone: Backbone, records: RunRecords) -> Asker:
        """Return the backbone, ready to answer records as this run shows and words them."""
        return Asker(
            backbone=backbone,
            viewer=records.viewer,
            wording=records.wording,
            settings=replace(self.config.eval, batch_size=self._answer_rows(backbone, records)),
            component_of=records.data.component,
            tiler=records.tiler,
        )

    def _answer_rows(self, backbone: Backbone, records: RunRecords) -> int:
        is_on_gpu = next(backbone.model.parameters()).device.type == "cuda"
        longest = max(count.total for count in records.token_counts)
        return self.config.eval.num_rows(longest if is_on_gpu else None)

    def choose_engine(self) -> tuple[Engine, str]:
        """Return the engine that trains, and the reason.

        With trainer.engine=auto, the number of records in the manifest decides, not the variant's
        or the sweep's: runs that are compared have one engine.
        """
        from vlmbench.backbones.contract import choose_engine

        setting = self.config.trainer.engine
        engine, reason = choose_engine(setting)
        if setting is not Engine.auto or engine is not Engine.unsloth:
            return engine, reason

        if self.config.trainer.vision is not Vision.frozen:
            return Engine.transformers, "a tower that trains takes too much memory on Unsloth"
        least, model = self.config.model.unsloth_from, self.choices["model"]
        why_not = self.config.model.why_not_unsloth()
        if least is None or why_not:
            return Engine.transformers, f"model={model} does not run on Unsloth: {why_not}"
        number = self.config.trainer.planned_records(self._num_training_records())
        if number < least:
            return Engine.transformers, (
                f"training shows {number:,} records, and Unsloth's start pays off from {least:,}; "
                "trainer.engine=unsloth takes it anyway"
            )
        return engine, f"{reason}; training shows {number:,} records"

    def choose_precision(self) -> tuple[str, str]:
        """Return bf16, fp16 or fp32, and the reason. Raise UserError if the GPU lacks it."""
        from vlmbench.backbones.precision import choose_precision

        return choose_precision(self.config.trainer.precision)

    def trained_engine(self, trained: RunDir) -> Engine:
        """Return the engine that a finished run was trained on, if this machine has it."""
        from vlmbench.backbones.contract import choose_engine

        recorded = trained.read_env().get("engine")
        setting = self.config.trainer.engine
        if setting is Engine.auto and recorded == Engine.transformers:
            return Engine.transformers
        engine, _ = choose_engine(setting)
        is_chosen = setting is not Engine.auto or self.config.model.unsloth_from is not None
        return engine if is_chosen else Engine.transformers

    def _num_training_records(self) -> int:
        manifest = open_run_manifest(self.config)
        share = self.config.data.split.shares[Split.TRAIN]
        return round(len(manifest) * share)

    def build(
        self,
        engine: Engine,
        *,
        adapter: Path | None = None,
        merged: Path | None = None,
        store: StoreConfig | None = None,
        weights: bool = True,
    ) -> Backbone:
        """Return the backbone.

        `adapter` is the folder of trained adapters, `merged` that of an exported model; `store`
        replaces the run's own. Without `weights` the backbone counts tokens and nothing more.
        """
        if adapter is not None and (why := find_damage(adapter)):
            raise UserError(
                f"{adapter}: the adapter cannot be trusted: {why}; start the run's command again"
            )
        request = BuildRequest(
            seed=self.config.seed,
            engine=engine,
            vision=self.config.trainer.vision,
            cache_dir=self.cache_dir,
            store=self.config.store if store is None else store,
            precision=self.config.trainer.precision,
            adapter=adapter,
            merged=merged,
            weights=weights,
        )
        return resident.build(self.config.model, request)

    def base_hash(self) -> str:
        """Return the identity of the base model, "" for a model that vlmbench makes."""
        return self.config.model.base_hash(self.cache_dir)

    def require_base(self, trained: RunDir) -> None:
        """Raise UserError if the base model is not the one that a run was trained on."""
        recorded = trained.read_env().get("base_model")
        if not recorded or recorded == self.base_hash():
            return

        kind, _, commit = str(recorded).partition(" ")
        cure = "bring its files back, or train again under another name"
        if kind == "commit" and commit.isalnum():
            cure = f"set model.revision={commit}, or train again under another name"
        path = getattr(self.config.model, "path", "")
        raise UserError(
            f"{trained.path}: the base model at model.path={path} "
            f"has changed since the run was trained, and its adapter fits no other; {cure}"
        )

    def require_machine(self) -> None:
        """Raise UserError if this machine cannot run the model, before anything is downloaded."""
        self.choose_precision()
        lacking = self.config.model.requirements()
        if lacking:
            runnable = ", ".join(f"model={name}" for name in runnable_models())
            raise UserError(
                f"model={self.choices['model']} cannot run on this machine: {'; '.join(lacking)}; "
                f"set one of {runnable}"
            )
        self.config.model.check_precision(self.config.trainer.precision)
