"""What tests of conversations about pictures share: coloured squares and questions about them, tiny models."""

import io
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from PIL import Image

from pipeline.run.stage import Context, Stage, open_recipe
from recipes.vision_chat import prepare, tokenize
from tests.captioning.cases import write_vlm
from tests.helpers import ROOT

COLOURS = ("red", "green", "blue", "yellow")
WORDS = [*COLOURS, *"user assistant : which colour is it ? and here thank you".split()]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %}<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}assistant: "
    "{% endif %}"
)
SMALL = (
    "train.max_length=80",
    "train.gradient_checkpointing=false",
    "train.bf16=false",
    "train.warmup_steps=0",
    "data.held_out=0.3",
    "decoding.max_new_tokens=4",
    "decoding.batch_size=4",
    "evaluate.replies=6",
)


def square(colour: str, side: int) -> Image.Image:
    return Image.new("RGB", (side, side), colour)


def encoded(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()


def write_rows(folder: Path, count: int = 40) -> Path:
    """rows.jsonl: one question about a picture, or two about two; in the three forms that are read."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        colours = [COLOURS[number % 4], COLOURS[(number // 4) % 4]][: 1 + number % 2]
        names = [f"{number}-{place}.png" for place in range(len(colours))]
        for name, colour, place in zip(names, colours, range(2), strict=False):
            square(colour, 20 + number + place).save(folder / name)
        rows.append([_parts, _placed, _llava][number % 3](names, colours))
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "rows.jsonl"


def _turns(names: list[str], colours: list[str], asked: Any) -> list[dict[str, Any]]:
    found = []
    for name, colour, question in zip(names, colours, ("which colour is it ?", "and here ?"), strict=False):
        found += [
            {"role": "user", "content": asked(name, question)},
            {"role": "assistant", "content": colour},
        ]
    return found


def _parts(names: list[str], colours: list[str]) -> dict[str, Any]:
    """As OpenAI and transformers have it: parts that name their picture."""

    def asked(name: str, question: str) -> list[dict[str, str]]:
        return [{"type": "image", "image": name}, {"type": "text", "text": question}]

    return {"messages": _turns(names, colours, asked)}


def _placed(names: list[str], colours: list[str]) -> dict[str, Any]:
    """As LlamaFactory has it: places in the text, a column of pictures."""
    return {"messages": _turns(names, colours, lambda _, question: f"<image>{question}"), "images": names}


def _llava(names: list[str], colours: list[str]) -> dict[str, Any]:
    turns = _turns(names, colours, lambda _, question: f"<image>\n{question}")
    named = {"user": "human", "assistant": "gpt"}
    talk = [{"from": named[turn["role"]], "value": turn["content"]} for turn in turns]
    return {"image": names if len(names) > 1 else names[0], "conversations": talk}


def config_of(rows: Path, base: Path, *overrides: str) -> Any:
    given = (f"data.path={rows}", f"model.pretrained={base}")
    return open_recipe(ROOT / "recipes/vision_chat/vlm_gpu.yaml", [*given, *SMALL, *overrides])[0]


def context_of(config: Any, name: str, out: Path, **inputs: Path) -> Context:
    out.mkdir(parents=True, exist_ok=True)
    return Context(
        config, Stage(name, f"recipes.vision_chat.{name}", {}), inputs, out, out, out, io.StringIO()
    )


def write_inputs(directory: Path, config: Any) -> tuple[Path, Path]:
    """The artifacts of the rows and of their tokens."""
    prepared, made = directory / "prepare", directory / "tokenize"
    prepare.run(context_of(SimpleNamespace(data=config.data), "prepare", prepared))
    tokenize.run(context_of(config, "tokenize", made, prepare=prepared))
    return prepared, made


def write_base(out: Path) -> Path:
    return write_vlm(out, WORDS, TEMPLATE)


def write_llava(out: Path) -> Path:
    """A tiny processor of LLaVA's class with the same template; no weights."""
    from transformers import LlavaProcessor, SiglipImageProcessorPil

    from recipes.common.words import tokenizer_of

    tokenizer = tokenizer_of(WORDS)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>", "<end_of_utterance>"]})
    eye = SiglipImageProcessorPil(size={"height": 24, "width": 24})
    LlavaProcessor(
        eye, tokenizer, patch_size=8, vision_feature_select_strategy="full", chat_template=TEMPLATE
    ).save_pretrained(out)
    return out


def write_gemma(out: Path) -> Path:
    """A tiny processor of Gemma 3's class, whose pictures become a text with new lines around them; no weights."""
    from transformers import Gemma3Processor, PreTrainedTokenizerFast
    from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

    from recipes.common.words import tokenizer_of

    marks = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    plain = tokenizer_of(WORDS)
    plain.add_special_tokens({"additional_special_tokens": [*marks.values(), "<end_of_utterance>"]})
    ends = {"eos_token": plain.eos_token, "pad_token": plain.pad_token, "unk_token": plain.unk_token}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=plain.backend_tokenizer, extra_special_tokens=marks, **ends
    )
    eye = Gemma3ImageProcessorPil(size={"height": 24, "width": 24})
    template = TEMPLATE.replace("<image>", marks["boi_token"])
    processor = Gemma3Processor(eye, tokenizer, image_seq_length=9, chat_template=template)
    processor.save_pretrained(out)
    return out


def picture_bytes() -> bytes:
    random = np.random.default_rng(0)
    return encoded(Image.fromarray(random.integers(0, 255, (30, 40, 3), dtype=np.uint8)))
