"""Write and read a tokenizer as the directory that transformers' AutoTokenizer loads."""

import json
from pathlib import Path

from tokenizers import Tokenizer

from tokenizer.special import BOS, CHAT_TEMPLATE, EOS, PAD, SPECIAL_TOKENS


def save(tokenizer: Tokenizer, directory: Path, model_max_length: int | None) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and `chat_template.jinja`; `directory` is made if missing.

    AutoTokenizer gives the ids of `tokenizer` itself: it adds no bos or eos and its decoding is exact.

    Args:
        model_max_length: tokens of the model's context; none: left open.

    Raises:
        ValueError: `tokenizer` lacks one of our control tokens, or has it under another id.
    """
    _require_control_tokens(tokenizer)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = json.dumps(_transformers_config(model_max_length), indent=2, ensure_ascii=False)
    (directory / "tokenizer_config.json").write_text(config + "\n", encoding="utf-8")
    (directory / "chat_template.jinja").write_text(CHAT_TEMPLATE, encoding="utf-8")


def load(directory: Path) -> Tokenizer:
    """The tokenizer of a directory that holds `tokenizer.json`, written by `save` or by transformers.

    Raises:
        ValueError: there is no `tokenizer.json`, or it does not parse.
    """
    path = Path(directory) / "tokenizer.json"
    if not path.is_file():
        raise ValueError(f"no tokenizer at {path}\nexpected: a directory with tokenizer.json")
    text = path.read_text(encoding="utf-8")
    try:
        return Tokenizer.from_str(text)
    except Exception as error:  # tokenizers raises bare Exception for every malformed file
        raise ValueError(f"{path} is not a tokenizer: {' '.join(str(error).split())[:200]}") from None


def _require_control_tokens(tokenizer: Tokenizer) -> None:
    for wanted, token in enumerate(SPECIAL_TOKENS):
        found = tokenizer.token_to_id(token)
        if found != wanted:
            raise ValueError(
                f"control token {token} has id {found}, expected {wanted}\nexpected: a tokenizer by train()"
            )


def _transformers_config(model_max_length: int | None) -> dict:
    """`PreTrainedTokenizerFast` is the name that transformers 4 and 5 both take as "just tokenizer.json"."""
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BOS,
        "eos_token": EOS,
        "pad_token": PAD,
        "additional_special_tokens": list(SPECIAL_TOKENS[3:]),
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    return config if model_max_length is None else config | {"model_max_length": model_max_length}
