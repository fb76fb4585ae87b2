"""Conversations to tokens, and which of them the assistant is taught: by spans of the template, never by comparing ids.

The tokenizer's chat template says where control tokens stand; a message's content is only text. So the template is
rendered once for each sequence of roles, with placeholders for the contents; the contents are put in afterwards and
encoded as plain text. `<|end|>` typed by a user is spelled out and ends nothing.
"""

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.run.errors import UserError
from tokenizer.encode import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

Messages = list[dict[str, str]]
Span = tuple[int, int]

PLACEHOLDER = "\ue000{}\ue001"  # private-use characters: no control token, and nothing that a template trims
PLACEHOLDERS = re.compile("\ue000(\\d+)\ue001")


class Piece(NamedTuple):
    """A stretch that is encoded on its own: one control token, or all the text between two of them.

    prompt, answer: the text before and from the place where an answer begins; `answer` alone is supervised.
    token: the control token's id; None for text.
    """

    prompt: str
    answer: str
    token: int | None


class Layout(NamedTuple):
    """A conversation ready to encode: its pieces, and the UTF-8 bytes of the assistant's contents."""

    pieces: list[Piece]
    answer_bytes: int


class Encoded(NamedTuple):
    """Rows as `ShardWriter.add` takes them: N tokens of D conversations or documents.

    ids: [N].  lengths: int64 [D].  byte_lengths: int64 [D], UTF-8 bytes of the assistant's contents, or the document's.
    targets: uint8 [N], 1 where the token is supervised; None: documents, in which every token is.
    """

    ids: np.ndarray
    lengths: np.ndarray
    byte_lengths: np.ndarray
    targets: np.ndarray | None


def encode_conversation(
    tokenizer: "PreTrainedTokenizerFast", messages: Messages
) -> tuple[np.ndarray, np.ndarray]:
    """(ids [N], targets uint8 [N]) of one conversation; for many, ChatEncoder encodes in batches.

    Raises:
        UserError: as ChatEncoder and its `lay_out`.
    """
    encoder = ChatEncoder(tokenizer)
    encoded = encoder.encode([encoder.lay_out(messages)])
    return encoded.ids, encoded.targets


