"""Where a text begins and where it ends: prompts as training has them, and the tokens that stop a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

    from pipeline.data.chat import ChatEncoder, Messages


def document_prompt(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """The ids of a document that begins with `text`, as training has them: its opening token, then plain text."""
    from pipeline.data.chat import separators
    from tokenizer.encode import encode

    ids, _ = encode(tokenizer.backend_tokenizer, [text])
    return [separators(tokenizer)[0], *ids.tolist()]


def chat_prompt(encoder: ChatEncoder, messages: Messages, tools: tuple[dict[str, Any], ...] = ()) -> list[int]:
    """The ids that generation is prompted with; control tokens typed in a message stay text, as in training.

    Raises:
        UserError: as ChatTemplate.prompt.
    """
    return encoder.prompt_ids(messages, tools)


def stop_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast | None) -> frozenset[int]:
    """Tokens that end a text: the model's and the tokenizer's end of sequence, and the template's end of turn."""
    return stop_ids_from(model.generation_config, tokenizer)


def stop_ids_from(
    generation_config: GenerationConfig, tokenizer: PreTrainedTokenizerFast | None
) -> frozenset[int]:
    """`stop_ids` without the weights."""
    own = generation_config.eos_token_id
    found = {*own} if isinstance(own, list) else {own}
    if tokenizer is not None:
        found |= {tokenizer.eos_token_id, end_of_turn(tokenizer)}
    return frozenset(found - {None})


def end_of_turn(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """The control token that the chat template writes behind an answer; None without a template or such a token."""
    if tokenizer.chat_template is None:
        return None
    from pipeline.data.answers import ChatTemplate

    return ChatTemplate(tokenizer).stop_token
