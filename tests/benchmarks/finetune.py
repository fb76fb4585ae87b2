"""Supervised tokens a second of LoRA fine-tuning on conversations: ours over TRL's SFTTrainer, unpacked and packed.

python -m tests.benchmarks.finetune      one JSON line; a ratio above 1: ours is faster

One model, one set of conversations of many lengths, loss on the assistant's tokens alone, adapters on every linear
layer, AdamW, the same precision, the same positions a step at most; each side with the kernels that it chooses itself
(ours: plain products in bf16, compiled layers; TRL: sdpa, as they are), compiling left out. Unpacked, TRL pads a batch
to its longest conversation; packed, it fills rows by the same best fit as ours (and, without a flash kernel, lets them
see each other). Preparation is timed apart: from conversations to rows of ids and targets.
"""

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.lm.config import Lora, Pretrain
from tests.benchmarks.workload import (
    interleaved,
    new_model,
    on_the_cpu,
    print_line,
    ratio,
    small_llama,
    spread,
    training,
)
from tests.chat_templates import tokenizer_of

THREADS, WARMUP, STEPS, REPEATS = 2, 2, 3, 7
LENGTH, ROWS, CONVERSATIONS, PREPARED = 512, 8, 2_000, 100_000
TEMPLATE = "qwen2_5"
LORA = Lora(r=16, lora_alpha=32)
WORDS = "the sky is up and we go home when it rains so what do you say to that".split()


def conversations(count: int) -> list[list[dict[str, str]]]:
    """One exchange each, 100 to 500 tokens long of this tokenizer's, half of them below 200."""
    random = np.random.default_rng(0)

    def said(mean: float) -> str:
        words = int(np.clip(random.lognormal(mean, 0.6), 2, 45))
        return " ".join(random.choice(WORDS, words))

    return [
        [{"role": "user", "content": said(2.2)}, {"role": "assistant", "content": said(2.6)}]
        for _ in range(count)
    ]


@dataclass(frozen=True)
class Entrant:
    """How one side trains. bf16: autocast; packed: TRL only."""

    ours: bool
    packed: bool
    bf16: bool


class Runner:
    """An entrant in a process of its own, which trains when it is asked to.

    trained: (folder, entrant) -> what each step counted, such as supervised tokens.
    """

    def __init__(self, entrant: Any, trained: Callable[[Path, Any], Iterator[int]]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, entrant, trained), daemon=True)
        self.process.start()
        theirs.close()

    def steps(self, count: int) -> float:
        """What is counted, a second, over that many steps."""
        self.pipe.send(count)
        counted, seconds, self.peak = self.pipe.recv()
        return counted / seconds

    def end(self) -> None:
        self.process.terminate()
        self.process.join()


def _work(asked: Connection, entrant: Any, trained: Callable[[Path, Any], Iterator[int]]) -> None:
    on_the_cpu(THREADS)
    with tempfile.TemporaryDirectory() as folder:
        steps = trained(Path(folder), entrant)
        while True:
            count = asked.recv()
            began = time.perf_counter()
            counted = sum(next(steps) for _ in range(count))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            asked.send((counted, time.perf_counter() - began, peak))


def _trained(folder: Path, entrant: Entrant) -> Iterator[int]:
    return (_ours if entrant.ours else _trl)(folder, entrant)


def _settings(bf16: bool) -> Pretrain:
    return training(
        sequence_length=LENGTH,
        train_batch_size=ROWS,
        per_device_train_batch_size=ROWS,
        bf16=bf16,
        learning_rate=1e-4,
    )


def _model(attention: str = "sdpa") -> torch.nn.Module:
    return new_model(small_llama(), len(tokenizer_of(TEMPLATE)), LENGTH, attention)


def shard_of(folder: Path, count: int) -> Any:
    """Our preparation: conversations laid out, encoded and written."""
    from pipeline.data.chat import ChatEncoder
    from pipeline.data.shards import Shard, ShardWriter

    tokenizer = tokenizer_of(TEMPLATE)
    encoder = ChatEncoder(tokenizer)
    with ShardWriter(folder, "conversations", len(tokenizer), tokenizer_sha256="") as writer:
        layouts = [layout for messages in conversations(count) for layout in encoder.lay_out(messages)]
        writer.add(*encoder.encode(layouts)[:4])
    return Shard.open(folder, "conversations")


def _ours(folder: Path, entrant: Entrant) -> Iterator[int]:
    """The supervised tokens of each step."""
    from pipeline.data.packing import PackedConversations
    from pipeline.lm.attention import SHORT_ROWS
    from pipeline.lm.tuning.lora import add_adapters
    from pipeline.train.loop import steps
    from tests.benchmarks.workload import our_trainer

    split = PackedConversations(shard_of(folder, CONVERSATIONS), LENGTH, 0, on_long="truncate")
    # What `auto` stands for on a CPU in a run of some length.
    longest, short = SHORT_ROWS[entrant.bf16]
    attention = short if LENGTH <= longest else "flash"
    settings = _settings(entrant.bf16).model_copy(update={"torch_compile": True})
    trainer = our_trainer(settings, lambda: add_adapters(_model(attention), LORA), split)
    for info in steps(trainer):
        yield int(info.sums["model/loss"].count)


