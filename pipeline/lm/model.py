"""A decoder-only transformer by name: built from a config, loaded from a directory, checked before either."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.lm.config import Model, Pretrain, RewardModel, Tuning
from pipeline.run.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import dtype as Dtype
    from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast


def build_config(
    model: Model, vocabulary_size: int, special: dict[str, int | None], positions: int
) -> PretrainedConfig:
    """The transformers config of a model from scratch.

    vocabulary_size: the tokenizer's; special: bos_token_id, eos_token_id, pad_token_id; positions: the longest
    sequence trained on, which is also the model's limit where the recipe sets none.

    Raises:
        UserError: unknown architecture or config field, a value that makes no model, another vocabulary, a sequence
            longer than the positions.
    """
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL

    if model.architecture not in CAUSAL:
        raise UserError(
            f"model.architecture {model.architecture!r} is no decoder that transformers builds\n"
            f"{nearest(str(model.architecture), [name for name in CAUSAL])[:300]}"
        )
    limits = {"n_positions": positions, "max_position_embeddings": positions}
    known = limits | fields_of(AutoConfig.for_model(model.architecture))
    check_known(model.config, known, str(model.architecture))
    given = model.config.get("vocab_size", vocabulary_size)
    if given != vocabulary_size:
        raise UserError(
            f"model.config.vocab_size {given} is not the tokenizer's {vocabulary_size}\nway out: leave it out"
        )
    fields = {"max_position_embeddings": positions, **model.config, "vocab_size": vocabulary_size, **special}
    config, error = try_config(str(model.architecture), fields)
    if config is None:
        raise UserError(_refused_values(model, fields, known, error))
    _check_rope(model.config, config)
    check_fits(config, model.attention, positions)
    return config


def reconfigured(config: PretrainedConfig, fields: dict[str, Any]) -> PretrainedConfig:
    """A pretrained model's config with other values, which its weights must fit as they are.

    Raises:
        UserError: an unknown field, or one that changes a weight's shape.
    """
    if not fields:
        return config
    check_known(fields, fields_of(config), config.model_type)
    settings = {name: value for name, value in config.to_dict().items() if name != "model_type"}
    changed, error = try_config(config.model_type, settings | fields)
    if changed is None:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"model.config: {why}\nway out: values that {config.model_type} takes")
    _check_rope(fields, changed)
    before, after = _shapes(config), _shapes(changed)
    if moved := sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)):
        raise UserError(
            f"model.config: {', '.join(fields)} would change the shape of {moved[0]}, and the weights are pretrained\n"
            "expected: fields that weights do not depend on, such as rope_parameters or max_position_embeddings"
        )
    return changed


def fields_of(config: PretrainedConfig) -> dict[str, Any]:
    """A config's fields, under its own names and those that the Hub's files give them."""
    aliases = {alias: getattr(config, name, None) for alias, name in config.attribute_map.items()}
    return aliases | config.to_dict()


def check_known(fields: dict[str, Any], known: dict[str, Any], architecture: str) -> None:
    for field in fields:
        if field not in known:
            raise UserError(
                f"model.config.{field} is no field of {architecture}'s config\n{nearest(field, known)[:300]}"
            )


def _shapes(config: PretrainedConfig) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in _empty_model(config, "eager").state_dict().items()}


def try_config(
    architecture: str, fields: dict[str, Any], loader: str = "AutoModelForCausalLM"
) -> tuple[PretrainedConfig | None, Exception | None]:
    """The config, or the error of a config or of an empty model that cannot be made of `fields`.

    loader: transformers' class that makes the model.
    """
    import torch
    import transformers
    from huggingface_hub.errors import StrictDataclassError
    from transformers.utils import logging

    refusals = (StrictDataclassError, ArithmeticError, AssertionError, AttributeError, LookupError)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # what it warns of is said in the refusal, once
    try:
        # transformers fills in what is missing in the dicts that it is given: those of a recipe are its identity.
        config = transformers.AutoConfig.for_model(architecture, **copy.deepcopy(fields))
        _check_heads(config)
        with torch.device("meta"):
            getattr(transformers, loader).from_config(config, attn_implementation="eager")
    except (*refusals, RuntimeError, TypeError, ValueError) as error:
        return None, error
    finally:
        logging.set_verbosity(verbosity)
    return config, None


def _check_heads(config: PretrainedConfig) -> None:
    """What transformers finds out in the first forward pass, or never."""
    names = ("num_attention_heads", "num_key_value_heads", "num_hidden_layers")
    heads, shared, layers = (getattr(config, name, None) for name in names)
    if isinstance(heads, int) and isinstance(shared, int) and shared and heads % shared:
        raise ValueError(f"{heads} attention heads cannot share {shared} key and value heads evenly")
    if isinstance(layers, int) and layers < 1:
        raise ValueError("a model has one layer or more")


def _refused_values(
    model: Model, fields: dict[str, Any], known: dict[str, Any], error: Exception | None
) -> str:
    """Which of the user's values make no model, and what stands there by default.

    A value is to blame where the model can be made with the default in its place.
    """
    left_out = {name: {key: fields[key] for key in fields if key != name} for name in model.config}
    makes = [name for name, rest in left_out.items() if try_config(str(model.architecture), rest)[0]]
    blamed = makes or list(model.config)
    values = ", ".join(f"model.config.{name} = {model.config[name]!r}" for name in blamed)
    cause = (error and error.__cause__) or error
    # A wrong type is told by what is expected; a look-up that failed says nothing but the value.
    plain = isinstance(cause, ValueError | AssertionError | RuntimeError)
    why = f": {' '.join(str(cause).split())[:200]}" if plain else ""
    usual = ", ".join(f"{name}: {known[name]!r}" for name in blamed)
    return (
        f"{values[:300]} makes no {model.architecture}{why}\n"
        f"expected: a value such as {model.architecture}'s own {usual[:200]}"
    )


def positions_of(config: PretrainedConfig) -> int | None:
    """Tokens that the model can attend to; None where nothing in its config limits them."""
    return getattr(config, "max_position_embeddings", None)


def check_fits(config: PretrainedConfig, attention: str, sequence_length: int) -> PreTrainedModel:
    """The empty model, where it has positions for rows of this length and the attention backend computes what it needs.

    Raises:
        UserError: it has too few positions, or the backend computes something else.
    """
    from pipeline.lm.attention import chosen

    positions = positions_of(config)
    if positions is not None and sequence_length > positions:
        raise UserError(
            f"sequence_length {sequence_length} is longer than the model's {positions} positions\n"
            f"way out: sequence_length of at most {positions}, or a larger max_position_embeddings"
        )
    return _empty_model(config, chosen(attention, config, True, sequence_length))


def check_trainable(config: PretrainedConfig, attention: str, training: Pretrain | Tuning) -> None:
    """Refuse what cannot be trained as asked, before a weight loads.

    Raises:
        UserError: as check_fits and check_shared, packing of what cannot be kept apart, names of frozen weights or
            adapted modules that are not there.
    """
    from pipeline.lm.attention import chosen_for, packs
    from pipeline.lm.tuning.freezing import freeze
    from pipeline.lm.tuning.lora import check_targets
    from pipeline.lm.tuning.quantised import check_quantised
    from pipeline.lm.ulysses import check_shared

    model = check_fits(config, attention, training.sequence_length)
    packs(training.packing, config)
    if training.sequence_parallel_size > 1:
        check_shared(config, training, chosen_for(training, attention, config))
    freeze(model, training.freeze)
    if isinstance(training, RewardModel):
        check_scorable(config)
    if lora := getattr(training, "lora", None):
        section = f"{training.section}.lora"
        check_targets(model, lora, section)
        if lora.quantisation:
            check_quantised(model, lora, section)


def _check_rope(given: dict[str, Any], config: PretrainedConfig) -> None:
    """Refuse scaled rotary positions that do not say from what length, or that end before the model's last position.

    given: the user's fields, for transformers fills in what is missing.
    """
    found = given.get("rope_parameters") or given.get("rope_scaling") or {}
    for rope in [found, *(part for part in found.values() if isinstance(part, dict))]:
        kind, factor = rope.get("rope_type", "default"), rope.get("factor")
        base = rope.get("original_max_position_embeddings")
        if kind not in ("yarn", "llama3", "longrope", "dynamic") or not factor:
            continue
        if not base:
            raise UserError(
                f"rope_parameters: {kind} with factor {factor} does not say which length it stretches\n"
                "way out: original_max_position_embeddings, the positions that the weights were trained on"
            )
        positions = positions_of(config)
        if kind != "dynamic" and positions and positions > factor * base:
            raise UserError(
                f"rope_parameters: {kind} stretches {base} positions by {factor} to {factor * base:.0f}, "
                f"and max_position_embeddings is {positions}\nway out: factor: {positions / base:g}"
            )


def _empty_model(config: PretrainedConfig, attention: str) -> PreTrainedModel:
    """The model without memory for its weights."""
    import torch
    from transformers import AutoModelForCausalLM

    from pipeline.lm.attention import implementation_of

    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, attn_implementation=implementation_of(attention))
    except ValueError as error:
        raise UserError(
            f"model.attention: {attention} with {config.model_type}: {' '.join(str(error).split())[:160]}\n"
            "way out: model.attention: eager, or another architecture"
        ) from None


def build_model(config: PretrainedConfig, attention: str) -> PreTrainedModel:
    """fp32 weights from the config's own initialisation, drawn from torch's current generator."""
    import torch
    from transformers import AutoModelForCausalLM

    from pipeline.lm.attention import implementation_of

    return AutoModelForCausalLM.from_config(
        config, attn_implementation=implementation_of(attention), dtype=torch.float32
    )


def load_model(directory: Path, dtype: Dtype | None = None, attention: str | None = None) -> PreTrainedModel:
    """The model in a local directory, fp32 where `dtype` is None, in evaluation mode.

    attention: a backend of ours; None: the one that transformers takes by itself.

    Raises:
        UserError: there is no loadable model.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from pipeline.lm.attention import implementation_of

    how = attention and implementation_of(attention)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype or torch.float32,
            attn_implementation=how,
            local_files_only=True,
            use_safetensors=True,  # a pickle is not read
        )
    except (OSError, ValueError) as error:
        raise UserError(f"no model loads from {directory}: {' '.join(str(error).split())[:300]}") from None
    return model.eval()


