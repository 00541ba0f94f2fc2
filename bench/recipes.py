"""Recipes of others for the same records: Unsloth's notebook, and TRL's example with PEFT."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

BATCH = 4
IGNORED = -100  # a label that carries no loss


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A loaded model with adapters, and how the recipe makes batches.

    `checkpointing` None: gradient checkpointing as the library sets it.
    """

    model: Any
    processor: Any
    collator: Callable[[Any], Any]
    checkpointing: bool | None


def load_unsloth_notebook(model_folder: Path, *, vision: bool) -> Recipe:
    """Return Unsloth's Llama-3.2-Vision notebook in 16 bits; its batch size is 4."""
    import os

    os.environ["UNSLOTH_RETURN_LOGITS"] = "0"  # as in the notebook
    from unsloth import FastVisionModel
    from unsloth.trainer import UnslothVisionDataCollator

    import vlmbench.models.phi3_v  # noqa: F401 - registers the model type

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


def load_trl_example(model_folder: Path, *, no_grad: bool) -> Recipe:
    """Return TRL's example for vision models: PEFT, gradient checkpointing, loss on all text.

    With `no_grad`, the frozen tower runs without gradients, which the example does not do.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText, AutoProcessor

    import vlmbench.models.phi3_v  # noqa: F401 - registers the model type
    from vlmbench.backbones.towers import without_gradients

    model = AutoModelForImageTextToText.from_pretrained(
        model_folder,
        dtype=torch.bfloat16,
        device_map={"": 0 if torch.cuda.is_available() else "cpu"},
    )
    if no_grad:
        for name in ("vision_model", "multi_modal_projector", "vision_embed_tokens"):
            if hasattr(model.model, name):
                without_gradients(getattr(model.model, name))

    targets = r".*(language_model|model\.layers)\..*_proj"
    lora = LoraConfig(r=16, lora_alpha=32, target_modules=targets, task_type="CAUSAL_LM")
    model = get_peft_model(model, lora)
    processor = AutoProcessor.from_pretrained(model_folder)

    def collate(examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        return _collate(examples, processor=processor, config=model.config)

    return Recipe(model=model, processor=processor, collator=collate, checkpointing=True)


def make_trainer(
    recipe: Recipe,
    rows: Sequence[dict[str, Any]],
    *,
    batch: int,
    steps: int,
    folder: Path,
    callback: Any,
) -> Any:
    """Return an SFTTrainer that is ready to train on the conversations `rows`."""
    import torch
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    gpu = torch.cuda.is_available()
    checkpointing = {}
    if recipe.checkpointing is not None:
        checkpointing["gradient_checkpointing"] = recipe.checkpointing

    config = SFTConfig(
        output_dir=str(folder),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=1,  # Unsloth's own default 2 would hide the time of a step
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
        **checkpointing,
    )

    def conversations(batch: dict[str, list[int]]) -> dict[str, Any]:
        return {"messages": [rows[index]["messages"] for index in batch["index"]]}

    dataset = Dataset.from_dict({"index": range(len(rows))}).with_transform(conversations)
    return SFTTrainer(
        model=recipe.model,
        args=config,
        train_dataset=dataset,
        data_collator=recipe.collator,
        processing_class=recipe.processor,
        callbacks=[callback],
    )


def _collate(examples: Sequence[dict[str, Any]], *, processor: Any, config: Any) -> dict[str, Any]:
    """Return a batch with labels at all positions but those of images and padding."""
    texts, images = [], []
    for example in examples:
        user, assistant = example["messages"]
        images.append([part["image"] for part in user["content"] if part["type"] == "image"])
        turns = [_without_images(turn) for turn in (user, assistant)]
        texts.append(processor.apply_chat_template(turns, tokenize=False))

    batch = dict(processor(text=texts, images=images, padding=True, return_tensors="pt"))
    batch.pop("num_img_tokens", None)

    image_id = getattr(config, "image_token_id", getattr(config, "image_token_index", -1))
    labels = batch["input_ids"].clone()
    labels[batch["attention_mask"] == 0] = IGNORED
    labels[labels == image_id] = IGNORED
    return {**batch, "labels": labels}


def _without_images(turn: dict[str, Any]) -> dict[str, Any]:
    """Return a turn with markers in place of its images."""
    content = [{"type": "image"} if part["type"] == "image" else part for part in turn["content"]]
    return {"role": turn["role"], "content": content}
