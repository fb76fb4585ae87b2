"""`headwater chat RUN`: talk to a run's model, or to any model directory, in the terminal or through a pipe."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from pipeline.lm.calls import Call, Tools, calls_in
from pipeline.lm.directory import directory_of
from pipeline.run.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from pipeline.data.chat import ChatEncoder, Messages

ROUNDS = 8  # of calls in one answer

HELP = (
    "/retry answers the last turn anew, /system WORDS begins anew under them, "
    "/save FILE adds the conversation to a file, /reset forgets it, /quit (or Ctrl-D) ends it"
)


@dataclass
class Talk:
    """A conversation with one model. temperature: None: always the likeliest token; system: what stands before it."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    encoder: ChatEncoder
    max_new_tokens: int
    temperature: float | None
    top_p: float
    seed: int
    tools: Tools | None = None
    system: str | None = None
    messages: Messages = field(default_factory=list)
    turns: int = 0

    def answer(self, text: str, out: TextIO) -> int:
        """Add the user's turn and write the model's answer to `out` as it comes; how many old messages were dropped.

        Where the answer calls tools, they are called, what they give is shown, and the model goes on with it.

        Raises:
            UserError: the turn alone is too long for the model's positions.
        """
        messages, dropped, turns = [*self.messages, {"role": "user", "content": text}], 0, self.turns
        for _ in range(ROUNDS):
            before = len(messages)
            prompt, messages = self._fit(messages)
            dropped += before - len(messages)
            spoken = self._speak(prompt, turns, out)
            turns += 1
            calls = calls_in(spoken) if self.tools else []
            if not calls:
                messages = [*messages, {"role": "assistant", "content": spoken}]
                break
            messages = [*messages, _calling(spoken, calls)]
            for call in calls:
                result = self.tools.result(call)
                out.write(f"\n({call['name']} {json.dumps(call['arguments'], ensure_ascii=False)} gives {result})\n")
                messages = [*messages, {"role": "tool", "name": call["name"], "content": result}]
        else:
            out.write(f"\n(no more calls: {ROUNDS} rounds of them are the most)")
            messages = [*messages, {"role": "assistant", "content": ""}]
        self.messages, self.turns = messages, turns
        return dropped

    def _speak(self, prompt: list[int], turn: int, out: TextIO) -> str:
        """What the model says next, written as it comes."""
        from pipeline.lm.decoding import stream
        from pipeline.lm.prompts import stop_ids
        from pipeline.train.seeds import derived_seed

        stop, spoken = stop_ids(self.model, self.tokenizer), ""
        seeds = [derived_seed(self.seed, "chat", turn)]
        found = stream(self.model, [prompt], self.max_new_tokens, self.temperature, self.top_p, seeds, stop)
        for piece in pieces(self.tokenizer, (tokens[0] for tokens in found)):
            spoken += piece
            out.write(piece)
            out.flush()
        return spoken

    def reset(self) -> None:
        self.messages, self.turns = [], 0

    def begin_under(self, system: str | None) -> None:
        """Begin anew under a system message.

        Raises:
            UserError: the chat template has no place for one.
        """
        before, self.system = self.system, system
        try:
            self._prompt([{"role": "user", "content": "a"}])
        except UserError:
            self.system = before
            raise
        self.reset()

    def take_back(self) -> str | None:
        """The user's last turn, which with its answer was not said; None: there is none."""
        if not self.messages:
            return None
        last = max(place for place, message in enumerate(self.messages) if message["role"] == "user")
        text = self.messages[last]["content"]
        self.messages = self.messages[:last]
        return text

    @property
    def said(self) -> dict[str, Any]:
        """The conversation as a row of training data has it."""
        offered = {"tools": list(self.tools.schemas)} if self.tools else {}
        return {"messages": self._under(self.messages), **offered}

    def _under(self, messages: Messages) -> Messages:
        return [*([{"role": "system", "content": self.system}] if self.system else []), *messages]

    def _prompt(self, messages: Messages) -> list[int]:
        from pipeline.lm.prompts import chat_prompt

        return chat_prompt(self.encoder, self._under(messages), self.tools.schemas if self.tools else ())

    def _fit(self, messages: Messages) -> tuple[list[int], Messages]:
        """The prompt's ids and the messages in it: the oldest exchanges go until an answer has room too."""
        from pipeline.lm.model import positions_of

        limit = positions_of(self.model.config)
        while True:
            prompt = self._prompt(messages)
            if limit is None or len(prompt) + min(self.max_new_tokens, limit // 2) <= limit:
                return prompt, messages
            later = [place for place, message in enumerate(messages) if place and message["role"] == "user"]
            if not later:
                raise UserError(
                    f"too long: {len(prompt)} tokens, and the model has {limit} positions, "
                    f"{min(self.max_new_tokens, limit // 2)} of them kept for the answer"
                )
            messages = messages[later[0] :]


def _calling(spoken: str, calls: list[Call]) -> dict[str, Any]:
    """An assistant's message with calls, and the words that it wrote before the first one."""
    words = re.split(r"<tool_call>|[\[{]", spoken, maxsplit=1)[0].strip()
    made = [{"type": "function", "function": call} for call in calls]
    return {"role": "assistant", "content": words, "tool_calls": made}


def pieces(tokenizer: PreTrainedTokenizerFast, tokens: Iterator[int | None]) -> Iterator[str]:
    """The text of `tokens` as it grows; bytes of a character that is still incomplete are held back."""
    ids: list[int] = []
    shown = ""
    for token in tokens:
        ids += [] if token is None else [token]
        text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        if not text.endswith("\ufffd"):
            yield text[len(shown) :]
            shown = text
    text = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    if text != shown:
        yield text[len(shown) :]


def open_talk(
    model: str, max_new_tokens: int, temperature: float, top_p: float, seed: int, tools: Path | None = None
) -> tuple[Path, Talk]:
    """Load a model and its tokenizer, by its directory, a run's, or its name on the Hub. temperature: 0: the likeliest.

    tools: a Python file whose functions the model may call.

    Raises:
        UserError: no model, a tokenizer without a chat template, or as Tools.
    """
    from pipeline.data.chat import ChatEncoder
    from pipeline.lm.model import load_tokenizer, ready

    directory, offered = directory_of(model), Tools(tools) if tools else None
    tokenizer = load_tokenizer(directory)
    encoder = ChatEncoder(tokenizer, unwritten="text" if offered else "error")
    how = max_new_tokens, temperature or None, top_p, seed
    return directory, Talk(ready(directory), tokenizer, encoder, *how, tools=offered)


def chat(talk: Talk, lines: Iterator[str], out: TextIO) -> None:
    """Answer each line until there are no more, or one says /quit."""
    for line in lines:
        text = line.strip()
        if text == "/quit":
            return
        if text.startswith("/"):
            _obey(talk, *text.partition(" ")[::2], out)
        elif text:
            _exchange(talk, text, out)


def _obey(talk: Talk, command: str, rest: str, out: TextIO) -> None:
    if command == "/reset":
        talk.reset()
        print("(forgotten)", file=out)
    elif command == "/retry":
        before = list(talk.messages)
        text = talk.take_back()
        if text is None:
            print("(nothing was asked yet)", file=out)
        elif not _exchange(talk, text, out):
            talk.messages = before
    elif command == "/system":
        try:
            talk.begin_under(rest.strip() or None)
            print(f"(begins anew under: {talk.system})" if talk.system else "(begins anew)", file=out)
        except UserError as error:
            print(f"({error})", file=out)
    elif command == "/save" and rest.strip():
        try:
            with open(Path(rest.strip()).expanduser(), "a", encoding="utf-8") as file:
                file.write(json.dumps(talk.said, ensure_ascii=False) + "\n")
            print(f"(added to {rest.strip()})", file=out)
        except OSError as error:
            print(f"({error.strerror}: {rest.strip()})", file=out)
    else:
        print(f"({HELP})", file=out)


def _exchange(talk: Talk, text: str, out: TextIO) -> bool:
    """Whether the answer came to its end."""
    try:
        dropped = talk.answer(text, out)
    except UserError as error:
        print(f"({error})", file=out)
        return False
    except KeyboardInterrupt:  # Ctrl-C ends the answer, not the conversation: neither turn is remembered
        print("\n(stopped and forgotten)", file=out)
        return False
    print(f"\n({dropped} oldest messages were dropped: no room)" if dropped else "", file=out)
    return True


def typed() -> Iterator[str]:
    """Lines from the keyboard, with editing and history where the system has it; ends at Ctrl-D or Ctrl-C."""
    try:
        import readline  # noqa: F401 input() edits lines once it is imported
    except ImportError:  # Windows
        pass
    while True:
        try:
            yield input("> ")
        except (EOFError, KeyboardInterrupt):
            print()
            return


def run_chat(arguments: list[str]) -> int:
    """`headwater chat RUN [options]`; returns the exit code.

    Raises:
        UserError: as open_talk.
    """
    given = _parser().parse_args(arguments)
    how = given.max_new_tokens, given.temperature, given.top_p, given.seed
    directory, talk = open_talk(given.run, *how, given.tools)
    if given.system:
        talk.begin_under(given.system)
    if not sys.stdin.isatty():
        chat(talk, iter(sys.stdin), sys.stdout)
        return 0
    print(f"{directory}: {HELP}")
    chat(talk, typed(), sys.stdout)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headwater chat", description="Talk to a model. From a pipe: one turn a line.", epilog=HELP
    )
    parser.add_argument("run", help="a run's output directory, a model directory, or a name of the Hub")
    parser.add_argument(
        "--max-new-tokens", type=_at_least_one, default=256, help="tokens of an answer at most"
    )
    parser.add_argument(
        "--temperature", type=_not_negative, default=0.8, help="0: always the likeliest token"
    )
    parser.add_argument("--top-p", type=_probability, default=0.95, help="nucleus probability")
    parser.add_argument(
        "--tools", type=Path, metavar="FILE.py", help="functions that the model may call; they run here, as you"
    )
    parser.add_argument("--system", help="what the conversation stands under")
    parser.add_argument("--seed", type=int, default=0, help="the same seed and turns give the same answers")
    return parser


def _at_least_one(text: str) -> int:
    return int(_between(text, 1, math.inf, "a whole number of at least 1", whole=True))


def _not_negative(text: str) -> float:
    return _between(text, 0, sys.float_info.max, "a number of at least 0")


def _probability(text: str) -> float:
    return _between(text, sys.float_info.min, 1, "a number above 0, at most 1")


def _between(text: str, least: float, most: float, expected: str, whole: bool = False) -> float:
    try:
        value = int(text) if whole else float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} given, expected: {expected}")
    return value
