"""Stage `evaluate`: what the models of a run, before and after each training, do on held-out data: evaluation.json.

Which scores there are and what each one's protocol is: pipeline/scores/, a module each.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.data import sources
from pipeline.data.chat import ChatEncoder
from pipeline.data.config import Corpus
from pipeline.data.infilling import marks_of
from pipeline.data.shards import Shard, tokenizer_digest
from pipeline.lm.config import LanguageModelConfig
from pipeline.lm.model import load_model, load_scorer, load_tokenizer
from pipeline.lm.tuning.rewards import Reward
from pipeline.lm.vocabulary import as_it_came
from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.run.results import Score
from pipeline.run.stage import Context
from pipeline.scores.answers import MultipleChoice
from pipeline.scores.bits import DocumentBits, TextBits, read_lines
from pipeline.scores.calls import ToolCalls
from pipeline.scores.conversations import ConversationLoss
from pipeline.scores.infilling import FilledLines
from pipeline.scores.parsing import ParsedFunctions
from pipeline.scores.preferences import PreferenceScores
from pipeline.scores.programs import Programs
from pipeline.scores.ranking import RankedPairs
from pipeline.scores.rewards import HeldOutReward
from pipeline.scores.sandbox import check_sandbox
from pipeline.scores.score import (
    BASE,
    FINE_TUNED,
    PREFERRED,
    PRETRAINED,
    REINFORCED,
    REWARD_MODEL,
    Part,
    Settings,
)
from pipeline.scores.tasks import HarnessTasks, check_tasks

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

TRAINED = ("documents.train", "conversations.train")  # shards that models learn
LONGEST_WINDOW = 1024  # where nothing was pretrained and the recipe names no length


def check(config: LanguageModelConfig) -> None:
    """Refuse what cannot be measured here.

    Raises:
        UserError: the general corpus cannot be read; multiple-choice questions are asked for and lm-eval is not
            installed.
    """
    if config.evaluate.general:
        sources.check_corpus(config.evaluate.general)
    if config.evaluate.programs:
        check_sandbox()
    if config.evaluate.tasks:
        check_tasks(config.evaluate.tasks)
    asked = config.evaluate.multiple_choice
    if config.chat and asked and importlib.util.find_spec("lm_eval") is None:
        raise UserError(
            f"evaluate.multiple_choice: {asked} questions need lm-eval, which is not installed\n"
            "way out: pip install headwater[eval], or evaluate.multiple_choice=0"
        )


def run(context: Context) -> dict[str, Any]:
    """Measure every part on every model and write evaluation.json.

    Returns:
        each score's value by `NAME/MODEL`, such as `bits_per_byte/base`.

    Raises:
        UserError: the held-out tokens were made with another tokenizer than the models'.
    """
    models = model_directories(context.inputs)
    parts = list(parts_of(context, models[BASE]))
    measured = measure(parts, models, context)
    scores = [score for part in parts if measured[part.name] for score in part.scores(measured[part.name])]
    for part in parts:
        if part.missing:
            print(f"evaluate: {part.name}: {part.missing}", file=context.terminal)
    write_json(context.out / "evaluation.json", report(parts, measured, scores))
    return {score.key: score.value for score in scores}


def model_directories(inputs: dict[str, Path]) -> dict[str, Path]:
    """The models to measure, by the name that scores give them."""
    base = inputs["pretrain"] if "pretrain" in inputs else inputs["base"]
    before = {PRETRAINED: inputs["base"] / "model"} if {"pretrain", "base"} <= inputs.keys() else {}
    tuned = {FINE_TUNED: inputs["finetune"] / "model"} if "finetune" in inputs else {}
    later = {PREFERRED: "prefer", REINFORCED: "reinforce", REWARD_MODEL: "reward_model"}
    made = {name: inputs[stage] / "model" for name, stage in later.items() if stage in inputs}
    return before | {BASE: base / "model"} | tuned | made


def parts_of(context: Context, base: Path) -> Iterator[Part]:
    """What this recipe's held-out data allows to measure, ready to be measured."""
    config, asked = context.config, context.config.evaluate
    held = context.inputs["tokenize"]
    settings = settings_of(context, base)
    digest = tokenizer_digest(base)
    if config.corpus:
        rows = read_lines(held / "documents.held_out.jsonl")
        shard = Shard.open(held, "documents.held_out", digest)
        if config.model.pretrained and config.pretrain:
            yield TextBits("documents", "", rows, asked.max_documents, settings)
        else:
            label_of = partial(sources.label_of_source, config.corpus) if config.corpus.sources else None
            yield DocumentBits(shard, rows, asked.max_documents, settings, label_of)
        if asked.programs and is_python(config.corpus):
            yield Programs(rows, asked.programs, asked.program_samples, settings)
        if asked.lines and config.corpus.fim:
            yield FilledLines(rows, asked.lines, marks_of(config.corpus, load_tokenizer(base)), settings)
        if asked.functions and is_python(config.corpus):
            yield ParsedFunctions(rows, asked.functions, settings)
    if asked.general:
        rows = general_rows(asked.general, context)
        yield TextBits("general", ", general", rows, asked.max_documents, settings)
    if config.chat:
        rows = read_lines(held / "conversations.held_out.jsonl")
        shard = Shard.open(held, "conversations.held_out", digest)
        if asked.conversations:
            window = config.finetune.sequence_length if config.finetune else settings.window
            yield ConversationLoss(shard, rows, window, asked.conversations, config.corpus is None, settings)
        if asked.tool_calls and any(row.get("tools") for row in rows):
            encoder = ChatEncoder(load_tokenizer(base), config.chat.loss, config.chat.unwritten)
            yield ToolCalls(rows, encoder, asked.tool_calls, settings)
        if asked.multiple_choice:
            yield MultipleChoice(rows, load_tokenizer(base), asked.multiple_choice, settings)
    if asked.tasks:
        trained = [Shard.open(held, name, digest) for name in TRAINED if (held / f"{name}.json").is_file()]
        yield HarnessTasks(asked.tasks, asked.task_questions, asked.task_shots, trained, settings)
    if config.prefer and asked.preferences:
        rows = read_lines(held / "preferences.held_out.jsonl")
        shard = Shard.open(held, "preferences.held_out", digest)
        name = FINE_TUNED if "finetune" in context.inputs else BASE
        before = (name, model_directories(context.inputs)[name])
        window, counts = config.prefer.sequence_length, (asked.preferences, asked.preference_samples)
        yield PreferenceScores(shard, rows, before, window, *counts, settings)
    if config.reward_model and asked.preferences:
        rows = read_lines(held / "preferences.held_out.jsonl")
        shard = Shard.open(held, "preferences.held_out", digest)
        yield RankedPairs(shard, rows, config.reward_model.sequence_length, asked.preferences, settings)
    if config.reinforce and asked.rewards:
        training, rows = config.reinforce, read_lines(held / "prompts.held_out.jsonl")
        shard = Shard.open(held, "prompts.held_out", digest)
        before = list(model_directories(context.inputs))[-2]
        room, most = training.sequence_length - training.max_completion_length, training.max_completion_length
        judged = (shard, rows, Reward(training.reward), before)
        yield HeldOutReward(*judged, room, most, training.temperature, asked.rewards, settings)