class ChatEncoder:
    """Encodes conversations with a tokenizer's own chat template.

    Supervised is what generation would have to produce: everything after the generation prompt, up to and with the
    first control token behind the content (`<|end|>`); what the template adds after that is not.
    Ids are those of encoding the rendered text in one go, with two deliberate exceptions: contents never become
    control tokens, and no token straddles the generation prompt and the answer, as none can in generation.

    Raises:
        UserError: the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerFast") -> None:
        if tokenizer.chat_template is None:
            raise UserError(
                f"the tokenizer {tokenizer.name_or_path} has no chat template\n"
                "expected: chat_template.jinja beside tokenizer.json, or `chat_template` in tokenizer_config.json"
            )
        self.tokenizer = tokenizer
        self._controls = {token.content: i for i, token in tokenizer.added_tokens_decoder.items()}
        self._control = re.compile(control_pattern(tokenizer))
        self._skeletons: dict[tuple[str, ...], list[Piece]] = {}

    def lay_out(self, messages: Messages) -> Layout:
        """Put the contents of `messages` into the template's rendering of their roles.

        Raises:
            UserError: no message is the assistant's; or the template refuses these roles, alters contents other than
                by trimming, renders earlier turns differently once later ones follow, or ends an answer without a
                control token.
        """
        roles = tuple(message["role"] for message in messages)
        if roles not in self._skeletons:
            self._skeletons[roles] = self._skeleton(roles)
        skeleton, rendered = self._skeletons[roles], self._render(messages)
        contents = [message["content"] for message in messages]
        for written in (contents, [content.strip() for content in contents]):
            pieces = fill(skeleton, written)
            if rendered == text_of(pieces):
                answers = (text for text, role in zip(written, roles, strict=True) if role == "assistant")
                return Layout(pieces, sum(len(answer.encode()) for answer in answers))
        raise UserError(
            "the chat template alters the contents of messages, so that the assistant's words cannot be located\n"
            f"conversation: {contents[0][:60]!r}...\nexpected: a template that writes contents as they are, or trimmed"
        )

    def encode(self, layouts: Sequence[Layout]) -> Encoded:
        """The tokens of `layouts`, one after the other; at least one layout."""
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
            targets=np.repeat(np.tile(np.array([0, 1], np.uint8), len(counts) // 2), counts),
        )

    def _encode_texts(self, texts: Iterable[str]) -> dict[str, np.ndarray]:
        """The tokens of each different text."""
        unique = list(dict.fromkeys(texts))
        ids, lengths = encode(self.tokenizer.backend_tokenizer, unique)
        return dict(zip(unique, np.split(ids, np.cumsum(lengths)[:-1]), strict=True)) if unique else {}

    def _skeleton(self, roles: tuple[str, ...]) -> list[Piece]:
        """The pieces of any conversation with these roles, placeholders standing for its contents."""
        if "assistant" not in roles:
            raise UserError(
                f"no message is the assistant's (roles: {', '.join(roles)}): there is nothing to learn"
            )
        messages = [{"role": role, "content": PLACEHOLDER.format(i)} for i, role in enumerate(roles)]
        whole = self._render(messages)
        spans = [self._answer_span(messages, i, whole) for i, role in enumerate(roles) if role == "assistant"]
        pieces = list(self._cut(whole, spans))
        self._compare_with_tokenizer(fill(pieces, ["x"] * len(roles)))
        return pieces

    def _answer_span(self, messages: Messages, index: int, whole: str) -> Span:
        """Where in `whole` the answer of message `index` begins and where its stop token ends."""
        prompt = self._render(messages[:index], add_generation_prompt=True)
        answered = self._render(messages[: index + 1])
        if not (whole.startswith(answered) and answered.startswith(prompt)):
            raise UserError(
                "the chat template renders the turns before an answer differently once the answer follows\n"
                f"roles: {', '.join(message['role'] for message in messages)}; answer: message {index}\n"
                "expected: a rendering that only grows, so that training sees what generation is prompted with"
            )
        content = PLACEHOLDER.format(index)
        stop = self._control.search(answered, answered.index(content, len(prompt)) + len(content))
        if stop is None:
            raise UserError(
                "the chat template ends an answer without a control token: generation could not stop"
            )
        return len(prompt), stop.end()

    def _cut(self, whole: str, spans: list[Span]) -> Iterable[Piece]:
        """Cut at control tokens. A span ends with one, so a text is supervised from some place to its end, or not."""
        done = 0
        for control in self._control.finditer(whole):
            if control.start() > done:
                yield Piece(*_divide(whole, done, control.start(), spans), None)
            token = self._controls[control.group().strip()]
            yield Piece(*_divide(whole, control.start(), control.end(), spans), token)
            done = control.end()
        if len(whole) > done:
            yield Piece(*_divide(whole, done, len(whole), spans), None)

    def _render(self, messages: Messages, add_generation_prompt: bool = False) -> str:
        from jinja2 import TemplateError

        try:
            # A batch of one: an empty list of messages is refused otherwise.
            return self.tokenizer.apply_chat_template(
                [messages], tokenize=False, add_generation_prompt=add_generation_prompt
            )[0]
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise UserError(f"the chat template refuses a conversation of roles ({roles}): {error}") from None

    def _compare_with_tokenizer(self, pieces: list[Piece]) -> None:
        """Harmless contents must get the ids that the tokenizer gives the rendered text, as generation will."""
        encoded = self._encode_texts(piece.prompt + piece.answer for piece in pieces if piece.token is None)
        ours = [
            token
            for piece in pieces
            for token in (encoded[piece.prompt + piece.answer] if piece.token is None else [piece.token])
        ]
        if ours != self.tokenizer(text_of(pieces), add_special_tokens=False)["input_ids"]:
            raise UserError(
                f"the tokenizer {self.tokenizer.name_or_path} encodes text beside a control token unlike text alone\n"
                f"in: {text_of(pieces)!r}\nexpected: a tokenizer that treats both alike, such as a byte-level BPE"
            )


def control_pattern(tokenizer: "PreTrainedTokenizerFast") -> str:
    """A pattern for each special token, with the white space that it swallows on either side."""
    special = [token for token in tokenizer.added_tokens_decoder.values() if token.special]
    longest_first = sorted(special, key=lambda token: len(token.content), reverse=True)
    return "|".join(
        (r"\s*" if token.lstrip else "") + re.escape(token.content) + (r"\s*" if token.rstrip else "")
        for token in longest_first
    )


def fill(skeleton: list[Piece], contents: list[str]) -> list[Piece]:
    """The pieces with each placeholder replaced by the content it stands for."""

    def put(text: str) -> str:
        return PLACEHOLDERS.sub(lambda match: contents[int(match[1])], text)

    return [
        piece if piece.token is not None else Piece(put(piece.prompt), put(piece.answer), None)
        for piece in skeleton
    ]


def text_of(pieces: list[Piece]) -> str:
    """The rendered text that the pieces are cut from."""
    return "".join(piece.prompt + piece.answer for piece in pieces)


def _divide(whole: str, begin: int, end: int, spans: list[Span]) -> tuple[str, str]:
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
