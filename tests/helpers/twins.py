"""Tiny random twins of published vision-language models, made from their configuration classes.

Each twin has the type's own processor and a tokenizer that is trained here on a few words. Nothing
is downloaded. `write_twin` makes a folder with the hub's files.
"""

# ruff: noqa: S106  # tokens are no passwords

from __future__ import annotations

import atexit
import importlib
import json
import shutil
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

BEGIN, END, PAD = "<s>", "<|im_end|>", "<pad>"
CORPUS = ("Is the second part normal or abnormal? same part different part a scratch a dent",)
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 4096,
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
TOWER = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
SIGLIP = {"model_type": "siglip_vision_model", **TOWER}
LAYERS = ["sliding_attention", "full_attention"]
SELECTED = {"vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
MEAN = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


def template(image: str, *, thinks: bool = False) -> str:
    """Return a chat template in the style of most types; `image` stands for one image."""
    start = "<think>\n\n</think>\n\n" if thinks else ""
    return (
        "{% for message in messages %}[{{ message.role }}]\n"
        "{% if message.content is string %}{{ message.content }}{% else %}"
        "{% for part in message.content %}"
        f"{{% if part.type == 'image' %}}{image}{{% else %}}{{{{ part.text }}}}{{% endif %}}"
        f"{{% endfor %}}{{% endif %}}{END}\n{{% endfor %}}"
        f"{{% if add_generation_prompt %}}[assistant]\n{start}{{% endif %}}"
    )


def make_tokenizer(markers: Mapping[str, str], plain: tuple[str, ...] = ()) -> Any:
    """Return a byte-level tokenizer whose attributes `markers` are special tokens."""
    from transformers import PreTrainedTokenizerFast

    special = [BEGIN, END, PAD, *dict.fromkeys([*markers.values(), *plain])]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280 + len(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=special,
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=dict(markers),
    )


def pil(module: str, name: str) -> Any:
    """Return an image processor's class that works without torchvision."""
    path = f"transformers.models.{module}.image_processing_pil_{module}"
    return getattr(importlib.import_module(path), f"{name}Pil")


def finish(config: Any, *, vocab: int, seed: int = 0) -> Any:
    """Return the random model of `config` in float32."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" not in name and weight.is_floating_point():
                torch.nn.init.normal_(weight, std=0.15, generator=generator)
    return model.eval()


def _text(tokenizer: Any, model_type: str, **more: Any) -> dict[str, Any]:
    ids = {
        f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")
    }
    return {"model_type": model_type, "vocab_size": len(tokenizer), **TEXT, **ids, **more}


def _ids(tokenizer: Any, **names: str) -> dict[str, int]:
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}


def _qwen_parts(merge: int = 2, patch: int = 14) -> tuple[Any, Any]:
    markers = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "vision_start_token": "<|vision_start|>",
        "vision_end_token": "<|vision_end|>",
    }
    tokenizer = make_tokenizer(markers)
    edge = patch * merge
    images = pil("qwen2_vl", "Qwen2VLImageProcessor")(
        size={"shortest_edge": edge**2, "longest_edge": 16 * edge**2},
        patch_size=patch,
        merge_size=merge,
        **MEAN,
    )
    return tokenizer, images


QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN_IDS = {
    "image_token_id": "<|image_pad|>",
    "video_token_id": "<|video_pad|>",
    "vision_start_token_id": "<|vision_start|>",
    "vision_end_token_id": "<|vision_end|>",
}


def _qwen2(kind: str) -> tuple[Any, Any, Any, str]:
    from transformers import AutoConfig

    tokenizer, images = _qwen_parts()
    if kind == "qwen2_vl":
        vision = {"embed_dim": 16, "hidden_size": 32, "depth": 2, "num_heads": 2, "patch_size": 14}
    else:
        vision = {
            "hidden_size": 16,
            "intermediate_size": 24,
            "depth": 2,
            "num_heads": 2,
            "out_hidden_size": 32,
            "patch_size": 14,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        }
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    text = _text(tokenizer, f"{kind}_text", rope_parameters=rope)
    del text["head_dim"]
    config = AutoConfig.for_model(
        kind, vision_config=vision, text_config=text, **_ids(tokenizer, **QWEN_IDS)
    )
    return config, tokenizer, images, template(QWEN_IMAGE)


def _qwen3(kind: str) -> tuple[Any, Any, Any, str]:
    from transformers import AutoConfig

    tokenizer, images = _qwen_parts(patch=16)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "depth": 3,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 16,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0, 1],
    }
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [2, 1, 1],
        "mrope_interleaved": True,
    }
    more: dict[str, Any] = {"rope_parameters": rope}
    if kind == "qwen3_5":
        del vision["deepstack_visual_indexes"]
        more |= {
            "layer_types": ["linear_attention", "full_attention"],
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
        }
        rope |= {"partial_rotary_factor": 1.0}
    if kind == "qwen3_vl_moe":
        more |= {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    config = AutoConfig.for_model(
        kind,
        vision_config=vision,
        text_config=_text(tokenizer, f"{kind}_text", **more),
        **_ids(tokenizer, **QWEN_IDS),
    )
    return config, tokenizer, images, template(QWEN_IMAGE, thinks=kind == "qwen3_5")


def _glm4v(kind: str) -> tuple[Any, Any, Any, str]:
    from transformers import AutoConfig

    names = ("<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>")
    tokenizer = make_tokenizer({"image_token": "<|image|>", "video_token": "<|video|>"}, names)
    module, name = (
        ("glm46v", "Glm46VImageProcessor") if kind == "glm46v" else ("glm4v", "Glm4vImageProcessor")
    )
    images = pil(module, name)(
        size={"shortest_edge": 2 * 28**2, "longest_edge": 2 * 16 * 28**2}, **MEAN
    )
    vision = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "depth": 2,
        "num_heads": 2,
        "out_hidden_size": 32,
        "patch_size": 14,
        "image_size": 56,
    }
    rope = {
        "rope_type": "default",
        "rope_theta": 10000.0,
        "mrope_section": [1, 1, 2],
        "partial_rotary_factor": 1.0,
    }
    text = _text(tokenizer, "glm4v_text", rope_parameters=rope)
    config = AutoConfig.for_model(
        kind,
        vision_config=vision,
        text_config=text,
        **_ids(
            tokenizer,
            image_token_id="<|image|>",
            video_token_id="<|video|>",
            image_start_token_id=names[0],
            image_end_token_id=names[1],
            video_start_token_id=names[2],
            video_end_token_id=names[3],
        ),
    )
    return config, tokenizer, images, template(f"{names[0]}<|image|>{names[1]}")


def _gemma3(kind: str) -> tuple[Any, Any, Any, str]:
    from transformers import AutoConfig

    markers = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    tokenizer = make_tokenizer(markers)
    images = pil("gemma3", "Gemma3ImageProcessor")(size={"height": 56, "width": 56}, **MEAN)
    layers = ["sliding_attention", "full_attention"]
    text = _text(
        tokenizer, "gemma3_text", layer_types=layers, sliding_window=64, query_pre_attn_scalar=8
    )
    config = AutoConfig.for_model(
        kind,
        vision_config={
            "model_type": "siglip_vision_model",
            **TOWER,
            "image_size": 56,
            "patch_size": 14,
        },
        text_config=text,
        mm_tokens_per_image=4,
        **_ids(
            tokenizer,
            image_token_index="<image_soft_token>",
            boi_token_index="<start_of_image>",
            eoi_token_index="<end_of_image>",
        ),
    )
    return config, tokenizer, images, template("<start_of_image>")


def _gemma4(kind: str) -> tuple[Any, Any, Any, str]:
    from transformers import AutoConfig

    markers = {
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "image_token": "<|image|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
    }
    tokenizer = make_tokenizer(markers, ("<|video|>",))
    images = pil("gemma4", "Gemma4ImageProcessor")(
        patch_size=4, pooling_kernel_size=3, max_soft_tokens=70
    )
    text = _text(
        tokenizer,
        "gemma4_text",
        layer_types=["sliding_attention", "full_attention"],
        sliding_window=512,
        hidden_size_per_layer_input=4,
        vocab_size_per_layer_input=len(tokenizer),
        num_kv_shared_layers=0,
        global_head_dim=8,
        use_bidirectional_attention="vision",
    )
    vision = {
        **TOWER,
        "head_dim": 8,
        "num_key_value_heads": 2,
        "patch_size": 4,
        "pooling_kernel_size": 3,
        "position_embedding_size": 64,
        "default_output_length": 70,
    }
    config = AutoConfig.for_model(
        kind,
        vision_config=vision,
        text_config=text,
        audio_config=None,
        **_ids(
            tokenizer,
            image_token_id="<|image|>",
            video_token_id="<|video|>",
            audio_token_id="<|audio|>",
            boi_token_id="<|image>",
            eoi_token_id="<image|>",
        ),
    )
    return config, tokenizer, images, template("<|image|>")


def _internvl(kind: str) -> tuple[Any, Any, Any, str]:
    from transformers import AutoConfig

    markers = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = make_tokenizer(markers)
    images = pil("got_ocr2", "GotOcr2ImageProcessor")(
        size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=3, **MEAN
    )
    text = _text(tokenizer, "qwen2")
    del text["head_dim"]
    config = AutoConfig.for_model(
        kind,
        vision_config={
            "model_type": "internvl_vision",
            **TOWER,
            "image_size": [28, 28],
            "patch_size": [7, 7],
        },
        text_config=text,
        image_seq_length=4,
        **_ids(tokenizer, image_token_id="<IMG_CONTEXT>"),
    )
    return config, tokenizer, images, template("<IMG_CONTEXT>\n")


def _smolvlm(kind: str) -> tuple[Any, Any, Any, str]:
    from transformers import AutoConfig

    rows = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))
    markers = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
    }
    tokenizer = make_tokenizer(markers, rows)
    name = "SmolVLMImageProcessor" if kind == "smolvlm" else "Idefics3ImageProcessor"
    images = pil(kind, name)(size={"longest_edge": 56}, max_image_size={"longest_edge": 28}, **MEAN)
    config = AutoConfig.for_model(
        kind,
        vision_config={**TOWER, "image_size": 28, "patch_size": 7},
        text_config=_text(tokenizer, "llama", rope_parameters=ROPE),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
        **_ids(tokenizer, image_token_id="<image>"),
    )
    return config, tokenizer, images, template("<image>").replace(END, "<end_of_utterance>")


def _llava(kind: str) -> tuple[Any, Any, Any, str]:
    from transformers import AutoConfig

    tokenizer = make_tokenizer({"image_token": "<image>", "video_token": "<video>"})
    size = {"height": 28, "width": 28}
    more: dict[str, Any] = {}
    pinpoints = [[28, 56], [56, 28], [56, 56]]
    if kind == "llava_onevision":
        images = pil(kind, "LlavaOnevisionImageProcessor")(
            size=size, image_grid_pinpoints=pinpoints, **MEAN
        )
        more = {
            "image_grid_pinpoints": pinpoints,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_9",
            "video_token_index": tokenizer.convert_tokens_to_ids("<video>"),
        }
        tower = "siglip_vision_model"
    else:
        images = pil("clip", "CLIPImageProcessor")(size=size, crop_size=size, **MEAN)
        tower = "clip_vision_model"
        if kind == "llava_next":
            images = pil(kind, "LlavaNextImageProcessor")(
                size={"shortest_edge": 28}, crop_size=size, image_grid_pinpoints=pinpoints, **MEAN
            )
            more = {"image_grid_pinpoints": pinpoints}
    text = _text(tokenizer, "qwen2" if kind == "llava_onevision" else "llama")
    if kind == "llava_onevision":
        del text["head_dim"]
    config = AutoConfig.for_model(
        kind,
        vision_config={"model_type": tower, **TOWER, "image_size": 28, "patch_size": 7},
        text_config=text,
        image_seq_length=16,
        vision_feature_layer=-1 if kind == "llava_onevision" else -2,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        **more,
    )
    return config, tokenizer, images, template("<image>")


def _mistral3(kind: str) -> tuple[Any, Any, Any, str]:
    from transformers import AutoConfig

    markers = {
        "image_token": "[IMG]",
        "image_break_token": "[IMG_BREAK]",
        "image_end_token": "[IMG_END]",
    }
    tokenizer = make_tokenizer(markers)
    images = pil("pixtral", "PixtralImageProcessor")(
        patch_size={"height": 14, "width": 14}, size={"longest_edge": 84}, **MEAN
    )
    config = AutoConfig.for_model(
        kind,
        vision_config={
            "model_type": "pixtral",
            **TOWER,
            "head_dim": 8,
            "image_size": 84,
            "patch_size": 7,
            "rope_parameters": ROPE,
        },
        text_config=_text(tokenizer, "mistral"),
        spatial_merge_size=2,
        **_ids(tokenizer, image_token_index="[IMG]"),
    )
    return config, tokenizer, images, template("[IMG]")


def _paligemma(kind: str) -> tuple[Any, Any, Any, str]:
    from transformers import AutoConfig

    tokenizer = make_tokenizer({"image_token": "<image>"})
    images = pil("siglip", "SiglipImageProcessor")(size={"height": 28, "width": 28}, **MEAN)
    images.image_seq_length = 16
    config = AutoConfig.for_model(
        kind,
        vision_config={
            "model_type": "siglip_vision_model",
            **TOWER,
            "image_size": 28,
            "patch_size": 7,
            "projection_dim": 32,
        },
        text_config=_text(
            tokenizer,
            "gemma2",
            layer_types=["sliding_attention", "full_attention"],
            sliding_window=512,
            query_pre_attn_scalar=8,
        ),
        projection_dim=32,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return config, tokenizer, images, ""


def _aya(kind: str) -> tuple[Any, Any, Any, str]:
    from transformers import AutoConfig

    markers = {"image_token": "<image>"}
    plain = ("<|IMG_PATCH|>", "<|START_OF_IMG|>", "<|END_OF_IMG|>", "TILE", "TILE_GLOBAL")
    tokenizer = make_tokenizer(markers, plain[:3])
    images = pil("got_ocr2", "GotOcr2ImageProcessor")(
        size={"height": 28, "width": 28}, crop_to_patches=True, max_patches=3, **MEAN
    )
    config = AutoConfig.for_model(
        kind,
        vision_config={
            "model_type": "siglip_vision_model",
            **TOWER,
            "image_size": 28,
            "patch_size": 7,
        },
        text_config=_text(
            tokenizer, "cohere2", layer_types=["sliding_attention", "full_attention"]
        ),
        alignment_intermediate_size=32,
        downsample_factor=2,
        image_token_index=tokenizer.convert_tokens_to_ids("<|IMG_PATCH|>"),
    )
    return config, tokenizer, images, template("<image>")


MAKERS: dict[str, Callable[[str], tuple[Any, Any, Any, str]]] = {
    "qwen2_vl": _qwen2,
    "qwen2_5_vl": _qwen2,
    "qwen3_vl": _qwen3,
    "qwen3_vl_moe": _qwen3,
    "qwen3_5": _qwen3,
    "glm4v": _glm4v,
    "glm46v": _glm4v,
    "gemma3": _gemma3,
    "gemma4": _gemma4,
    "internvl": _internvl,
    "smolvlm": _smolvlm,
    "idefics3": _smolvlm,
    "llava": _llava,
    "llava_next": _llava,
    "llava_onevision": _llava,
    "mistral3": _mistral3,
    "paligemma": _paligemma,
    "aya_vision": _aya,
}
# What a type's processor takes beside its parts.
PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen2_vl": ("Qwen2VLProcessor", {}),
    "qwen2_5_vl": ("Qwen2_5_VLProcessor", {}),
    "qwen3_vl": ("Qwen3VLProcessor", {}),
    "qwen3_vl_moe": ("Qwen3VLProcessor", {}),
    "qwen3_5": ("Qwen3VLProcessor", {}),
    "glm4v": ("Glm4vProcessor", {}),
    "glm46v": ("Glm46VProcessor", {}),
    "gemma3": ("Gemma3Processor", {"image_seq_length": 4}),
    "gemma4": ("Gemma4Processor", {"image_seq_length": 70}),
    "internvl": ("InternVLProcessor", {"image_seq_length": 4}),
    "smolvlm": ("SmolVLMProcessor", {"image_seq_len": 4}),
    "idefics3": ("Idefics3Processor", {"image_seq_len": 4}),
    "llava": (
        "LlavaProcessor",
        {
            "patch_size": 7,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
    ),
    "llava_next": (
        "LlavaNextProcessor",
        {
            "patch_size": 7,
            "vision_feature_select_strategy": "default",
            "num_additional_image_tokens": 1,
        },
    ),
    "llava_onevision": (
        "LlavaOnevisionProcessor",
        {"num_image_tokens": 16, "vision_feature_select_strategy": "full"},
    ),
    "mistral3": ("PixtralProcessor", {"patch_size": 7, "spatial_merge_size": 2}),
    "paligemma": ("PaliGemmaProcessor", {}),
    "aya_vision": ("AyaVisionProcessor", {"patch_size": 7, "img_size": 28, "downsample_factor": 2}),
}


def write_twin(kind: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a tiny random model of this type with its processor to `folder`, and return it."""
    config, tokenizer, images, chat_template = MAKERS[kind](kind)
    finish(config, vocab=len(tokenizer), seed=seed).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    images.save_pretrained(folder)
    name, settings = PROCESSORS[kind]
    text = json.dumps({"processor_class": name, **settings}, indent=2)
    (folder / "processor_config.json").write_text(text)
    if chat_template:
        (folder / "chat_template.jinja").write_text(chat_template)
    return folder


KINDS = tuple(MAKERS)


@lru_cache
def twin_folder(kind: str) -> Path:
    """Return a folder with a random model of this type, which lives as long as the process."""
    folder = Path(mkdtemp(prefix="vlmbench-twin-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return write_twin(kind, folder)


def twin_config(kind: str, **settings: Any) -> Any:
    """Return the settings model=hub of a random model of this type."""
    from vlmbench.backbones.anymodel import AnyConfig
    from vlmbench.config import LoraConfig

    lora = LoraConfig(r=4, alpha=8)
    return AnyConfig(path=str(twin_folder(kind)), lora=lora, **settings)