def general_rows(corpus: Corpus, context: Context) -> list[dict[str, Any]]:
    """The held-out documents of a corpus that nothing is trained on; what its `on_bad_row` skips is said.

    Raises:
        UserError: as sources.documents.
    """
    skipped: list[sources.SkippedRow] = []
    rows = [
        {"key": document.key, "text": document.text}
        for document in sources.documents(corpus, skipped)
        if sources.goes_to_held_out(corpus, document.key)
    ]
    if skipped:
        first = skipped[0]
        print(f"evaluate: general: {len(skipped):,} rows skipped, the first: {first}", file=context.terminal)
    return rows


def is_python(corpus: Corpus) -> bool:
    """Whether the corpus says that its documents are Python files."""
    return all(
        part.source in ("stdlib", "packages") or (part.source == "text" and part.pattern.endswith(".py"))
        for part in corpus.parts
    )


def settings_of(context: Context, base: Path) -> Settings:
    asked = context.config.evaluate
    return Settings(
        seed=asked.seed,
        window=window_of(context.config, base),
        bf16=next(iter(context.config.trainings.values())).bf16,
        batch_size=asked.per_device_eval_batch_size,
        bootstrap_samples=asked.bootstrap_samples,
        progress=context.terminal,
    )


def window_of(config: LanguageModelConfig, base: Path) -> int:
    """Tokens a model is shown at most: what it was pretrained on, else its positions up to LONGEST_WINDOW."""
    from transformers import AutoConfig

    if config.pretrain:
        return config.pretrain.sequence_length
    return min(
        AutoConfig.from_pretrained(base, local_files_only=True).max_position_embeddings, LONGEST_WINDOW
    )


def measure(parts: list[Part], models: dict[str, Path], context: Context) -> dict[str, dict[str, Any]]:
    """Part -> model -> what the part measured; each model is loaded once. Seconds go to what was made."""
    measured: dict[str, dict[str, Any]] = {part.name: {} for part in parts}
    seconds = context.made.setdefault("seconds_by_part", {})
    for name, directory in models.items():
        if not any(part.units and name in part.models for part in parts):
            continue
        load = {PRETRAINED: as_it_came, REWARD_MODEL: loaded_scorer}.get(name, loaded)
        model, tokenizer = load(directory)
        model = on_device(model)
        for part in parts:
            if part.units and name in part.models:
                started = time.perf_counter()
                measured[part.name][name] = part.measure(model, tokenizer)
                seconds[f"{part.name}/{name}"] = round(time.perf_counter() - started, 3)
    return measured


def loaded(directory: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    return load_model(directory), load_tokenizer(directory)


def loaded_scorer(directory: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    return load_scorer(directory), load_tokenizer(directory)


def on_device(model: PreTrainedModel) -> PreTrainedModel:
    """The model on the GPU where there is one."""
    import torch

    return model.to("cuda" if torch.cuda.is_available() else "cpu")


def report(parts: list[Part], measured: dict[str, dict[str, Any]], scores: list[Score]) -> dict[str, Any]:
    """What evaluation.json holds."""
    return {
        "scores": [score.as_json() for score in scores],
        "missing": {part.name: part.missing for part in parts if part.missing},
        "detail": {part.name: part.detail() | {"measured": measured[part.name]} for part in parts},
    }


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("evaluate")
