"""The stage that completes fixed prompts, greedily and by sampling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.lm.config import Generate, LanguageModelConfig
from pipeline.lm.decoding import sample
from pipeline.lm.prompts import chat_prompt, document_prompt, stop_ids
from pipeline.run.errors import UserError
from pipeline.run.files import write_json
from pipeline.run.stage import Context
from pipeline.run.terminal import bar
from pipeline.scores.score import REINFORCED

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


DOCUMENTS = ("base", REINFORCED)  # kinds of samples that go on with a text; the others answer


def check(config: LanguageModelConfig) -> None:
    """Refuse chat prompts where nothing is fine-tuned to answer them.

    Raises:
        UserError: naming the key.
    """
    if config.generate.chat_prompts and not config.talks:
        raise UserError(
            "generate.chat_prompts need a tuned model, and this recipe tunes none on turns\n"
            "way out: leave chat_prompts out, or add the sections chat and finetune"
        )


def run(context: Context) -> dict[str, Any]:
    """Write samples.json: {kind, prompt, decoding, seed, text, stopped, tokens} for each prompt and way of decoding.

    stopped: it ended itself; tokens: how many were generated, the stop token included.

    Raises:
        UserError: a prompt is as long as the model's positions, or the chat template cannot place an answer.
    """
    settings = context.config.generate
    base = context.inputs["pretrain" if "pretrain" in context.inputs else "base"]
    samples = _samples(context, "base", base, settings.prompts)
    tuned = next(
        (context.inputs[name] for name in ("reinforce", "prefer", "finetune") if name in context.inputs), None
    )
    if tuned:
        samples += _samples(context, "chat", tuned, settings.chat_prompts)
    if "reinforce" in context.inputs and context.config.plain_prompts:
        samples += _samples(context, REINFORCED, context.inputs["reinforce"], settings.prompts)
    write_json(context.out / "samples.json", samples)
    return {
        "samples": len(samples),
        "stopped": sum(entry["stopped"] for entry in samples),
        "tokens": sum(entry["tokens"] for entry in samples),
    }


def _samples(context: Context, kind: str, made: Path, prompts: Sequence[str]) -> list[dict[str, Any]]:
    """Prompts one by one: sample i owes nothing to the others, rounding included."""
    import torch

    from pipeline.lm.model import load_model, load_tokenizer

    if not prompts:
        return []
    tokenizer = load_tokenizer(made / "model")
    prompts_ids = [_prompt_ids(tokenizer, kind, prompt) for prompt in prompts]
    model = load_model(made / "model").to("cuda" if torch.cuda.is_available() else "cpu")
    return [
        {"kind": kind, "prompt": prompts[index], **entry}
        for index, ids in enumerate(bar(prompts_ids, kind, context.terminal))
        for entry in _both_ways(model, tokenizer, ids, context.config.generate, kind, index)
    ]


def _prompt_ids(tokenizer: PreTrainedTokenizerFast, kind: str, prompt: str) -> list[int]:
    from pipeline.data.chat import ChatEncoder

    if kind in DOCUMENTS:
        return document_prompt(tokenizer, prompt)
    return chat_prompt(ChatEncoder(tokenizer), [{"role": "user", "content": prompt}])


def _both_ways(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    ids: list[int],
    settings: Generate,
    kind: str,
    index: int,
) -> Iterator[dict[str, Any]]:
    from pipeline.train.seeds import derived_seed

    seed = derived_seed(settings.seed, f"generate/{kind}", index)
    for decoding, temperature in (("greedy", None), ("sampled", settings.temperature)):
        new = sample(model, tokenizer, ids, settings.max_new_tokens, temperature, settings.top_p, seed)
        yield {
            "decoding": decoding,
            "seed": seed,
            "text": tokenizer.decode(new, skip_special_tokens=True, clean_up_tokenization_spaces=False),
            "stopped": new[-1] in stop_ids(model, tokenizer),
            "tokens": len(new),
        }


if __name__ == "__main__":
    from pipeline.run.stage import main

    main("generate")
