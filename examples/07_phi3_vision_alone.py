"""Use the port of Phi-3-vision alone, without runs and settings.

    python examples/07_phi3_vision_alone.py                                          random weights
    python examples/07_phi3_vision_alone.py microsoft/Phi-3.5-vision-instruct        real weights

Without a name, a tiny random model in the hub's layout is used: its answer has no meaning. The
example prints the number of image tokens and the answer about two photos.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from photos import draw_plate
from transformers import AutoModelForImageTextToText, AutoProcessor

import vlmbench.models.phi3_v  # noqa: F401  registers the type with transformers
from vlmbench.models.phi3_v_tiny import tiny_phi3_processor, tiny_phi3_v

PROMPT = "<|user|>\n<|image_1|>\n<|image_2|>\nWhat differs?<|end|>\n<|assistant|>\n"


def save_tiny_model(folder: Path) -> None:
    """Write a random model and its processor into `folder`."""
    processor = tiny_phi3_processor(num_crops=4)
    tiny_phi3_v(processor.tokenizer, max_tokens=512).save_pretrained(folder)
    processor.save_pretrained(folder)


def answer(name: str, *, max_new_tokens: int = 60) -> str:
    """Return what the model says about a good and a bad plate."""
    model = AutoModelForImageTextToText.from_pretrained(name)
    processor = AutoProcessor.from_pretrained(name)

    plates = [draw_plate(0, is_good=True), draw_plate(1, is_good=False)]
    inputs = processor(text=PROMPT, images=plates, return_tensors="pt")
    num_image_tokens = int((inputs["input_ids"] == processor.image_token_id).sum())
    print(f"image tokens: {num_image_tokens}")

    output = model.generate(**inputs, max_new_tokens=max_new_tokens)
    new_tokens = output[0, inputs["input_ids"].shape[1] :]
    return processor.decode(new_tokens, skip_special_tokens=True)


def main(names: Sequence[str]) -> None:
    """Print the answer of the named model, or of a tiny random one."""
    with tempfile.TemporaryDirectory() as temporary:
        if not names:
            save_tiny_model(Path(temporary))
        print(f"answer: {answer(names[0] if names else temporary)!r}")


if __name__ == "__main__":
    main(sys.argv[1:])
