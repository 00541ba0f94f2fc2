"""The end of an assistant's turn, found by rendering one, and thoughts that the template opens."""

from __future__ import annotations

from typing import Any

from vlmbench.backbones.template import render_template
from vlmbench.types import UserError

ANSWER = "vlmbench"  # an answer that no template holds


def find_turn_end(processor: Any) -> str:
    """Return the token that ends an assistant's turn.

    It is not always `eos_token`: SmolVLM's turns end with <end_of_utterance>. Raises UserError if
    neither the chat template nor the tokenizer names an end.
    """
    tokenizer = processor.tokenizer
    content = [{"type": "text", "text": "?"}]
    messages = [
        {"role": "user", "content": content},
        {"role": "assistant", "content": [{"type": "text", "text": ANSWER}]},
    ]
    text = render_template(processor, messages, add_generation_prompt=False)
    _, found, ending = text.rpartition(ANSWER)
    if found:
        ids = tokenizer(ending.lstrip(), add_special_tokens=False)["input_ids"]
        if ids and ids[0] in tokenizer.added_tokens_decoder:
            return str(tokenizer.convert_ids_to_tokens(ids[0]))

    if tokenizer.eos_token is None:
        raise UserError(
            "the tokenizer names no eos_token and the chat template writes no end of a turn, so "
            "the model cannot learn where an answer ends; add eos_token to tokenizer_config.json"
        )
    return str(tokenizer.eos_token)


def close_thoughts(prompt: str) -> str:
    """Return a prompt whose assistant does not think: an open <think> is closed at once."""
    if prompt.rstrip().endswith("<think>"):
        return f"{prompt.rstrip()}\n\n</think>\n\n"
    return prompt
