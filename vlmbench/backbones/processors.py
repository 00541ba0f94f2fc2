"""Load any model's processor: images through PIL, and without the parts for video and sound.

transformers chooses an image processor by whether torchvision is installed, and their pixels
differ. Here the PIL class is loaded, so a run has the same pixels on every machine. The parts for
video want torchvision, and nothing here shows a video.
"""

from __future__ import annotations

import importlib
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from vlmbench.types import UserError

# The parts that are loaded. A processor's other parts are left out.
PARTS = ("image_processor", "tokenizer")
NO_PART = SimpleNamespace(num_frames=None, fps=None, model_input_names=[])
# PaliGemma's prompt, which no template of its own writes.
PALIGEMMA = (
    "{% for message in messages %}"
    "{% for part in message.content %}{% if part.type == 'image' %}<image>{% endif %}{% endfor %}"
    "{% if message.role == 'user' %}{{ bos_token }}{% endif %}"
    "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}"
    "{% endfor %}"
    "{% if message.role == 'user' %}\n{% else %}{{ eos_token }}{% endif %}"
    "{% endfor %}"
)
# The errors of transformers for files that are missing, damaged or of another model.
PROCESSOR_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    ImportError,
    RuntimeError,
)


def load_images_and_text(path: str, published: Any, **hub: Any) -> Any:
    """Return the processor of a folder or hub name for images and text.

    `published` is the model's configuration. `hub` are settings such as `revision`. Raises
    UserError if a part cannot be loaded.
    """
    processor_class = _processor_class(path, published, **hub)
    if published.model_type == "paligemma":
        processor_class = plain_text_processor(processor_class)
    subclass = _without_other_parts(processor_class)
    try:
        settings, more = subclass.get_processor_dict(path, **hub)
        parts = {
            "image_processor": load_image_processor(path, published, **hub),
            "tokenizer": load_tokenizer(path, **hub),
        }
        arguments = [parts.get(name) for name in processor_class.get_attributes()]
        more = {name: value for name, value in more.items() if name not in hub}
        processor = subclass.from_args_and_dict(arguments, settings, **more)
    except PROCESSOR_ERRORS as error:
        raise UserError(
            f"model.path={path}: its processor cannot be loaded ({shorten(error)}); {_cure(error)}"
        ) from error

    for name in processor_class.get_attributes():
        if name not in PARTS:
            vars(processor).pop(name, None)  # NO_PART of the class stands in
            subclass.is_made = True
    if processor.chat_template is None:
        is_paligemma = published.model_type == "paligemma"
        processor.chat_template = PALIGEMMA if is_paligemma else processor.tokenizer.chat_template
    return processor


def load_image_processor(path: str, published: Any, **hub: Any) -> Any:
    """Return the image processor of the PIL class; another class only if the type has no other."""
    from transformers import AutoImageProcessor
    from transformers.image_processing_utils import BaseImageProcessor
    from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES

    settings, _ = BaseImageProcessor.get_image_processor_dict(path, **hub)
    names = IMAGE_PROCESSOR_MAPPING_NAMES.get(published.model_type) or {}
    name = settings.get("image_processor_type") or settings.get("feature_extractor_type")
    pil_name = f"{name.removesuffix('Fast').removesuffix('Pil')}Pil" if name else names.get("pil")
    pil_class = None if pil_name is None else _find_pil_class(pil_name)
    if pil_class is not None:
        return pil_class.from_pretrained(path, **hub)
    return AutoImageProcessor.from_pretrained(path, backend="pil", trust_remote_code=False, **hub)


