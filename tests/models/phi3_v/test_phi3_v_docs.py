"""The example in the docs runs unchanged, on a small model in the hub's layout."""

from __future__ import annotations

import re
from pathlib import Path

from vlmbench.models.phi3_v_tiny import tiny_phi3_processor, tiny_phi3_v

PAGE = Path(__file__).parents[3] / "docs" / "how-to" / "phi3-vision.md"


def test_the_example_in_the_docs_runs(tmp_path, make_image, capsys):
    processor = tiny_phi3_processor(num_crops=4)
    tiny_phi3_v(processor.tokenizer, max_tokens=512).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    (code,) = re.findall(
        r"```python\n(import vlmbench\.models\.phi3_v.*?)```", PAGE.read_text(), re.DOTALL
    )
    exec(  # noqa: S102
        code.replace("microsoft/Phi-3.5-vision-instruct", str(tmp_path)),
        {"first": make_image(60, 40), "second": make_image(60, 40, seed=1)},
    )
    assert "What differs?" in capsys.readouterr().out
