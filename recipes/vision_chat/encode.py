"""Conversations with pictures to tokens, and which of them are taught: by the spans of the chat template.

The template writes a place for each picture; a place becomes as many tokens as the processor makes of that picture.
"""

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.data.chat import ChatEncoder
from pipeline.data.template import PICTURE, in_parts
from pipeline.run.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image

Messages = list[dict[str, str]]


class PicturedEncoder:
    """A processor with the spans of its chat template.

    Raises:
        UserError: it has no chat template, or one that writes nothing for a picture.
    """

    def __init__(self, processor: Any) -> None:
        self.processor, tokenizer = processor, processor.tokenizer
        tokenizer.chat_template = tokenizer.chat_template or processor.chat_template
        self.chat = ChatEncoder(tokenizer)
        self.place = self._ids_of(self._written)

    @cached_property
    def _written(self) -> str:
        """What the template writes for a picture."""
        render = self.chat.template.render
        with_one, without = (
            render(in_parts([{"role": "user", "content": content}])) for content in (f"{PICTURE}x", "x")
        )
        begin = next((i for i, (a, b) in enumerate(zip(with_one, without, strict=False)) if a != b), 0)
        found = with_one[begin : len(with_one) - len(without) + begin]
        if not found.strip() or without[:begin] + found + without[begin:] != with_one:
            raise UserError(
                "the chat template writes nothing for a picture\n"
                "expected: a template that writes parts of type image, as vision models have"
            )
        return found.strip()

    def _ids_of(self, text: str) -> np.ndarray:
        return np.array(self.processor.tokenizer(text, add_special_tokens=False)["input_ids"])

    def row(self, messages: Messages, pictures: "list[Image]") -> tuple[np.ndarray, np.ndarray]:
        """(ids int64 (L,), targets uint8 (L,)) of a conversation.

        Raises:
            UserError: the template refuses it, or rewrites earlier turns, so that it is more rows than one.
        """
        layouts = self.chat.lay_out(messages)
        if len(layouts) != 1:
            raise UserError(
                f"the chat template makes {len(layouts)} rows of one conversation\n"
                "expected: one that leaves earlier turns as they are"
            )
        encoded = self.chat.encode(layouts)
        return self._grown(encoded.ids, encoded.targets, pictures)

    def prompt(self, messages: Messages, pictures: "list[Image]") -> np.ndarray:
        """What generation is prompted with, (L,)."""
        ids = np.array(self.chat.prompt_ids(messages))
        return self._grown(ids, np.zeros(len(ids), np.uint8), pictures)[0]

    def _grown(
        self, ids: np.ndarray, targets: np.ndarray, pictures: "list[Image]"
    ) -> tuple[np.ndarray, np.ndarray]:
        """Each place as long as its picture."""
        width = len(self.place)
        windows = np.lib.stride_tricks.sliding_window_view(ids, min(width, len(ids)))
        starts = np.flatnonzero((windows == self.place).all(1)) if width <= len(ids) else np.array([], int)
        if len(starts) != len(pictures):
            raise UserError(
                f"the chat template writes {len(starts)} places for {len(pictures)} pictures\n"
                "expected: a template that writes every picture of a conversation"
            )
        parts, taught, done = [], [], 0
        for start, picture in zip(starts, pictures, strict=True):
            seen = self.seen(picture)
            parts += [ids[done:start], seen]
            taught += [targets[done:start], np.zeros(len(seen), targets.dtype)]
            done = start + width
        return np.concatenate([*parts, ids[done:]]), np.concatenate([*taught, targets[done:]])

    def seen(self, picture: "Image") -> np.ndarray:
        """The tokens that a picture's place becomes."""
        given = self.processor(
            images=[[picture]], text=[self._written], add_special_tokens=False, return_tensors="np"
        )
        return np.asarray(given["input_ids"])[0].astype(np.int64)
