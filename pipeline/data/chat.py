"""Conversations to tokens, and which of them the assistant is taught: by spans of the template, never by comparing ids.

What the template writes (template.py, answers.py) is cut at its control tokens, and the texts between them are encoded
as plain text: `<|end|>` typed by a user is spelled out and ends nothing.
"""

from collections.abc import Iterable, Sequence
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.data.answers import ChatTemplate, Rendered, Span, Taught
from pipeline.data.config import Unwritten
from pipeline.data.template import OPEN, Message
from pipeline.data.turns import Turns, turns_of
from pipeline.run.errors import UserError
from tokenizer.encode import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Messages = list[Message]


class Piece(NamedTuple):
    """A stretch that is encoded on its own: one control token, or all the text between two of them.

    prompt, answer: the text before and from the place where an answer begins; `answer` alone is supervised.
    token: the control token's id; None for text. weight: of the answer.
    """

    prompt: str
    answer: str
    token: int | None
    weight: float = 1.0


class Layout(NamedTuple):
    """A row ready to encode: its pieces, its rendered text, and the UTF-8 bytes of the assistant's words.

    ends: int64 [2 P], where in the rendered text the prompt and the answer of each of P pieces end. turns: whose words
    stand where in it.
    """

    pieces: list[Piece]
    rendered: Rendered
    answer_bytes: int
    ends: np.ndarray
    turns: Turns


class Encoded(NamedTuple):
    """Rows as `ShardWriter.add` takes them: N tokens of D conversations or documents.

    ids: [N].  lengths: int64 [D].  byte_lengths: int64 [D], UTF-8 bytes of the assistant's contents, or the document's.
    targets: uint8 [N], 1 where the token is supervised, or fp32 weights; None: documents, in which every token is.
    roles: uint8 [N], of ROLES; None: documents.
    labels: uint8 [D] of judged answers; None: nobody judged. margins: fp32 [D], of the pair that each is in.
    """

    ids: np.ndarray
    lengths: np.ndarray
    byte_lengths: np.ndarray
    targets: np.ndarray | None
    roles: np.ndarray | None = None
    labels: np.ndarray | None = None
    margins: np.ndarray | None = None


def encode_conversation(
    tokenizer: "PreTrainedTokenizerFast", messages: Messages
) -> tuple[np.ndarray, np.ndarray]:
    """(ids [N], targets uint8 [N]) of a conversation that makes one row; for many, ChatEncoder encodes in batches.

    Raises:
        UserError: as ChatEncoder and its `lay_out`.
    """
    encoder = ChatEncoder(tokenizer)
    [layout] = encoder.lay_out(messages)
    encoded = encoder.encode([layout])
    return encoded.ids, encoded.targets


