"""Pairs a second of DPO with LoRA: ours over TRL's DPOTrainer, its reference computed in the step and beforehand.

python -m tests.benchmarks.prefer      one JSON line; a ratio above 1: ours is faster

One model, one set of pairs of many lengths, adapters on every linear layer, AdamW, the same precision, as many pairs a
step; each side with the kernels that it chooses itself (ours: plain products in bf16, compiled layers; TRL: sdpa, as
they are), compiling and the computing of a reference beforehand left out. Ours packs both sides of several pairs into a
row; TRL pads all sides of a step to the longest.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.lm.config import Prefer
from tests.benchmarks.finetune import LORA, TEMPLATE, THREADS, WORDS, _model, compare, step_by_step
from tests.benchmarks.workload import on_the_cpu, print_line
from tests.chat_templates import tokenizer_of

STEPS, REPEATS = 3, 7
LENGTH, ROWS, PAIRS = 512, 8, 1_500
BETA = 0.1


@dataclass(frozen=True)
class Entrant:
    """How one side trains. bf16: autocast; beforehand: TRL only, the reference; pairs: TRL only, of a step."""

    ours: bool
    bf16: bool
    beforehand: bool = False
    pairs: int = 0


def pairs(count: int) -> list[dict[str, str]]:
    """A prompt and two answers each, of many lengths."""
    random = np.random.default_rng(0)

    def said(mean: float) -> str:
        return " ".join(random.choice(WORDS, int(np.clip(random.lognormal(mean, 0.6), 2, 45))))

    return [
        {"prompt": f"{said(2.2)} {number}", "chosen": said(2.6), "rejected": f"{said(2.6)} {number}"}
        for number in range(count)
    ]


def rows_of(folder: Path) -> Any:
    """Our preparation: pairs packed whole, with a reference of zeros."""
    from pipeline.data import sources
    from pipeline.data.config import Preferences
    from pipeline.data.kinds import Judgements
    from pipeline.data.pairs import PackedAnswers
    from pipeline.data.shards import Shard, ShardWriter

    file, tokenizer = folder / "pairs.jsonl", tokenizer_of(TEMPLATE)
    file.write_text("".join(json.dumps(row) + "\n" for row in pairs(PAIRS)))
    source = Preferences(path=str(file))
    kind = Judgements(source, tokenizer, [])
    with ShardWriter(folder, "preferences", len(tokenizer), tokenizer_sha256="") as writer:
        for _, found in kind.encode(list(sources.preferences(source, []))):
            writer.add(found.ids, found.lengths, found.byte_lengths, found.targets, found.labels)
    return PackedAnswers(Shard.open(folder, "preferences"), None, LENGTH, 0, "drop", packed=True)


def _trained(folder: Path, entrant: Entrant) -> Iterator[int]:
    return (_ours if entrant.ours else _trl)(folder, entrant)


def _ours(folder: Path, entrant: Entrant) -> Iterator[int]:
    """The pairs of each step."""
    from pipeline.lm.attention import SHORT_ROWS
    from pipeline.lm.tuning.lora import add_adapters
    from pipeline.lm.tuning.preference import PreferenceModel
    from pipeline.train.loop import Trainer, steps
    from tests.tiny_language_model import ALONE

    split = rows_of(folder)
    settings = Prefer(
        beta=BETA,
        max_steps=1_000_000,
        train_batch_size=ROWS,
        per_device_train_batch_size=ROWS,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        adam_beta2=0.999,
        bf16=entrant.bf16,
        torch_compile=True,
        sequence_length=LENGTH,
    )
    longest, short = SHORT_ROWS[entrant.bf16]
    attention = short if LENGTH <= longest else "flash"
    recipe = PreferenceModel(settings, lambda: add_adapters(_model(attention), LORA), split, None, LENGTH)
    for info in steps(Trainer(recipe, ALONE)):
        yield int(info.sums["model/loss"].count)


def _trl(folder: Path, entrant: Entrant) -> Iterator[int]:
    """The pairs of each of TRL's steps."""
    from datasets import Dataset, disable_progress_bars
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    disable_progress_bars()
    tokenizer = tokenizer_of(TEMPLATE)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token

    def turn(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    rows = [
        {
            "prompt": turn("user", row["prompt"]),
            "chosen": turn("assistant", row["chosen"]),
            "rejected": turn("assistant", row["rejected"]),
        }
        for row in pairs(PAIRS)
    ]

    def make(callbacks: list) -> DPOTrainer:
        given = DPOConfig(
            output_dir=str(folder),
            max_steps=1_000_000,
            per_device_train_batch_size=entrant.pairs,
            beta=BETA,
            learning_rate=1e-4,
            lr_scheduler_type="constant",
            max_length=LENGTH,
            precompute_ref_log_probs=entrant.beforehand,
            gradient_checkpointing=False,
            bf16=entrant.bf16,
            use_cpu=True,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_steps=1_000_000,
            report_to="none",
            disable_tqdm=True,
        )
        return DPOTrainer(
            model=_model(),
            args=given,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=LoraConfig(
                task_type="CAUSAL_LM", r=LORA.r, lora_alpha=LORA.lora_alpha, target_modules="all-linear"
            ),
            callbacks=callbacks,
        )

    return step_by_step(make, lambda inputs: len(inputs["input_ids"]) // 2)


def main() -> None:
    on_the_cpu(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_of(Path(folder))
        each = round(ROWS * len(rows.lengths) / rows.length)
    figures = {}
    for name, bf16 in (("bf16", True), ("fp32", False)):
        entrants = {
            "ours": Entrant(True, bf16),
            "trl": Entrant(False, bf16, pairs=each),
            "trl_beforehand": Entrant(False, bf16, beforehand=True, pairs=each),
        }
        figures[name] = compare(entrants, STEPS, REPEATS, _trained, "pairs")
    print_line(
        "prefer",
        **figures,
        unit="pairs a second",
        protocol=f"DPO with LoRA of rank {LORA.r} on the small Llama, {each} pairs a step ({ROWS} rows of {LENGTH} "
        f"tokens), {STEPS} steps a sample, {REPEATS} turns, a process each",
    )


if __name__ == "__main__":
    main()
