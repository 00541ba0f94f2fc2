"""How a model of any family answers: labels scored after a prefix, or text generated."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vlmbench.backbones.base import may_look, to_device

if TYPE_CHECKING:
    from torch import Tensor


def score_labels(
    model: Any,
    prefix: Mapping[str, Tensor],
    label_ids: Sequence[Sequence[int]],
    *,
    continuation: Callable[[Mapping[str, Tensor], int], dict[str, Tensor]],
    cached: bool = True,
) -> Tensor:
    """Log-probability (B, labels) of each label after a left-padded prefix.

    `label_ids` are the tokens of each label; `continuation(prefix, n)` gives the model's inputs that n more tokens
    after the prefix change. The prefix is run once, and kept in the cache of keys and values; without `cached` it is
    run with each label of several tokens.
    """
    import torch

    labels = to_device({"each": [torch.tensor(ids) for ids in label_ids]}, model)["each"]
    with torch.inference_mode(), mixed_precision(model):
        several = any(len(ids) > 1 for ids in labels)
        output = model(**_looking(model, prefix), use_cache=several and cached, logits_to_keep=1)
        first = output.logits[:, -1].float().log_softmax(-1)
        scores = first.index_select(1, torch.stack([ids[0] for ids in labels]))
        for column, ids in enumerate(labels):
            if len(ids) == 1:
                continue
            said = ids.expand(len(first), -1)
            more = {"input_ids": said[:, :-1], **continuation(prefix, len(ids) - 1)}
            if cached:
                cache = _branch(output.past_key_values)
                logits = model(**_looking(model, more), past_key_values=cache, use_cache=True).logits
                scores[:, column] += _log_probability(logits, said[:, 1:])
            else:
                whole = _looking(model, _appended(prefix, more))
                logits = model(**whole, use_cache=False, logits_to_keep=len(ids)).logits
                scores[:, column] = _log_probability(logits, said)
    return scores


def _looking(model: Any, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """The inputs with their attention mask as `may_look` gives it."""
    return {**inputs, "attention_mask": may_look(model, inputs["attention_mask"], inputs["input_ids"].shape[1])}


def _branch(cache: Any) -> Any:
    """A cache that grows by itself from here on. Nothing is copied: a layer that grows makes new tensors."""
    branch = copy.copy(cache)
    branch.layers = [copy.copy(layer) for layer in cache.layers]
    return branch


def _log_probability(logits: Tensor, ids: Tensor) -> Tensor:
    """(B,) of the ids (B, n) under the logits (B, n, vocabulary) that predict them."""
    return logits.float().log_softmax(-1).gather(2, ids[..., None])[..., 0].sum(1)


def _appended(prefix: Mapping[str, Tensor], more: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inputs of the whole sequence: the prefix's, those of n more tokens after its own."""
    import torch

    whole = {name: torch.cat([prefix[name], more[name]], 1) for name in ("input_ids", "position_ids")}
    return {**prefix, **more, **whole}


def generate_answers(model: Any, tokenizer: Any, prefix: Mapping[str, Tensor], *, max_new_tokens: int) -> list[str]:
    """Greedy answers after a left-padded prefix."""
    import torch

    inputs = {name: tensor for name, tensor in prefix.items() if name != "position_ids"}  # generate() makes its own
    with torch.inference_mode(), mixed_precision(model):
        ids = model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    said = ids[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(said, skip_special_tokens=True)]


def continued_text(prefix: Mapping[str, Tensor], n: int) -> dict[str, Tensor]:
    """`attention_mask` over prefix and n more tokens (B, L + n), `position_ids` of these (B, n)."""
    import torch

    mask = prefix["attention_mask"]
    last = prefix["position_ids"][:, -1:]
    more = torch.arange(1, n + 1, device=mask.device)
    return {"attention_mask": torch.cat([mask, mask.new_ones(len(mask), n)], 1), "position_ids": last + more}


def mixed_precision(model: Any) -> Any:
    """The context in which a model answers: on a GPU in bf16, as it trains. Its adapters are float32; their products
    in float32, and their inputs' copies, would cost more than the rest of the model."""
    import torch

    base = model.get_base_model()
    return torch.autocast("cuda", torch.bfloat16, enabled=base.device.type == "cuda" and base.dtype is torch.bfloat16)
