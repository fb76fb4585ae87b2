"""lm-eval's own harness on questions of ours: the task it reads, and the text it is kept from adding to."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.scores.choices import Question

if TYPE_CHECKING:
    from lm_eval.models.huggingface import HFLM
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

TASK = "held_out_answers"
METRICS = ("acc", "acc_norm")


def ask(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    asked: list[Question],
    batch_size: int,
    most_tokens: int,
    bf16: bool,
) -> dict[str, Any]:
    """Put the questions to the model through lm-eval, offline.

    Returns:
        `acc`: share of questions whose right choice has the highest likelihood; `acc_norm`: the highest a character;
        `acc_stderr`, `acc_norm_stderr`, None of a single question; `correct`: for each metric 1.0 or 0.0 a question.
    """
    from lm_eval.evaluator import evaluate
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as work:
        write_task(Path(work), asked)
        task = TaskManager(include_path=work, include_defaults=False).load([TASK])
        results = evaluate(harness(model, tokenizer, batch_size, most_tokens, bf16), task)
    return figures_of(results)


def harness(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    batch_size: int,
    most_tokens: int,
    bf16: bool,
    add_bos: bool = False,
) -> HFLM:
    """lm-eval's wrapper of a transformers model. It may give the tokenizer a padding token.

    add_bos: before every text; not before one that holds its chat template's.
    """
    from lm_eval.models.huggingface import HFLM

    model.config.use_cache = False  # the harness asks for logits alone, and a cache costs time
    return HFLM(
        pretrained=model,
        tokenizer=tokenizer,
        backend="causal",
        batch_size=batch_size,
        max_length=most_tokens,
        add_bos_token=add_bos,
        mixed_precision_dtype="bfloat16" if bf16 else None,
        softmax_dtype="float32",
    )


def write_task(directory: Path, asked: list[Question]) -> None:
    """The task as lm-eval reads it: questions.jsonl and a YAML file that names it."""
    data = directory / "questions.jsonl"
    data.write_text("".join(json.dumps(question._asdict()) + "\n" for question in asked), encoding="utf-8")
    # JSON is YAML.
    (directory / f"{TASK}.yaml").write_text(json.dumps(_task(data)), encoding="utf-8")


def _task(data: Path) -> dict[str, Any]:
    return {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}, "cache_dir": str(data.parent / "cache")},
        "output_type": "multiple_choice",
        "test_split": "test",
        # Fields named alone are taken from the question as they are, with no template in between.
        "doc_to_text": "prompt",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "target_delimiter": "",
        "num_fewshot": 0,
        "metric_list": [
            {"metric": name, "aggregation": "mean", "higher_is_better": True} for name in METRICS
        ],
        "metadata": {"version": 1},
    }


def figures_of(results: dict[str, Any]) -> dict[str, Any]:
    """The task's figures in what lm-eval returns."""
    figures, samples = results["results"][TASK], results["samples"][TASK]
    found: dict[str, Any] = {"correct": {name: [sample[name] for sample in samples] for name in METRICS}}
    for name in METRICS:
        error = figures[f"{name}_stderr,none"]
        found |= {name: figures[f"{name},none"], f"{name}_stderr": None if error == "N/A" else error}
    return found
