from __future__ import annotations

import numpy as np
import pytest
import torch

from vlmbench.models.phi3_v import ImageError, Phi3VProcessor

IMAGE_ID = 32044
BOS = 1


def spelled(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def test_each_section_of_text_is_tokenised_with_its_own_bos(processor, make_image):
    out = processor(text="<|user|>\n<|image_1|>\nnormal?", images=make_image(56, 56), num_crops=1)
    tokenizer = processor.tokenizer
    before, after = spelled(tokenizer, "<|user|>\n"), spelled(tokenizer, "\nnormal?")
    # One tile and the whole view: 2 * 4 tokens, 2 row ends each, one separator.
    assert out["input_ids"] == [[BOS, *before, *[IMAGE_ID] * 13, BOS, *after]]
    assert out["attention_mask"] == [[1] * len(out["input_ids"][0])]


def test_a_text_without_images_is_tokenised_unchanged(processor):
    out = processor(text="a dent")
    assert out["input_ids"] == [[BOS, *spelled(processor.tokenizer, "a dent")]]
    assert set(out) == {"input_ids", "attention_mask"}


def test_a_text_of_tags_has_a_bos_around_each_image(processor, make_image):
    out = processor(
        text="<|image_1|><|image_2|>", images=[make_image(56, 56), make_image(56, 56)], num_crops=1
    )
    assert out["input_ids"] == [[BOS, *[IMAGE_ID] * 13, BOS, *[IMAGE_ID] * 13, BOS]]


def test_bos_can_be_left_out(processor, make_image):
    out = processor(
        text="<|image_1|>a", images=make_image(56, 56), num_crops=1, add_special_tokens=False
    )
    assert out["input_ids"] == [[*[IMAGE_ID] * 13, *spelled(processor.tokenizer, "a")]]


def test_images_follow_their_tags_in_any_order(processor, make_image):
    first, second = make_image(56, 56, seed=1), make_image(168, 56, seed=2)
    out = processor(text="<|image_2|>then<|image_1|>", images=[first, second])
    alone = [processor.image_processor(image)["pixel_values"][0] for image in (second, first)]
    np.testing.assert_array_equal(out["pixel_values"], np.stack(alone))
    ids = out["input_ids"][0]
    # 168 x 56 at 4 crops: 1 x 3 tiles, 16 + 1 + 4 = 21 tokens; 56 x 56: 2 x 2 tiles, 20 + 1 + 6 =
    # 27 tokens.
    assert ids[1:22] == [IMAGE_ID] * 21
    assert ids[22] == BOS
    assert ids[-28:] == [*[IMAGE_ID] * 27, BOS]
    assert out["image_sizes"].tolist() == [[56, 168], [112, 112]]


@pytest.mark.parametrize(
    ("text", "count", "message"),
    [
        ("nothing", 1, "1 images, but the text's image tags are: none"),
        ("<|image_1|>", 0, "0 images.*<|image_1|>"),
        ("<|image_1|><|image_1|>", 1, "1 images"),
        ("<|image_1|><|image_1|>", 2, "2 images"),
        ("<|image_2|>", 1, "1 images"),
        ("<|image_0|><|image_1|>", 2, "2 images"),
        ("<|image_1|><|image_3|>", 2, "2 images"),
    ],
)
def test_tags_that_do_not_match_the_images_are_refused(processor, make_image, text, count, message):
    with pytest.raises(ImageError, match=message.replace("|", r"\|")):
        processor(text=text, images=[make_image(56, 56) for _ in range(count)] or None)


def test_the_placeholders_word_is_refused_in_a_text(tokenizer, processor):
    by_word = Phi3VProcessor(processor.image_processor, tokenizer, image_token_id=6)
    assert tokenizer.convert_tokens_to_ids("<|image|>") == 6
    with pytest.raises(ImageError, match=r"<\|image\|> is for images"):
        by_word(text="a <|image|> of a part")


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_is_padded_on_the_given_side(processor, make_image, side):
    texts, images = (
        ["<|image_1|>a dent", "<|image_1|>"],
        [[make_image(56, 56)], [make_image(168, 56)]],
    )
    out = processor(text=texts, images=images, padding=True, padding_side=side, return_tensors="pt")
    rows = [
        processor(text=text, images=row)["input_ids"][0]
        for text, row in zip(texts, images, strict=True)
    ]
    for ids, mask, row in zip(out["input_ids"], out["attention_mask"], rows, strict=True):
        assert ids[mask.bool()].tolist() == row
        assert (ids[~mask.bool()] == processor.tokenizer.pad_token_id).all()
    short = out["attention_mask"][1].tolist()
    assert short == sorted(short, reverse=side == "right")
    assert len(set(short)) == 2
    assert out["pixel_values"].shape == (2, 5, 3, 56, 56)


def test_a_flat_list_of_images_is_distributed_by_the_tags(processor, make_image):
    one, two, three = (make_image(56, 56, seed=seed) for seed in range(3))
    texts = ["<|image_2|><|image_1|>", "none", "<|image_1|>"]
    flat = processor(text=texts, images=[one, two, three])
    nested = processor(text=texts, images=[[one, two], [], [three]])
    assert flat["input_ids"] == nested["input_ids"]
    np.testing.assert_array_equal(flat["pixel_values"], nested["pixel_values"])


def test_a_wrong_number_of_image_lists_is_refused(processor, make_image):
    with pytest.raises(ImageError, match="2 texts, but images for 1"):
        processor(text=["<|image_1|>", "b"], images=[[make_image(56, 56)]])
    with pytest.raises(ImageError, match="2 images, but 1 image tags in 2 texts"):
        processor(text=["<|image_1|>", "b"], images=[make_image(56, 56), make_image(56, 56)])


def test_numbers_of_tokens_replace_encoded_images(processor, make_image):
    images = [make_image(56, 56), make_image(168, 56)]
    text = "<|image_2|>then<|image_1|>"
    counts = [
        processor.image_processor.get_num_img_tokens(image.height, image.width) for image in images
    ]
    out = processor(text=text, num_img_tokens=[counts], return_tensors="pt")
    expected = processor(text=text, images=images, return_tensors="pt")
    assert torch.equal(out["input_ids"], expected["input_ids"])
    assert set(out) == {"input_ids", "attention_mask"}


def test_truncation_never_cuts_an_image(processor, make_image):
    image = make_image(56, 56)
    whole = processor(text="<|image_1|>a dent, a hole", images=image)["input_ids"][0]
    cut = processor(
        text="<|image_1|>a dent, a hole", images=image, truncation=True, max_length=len(whole) - 2
    )
    assert cut["input_ids"] == [whole[:-2]]
    with pytest.raises(ImageError, match="max_length=20 cuts an image"):
        processor(text="<|image_1|>a dent, a hole", images=image, truncation=True, max_length=20)


def test_padding_to_a_length_and_to_a_multiple(processor):
    assert len(processor(text="a", padding="max_length", max_length=9)["input_ids"][0]) == 9
    assert len(processor(text="a", padding=True, pad_to_multiple_of=8)["input_ids"][0]) == 8


def test_messages_with_images_become_numbered_tags(processor, make_image):
    messages = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "image", "image": make_image(56, 56)},
                {"type": "image", "image": make_image(168, 56)},
                {"type": "text", "text": "Same?"},
            ],
        },
        {"role": "assistant", "content": "Yes."},
        {
            "role": "user",
            "content": [
                {"type": "image", "image": make_image(56, 56)},
                {"type": "text", "text": "And now?"},
            ],
        },
    ]
    text = (
        "<|system|>\nBe brief.<|end|>\n<|user|>\n<|image_1|>\n<|image_2|>\nSame?<|end|>\n"
        "<|assistant|>\nYes.<|end|>\n"
        "<|user|>\n<|image_3|>\nAnd now?<|end|>\n"
    )
    assert processor.apply_chat_template(messages) == text
    assert (
        processor.apply_chat_template(messages, add_generation_prompt=True)
        == text + "<|assistant|>\n"
    )
    out = processor.apply_chat_template(
        messages, tokenize=True, return_dict=True, return_tensors="pt"
    )
    images = [
        part["image"]
        for message in messages
        for part in message["content"]
        if isinstance(part, dict) and part["type"] == "image"
    ]
    expected = processor(text=text, images=images, return_tensors="pt")
    assert torch.equal(out["input_ids"], expected["input_ids"])
    assert torch.equal(out["pixel_values"], expected["pixel_values"])


