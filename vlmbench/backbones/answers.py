"""How a model of any family answers: it scores labels, or it generates text."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from vlmbench.backbones.batches import IGNORED, Batch, make_attention_mask
from vlmbench.backbones.devices import to_device

if TYPE_CHECKING:
    from torch import Tensor


def score_answers(model: Any, batch: Batch) -> Tensor:
    """Return the log-probability (B,) of each answer of a batch with labels, in nats.

    The last labelled token of a row, its end, does not count. The model sees each whole sequence,
    so this is right for every model.
    """
    import torch

    inputs = {name: value for name, value in batch.items() if name != "labels"}
    is_answer = batch["labels"] != IGNORED
    first = int(is_answer.any(0).nonzero()[0])
    num_kept = is_answer.shape[1] - first + 1  # the position before predicts the first token

    with answering(model):
        logits = model(**inputs, use_cache=False, logits_to_keep=num_kept).logits[:, :-1]

    rows = []
    for row_logits, row_labels in zip(logits, batch["labels"][:, first:], strict=True):
        where = row_labels != IGNORED
        log_probabilities = row_logits[where][:-1].float().log_softmax(-1)
        ids = row_labels[where][:-1]
        rows.append(log_probabilities.gather(1, ids[:, None]).sum())
    return torch.stack(rows)


def score_labels(
    model: Any,
    prefix: Batch,
    label_ids: Sequence[Sequence[int]],
    *,
    continuation: Callable[[Batch, int], Batch],
    cached: bool = True,
) -> Tensor:
    """Return the log-probability (B, labels) of each label after a left-padded prefix, in nats.

    `label_ids` are the tokens of each label. `continuation(prefix, n)` returns the inputs that n
    more tokens after the prefix change. The prefix runs once, and its keys and values are kept.
    Without `cached`, the prefix runs again with each label of several tokens.
    """
    import torch

    labels = to_device({"labels": [torch.tensor(ids) for ids in label_ids]}, model)["labels"]
    keeps_cache = cached and any(len(ids) > 1 for ids in labels)

    with answering(model):
        inputs = _with_pair_mask(model, prefix)
        output = model(**inputs, use_cache=keeps_cache, logits_to_keep=1)
        first = output.logits[:, -1].float().log_softmax(-1)
        scores = first.index_select(1, torch.stack([ids[0] for ids in labels]))

        for column, ids in enumerate(labels):
            if len(ids) == 1:
                continue

            tokens = ids.expand(len(first), -1)
            more = {"input_ids": tokens[:, :-1], **continuation(prefix, len(ids) - 1)}
            if cached:
                inputs = _with_pair_mask(model, more)
                cache = _branch(output.past_key_values)
                logits = model(**inputs, past_key_values=cache, use_cache=True).logits
                scores[:, column] += _log_probability(logits, tokens[:, 1:])
            else:
                inputs = _with_pair_mask(model, _append(prefix, more))
                logits = model(**inputs, use_cache=False, logits_to_keep=len(ids)).logits
                scores[:, column] = _log_probability(logits, tokens)
    return scores


def _with_pair_mask(model: Any, inputs: Batch) -> Batch:
    """Return the inputs with their attention mask in the form of `make_attention_mask`."""
    num_queries = inputs["input_ids"].shape[1]
    mask = make_attention_mask(model, inputs["attention_mask"], num_queries)
    return {**inputs, "attention_mask": mask}


def _branch(cache: Any) -> Any:
    """Return a cache that grows alone. Nothing is copied: a layer that grows makes new tensors."""
    branch = copy.copy(cache)
    branch.layers = [copy.copy(layer) for layer in cache.layers]
    return branch


def _log_probability(logits: Tensor, ids: Tensor) -> Tensor:
    """Return the log-probability (B,) of ids (B, n) under their logits (B, n, vocabulary)."""
    return logits.float().log_softmax(-1).gather(2, ids[..., None])[..., 0].sum(1)


def _append(prefix: Batch, more: Batch) -> Batch:
    """Return the inputs of the prefix and of n more tokens as one sequence."""
    import torch

    whole = {
        name: torch.cat([prefix[name], more[name]], 1) for name in ("input_ids", "position_ids")
    }
    return {**prefix, **more, **whole}


def greedy_settings(tokenizer: Any) -> Any:
    """Return the only settings with which a model generates: the likeliest token at each step.

    They replace generation_config.json of the model's folder. Its penalties, suppressed tokens and
    beams would change answers.
    """
    from transformers import GenerationConfig

    return GenerationConfig(
        do_sample=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def generate_answers(
    model: Any,
    tokenizer: Any,
    prefix: Batch,
    *,
    max_new_tokens: int,
) -> list[str]:
    """Return greedy answers after a left-padded prefix."""
    # generate() makes its own positions.
    inputs = {name: tensor for name, tensor in prefix.items() if name != "position_ids"}
    with answering(model):
        ids = model.generate(
            **inputs,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )

    new_ids = ids[:, inputs["input_ids"].shape[1] :]
    return [text.strip() for text in tokenizer.batch_decode(new_ids, skip_special_tokens=True)]


def continue_text(prefix: Batch, num_new: int) -> Batch:
    """Return `attention_mask` (B, L + n) of prefix and n new tokens, `position_ids` (B, n)."""
    import torch

    mask = prefix["attention_mask"]
    last = prefix["position_ids"][:, -1:]
    steps = torch.arange(1, num_new + 1, device=mask.device)
    return {
        "attention_mask": torch.cat([mask, mask.new_ones(len(mask), num_new)], 1),
        "position_ids": last + steps,
    }


@contextmanager
def answering(model: Any) -> Iterator[None]:
    """Let a model answer: without gradients, in mixed precision as in training, not compiled.

    Compiled code is made for training: for answers it would take another minute, and save seconds.
    """
    import torch

    with (
        torch.inference_mode(),
        mixed_precision(model),
        torch.compiler.set_stance("force_eager"),
    ):
        yield


def mixed_precision(model: Any) -> Any:
    """Return the context of a GPU that computes in the 16 bits of the frozen weights.

    The adapters are float32. Products in float32, with copies of the inputs, would cost more than
    the rest of the model.
    """
    import torch

    base = model.get_base_model()
    if base.device.type != "cuda" or base.dtype not in (torch.bfloat16, torch.float16):
        return nullcontext()
    return torch.autocast("cuda", base.dtype)