def load_scorer(directory: Path, attention: str | None = None) -> PreTrainedModel:
    """The decoder in a directory with one number for a head, fp32, for evaluation; a head that is not there is drawn.

    attention: as load_model.

    Raises:
        UserError: as load_model and check_scorable.
    """
    import torch
    from transformers import AutoModelForSequenceClassification
    from transformers.utils import logging

    from pipeline.lm.attention import implementation_of

    config = config_of(directory)
    check_scorable(config)
    config.num_labels, config.problem_type = 1, "regression"
    how = attention and implementation_of(attention)
    said = logging.get_verbosity()
    logging.set_verbosity_error()  # that a head is drawn is no news
    try:
        return AutoModelForSequenceClassification.from_pretrained(
            directory,
            config=config,
            dtype=torch.float32,
            attn_implementation=how,
            local_files_only=True,
            use_safetensors=True,
        ).eval()
    except (OSError, ValueError) as error:
        raise UserError(f"no model loads from {directory}: {' '.join(str(error).split())[:300]}") from None
    finally:
        logging.set_verbosity(said)


def check_scorable(config: PretrainedConfig) -> None:
    """Refuse a decoder that transformers has no classifier of.

    Raises:
        UserError: naming it.
    """
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise UserError(
            f"reward_model: transformers has no sequence classifier of {config.model_type}\n"
            "way out: another decoder, such as llama, qwen3 or gemma"
        )