def test_a_conversation_that_ends_with_an_answer_gets_no_generation_prompt(processor):
    messages = [{"role": "user", "content": "Same?"}, {"role": "assistant", "content": "Yes."}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    assert text == "<|user|>\nSame?<|end|>\n<|assistant|>\nYes.<|end|>\n"


def test_a_saved_processor_loads_back_with_its_settings(processor, make_image, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = Phi3VProcessor.from_pretrained(tmp_path)
    assert (
        loaded.image_processor.tile_size,
        loaded.image_processor.num_crops,
        loaded.image_token_id,
    ) == (
        56,
        4,
        IMAGE_ID,
    )
    assert loaded.chat_template == processor.chat_template
    arguments = {"text": "<|image_1|>a dent", "images": make_image(168, 56)}
    assert loaded(**arguments)["input_ids"] == processor(**arguments)["input_ids"]


def test_settings_at_loading_go_to_the_image_processor_only(processor, make_image, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = Phi3VProcessor.from_pretrained(tmp_path, num_crops=1)
    assert len(loaded(text="<|image_1|>", images=make_image(56, 56))["input_ids"][0]) == 15
    loaded.image_processor.num_crops = 4
    assert len(loaded(text="<|image_1|>", images=make_image(56, 56))["input_ids"][0]) == 29


def test_images_without_text_or_with_counts_are_refused(processor, make_image):
    with pytest.raises(ValueError, match="needs text"):
        processor(images=make_image(56, 56))
    with pytest.raises(ValueError, match="not both"):
        processor(text="<|image_1|>", images=make_image(56, 56), num_img_tokens=[[13]])