class ChatEncoder:
    """Encodes conversations with a tokenizer's own chat template.

    Supervised is what generation would have to produce: everything after the generation prompt, up to and with the
    stop token (`<|end|>`); what the template adds after that is not.
    Ids are those of encoding the rendered text in one go, with two deliberate exceptions: contents never become
    control tokens, and no token straddles the generation prompt and the answer, as none can in generation.

    Raises:
        UserError: the tokenizer has no chat template.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerFast",
        taught: Taught = "assistant",
        unwritten: Unwritten = "error",
    ) -> None:
        self.tokenizer, self.taught = tokenizer, taught
        self.template = ChatTemplate(tokenizer, unwritten)
        self._controls = {token.content: i for i, token in tokenizer.added_tokens_decoder.items()}

    def lay_out(self, messages: Messages, tools: tuple[dict, ...] = ()) -> list[Layout]:
        """The rows of a conversation: one, or several where the template rewrites earlier turns.

        Raises:
            UserError: as ChatTemplate.rows.
        """
        messages, tools = self.template.with_tools_as_text(messages, tools)
        shown = self.template.mask(messages)
        return [self._layout(row, shown) for row in self.template.rows(messages, tools, self.taught)]

    def document(self, text: str, prompt: str = "") -> Layout:
        """A text between the tokenizer's separators, every token of it taught but those of a prompt before it."""
        bos, eos = separators(self.tokenizer)
        opening, closing = (self.tokenizer.decode([token]) for token in (bos, eos))
        opened = Piece(opening, "", bos) if prompt else Piece("", opening, bos)
        pieces = [opened, Piece(prompt, text, None), Piece("", closing, eos)]
        before = f"{opening}{self.template.mask(prompt)}" if prompt else ""
        whole = f"{before or opening}{self.template.mask(text)}{closing}"
        taught = ((len(before), len(whole)),)
        return Layout(pieces, Rendered(whole, taught), len(text.encode()), _ends(pieces), turns_of("", []))

    def prompt_ids(self, messages: Messages, tools: tuple[dict, ...] = ()) -> list[int]:
        """What generation is prompted with, encoded as rows are."""
        layout = self._layout(Rendered(self.template.prompt(messages, tools), ()), [])
        return self.encode([layout]).ids.tolist()

    def _layout(self, row: Rendered, messages: Messages) -> Layout:
        cut = list(self._cut(row))
        pieces = [
            piece._replace(
                prompt=self.template.unmasked(piece.prompt), answer=self.template.unmasked(piece.answer)
            )
            for piece in cut
        ]
        words = sum(len(piece.answer.encode()) for piece in pieces if piece.token is None)
        return Layout(pieces, row, words, _ends(cut), turns_of(row.text, messages))

    def encode(self, layouts: Sequence[Layout]) -> Encoded:
        """The tokens of `layouts`, one after the other; at least one layout."""
        if self._beside_control_tokens:
            return _joined([self._by_offsets(layout) for layout in layouts], layouts)
        texts = [piece for layout in layouts for piece in layout.pieces if piece.token is None]
        encoded = self._encode_texts(
            text for piece in texts for text in (piece.prompt, piece.prompt + piece.answer)
        )
        encoded |= self._encode_texts(piece.answer for piece in texts if _straddled(piece, encoded))
        halves = [half for layout in layouts for piece in layout.pieces for half in _halves(piece, encoded)]
        counts = np.array([len(half) for half in halves])
        begins = np.cumsum([0] + [2 * len(layout.pieces) for layout in layouts[:-1]])
        return Encoded(
            ids=np.concatenate(halves),
            lengths=np.add.reduceat(counts, begins),
            byte_lengths=np.array([layout.answer_bytes for layout in layouts]),
            targets=np.repeat(_targets(layouts), counts),
            roles=np.repeat(np.concatenate([layout.turns.at(layout.ends) for layout in layouts]), counts),
        )

    def _encode_texts(self, texts: Iterable[str]) -> dict[str, np.ndarray]:
        """The tokens of each different text."""
        unique = list(dict.fromkeys(texts))
        ids, lengths = encode(self.tokenizer.backend_tokenizer, unique)
        return dict(zip(unique, np.split(ids, np.cumsum(lengths)[:-1]), strict=True)) if unique else {}

    def _cut(self, row: Rendered) -> Iterable[Piece]:
        """Cut at control tokens, and where a span that the template marks ends between two of them: a text is then
        supervised from some place to its end, or not at all."""
        text, spans, done = row.text, row.spans, 0
        weights = row.weights or (1.0,) * len(spans)

        def weight_at(place: int) -> float:
            """The weight of the span that ends last before or at `place`, or that holds it."""
            return next((w for (_, last), w in zip(spans, weights, strict=True) if place <= last), 1.0)

        def texts(begin: int, end: int) -> Iterable[Piece]:
            stops = sorted({stop for _, stop in spans if begin < stop < end})
            for first, last in pairwise([begin, *stops, end] if begin < end else []):
                yield Piece(*_divide(text, first, last, spans), None, weight_at(last))

        for control in self.template.control.finditer(text):
            yield from texts(done, control.start())
            token = self._controls[control.group().strip()]
            yield Piece(
                *_divide(text, control.start(), control.end(), spans), token, weight_at(control.end())
            )
            done = control.end()
        yield from texts(done, len(text))

    @cached_property
    def _beside_control_tokens(self) -> bool:
        """Whether the tokenizer encodes a text beside a control token unlike the text alone, as SentencePiece may."""
        question = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}]
        [layout] = self.lay_out(question)
        texts = [piece.prompt + piece.answer for piece in layout.pieces if piece.token is None]
        encoded = self._encode_texts(texts)
        ours = [
            token
            for piece in layout.pieces
            for token in (encoded[piece.prompt + piece.answer] if piece.token is None else [piece.token])
        ]
        return ours != self.tokenizer(layout.rendered.text, add_special_tokens=False)["input_ids"]

    def _by_offsets(self, layout: Layout) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(ids, targets, roles) of the text encoded in one go; a token is supervised where it ends within a span.

        Raises:
            ValueError: a content holds a control token, which would become one here.
        """
        row = layout.rendered
        if OPEN in row.text:
            raise ValueError(
                f"a content holds a control token of {self.tokenizer.name_or_path}, which reads texts only beside "
                f"control tokens: {self.template.unmasked(row.text)[:80]!r}\nway out: take it out of the row"
            )
        encoded = self.tokenizer(row.text, add_special_tokens=False, return_offsets_mapping=True)
        ends = np.array([end for _, end in encoded["offset_mapping"]])
        targets = np.zeros(len(ends), np.float32 if row.weights else np.uint8)
        for (first, last), weight in zip(row.spans, row.weights or (1,) * len(row.spans), strict=True):
            targets[(ends > first) & (ends <= last)] = weight
        return np.array(encoded["input_ids"], np.uint32), targets, layout.turns.at(ends)


def separators(tokenizer: "PreTrainedTokenizerFast") -> tuple[int, int]:
    """(bos, eos) ids that open and close a document; a tokenizer with only one of them uses it for both.

    Raises:
        UserError: it has neither.
    """
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    if bos is None and eos is None:
        raise UserError(
            f"the tokenizer {tokenizer.name_or_path} has neither a bos nor an eos token to separate documents with\n"
            "way out: name one of its tokens as eos_token in tokenizer_config.json"
        )
    return (eos if bos is None else bos), (bos if eos is None else eos)


def _targets(layouts: Sequence[Layout]) -> np.ndarray:
    """(0, weight) of each piece, for its two halves: uint8 where every weight is 1."""
    if not any(layout.rendered.weights for layout in layouts):
        return np.tile(np.array([0, 1], np.uint8), sum(len(layout.pieces) for layout in layouts))
    pairs = [(0.0, piece.weight) for layout in layouts for piece in layout.pieces]
    return np.array(pairs, np.float32).ravel()


def _joined(rows: list[tuple[np.ndarray, ...]], layouts: Sequence[Layout]) -> Encoded:
    ids, targets, roles = zip(*rows, strict=True)
    return Encoded(
        ids=np.concatenate(ids),
        lengths=np.array([len(row) for row in ids]),
        byte_lengths=np.array([layout.answer_bytes for layout in layouts]),
        targets=np.concatenate(targets),
        roles=np.concatenate(roles),
    )


def _ends(pieces: Sequence[Piece]) -> np.ndarray:
    """Where the prompt and the answer of each piece end, in characters: int64 [2 P]."""
    return np.cumsum([len(half) for piece in pieces for half in (piece.prompt, piece.answer)])


def _divide(whole: str, begin: int, end: int, spans: Sequence[Span]) -> tuple[str, str]:
    """whole[begin:end] before and within a span."""
    answer = min((max(begin, first) for first, stop in spans if first < end and begin < stop), default=end)
    return whole[begin:answer], whole[answer:end]


def _straddled(piece: Piece, encoded: dict[str, np.ndarray]) -> bool:
    """Whether encoding the text in one go merges the end of the prompt with the beginning of the answer."""
    prompt = encoded[piece.prompt]
    return not np.array_equal(encoded[piece.prompt + piece.answer][: len(prompt)], prompt)


def _halves(piece: Piece, encoded: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of `prompt` and those of `answer`."""
    none = np.zeros(0, np.uint16)
    if piece.token is not None:
        token = np.array([piece.token], np.uint32)
        return (none, token) if piece.answer else (token, none)
    prompt = encoded[piece.prompt]
    if _straddled(piece, encoded):
        return prompt, encoded[piece.answer]
    return prompt, encoded[piece.prompt + piece.answer][len(prompt) :]
