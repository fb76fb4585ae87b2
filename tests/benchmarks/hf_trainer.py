"""transformers' Trainer as a contestant: it trains on our rows in a process of its own, a step when asked.

Its own process, because accelerate keeps one precision for all Trainers of a process.
"""

import multiprocessing
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from pipeline.lm.config import Lora, Model, Pretrain
from tests.benchmarks.workload import Rows, new_model


@dataclass(frozen=True)
class Job:
    """What one Trainer trains. levers: TrainingArguments beside the shared settings."""

    model: Model
    rows: Rows
    settings: Pretrain
    levers: dict[str, Any]
    threads: int
    logged: int  # steps whose loss is logged
    lora: Lora | None = None  # adapters; none: every weight
    on_cpu: bool = True


class LabelledRows(Dataset):
    """Our rows as a causal model of transformers takes them: it moves the labels on by one itself."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return self.rows.length

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        tokens = torch.from_numpy(self.rows.item(index)["input_ids"])
        return {"input_ids": tokens, "labels": tokens}


def contestant(job: Job) -> Iterator[float]:
    """Losses of the first `job.logged` steps, nan after them: reading one would slow the Trainer down.

    Raises:
        EOFError: the Trainer's process died; its traceback is on stderr.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_train, args=(theirs, job), daemon=True)
    process.start()
    theirs.close()  # the child's copy alone keeps the pipe open, so that its death is seen
    try:
        while True:
            ours.send("step")
            yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _train(asked: Connection, job: Job) -> None:
    from transformers import PrinterCallback, Trainer, TrainerCallback

    from pipeline.lm.tuning.lora import add_adapters

    class StepByStep(TrainerCallback):
        """Hold the Trainer before each step until it is asked for, and answer with the loss when it is done."""

        loss = float("nan")

        def on_step_begin(self, args, state, control, **_) -> None:
            if state.global_step:
                asked.send(self.loss)
            asked.recv()

        def on_step_end(self, args, state, control, **_) -> None:
            self.loss = float("nan")
            control.should_log = state.global_step <= job.logged

        def on_log(self, args, state, control, logs=None, **_) -> None:
            self.loss = logs["loss"]

    torch.set_num_threads(job.threads)
    model = new_model(job.model, job.rows.vocabulary, job.rows.sequence_length)
    if job.lora:
        model = add_adapters(model, job.lora)
    with tempfile.TemporaryDirectory() as directory:
        given, data = _arguments(job, directory), LabelledRows(job.rows)
        trainer = Trainer(model=model, args=given, train_dataset=data, callbacks=[StepByStep()])
        trainer.remove_callback(PrinterCallback)  # it prints each log to stdout
        trainer.train()


def _arguments(job: Job, directory: str) -> Any:
    """Our settings by the Trainer's names; nothing is saved, evaluated or reported."""
    from transformers import TrainingArguments

    settings = job.settings
    return TrainingArguments(
        output_dir=directory,
        max_steps=settings.max_steps,
        per_device_train_batch_size=settings.per_device_train_batch_size,
        gradient_accumulation_steps=settings.train_batch_size // settings.per_device_train_batch_size,
        learning_rate=settings.learning_rate,
        lr_scheduler_type="constant",
        adam_beta1=settings.adam_beta1,
        adam_beta2=settings.adam_beta2,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        train_sampling_strategy="sequential",
        use_cpu=job.on_cpu,
        dataloader_pin_memory=False,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **job.levers,
    )
