"""Answers to questions about pictures: the likeliest token after token."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError
from recipes.captioning.config import Decoding
from recipes.vision_chat.config import VisionChatConfig

if TYPE_CHECKING:
    from recipes.vision_chat.chatter import Sight
    from recipes.vision_chat.encode import Messages, PicturedEncoder


def replies(
    model: Any, sight: "Sight", asked: "list[tuple[Messages, list[bytes]]]", decoding: Decoding
) -> list[str]:
    """An answer to each conversation that ends in a question; pictures are encoded files."""
    import torch

    from recipes.vision_chat.encode import PicturedEncoder

    encoder, found = PicturedEncoder(sight.processor), []
    for start in range(0, len(asked), decoding.batch_size):
        part = asked[start : start + decoding.batch_size]
        prompts = [_prompt(encoder, sight, messages, pictures) for messages, pictures in part]
        given = sight.batch(prompts, [pictures for _, pictures in part], left=True)
        given = {name: value.to(model.device) for name, value in given.items()}
        with torch.inference_mode():
            ids = model.generate(
                **given, do_sample=False, max_new_tokens=decoding.max_new_tokens, **ends_of(encoder, sight)
            )
        written = ids[:, given["input_ids"].shape[1] :]
        texts = sight.processor.tokenizer.batch_decode(written, skip_special_tokens=True)
        found += [text.strip() for text in texts]
    return found


def _prompt(encoder: "PicturedEncoder", sight: "Sight", messages: "Messages", pictures: list[bytes]) -> Any:
    from recipes.vision_chat.rows import opened

    return encoder.prompt(messages, [opened(one, sight.longest_side) for one in pictures])


def ends_of(encoder: "PicturedEncoder", sight: "Sight") -> dict[str, int]:
    """Where an answer stops: at the token by which the template ends a turn."""
    stop = encoder.chat.template.stop_token
    found = {"eos_token_id": stop} if stop is not None else {}
    return found | ({"pad_token_id": sight.pad} if sight.pad is not None else {})


def asked_of(messages: "Messages") -> "tuple[Messages, str]":
    """A conversation up to its last question, and the answer that stands there."""
    return messages[:-1], messages[-1]["content"]


def replies_of(config: VisionChatConfig, pictures: list[Path], question: str) -> list[str]:
    """`headwater describe --ask`: an answer about each picture.

    Raises:
        UserError: nothing is trained yet, or a file is no picture.
    """
    from transformers.utils.logging import disable_progress_bar

    from pipeline.data.rows import BadRow
    from pipeline.data.template import PICTURE
    from recipes.captioning.model import DIRECTORY, load
    from recipes.common.drawn import trained_of
    from recipes.vision_chat.chatter import Sight
    from recipes.vision_chat.rows import opened

    trained, contents = trained_of(config.run.output_dir), []
    for picture in pictures:
        try:
            contents.append(picture.read_bytes())
            opened(contents[-1])
        except OSError as error:
            raise UserError(f"cannot read {picture}: {error.strerror}") from None
        except BadRow as bad:
            raise UserError(f"{picture}: {bad}") from None
    disable_progress_bar()
    sight = Sight(trained.parent / "tokenize", config.data.longest_side)
    message = {"role": "user", "content": f"{PICTURE}{question}"}
    return replies(
        load(trained / DIRECTORY), sight, [([message], [content]) for content in contents], config.decoding
    )
