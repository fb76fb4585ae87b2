"""Stage `processor`: what makes a model's input of a picture and words. A vocabulary of whole words where weights are
fresh, the pretrained model's own processor otherwise."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.run.stage import Context
from recipes.captioning.config import CaptioningConfig, Model

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor
    from transformers import ProcessorMixin

FOLDER, FACTS = "processor", "prompt.json"
IMAGE = "<image>"


def check(config: CaptioningConfig) -> None:
    """Raises UserError for a patch that does not divide a picture, or a pretrained model that takes no pictures."""
    from recipes.captioning.model import pretrained_config

    model, side = config.model, config.data.image_size
    if model.pretrained:
        pretrained_config(model.pretrained)
        load_given(model.pretrained)
    elif side % model.patch_size:
        sizes = [size for size in range(1, side + 1) if side % size == 0]
        raise UserError(
            f"model.patch_size = {model.patch_size} does not divide data.image_size = {side}\n"
            f"expected one of: {', '.join(map(str, sizes))}"
        )


def run(context: Context) -> dict[str, Any]:
    """Write processor/ and prompt.json, the words that stand before every caption."""
    from recipes.common.images.dataset import PreparedImages

    config = context.config
    train = PreparedImages.open(context.inputs["prepare"], "train")
    processor = load_given(config.model.pretrained) if config.model.pretrained else _fresh(config, train)
    processor.save_pretrained(context.out / FOLDER)
    write_json(context.out / FACTS, {"prompt": _prompt(processor, config.model)})
    tokens = encoded(processor, list(train.classes))
    longer = sum(len(ids) > config.train.max_length for ids in tokens)
    found = {"captions": len(tokens), "cut_off": longer, "longest": max(map(len, tokens))}
    write_json(context.out / "ledger.json", {"captions": [found]})
    return found | {"vocabulary": len(processor.tokenizer)}


def load_given(pretrained: str) -> "ProcessorMixin":
    """A pretrained model's own. Raises UserError where there is none beside it."""
    from transformers import AutoProcessor

    try:
        found = AutoProcessor.from_pretrained(Path(pretrained).expanduser())
    except (OSError, ValueError, ImportError) as error:
        raise UserError(
            f"model.pretrained: {pretrained} has no processor that loads: {' '.join(str(error).split())[:300]}\n"
            "expected: its files beside the weights, and the packages that it names"
        ) from None
    if not hasattr(found, "image_processor"):
        raise UserError(
            f"model.pretrained: {pretrained} has a tokenizer alone\nexpected: a processor of pictures too"
        )
    return found


def _fresh(config: CaptioningConfig, train: Any) -> "ProcessorMixin":
    import numpy as np
    from transformers import LlavaProcessor, SiglipImageProcessorPil

    from recipes.common.words import tokenizer_of, vocabulary_of

    learnt = [train.classes[label] for label in np.unique(train.labels)]
    tokenizer = tokenizer_of(vocabulary_of(learnt, config.model.least))
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE]})
    side = {"height": config.data.image_size, "width": config.data.image_size}
    pictures = SiglipImageProcessorPil(size=side, do_convert_rgb=config.data.channels == 3)
    return LlavaProcessor(
        pictures, tokenizer, patch_size=config.model.patch_size, vision_feature_select_strategy="full"
    )


def _prompt(processor: "ProcessorMixin", model: Model) -> str:
    """What stands before a caption: the picture alone, or a pretrained model's template around it and the question."""
    if not model.pretrained:
        return IMAGE
    content = [{"type": "image"}, {"type": "text", "text": model.prompt}]
    try:
        return processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
    except (ValueError, AttributeError):
        return f"{getattr(processor, 'image_token', IMAGE)}{model.prompt}"


class Eyes:
    """A processor with its prompt: pictures to what the model is given."""

    def __init__(self, directory: Path):
        """directory: of the artifact, or of an export."""
        from transformers import AutoProcessor

        folder = directory / FOLDER if (directory / FOLDER).is_dir() else directory
        self.processor: Any = AutoProcessor.from_pretrained(folder)
        self.prompt = json.loads((directory / FACTS).read_text("utf-8"))["prompt"]

    def __call__(self, pictures: "list[np.ndarray]") -> "dict[str, Tensor]":
        """Pictures uint8 (H, W, C) as a batch: prompts of one length, and what belongs to them."""
        from PIL import Image

        shown = [[Image.fromarray(one[..., 0] if one.shape[-1] == 1 else one)] for one in pictures]
        tokens = {"add_special_tokens": False, "return_tensors": "pt"}
        return dict(self.processor(images=shown, text=[self.prompt] * len(shown), **tokens))

    def said(self, ids: "Tensor") -> list[str]:
        """Tokens of captions (B, L) as words."""
        return [" ".join(text.split()) for text in self.processor.batch_decode(ids, skip_special_tokens=True)]


def encoded(processor: Any, captions: list[str]) -> list[list[int]]:
    """The tokens of each caption, with the end of the text behind it."""
    tokenizer = processor.tokenizer
    found = tokenizer(captions, add_special_tokens=False)["input_ids"]
    return [[*ids, tokenizer.eos_token_id] for ids in found]


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("processor")