def load_tokenizer(path: str, **hub: Any) -> Any:
    """Return the tokenizer of a folder or hub name."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, trust_remote_code=False, **hub)


def _find_pil_class(name: str) -> Any | None:
    """Return a PIL image processor's class, or None.

    transformers 5.17 says of a few that they want torchvision, which they never use
    (transformers#48607). Their module has the class. Remove this with 5.20.
    """
    import transformers

    found = getattr(transformers, name, None)
    if found is None:
        return None
    module = importlib.import_module(found.__module__)
    return getattr(module, name, found)


def _processor_class(path: str, published: Any, **hub: Any) -> Any:
    """Return the processor's class: named by a file of the folder, or by the model's type."""
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    names = [one.get("processor_class") for one in _read_settings(path, **hub)]
    for name in [*names, PROCESSOR_MAPPING_NAMES.get(published.model_type)]:
        found = _find_processor_class(name) if isinstance(name, str) else None
        if found is not None:
            _allow_missing_video_packages(found)
            return found

    raise UserError(
        f"model.path={path}: no processor is known for a model of type {published.model_type}, and "
        "no processor_config.json names one; copy the processor's files from the base model"
    )


def _find_processor_class(name: str) -> Any | None:
    """Return a processor's class of transformers by its name, or None.

    A few of their modules import from their image processor's torchvision module what its PIL
    module has too. Without torchvision the PIL module stands in.
    """
    import transformers

    location = transformers._class_to_module.get(name)
    if location is None or ".processing_" not in location:
        return None

    location = f"transformers.{location}"
    images = location.replace(".processing_", ".image_processing_")
    pil = location.replace(".processing_", ".image_processing_pil_")
    has_stand_in = find_spec("torchvision") is None and find_spec(pil) is not None
    if has_stand_in:
        sys.modules.setdefault(images, importlib.import_module(pil))
    try:
        return getattr(importlib.import_module(location), name)
    finally:
        if has_stand_in:
            sys.modules.pop(images, None)


def _read_settings(path: str, **hub: Any) -> list[dict[str, Any]]:
    import json

    from transformers.utils import cached_file

    quiet = {
        "_raise_exceptions_for_gated_repo": False,
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,
    }
    found = []
    for name in ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        file = cached_file(path, name, **hub, **quiet)
        if file is None:
            continue
        try:
            settings = json.loads(Path(file).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(
                f"model.path={path}: {name} cannot be read ({shorten(error)}); "
                "copy it from the base model"
            ) from error
        found.append(settings if isinstance(settings, dict) else {})
    return found


def _allow_missing_video_packages(processor_class: Any) -> None:
    """Let a processor be made that refuses without num2words, which only its videos need."""
    module = importlib.import_module(processor_class.__module__)
    if getattr(module, "num2words", True) is None:
        module.num2words = str  # type: ignore[attr-defined]


def _without_other_parts(processor_class: Any) -> Any:
    """Return a subclass of the same name that has an image processor and a tokenizer only."""
    from transformers import ProcessorMixin

    names = processor_class.get_attributes()
    others = [name for name in names if name not in PARTS]
    if not others:
        return processor_class

    class ImagesAndText(processor_class):  # type: ignore[misc]
        is_made = False

        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name in others:
                return type(argument)
            return super().check_argument_for_proper_class(argument_name, argument)

        def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
            return ProcessorMixin.apply_chat_template(self, *args, **kwargs)  # asks for no video

        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in names if not (cls.is_made and name in others)]

    for name in others:
        setattr(ImagesAndText, name, NO_PART)
    ImagesAndText.__name__ = processor_class.__name__
    ImagesAndText.__qualname__ = processor_class.__qualname__
    ImagesAndText.__module__ = processor_class.__module__
    return ImagesAndText


def plain_text_processor(processor_class: Any) -> Any:
    """Return a PaliGemma processor's class that takes texts in the form of `PALIGEMMA`."""
    from transformers import BatchFeature, ProcessorMixin

    class PlainText(processor_class):  # type: ignore[misc]
        def prepare_inputs_layout(self, images: Any = None, text: Any = None, **kwargs: Any) -> Any:
            return ProcessorMixin.prepare_inputs_layout(self, images=images, text=text, **kwargs)

        def __call__(self, images: Any = None, text: Any = None, **kwargs: Any) -> BatchFeature:
            made = super().__call__(images=images, text=text, **kwargs)
            made.pop("labels", None)  # of the whole text
            return made

    PlainText.__name__ = processor_class.__name__
    PlainText.__qualname__ = processor_class.__qualname__
    PlainText.__module__ = processor_class.__module__
    return PlainText


def shorten(error: BaseException) -> str:
    """Return the first sentence of an error on one line."""
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words[:200]}"


def _cure(error: BaseException) -> str:
    """Return what to do: install the package that an ImportError names, or copy the files."""
    package = missing_package(error)
    if package is not None:
        return f"install it with: pip install {package}"
    return "copy the processor's and the tokenizer's files from the base model into that folder"


def missing_package(error: BaseException) -> str | None:
    """Return the package that transformers' error says is not installed, or None."""
    named = re.search(r"requires the (\w+) library|pip install (?:-U )?'?([\w-]+)", str(error))
    return None if named is None else (named[1] or named[2]).lower()
