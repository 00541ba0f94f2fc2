"""The smallest family: transformers' own classes, and nothing about stored tokens.

This is the recipe of CONTRIBUTING as a test. `PlainTinyConfig` is the tiny twin of `PlainConfig`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from vlmbench.backbones.family import ChatFamily
from vlmbench.backbones.hub import HubConfig
from vlmbench.backbones.tiny import TinyConfig

EDGE, PATCH = 28, 14  # pixels of an image and of a patch
IMAGE, BEGIN, END, PAD = "<image>", "<s>", "</s>", "<pad>"
CORPUS = ("Is the second part normal or abnormal? same part different part a scratch a dent",)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}]\n"
    "{% for part in message.content %}"
    f"{{% if part.type == 'image' %}}{IMAGE}{{% else %}}{{{{ part.text }}}}{{% endif %}}"
    "{% endfor %}\n{% endfor %}{% if add_generation_prompt %}[assistant]\n{% endif %}"
)


class PlainFamily(ChatFamily):
    vision_targets = r".*vision_tower\..*\.(q_proj|k_proj|v_proj|out_proj|fc1|fc2)"


@dataclass(kw_only=True)
class PlainConfig(PlainFamily, HubConfig):
    """A published model. With @schema("model", "plain") it needs conf/model/plain.yaml."""

    model_type = "llava"
    gigabytes: ClassVar[Mapping[int, int]] = {16: 20, 4: 8}


@dataclass(kw_only=True)
class PlainTinyConfig(PlainFamily, TinyConfig):
    def make(self) -> tuple[Any, Any]:
        processor = tiny_processor()
        return tiny_model(processor.tokenizer, self.max_tokens), processor


def tiny_processor() -> LlavaProcessor:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[BEGIN, END, PAD, IMAGE],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=END, pad_token=PAD
    )

    size = {"height": EDGE, "width": EDGE}
    return LlavaProcessor(
        CLIPImageProcessorPil(size=size, crop_size=size),
        fast,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the tower's class token
        chat_template=TEMPLATE,
    )


def tiny_model(
    tokenizer: PreTrainedTokenizerFast, max_tokens: int
) -> LlavaForConditionalGeneration:
    config = LlavaConfig(
        vision_config={
            "model_type": "clip_vision_model",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": EDGE,
            "patch_size": PATCH,
        },
        text_config={
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": max_tokens,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE),
    )
    model = LlavaForConditionalGeneration(config)

    generator = torch.Generator().manual_seed(0)
    for name, weight in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(weight, std=0.2, generator=generator)
    return model.eval()
