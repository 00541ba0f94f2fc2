"""Llama-3.2-Vision's class with small random weights and a new tokenizer: the model learns
nothing."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    MllamaConfig,
    MllamaForConditionalGeneration,
    MllamaImageProcessorPil,
    MllamaProcessor,
    PreTrainedTokenizerFast,
)

TILE = 28  # width and height of a tile in pixels
MAX_TILES = 4
IMAGE = "<|image|>"
BEGIN, PAD, TURN_END = "<|begin_of_text|>", "<|finetune_right_pad_id|>", "<|eot_id|>"
HEADER, HEADER_END = "<|start_header_id|>", "<|end_header_id|>"
CORPUS = (
    "Is the second part normal or abnormal? Same part or different part? "
    "Same shape or different shape?",
    "normal abnormal same part different part same shape different shape "
    "a scratch a dent a chip the hole is missing",
)
# A short form of the published template.
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    f"{HEADER}{{{{ message.role }}}}{HEADER_END}\n\n"
    "{% for part in message.content %}"
    f"{{% if part.type == 'image' %}}{IMAGE}{{% else %}}{{{{ part.text }}}}{{% endif %}}"
    f"{{% endfor %}}{TURN_END}{{% endfor %}}"
    f"{{% if add_generation_prompt %}}{HEADER}assistant{HEADER_END}\n\n{{% endif %}}"
)


def tiny_processor() -> MllamaProcessor:
    """Return a processor with tiles of 28 x 28 pixels and a tokenizer of a few hundred tokens.

    The tokenizer is a byte-level BPE with the model's special tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[BEGIN, TURN_END, HEADER, HEADER_END, PAD, "<|python_tag|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)

    # Last, as in the published model: its id is the first one outside the predicted vocabulary.
    tokenizer.add_special_tokens([IMAGE])

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=TURN_END,
        pad_token=PAD,
        additional_special_tokens=[HEADER, HEADER_END, "<|python_tag|>", IMAGE],
    )
    images = MllamaImageProcessorPil(
        size={"height": TILE, "width": TILE}, max_image_tiles=MAX_TILES
    )

    return MllamaProcessor(images, fast, chat_template=TEMPLATE)


def tiny_mllama(
    tokenizer: PreTrainedTokenizerFast, *, max_tokens: int, seed: int = 0
) -> MllamaForConditionalGeneration:
    """Return a random model of about 100,000 parameters in float32 for `tokenizer`."""
    image_id = tokenizer.convert_tokens_to_ids(IMAGE)
    config = MllamaConfig(
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_global_layers": 1,
            "attention_heads": 2,
            "intermediate_size": 32,
            "vision_output_dim": 32,
            "image_size": TILE,
            "patch_size": 14,
            "max_num_tiles": MAX_TILES,
            "intermediate_layers_indices": [0],
        },
        text_config={
            "vocab_size": image_id,
            "hidden_size": 32,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 64,
            "max_position_embeddings": max_tokens,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
            "cross_attention_layers": [1, 3],
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        image_token_index=image_id,
    )

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MllamaForConditionalGeneration(config)

    for name, parameter in model.named_parameters():
        # The gates of a new Mllama are closed, and no image would have an effect.
        if "gate" in name and parameter.numel() == 1:
            torch.nn.init.constant_(parameter, 1.0)

    return model.eval()
