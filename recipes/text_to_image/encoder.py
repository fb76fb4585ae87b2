"""The text encoder: T5's at a recipe's sizes, or a frozen one that transformers loads.

Shapes: B captions, L tokens, D numbers of a state.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.run.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from recipes.text_to_image.config import Text


def build_encoder(text: "Text", vocabulary: int) -> "nn.Module":
    """T5's encoder (arXiv:1910.10683) with fresh weights."""
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=vocabulary,
        d_model=text.hidden_size,
        d_kv=text.hidden_size // text.num_attention_heads,
        d_ff=4 * text.hidden_size,
        num_layers=text.num_hidden_layers,
        num_heads=text.num_attention_heads,
        dropout_rate=0.0,
        pad_token_id=1,
        eos_token_id=0,
    )
    return T5EncoderModel(config)


def load_weights(module: "nn.Module", file: Path) -> None:
    """Load what was trained; T5's table of tokens has two names, of which a file holds one."""
    from safetensors.torch import load_file

    weights = load_file(file)
    tables = [name for name in weights if name.endswith("shared.weight")]
    for name in tables:
        weights[name.removesuffix("shared.weight") + "encoder.embed_tokens.weight"] = weights[name]
    module.load_state_dict(weights)


def states_of(encoder: "nn.Module", ids_BL: "Tensor", mask_BL: "Tensor") -> "Tensor":
    """What the net attends to, (B, L, D)."""
    return encoder(input_ids=ids_BL, attention_mask=mask_BL).last_hidden_state


def config_of(pretrained: str) -> Any:
    """The configuration of a frozen encoder.

    Raises:
        UserError: no such directory or name, or nothing that transformers knows.
    """
    from transformers import AutoConfig

    try:
        found = AutoConfig.from_pretrained(Path(pretrained).expanduser())
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"text.pretrained: {pretrained} is no encoder that transformers loads: {' '.join(str(error).split())[:200]}"
            "\nexpected: a directory with config.json and weights, such as CLIP's or T5's text encoder"
        ) from None
    return getattr(found, "text_config", None) or found


def width_of(config: Any) -> int:
    """D of a frozen encoder."""
    return config.hidden_size if hasattr(config, "hidden_size") else config.d_model


def load_frozen(pretrained: str) -> "nn.Module":
    """A frozen encoder in fp32: of CLIP and T5 the part that reads text, of others the model without a head."""
    from transformers import AutoModel, CLIPTextModel, T5EncoderModel

    kinds = {
        "clip": CLIPTextModel,
        "clip_text_model": CLIPTextModel,
        "t5": T5EncoderModel,
        "mt5": T5EncoderModel,
    }
    kind = kinds.get(config_of(pretrained).model_type, AutoModel)
    place = Path(pretrained).expanduser()
    return kind.from_pretrained(place, dtype="float32", use_safetensors=True).eval().requires_grad_(False)


def load_tokenizer(pretrained: str) -> "PreTrainedTokenizerBase":
    """The frozen encoder's own. Raises UserError where there is none beside it."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(Path(pretrained).expanduser())
    except (OSError, ValueError) as error:
        raise UserError(
            f"text.pretrained: {pretrained} has no tokenizer: {' '.join(str(error).split())[:200]}\n"
            "expected: its files beside the weights"
        ) from None
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
