"""Stage `reinforce`: learning from checkable rewards, of every weight or of adapters that are then merged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.lm.config import LanguageModelConfig
from pipeline.lm.tuning.rewards import Reward
from pipeline.lm.tuning.weights import before, built, check_tuning, finished, model_before, size_before
from pipeline.run import artifact
from pipeline.run.errors import UserError
from pipeline.run.launch import check_launch
from pipeline.run.stage import Context

if TYPE_CHECKING:
    from pathlib import Path

    from pipeline.lm.tuning.reinforcement import PromptRows
    from pipeline.run.memory import Size

ZERO_STAGES = (1, 2)


def check(config: LanguageModelConfig) -> None:
    """Refuse what cannot be trained: batches, launcher, a reward that is not there. No weight is made.

    Raises:
        UserError: naming the key and the way out.
    """
    assert config.reinforce is not None, "the stage exists only where its section does"
    check_launch(config.run, config.reinforce, ZERO_STAGES, config.reinforce)
    check_tuning(config, config.reinforce)
    Reward(config.reinforce.reward)
    if config.run.save_steps % config.reinforce.num_iterations:
        raise UserError(
            f"run.save_steps is {config.run.save_steps}, no multiple of reinforce.num_iterations: "
            "a checkpoint between two updates on the same answers could not be resumed\n"
            f"way out: run.save_steps a multiple of {config.reinforce.num_iterations}"
        )


def estimate(config: LanguageModelConfig) -> Size | None:
    """What this stage holds and does; None while pretrained weights are not here yet."""
    return size_before(config, config.reinforce)


def run(context: Context) -> dict[str, Any]:
    """Train, then write `model/` (merged, fp32) and, with adapters, `adapter/`.

    Raises:
        UserError: no prompt leaves room for an answer; the reward fails, or has changed what the stage is made from.
    """
    from pipeline.lm.model import load_tokenizer
    from pipeline.lm.tuning.reinforcement import RewardedModel
    from pipeline.train.engine import start_runtime, stop_runtime
    from pipeline.train.fit import fit

    config, training = context.config, context.config.reinforce
    runtime = start_runtime(config.run.threads, timeout=config.run.timeout)
    base = model_before(context.inputs)
    train, held = rows(context, base, "train", training.seed), rows(context, base, "held_out", None)
    training = training.over(train.length * training.num_iterations)
    recipe = RewardedModel(
        training=training,
        build=lambda: built(context, base, training, "sdpa"),
        train=train,
        held=held,
        sequence_length=training.num_generations * training.max_completion_length,
        packed=False,
        tokenizer=load_tokenizer(base),
        reward=Reward(training.reward),
        reference=(lambda: before(base, training)) if training.beta else None,
    )
    trainer = fit(recipe, context, runtime)
    metrics = finished(trainer, context, base, training, held.shard)
    if runtime.is_main:  # behind all that processes do together
        _check_untouched(context)
    stop_runtime()
    return metrics


def rows(context: Context, base: Path, split: str, seed: int | None) -> PromptRows:
    """The prompts of a split that leave room for an answer.

    Raises:
        UserError: none does; they were made with another tokenizer than the model's.
    """
    from pipeline.data.shards import Shard, tokenizer_digest
    from pipeline.lm.tuning.reinforcement import PromptRows
    from pipeline.scores.bits import read_lines

    training, held = context.config.reinforce, context.inputs["tokenize"]
    shard = Shard.open(held, f"prompts.{split}", tokenizer_digest(base))
    room = training.sequence_length - training.max_completion_length
    found = PromptRows(shard, read_lines(held / f"prompts.{split}.jsonl"), room, seed)
    if not found.length:
        raise UserError(
            f"none of the {shard.documents} prompts of {shard.name} fits: the shortest has {shard.lengths.min()} "
            "tokens\n"
            f"way out: reinforce.sequence_length={shard.lengths.max() + training.max_completion_length}"
        )
    if shard.documents > found.length:
        left = shard.documents - found.length
        context.terminal.write(
            f"reinforce: {left} prompts of {split} are longer than {room} tokens: left out\n"
        )
    return found


def _check_untouched(context: Context) -> None:
    """Refuse a model whose reward function wrote to what it was made from."""
    for name, directory in context.inputs.items():
        made = artifact.read(directory)
        if made is None or artifact.damage(made):
            raise UserError(
                f"{directory} has changed while the stage ran: did the reward write there?\n"
                f"way out: a reward that writes elsewhere, and `headwater run RECIPE --replace {name}`"
            )


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("reinforce")
