"""The language-model family: which stages a recipe has, what decides each one's output, and what it is made from."""

from functools import partial
from pathlib import Path
from typing import Any

from pipeline.data.config import Chat, Corpus, Preferences, Prompts
from pipeline.lm import machine
from pipeline.lm.config import LanguageModelConfig
from pipeline.run.config import Section, identity
from pipeline.run.stage import Stage

CONFIG = LanguageModelConfig
fitted = machine.fitted
HEADLINE = (
    "pairs ranked right",
    "reward",
    "preference accuracy",
    "chosen answer loss",
    "verdict AUC",
    "functions that pass",
    "lines filled in",
    "bits per byte",
    "tool calls right",
    "conversation loss",
    "parsed functions",
    "multiple choice acc_norm",
)


def explained(config: LanguageModelConfig, text: str, out: Path) -> str:
    """What `headwater explain` does and says."""
    from recipes.llm.explain import write_explained

    return write_explained(config, text, out)


def stages(config: LanguageModelConfig) -> tuple[Stage, ...]:
    """Every stage that this config asks for, in an order in which inputs come first."""
    scratch = config.model.architecture is not None
    origin = "tokenizer" if scratch else "base"
    base = "pretrain" if config.pretrain else "base"
    tuned = "finetune" if config.finetune else base
    corpus, texts = (
        partial(_tokenizer, config),
        partial(_texts, config.corpus, config.chat, config.preferences, config.prompts),
    )
    weights = partial(_weights, config)
    found = [
        Stage("tokenizer", "pipeline.train_tokenizer", _of(config, "corpus", "tokenizer"), reads=corpus)
        if scratch
        else Stage("base", "pipeline.base", _base(config), reads=weights),
        Stage(
            "tokenize",
            "pipeline.tokenize",
            _of(config, "corpus", "chat", "preferences", "prompts"),
            (origin,),
            reads=texts,
        ),
    ]
    if config.pretrain:
        found.append(
            Stage(
                "pretrain",
                "pipeline.pretrain",
                _of(config, "model", "pretrain"),
                (origin, "tokenize"),
                True,
                reads=partial(_teacher, config, "pretrain"),
            )
        )
    if config.finetune:
        found.append(
            Stage(
                "finetune",
                "pipeline.finetune",
                _of(config, "finetune"),
                (base, "tokenize"),
                True,
                reads=partial(_teacher, config, "finetune"),
            )
        )
    found += _later_tunings(config, tuned)
    more = tuple(name for name in ("prefer", "reinforce", "reward_model") if name in config.trainings)
    models = tuple(dict.fromkeys((base, tuned, *more)))
    before = ("base",) if config.pretrain and not scratch else ()
    asked = partial(_asked, config)
    scored = (*before, *models, "tokenize")
    found.append(Stage("evaluate", "pipeline.evaluate", _of(config, "evaluate"), scored, reads=asked))
    shown = ("evaluate",)
    if not config.reward_model:  # which writes no text
        found.append(Stage("generate", "pipeline.generate", _of(config, "generate"), models))
        shown = (*shown, "generate")
    if config.export:
        judged = ("tokenize",) if config.reward_model else ()
        found.append(Stage("export", "pipeline.export", _of(config, "export"), (*models, *judged, *shown)))
    found.append(Stage("report", "pipeline.report", {}, tuple(stage.name for stage in found), view=True))
    return tuple(found)


def _later_tunings(config: LanguageModelConfig, tuned: str) -> list[Stage]:
    """The stages after supervised fine-tuning; tuned: the one whose model the first of them begins with."""
    found = []
    if config.prefer:
        reference = ("reference",) if config.prefer.referenced else ()
        if reference:
            scored_in = {name: identity(config.prefer)[name] for name in ("bf16", "sequence_length")}
            found.append(Stage("reference", "pipeline.reference", scored_in, (tuned, "tokenize")))
        inputs = (tuned, *reference, "tokenize")
        found.append(Stage("prefer", "pipeline.prefer", _of(config, "prefer"), inputs, True))
    if config.reward_model:
        made = _of(config, "reward_model")
        found.append(Stage("reward_model", "pipeline.reward_model", made, (tuned, "tokenize"), True))
    last = "prefer" if config.prefer else tuned
    if config.reinforce:
        inputs, reward = (last, "tokenize"), partial(_reward, config)
        made = _of(config, "reinforce")
        found.append(Stage("reinforce", "pipeline.reinforce", made, inputs, True, reads=reward))
    return found


def _of(config: LanguageModelConfig, *names: str) -> dict[str, Any]:
    """The identity of the named sections that this config has."""
    sections: dict[str, Section | None] = {name: getattr(config, name) for name in names}
    return {name: identity(section) for name, section in sections.items() if section is not None}


def _texts(*sources: Corpus | Chat | Preferences | Prompts | None) -> dict[str, Path]:
    """The files that the sections of data name, by section and name."""
    from pipeline.data.sources import outside_files

    return {
        f"{type(source).__name__.lower()}: {name}": file
        for source in sources
        if source
        for name, file in outside_files(source).items()
    }


def _asked(config: LanguageModelConfig) -> dict[str, Path]:
    """Other texts that models are measured on, and the files of tasks with the data that they name."""
    found = _texts(config.evaluate.general)
    if config.evaluate.tasks:
        from pipeline.scores.tasks import files_of

        found |= {f"task: {file}": file for file in files_of(config.evaluate.tasks)}
    return found


def _tokenizer(config: LanguageModelConfig) -> dict[str, Path]:
    """What the tokenizer is trained on or measured with, and the files of one that is brought."""
    from pipeline.lm.brought import outside_files

    brought = {f"tokenizer: {name}": file for name, file in outside_files(config.tokenizer).items()}
    return _texts(config.corpus) | brought


def _base(config: LanguageModelConfig) -> dict[str, Any]:
    """What decides the pretrained model as training finds it: the corpus too, where it is asked for new tokens."""
    counted = isinstance(config.model.add_tokens, int)
    return _of(config, "model", "corpus") if counted else _of(config, "model")


def _teacher(config: LanguageModelConfig, stage: str) -> dict[str, Path]:
    """The files of a local teacher."""
    section = getattr(config, stage)
    if section.teacher is None:
        return {}
    from pipeline.lm.tuning.distillation import teacher_files

    return teacher_files(section)


def _reward(config: LanguageModelConfig) -> dict[str, Path]:
    """The file of the reward function."""
    from pipeline.lm.tuning.rewards import file_of

    file = file_of(config.reinforce.reward)
    return {f"reward: {file.name}": file}


def _weights(config: LanguageModelConfig) -> dict[str, Path]:
    from pipeline.base import outside_files

    counted = isinstance(config.model.add_tokens, int)
    return outside_files(config) | (_texts(config.corpus) if counted else {})