def _dataset(count: int) -> Any:
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    return Dataset.from_list([{"messages": messages} for messages in conversations(count)])


def _sft(folder: Path, count: int, packed: bool, bf16: bool, callbacks: list) -> Any:
    """TRL's trainer; making it prepares its data."""
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    given = SFTConfig(
        output_dir=str(folder),
        max_steps=1_000_000,
        per_device_train_batch_size=ROWS,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        max_length=LENGTH,
        packing=packed,
        assistant_only_loss=True,
        gradient_checkpointing=False,
        bf16=bf16,
        use_cpu=True,
        dataloader_pin_memory=False,
        save_strategy="no",
        logging_steps=1_000_000,
        report_to="none",
        disable_tqdm=True,
    )
    adapters = LoraConfig(
        task_type="CAUSAL_LM", r=LORA.r, lora_alpha=LORA.lora_alpha, target_modules="all-linear"
    )
    tokenizer = tokenizer_of(TEMPLATE, training=True)
    tokenizer.pad_token = tokenizer.eos_token
    return SFTTrainer(
        model=_model(),
        args=given,
        train_dataset=_dataset(count),
        processing_class=tokenizer,
        peft_config=adapters,
        callbacks=callbacks,
    )


def _trl(folder: Path, entrant: Entrant) -> Iterator[int]:
    """The supervised tokens of each of TRL's steps."""
    return step_by_step(
        lambda callbacks: _sft(folder, CONVERSATIONS, entrant.packed, entrant.bf16, callbacks),
        lambda inputs: int((inputs["labels"][..., 1:] != -100).sum()),
    )


def step_by_step(make: Callable[[list], Any], count: Callable[[Any], int]) -> Iterator[int]:
    """What `count` finds in the inputs of each step of a trainer, which runs in a thread that waits to be asked.

    make: makes the trainer, given its callbacks.
    """
    import queue
    import threading

    from transformers import TrainerCallback

    asked, done = queue.Queue(), queue.Queue()

    class StepByStep(TrainerCallback):
        counted = 0

        def on_step_begin(self, args, state, control, **_) -> None:
            if state.global_step:
                done.put(self.counted)
            asked.get()
            self.counted = 0

    steps = StepByStep()
    trainer = make([steps])
    compute = trainer.compute_loss

    def counting(model, inputs, *arguments, **options):
        steps.counted += count(inputs)
        return compute(model, inputs, *arguments, **options)

    trainer.compute_loss = counting
    torch.set_num_threads(THREADS)
    threading.Thread(target=_in_thread, args=(trainer, done), daemon=True).start()
    while True:
        asked.put("step")
        found = done.get()
        if isinstance(found, Exception):
            raise found
        yield found


def _in_thread(trainer: Any, done: Any) -> None:
    torch.set_num_threads(THREADS)  # what a new thread computes with is its own
    try:
        trainer.train()
    except Exception as error:
        done.put(error)


def compare(
    entrants: dict[str, Any],
    steps: int,
    repeats: int,
    trained: Callable[[Path, Any], Iterator[int]] = _trained,
    unit: str = "supervised_tokens",
) -> dict[str, Any]:
    """The entrants in turns; ratios of ours over each other one, and everyone's memory."""
    runners = {name: Runner(entrant, trained) for name, entrant in entrants.items()}
    try:
        for runner in runners.values():
            runner.steps(WARMUP)
        turns: dict[str, Callable[[], float]] = {
            name: partial(one.steps, steps) for name, one in runners.items()
        }
        figures = interleaved(turns, repeats)
        return {
            "ratios": {f"ours / {name}": ratio(figures, "ours", name) for name in figures if name != "ours"},
            f"{unit}_per_second": {name: spread(rates) for name, rates in figures.items()},
            "peak_memory_bytes": {name: runner.peak for name, runner in runners.items()},
        }
    finally:
        for runner in runners.values():
            runner.end()


def preparation(count: int) -> dict[str, float]:
    """Conversations a second from messages to ids and targets: ours, and TRL's on one process."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        shard_of(Path(folder), count)
        ours = count / (time.perf_counter() - began)
        began = time.perf_counter()
        _sft(Path(folder), count, False, False, [])
        theirs = count / (time.perf_counter() - began)
    return {"ours": round(ours), "trl": round(theirs), "ratio": round(ours / theirs, 2)}


def main() -> None:
    on_the_cpu(THREADS)
    figures = {}
    for name, bf16 in (("bf16", True), ("fp32", False)):
        entrants = {
            "ours": Entrant(True, True, bf16),
            "trl_unpacked": Entrant(False, False, bf16),
            "trl_packed": Entrant(False, True, bf16),
        }
        figures[name] = compare(entrants, STEPS, REPEATS)
    print_line(
        "finetune",
        **figures,
        preparation=preparation(PREPARED),
        unit="supervised tokens a second; conversations a second",
        protocol=f"LoRA of rank {LORA.r} on the small Llama, {ROWS} rows of at most {LENGTH} tokens a step, {STEPS} "
        f"steps a sample, {REPEATS} turns, a process each",
    )


if __name__ == "__main__":
    main()
