"""Phi-3-vision's classes with small random weights and a new tokenizer: the model learns
nothing."""

from __future__ import annotations

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from vlmbench.models.phi3_v import (
    Phi3VConfig,
    Phi3VForConditionalGeneration,
    Phi3VImageProcessor,
    Phi3VProcessor,
)

TILE = 28  # width and height of a tile in pixels: 2x2 patches of 14, which become one token
BEGIN, PAD, TURN_END, IMAGE = "<s>", "<|endoftext|>", "<|end|>", "<|image|>"
CORPUS = (
    "Is the second part normal or abnormal? Same part or different part? "
    "Same shape or different shape?",
    "normal abnormal same part different part same shape different shape "
    "a scratch a dent a chip the hole is missing",
)
STD = 0.2  # of the random weights: each module has a visible effect on the logits


def tiny_phi3_processor(num_crops: int) -> Phi3VProcessor:
    """Return a processor with tiles of 28 x 28 pixels and a tokenizer of a few hundred tokens.

    The tokenizer is a byte-level BPE with the model's special tokens.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[BEGIN, PAD, TURN_END, "<|user|>", "<|assistant|>", "<|system|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)

    # Last: its id is the first one outside the predicted vocabulary.
    tokenizer.add_special_tokens([IMAGE])

    begin = (BEGIN, tokenizer.token_to_id(BEGIN))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[begin]
    )

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BEGIN, eos_token=TURN_END, pad_token=PAD
    )
    images = Phi3VImageProcessor(
        num_crops=num_crops,
        tile_size=TILE,
        num_img_tokens=1,
    )

    return Phi3VProcessor(images, fast, image_token_id=fast.convert_tokens_to_ids(IMAGE))


def tiny_phi3_v(
    tokenizer: PreTrainedTokenizerFast, *, max_tokens: int, seed: int = 0
) -> Phi3VForConditionalGeneration:
    """Return a random model of about 50,000 parameters in float32 for `tokenizer`.

    Its configuration has the layout of the hub's.
    """
    image_id = tokenizer.convert_tokens_to_ids(IMAGE)
    config = Phi3VConfig(
        vocab_size=image_id,
        image_token_id=image_id,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_tokens,
        original_max_position_embeddings=max_tokens // 2,
        rope_scaling={
            "type": "su",
            "short_factor": [1.0, 1.1, 1.3, 2.0],
            "long_factor": [1.2, 2.5, 9.0, 40.0],
        },
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        clip_vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": TILE,
            "projection_dim": 8,
        },
    )

    model = Phi3VForConditionalGeneration(config)
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=STD, generator=generator)

    return model.eval()
