"""What tests of words from pictures share: scenes of 24 pixels, prepared, the recipe at their size, a tiny SmolVLM."""

import io
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from pipeline.run.stage import Context, Stage, open_recipe
from recipes.captioning import processor
from recipes.common.images import prepare
from recipes.common.words import tokenizer_of
from tests.helpers import ROOT

SMALL = (
    "data.image_size=24",
    "data.max_images=60",
    "model.patch_size=8",
    "model.vision={hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2}",
    "model.text={hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 2}",
    "train.bf16=false",
    "train.warmup_steps=0",
    "decoding.max_new_tokens=9",
    "decoding.batch_size=8",
)
WORDS = "a two three red green blue yellow circle circles square squares triangle triangles".split()
WORDS += "above below left right of describe it :".split()
CAPTIONS = (
    "{% for m in messages %}{% for c in m['content'] %}{% if c['type'] == 'image' %}<image>{% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %} :{% endif %}"
)


def config_of(*overrides: str) -> Any:
    return open_recipe(ROOT / "recipes/captioning/scenes.yaml", [*SMALL, *overrides])[0]


def context_of(config: Any, name: str, out: Path, **inputs: Path) -> Context:
    out.mkdir(parents=True, exist_ok=True)
    return Context(
        config, Stage(name, f"recipes.captioning.{name}", {}), inputs, out, out, out, io.StringIO()
    )


def write_inputs(directory: Path, config: Any) -> tuple[Path, Path]:
    """The artifacts of the pictures and of the processor."""
    prepared, made = directory / "prepare", directory / "processor"
    if not prepared.exists():
        prepare.run(context_of(SimpleNamespace(data=config.data), "prepare", prepared))
    processor.run(context_of(config, "processor", made, prepare=prepared))
    return prepared, made


def write_vlm(out: Path, words: Sequence[str] = WORDS, template: str = CAPTIONS) -> Path:
    """A tiny model of SmolVLM's class with random weights, its processor and a template beside it."""
    from transformers import Idefics3Config, Idefics3ForConditionalGeneration, Idefics3Processor
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil

    torch.manual_seed(0)
    tokenizer = tokenizer_of(words)
    special = ["<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>"]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    vision = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"pad_token_id": 1, "bos_token_id": None, "eos_token_id": 0}
    config = Idefics3Config(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        vision_config={**vision, "image_size": 24, "patch_size": 4},
        text_config={
            **text,
            **ends,
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "num_key_value_heads": 2,
        },
    )
    Idefics3ForConditionalGeneration(config).save_pretrained(out)
    sizes = {
        "size": {"longest_edge": 24},
        "max_image_size": {"longest_edge": 24},
        "do_image_splitting": False,
    }
    pictures = Idefics3ImageProcessorPil(**sizes)
    Idefics3Processor(pictures, tokenizer, image_seq_len=9, chat_template=template).save_pretrained(out)
    return out
