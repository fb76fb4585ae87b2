"""The chat templates of well-known models, and the conversations that each is asked to write.

python -m tests.chat_templates      a table: rows made of each conversation by each template, or why it is refused

The templates are read from TRL's wheel, which ships them as data; what is a control token in each is read from it.
"""

import re
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.data.chat import ChatEncoder
from pipeline.run.errors import UserError

TOOLS = (
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "description": "Its name."}},
                "required": ["city"],
            },
        },
    },
)
CALL = {"type": "function", "id": "call12345", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
SYSTEM = {"role": "system", "content": "Be brief."}


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


CALLED = [
    user("Is it cold in Oslo?"),
    assistant("", tool_calls=[CALL]),
    {"role": "tool", "name": "weather", "tool_call_id": "call12345", "content": "-3 degrees"},
    assistant("Yes, quite."),
]
TURNS = [user("What is up?"), assistant("The sky."), user("And down?"), assistant("The ground.")]
# name: (messages, tools, the words that are taught)
CONVERSATIONS = {
    "single": (TURNS[:2], (), ["The sky."]),
    "system": ([SYSTEM, *TURNS[:2]], (), ["The sky."]),
    "turns": (TURNS, (), ["The sky.", "The ground."]),
    "tools": (TURNS[:2], TOOLS, ["The sky."]),
    "call": (CALLED, TOOLS, ["weather", "Oslo", "Yes, quite."]),
    "thinking": (
        [TURNS[0], assistant("The sky.", reasoning_content="I look up.")],
        (),
        ["I look up.", "The sky."],
    ),
    "thinking, turns": (
        [
            TURNS[0],
            assistant("The sky.", reasoning_content="I look up."),
            TURNS[2],
            assistant("The ground.", reasoning_content="I look down."),
        ],
        (),
        ["I look up.", "The sky.", "I look down.", "The ground."],
    ),
    "empty": ([user("Say nothing."), assistant("")], (), []),
    "trailing": ([*TURNS[:2], user("And down?")], (), ["The sky."]),
}
SPECIAL = re.compile(
    r"<\|[A-Za-z0-9_]+\|>|<\|[a-z_]+>|<[a-z_]+\|>|<｜[^｜\n]+｜>|<(?:start|end)_of_[a-z]+>|</?s>|\[gMASK\]|<sop>|<bos>|<image>"
)
NAMES = {  # of bos and eos, where the template calls them by these names alone
    "cohere": ("<BOS_TOKEN>", "<|END_OF_TURN_TOKEN|>"),
    "deepseek": ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
    "gemma": ("<bos>", "<eos>"),
    "llava": ("<s>", "</s>"),
}


def folder() -> Path:
    """Where TRL keeps its templates.

    Raises:
        ImportError: TRL is not installed.
    """
    from importlib.metadata import distribution

    return Path(str(distribution("trl").locate_file("trl/chat_templates")))


def names() -> list[str]:
    """The templates as their models ship them."""
    return sorted(path.stem for path in folder().glob("*.jinja") if not path.stem.endswith("_training"))


@cache
def tokenizer_of(name: str, training: bool = False):
    """A byte-level tokenizer with the control tokens of the template NAME; training: with TRL's patch of it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    template = (folder() / f"{name}.jinja").read_text()
    patched = folder() / f"{name}_training.jinja"
    bos, eos = next((pair for start, pair in NAMES.items() if name.startswith(start)), ("<|bos|>", "<|eos|>"))
    specials = sorted({bos, eos, *SPECIAL.findall(template)})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(alphabet)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(specials)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos)
    tokenizer.chat_template = patched.read_text() if training else template
    return tokenizer


def attempt(name: str, conversation: str) -> list[tuple[str, list[str]]] | str:
    """(text, supervised texts) of each row; or the refusal."""
    messages, tools, _ = CONVERSATIONS[conversation]
    encoder = ChatEncoder(tokenizer_of(name))
    try:
        layouts = encoder.lay_out(messages, tools)
    except UserError as error:
        return str(error)
    return [
        (row.text, [row.text[first:last] for first, last in row.spans])
        for row in (layout.rendered for layout in layouts)
    ]


def main() -> None:
    print(f"{'':24}", *(f"{conversation:>16}" for conversation in CONVERSATIONS))
    refusals: dict[str, list[str]] = {}
    for name in names():
        cells = []
        for conversation in CONVERSATIONS:
            found = attempt(name, conversation)
            if isinstance(found, str):
                refusals.setdefault(found.split("\n")[0], []).append(f"{name}/{conversation}")
            cells.append("refused" if isinstance(found, str) else f"{len(found)} row{'s' * (len(found) > 1)}")
        print(f"{name:24}", *(f"{cell:>16}" for cell in cells))
    for reason, where in refusals.items():
        print(f"\n{reason}\n  {', '.join(where)}")


if __name__ == "__main__":
    main()