def load_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """The tokenizer in a local directory.

    Raises:
        UserError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no tokenizer loads from {directory}: {' '.join(str(error).split())[:300]}"
        ) from None


def ready(directory: Path) -> PreTrainedModel:
    """The model in fp32, on the GPU where there is one, loaded without a bar. Raises as load_model."""
    import torch
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    return load_model(directory).to("cuda" if torch.cuda.is_available() else "cpu")


def config_of(directory: Path) -> PretrainedConfig:
    """The transformers config in a local directory."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(directory, local_files_only=True)


def special_ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int | None]:
    return {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}


TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model"),
)


def save_model(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, directory: Path, base: Path | None = None
) -> None:
    """Write a directory that transformers' auto classes load, and assert that its tensors are whole.

    base: the pretrained model's directory: its tokenizer files stay as they are, to the byte, and the generation config
        as well. Without one the tokenizer is this run's: it learns the positions, the model its special ids.
    """
    from safetensors import safe_open

    for name, value in special_ids(tokenizer).items() if hasattr(model, "generation_config") else ():
        if base is None or getattr(model.generation_config, name) is None:
            setattr(model.generation_config, name, value)
    if base is None and (positions := positions_of(model.config)):
        tokenizer.model_max_length = min(tokenizer.model_max_length, positions)
    model.save_pretrained(directory)
    copy_tokenizer(tokenizer, directory, base)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for path in directory.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():
                written = tuple(file.get_slice(key).get_shape())
                assert written == shapes[key], f"{key} was written with shape {written}, not {shapes[key]}"


def copy_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: Path, base: Path | None = None) -> None:
    """Save `tokenizer`: the files of `base` byte for byte; else, where it came from a directory, its tokenizer.json.

    transformers writes a post-processor into it, and then it would no longer be the file the tokens were made with.
    """
    tokenizer.save_pretrained(directory)
    origin = base or Path(tokenizer.name_or_path)
    brought = [name for name in TOKENIZER_FILES if (origin / name).is_file()]
    for name in brought if base else set(brought) & {"tokenizer.json"}:
        shutil.copyfile(origin / name, directory / name)
    if base and "tokenizer_config.json" in brought:  # what transformers moves out of it would be said twice
        for name in {"chat_template.jinja", "special_tokens_map.json", "added_tokens.json"} - set(brought):
            (directory / name).unlink(missing_ok=True)


def load_weights(model: Any, weights: dict[str, Any]) -> None:
    """Copy trained weights into `model` by name; what is tied to one of them follows.

    Every name must be a parameter of the model.
    """
    _, unexpected = model.load_state_dict(weights, strict=False)
    assert not unexpected, f"trained weights that the model does not have: {unexpected[:3]}"
