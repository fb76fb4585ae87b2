"""`headwater init`: a first recipe for a model and a file, from what both say of themselves.

Conversations are to be fine-tuned on, judged answers to be preferred by.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipeline.data import sources
from pipeline.data.chat import ChatEncoder
from pipeline.data.config import Chat, Preferences
from pipeline.data.template import AS_TEXT
from pipeline.run.errors import UserError
from pipeline.run.units import prefixed, size

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

LOOKED_AT = 2_000  # conversations
SHARE = 99  # per cent of the rows that are to fit whole
STEP_TOKENS, EPOCHS = 8_192, 3
FULL_BYTES, LORA_BYTES = (
    16,
    5,
)  # a parameter: fp32 weights, gradients and AdamW's moments; frozen weights and adapters


@dataclass(frozen=True)
class Seen:
    """What the data and the machine said. lengths: int64 [D] of the rows looked at; beyond: of them too long."""

    format: str
    conversations: int
    lengths: np.ndarray
    sequence_length: int
    positions: int | None
    parameters: int
    memory: int
    gpus: int
    notes: dict[str, int]

    @property
    def beyond(self) -> int:
        return int((self.lengths > self.sequence_length).sum())

    @property
    def unwritten(self) -> bool:
        """Whether tools became text."""
        return any(note.startswith(AS_TEXT) for note in self.notes)

    @property
    def lora(self) -> bool:
        """Adapters where all weights and their optimizer would take more than half of the memory."""
        return self.parameters * FULL_BYTES > self.memory / 2


def first_recipe(model: str, data: str) -> str:
    """The YAML of a recipe that fine-tunes `model` on the conversations in `data`, or tunes it by judged answers.

    The reasons are in it as comments.

    Raises:
        UserError: the model or the data cannot be read, or the template cannot write them.
    """
    from transformers import AutoConfig, AutoTokenizer

    judged = sources.is_judged(Preferences(path=data))
    chat = Chat(path=data)
    if not judged:
        sources.check_chat(chat)
    try:
        config, tokenizer = AutoConfig.from_pretrained(model), AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{model}: {' '.join(str(error).split())[:200]}\n"
            "expected: a model's directory, or a name that this machine has or can reach"
        ) from None
    if judged:
        return _preferring(model, data, _look_at_answers(Preferences(path=data), config, tokenizer))
    return _text(model, data, _look(chat, config, tokenizer))


def _look(chat: Chat, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast) -> Seen:
    from pipeline.lm.model import positions_of

    encoder = ChatEncoder(tokenizer, unwritten="text")
    found = list(islice(sources.conversations(chat, []), LOOKED_AT))
    layouts = [
        layout
        for row in found
        for layout in (
            [encoder.document(row.text)] if row.text else encoder.lay_out(list(row.messages), row.tools)
        )
    ]
    lengths = encoder.encode(layouts).lengths
    positions = positions_of(config)
    return Seen(
        sources.format_of(chat),
        len(found),
        lengths,
        _sequence_length(lengths, positions),
        positions,
        _parameters(config),
        *_machine(),
        encoder.template.notes,
    )


def _look_at_answers(
    source: Preferences, config: PretrainedConfig, tokenizer: PreTrainedTokenizerFast
) -> Seen:
    """As _look; a length is that of a unit: of both sides of a pair, which stand in one row."""
    from pipeline.data.kinds import Judgements
    from pipeline.lm.model import positions_of

    kind = Judgements(source, tokenizer, [])
    units = list(islice(kind.rows(), LOOKED_AT))
    lengths = [encoded.lengths.reshape(-1, 2).sum(1) for _, encoded in kind.encode(units)]
    lengths, positions = np.concatenate(lengths), positions_of(config)
    paired = len(units[0].verdicts) == 2
    return Seen(
        "pairs" if paired else "verdicts",
        len(units),
        lengths,
        _sequence_length(lengths, positions),
        positions,
        _parameters(config),
        *_machine(),
        kind.notes(),
    )


def _sequence_length(lengths: np.ndarray, positions: int | None) -> int:
    """Room for SHARE per cent of the rows, in steps of 128, within the model's positions."""
    wanted = int(np.percentile(lengths, SHARE, method="higher"))
    rounded = max(256, -(-wanted // 128) * 128)
    return min(rounded, positions) if positions else rounded


def _parameters(config: PretrainedConfig) -> int:
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except ValueError as error:
        raise UserError(
            f"no decoder is made of {config.model_type}: {' '.join(str(error).split())[:200]}"
        ) from None
    return sum(parameter.numel() for parameter in model.parameters())


def _machine() -> tuple[int, int]:
    """(bytes of one GPU, or of this host without one; GPUs)."""
    import psutil
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory, torch.cuda.device_count()
    return psutil.virtual_memory().total, 0


def _text(model: str, data: str, seen: Seen) -> str:
    longest, beyond = int(seen.lengths.max()), seen.beyond
    rows = max(1, int(seen.lengths.sum()) // seen.sequence_length)
    batch = _batch(seen)
    more = "at least " if seen.conversations == LOOKED_AT else ""
    steps = max(20, EPOCHS * rows // batch)
    long = (
        f"{beyond} of {len(seen.lengths)} rows are longer (up to {longest})" if beyond else "every row fits"
    )
    weights, full = f"{prefixed(seen.parameters)} weights", size(seen.parameters * FULL_BYTES)
    why = (
        f"adapters alone: all {weights} would take {full}"
        if seen.lora
        else f"all {weights}, {full} with AdamW"
    )
    tools = "  unwritten: text              # the template has no place for tools\n" if seen.unwritten else ""
    rate = "2.0e-4" if seen.lora else "2.0e-5"
    return f"""\
# Fine-tunes {model} on {data}.
#
#   headwater data THIS_FILE      what of each conversation is taught
#   headwater plan THIS_FILE      what a run needs, and whether anything would be refused
#   headwater run  THIS_FILE
#
# data: {seen.format};
#   {more}{seen.conversations:,} conversations, {len(seen.lengths):,} rows, {int(seen.lengths.sum()):,} tokens
# machine: {_place(seen)}, {size(seen.memory)} of memory
{_notes(seen)}recipe: llm

{_run(model, data, seen, steps)}

chat:
  path: {_quoted(data)}
{tools}  held_out: 0.1                  # share of the conversations that are kept to be measured on

finetune:
  sequence_length: {seen.sequence_length:<15}# {long}
  on_long: {"drop" if beyond or more else "error"}
  num_train_epochs: {EPOCHS:<14}# {steps} steps over the rows looked at
  train_batch_size: {batch:<14}# rows a step: {batch * seen.sequence_length:,} tokens, conversations packed
  learning_rate: {rate}          # {why}
  lr_scheduler_type: cosine
  warmup_steps: 0.05
{LORA if seen.lora else ""}
evaluate:
  functions: 0
  conversations: 256             # held-out loss before and after
  multiple_choice: 0

# To publish it, say under which licence the data are:
# export:
#   licence: apache-2.0
"""


def _preferring(model: str, data: str, seen: Seen) -> str:
    rows = max(1, int(seen.lengths.sum()) // seen.sequence_length)
    batch = _batch(seen)
    steps = max(1, rows // batch)
    paired, beyond = seen.format == "pairs", seen.beyond
    more = "at least " if seen.conversations == LOOKED_AT else ""
    long = (
        f"{beyond} of {len(seen.lengths)} are longer (up to {int(seen.lengths.max())})"
        if beyond
        else "every one fits"
    )
    loss = "sigmoid          # DPO" if paired else "kto              # of single answers"
    rate = "5.0e-5" if seen.lora else "1.0e-6"
    return f"""\
# Teaches {model} what is preferred in {data}.
#
#   headwater data THIS_FILE      what is set against what
#   headwater plan THIS_FILE      what a run needs, and whether anything would be refused
#   headwater run  THIS_FILE
#
# data: {seen.format}; {more}{seen.conversations:,} of them, {int(seen.lengths.sum()):,} tokens
# machine: {_place(seen)}, {size(seen.memory)} of memory
{_notes(seen)}recipe: llm

{_run(model, data, seen, steps)}

preferences:
  path: {_quoted(data)}
  held_out: 0.1                  # share of them that is kept to be measured on

prefer:
  loss_type: {loss}
  beta: 0.1                      # how strongly the model is held to where it began
  sequence_length: {seen.sequence_length:<15}# both sides of a pair and more; {long}
  on_long: {"drop" if beyond or more else "error"}
  num_train_epochs: 1
  train_batch_size: {batch:<14}# rows a step: {batch * seen.sequence_length:,} tokens, answers packed
  learning_rate: {rate}          # small: how this goes wrong is that both sides become unlikely
  lr_scheduler_type: cosine
  warmup_steps: 0.1
{LORA if seen.lora else ""}
evaluate:
  functions: 0
  multiple_choice: 0
  preferences: 256               # which side is likelier, before and after

# A model that judges answers instead: a section `reward_model` in place of `prefer`, without loss_type and beta.
# To publish it, say under which licence the data are:
# export:
#   licence: apache-2.0
"""


LORA = """\
  lora:
    r: 16
    lora_alpha: 32
    target_modules: all-linear
"""


def _batch(seen: Seen) -> int:
    """Rows a step, which the GPUs divide."""
    processes = seen.gpus or 1
    return -(-max(1, STEP_TOKENS // seen.sequence_length) // processes) * processes


def _notes(seen: Seen) -> str:
    return "".join(f"# note: {count} x {note}\n" for note, count in seen.notes.items())


def _run(model: str, data: str, seen: Seen, steps: int) -> str:
    """The sections `run` and `model`."""
    name = Path(os.path.abspath(data)).name.split(".")[0]
    return f"""\
run:
  output_dir: runs/{name}
  launch: launch/{"zero2" if seen.gpus > 1 else "one"}.yaml
  logging_steps: 5
  eval_steps: {max(10, steps // 5)}
  save_steps: {max(10, steps // 5)}

model:
  pretrained: {_quoted(model)}"""


def _place(seen: Seen) -> str:
    return f"{seen.gpus} GPU{'s' if seen.gpus > 1 else ''}" if seen.gpus else "no GPU"


def _quoted(text: str) -> str:
    import json

    return json.dumps(text, ensure_ascii=False)
