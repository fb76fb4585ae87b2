"""Where a text begins and where it ends: prompts as training has them, and the tokens that stop a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

    from pipeline.data.chat import ChatEncoder, Messages


def document_prompt(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """The ids of a document that begins with `text`, as training has them: its opening token, then plain text."""
    from pipeline.data.kinds import separators
    from tokenizer.encode import encode

    ids, _ = encode(tokenizer.backend_tokenizer, [text])
    return [separators(tokenizer)[0], *ids.tolist()]


def chat_prompt(encoder: ChatEncoder, messages: Messages) -> list[int]:
    """The ids up to the place where training's conversations have their next answer.

    Encoded with an answer in that place, which is then cut off: so control tokens typed in a message stay text here
    as they do there.

    Raises:
        UserError: as ChatEncoder.lay_out.
    """
    encoded = encoder.encode([encoder.lay_out([*messages, {"role": "assistant", "content": "x"}])])
    end = len(encoded.targets) - int(encoded.targets[::-1].argmax())
    begin = end - int((encoded.targets[:end][::-1] == 0).argmax())
    return encoded.ids[:begin].tolist()


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
    answer = "\ue000"  # private use: no template and no tokenizer knows it
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": answer}]
    _, _, tail = tokenizer.apply_chat_template(messages, tokenize=False).partition(answer)
    special = [
        i for i in tokenizer(tail, add_special_tokens=False)["input_ids"] if i in tokenizer.all_special_ids
    ]
    return special[0] if special else None
