"""How others would train the same records: Unsloth's notebook for vision models, and TRL with PEFT as documented."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BATCH = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A loaded model with adapters, and how the recipe batches; `checkpointing` None: as the library likes."""

    model: Any
    processor: Any
    collator: Callable[[Any], Any]
    checkpointing: bool | None


def unsloth_notebook(model_folder: Path, *, vision: bool) -> Recipe:
    """Unsloth's Llama-3.2-Vision notebook, in 16 bits; its batch is 4."""
    import os

    os.environ["UNSLOTH_RETURN_LOGITS"] = "0"  # as in the notebook
    from unsloth import FastVisionModel
    from unsloth.trainer import UnslothVisionDataCollator

    import vlmbench.models.phi3_v  # noqa: F401 - registers the type

    model, processor = FastVisionModel.from_pretrained(
        str(model_folder), load_in_4bit=False, use_gradient_checkpointing="unsloth"
    )
    model = FastVisionModel.get_peft_model(
        model,
        finetune_vision_layers=vision,
        finetune_language_layers=True,
        finetune_attention_modules=True,
        finetune_mlp_modules=True,
        r=16,
        lora_alpha=16,
        lora_dropout=0,
        bias="none",
        random_state=3407,
    )
    FastVisionModel.for_training(model)
    collator = UnslothVisionDataCollator(model, processor)
    return Recipe(model=model, processor=processor, collator=collator, checkpointing=None)


def trl_documented(model_folder: Path, *, no_grad: bool) -> Recipe:
    """TRL's example for vision models: transformers and PEFT, gradient checkpointing on, labels on all but pictures.

    `no_grad`: the frozen tower's forward without gradients, which is not in the documentation.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText, AutoProcessor

    import vlmbench.models.phi3_v  # noqa: F401 - registers the type
    from vlmbench.backbones.base import without_gradients

    model = AutoModelForImageTextToText.from_pretrained(
        model_folder, dtype=torch.bfloat16, device_map={"": 0 if torch.cuda.is_available() else "cpu"}
    )
    if no_grad:
        for name in ("vision_model", "multi_modal_projector", "vision_embed_tokens"):
            if hasattr(model.model, name):
                without_gradients(getattr(model.model, name))
    targets = r".*(language_model|model\.layers)\..*_proj"
    model = get_peft_model(model, LoraConfig(r=16, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM"))
    processor = AutoProcessor.from_pretrained(model_folder)

    def collate(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        texts, pictures = [], []
        for example in examples:
            user, assistant = example["messages"]
            shown = [part["image"] for part in user["content"] if part["type"] == "image"]
            bare = [
                {"role": turn["role"], "content": [_without_image(part) for part in turn["content"]]}
                for turn in (user, assistant)
            ]
            texts.append(processor.apply_chat_template(bare, tokenize=False))
            pictures.append(shown)
        batch_ = dict(processor(text=texts, images=pictures, padding=True, return_tensors="pt"))
        batch_.pop("num_img_tokens", None)
        labels = batch_["input_ids"].clone()
        labels[batch_["attention_mask"] == 0] = -100
        config = model.config
        labels[labels == getattr(config, "image_token_id", getattr(config, "image_token_index", -1))] = -100
        return {**batch_, "labels": labels}

    return Recipe(model=model, processor=processor, collator=collate, checkpointing=True)


def _without_image(part: dict[str, Any]) -> dict[str, Any]:
    return {"type": "image"} if part["type"] == "image" else part


def trainer(
    recipe: Recipe, rows: Sequence[dict[str, Any]], *, batch: int, steps: int, folder: Path, callback: Any
) -> Any:
    """A ready SFTTrainer."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    numbers = Dataset.from_dict({"index": range(len(rows))})
    gpu = torch.cuda.is_available()
    how = {} if recipe.checkpointing is None else {"gradient_checkpointing": recipe.checkpointing}
    config = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=1,  # Unsloth's own default is 2, which a step's time would hide
        max_steps=steps,
        learning_rate=2e-4,
        logging_steps=1,
        bf16=gpu,
        use_cpu=not gpu,
        optim="adamw_8bit" if gpu else "adamw_torch",
        report_to="none",
        save_strategy="no",
        remove_unused_columns=False,
        dataset_text_field="",
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        disable_tqdm=True,
        seed=3407,
        **how,
    )
    return SFTTrainer(
        model=recipe.model,
        args=config,
        train_dataset=numbers.with_transform(lambda some: {"messages": [rows[i]["messages"] for i in some["index"]]}),
        data_collator=recipe.collator,
        processing_class=recipe.processor,
        callbacks=[callback],
    )
