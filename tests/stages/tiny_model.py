"""What the tests of stages share: a recipe, a tokenizer, and random models saved as the stages publish them."""

import io
import shutil
import warnings
from pathlib import Path

import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from pipeline.lm.config import LanguageModelConfig, Lora
from pipeline.lm.model import save_model
from pipeline.lm.tuning.lora import add_adapters, save_adapter
from pipeline.run import artifact
from pipeline.run.files import write_json
from pipeline.run.stage import Context, Stage
from tokenizer.files import save
from tokenizer.train import train

LORA = {"max_steps": 7, "train_batch_size": 1, "learning_rate": 1e-3, "lora": {"r": 4}}
VOCABULARY = 300
POSITIONS = 64
TEXT = (
    "what is the end of a thing? the end is\n\n  the thing that ends it, and then the other thing, which nobody "
    "would have called an ending before somebody wrote another sentence about weather and numbers\n"
)


def make_tokenizer(directory: Path):
    """A byte-level BPE of VOCABULARY entries with this project's control tokens and chat template."""
    save(train([TEXT] * 9, VOCABULARY, "bpe"), directory, POSITIONS)
    return AutoTokenizer.from_pretrained(directory)


def make_model(seed: int, tied: bool = True, scale: float = 0.3, **fields):
    """A Llama of two layers; `scale` is the standard deviation of its weights: logits of a trained model's size."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=POSITIONS,
        tie_word_embeddings=tied,
        initializer_range=scale,
        **fields,
    )
    return LlamaForCausalLM(config).eval()


def make_config(output_dir: Path, **sections) -> LanguageModelConfig:
    """A recipe with pretraining and fine-tuning; `sections` replace or, where None, remove whole ones."""
    tree = {
        "recipe": "llm",
        "run": {"output_dir": str(output_dir)},
        "corpus": {"source": "stdlib"},
        "tokenizer": {"vocabulary_size": VOCABULARY},
        "model": {"architecture": "llama"},
        "pretrain": {"max_steps": 1, "train_batch_size": 1, "learning_rate": 1e-3},
        "chat": {"source": "stdlib_docstrings"},
        "finetune": {"max_steps": 1, "train_batch_size": 1, "learning_rate": 1e-3},
        "generate": {"prompts": ["the end", "thing"], "chat_prompts": ["what is it?"], "max_new_tokens": 8},
        "export": {"licence": "PSF-2.0", "data_note": "Sentences about ends."},
    } | sections
    return LanguageModelConfig.model_validate(
        {key: value for key, value in tree.items() if value is not None}
    )


def make_context(config: LanguageModelConfig, name: str, inputs: dict[str, Path]) -> Context:
    """A context whose `out` is an empty directory beside the run's artifacts."""
    output = Path(config.run.output_dir)
    out = output / ".partial" / name
    out.mkdir(parents=True)
    return Context(
        config, Stage(name, "", {}), inputs, out, output / "checkpoints", output / "logs", io.StringIO()
    )


def publish(output: Path, name: str, fill, inputs: tuple[str, ...] = (), **metrics) -> Path:
    """Publish what `fill(directory)` writes as the artifact of stage `name`, made from those named in `inputs`."""
    staged = output / ".partial" / name
    staged.mkdir(parents=True)
    fill(staged)
    upstream = {one: {"path": f"../{one}", "digest": artifact.read(output / one).digest} for one in inputs}
    description = {
        "stage": name,
        "identity": {},
        "inputs": upstream,
        "metrics": metrics,
        "config": {},
        "made": {
            "commit": "c0ffee" + "0" * 34,
            "versions": {"torch": "9.9"},
            "host": "secret-host",
            "seconds": 1.0,
        },
    }
    return artifact.publish(staged, output / name, description).path


def publish_model(output: Path, name: str, model, inputs: tuple[str, ...] = ()) -> Path:
    """As `pretrain` and `finetune` publish: `model/` with tokenizer."""
    tokenizer = make_tokenizer(output / ".partial" / "tokenizer")
    return publish(output, name, lambda directory: save_model(model, tokenizer, directory / "model"), inputs)


def publish_adapter(
    output: Path, base: int, name: str = "finetune", inputs: tuple[str, ...] = ("pretrain",)
) -> Path:
    """As `finetune` publishes with LoRA over `make_model(base, scale=0.1)`: `model/`, merged, and `adapter/`."""
    tokenizer = make_tokenizer(output / ".partial" / "tokenizer")

    def fill(directory: Path) -> None:
        with warnings.catch_warnings():  # peft 0.21 asks transformers 5.23 under a deprecated name
            warnings.simplefilter("ignore", FutureWarning)
            adapted = add_adapters(make_model(base, scale=0.1), Lora(r=4, lora_alpha=8))
        for key, parameter in adapted.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(parameter, std=0.05)
        save_adapter(adapted, directory / "adapter", output / "pretrain" / "model", Lora())
        save_model(adapted.merge_and_unload(), tokenizer, directory / "model")

    return publish(output, name, fill, inputs)


SCORES = [
    {
        "name": "bits per byte",
        "model": model,
        "value": value,
        "interval": interval,
        "unit": "bits/byte",
        "count": 4321,
        "protocol": "window 64 | stride 32",
        "better": "lower",
    }
    for model, value, interval in (("base", 1.5342, [1.51, 1.56]), ("xz -9e | -T1", 1.7, None))
]
SAMPLES = [
    {
        "kind": "base",
        "prompt": "the end",
        "decoding": "greedy",
        "seed": 1,
        "text": "is ```` this",
        "stopped": True,
    }
]


def publish_results(output: Path, inputs: tuple[str, ...]) -> None:
    """As `evaluate` and `generate` publish."""
    publish(output, "evaluate", lambda path: write_json(path / "evaluation.json", {"scores": SCORES}), inputs)
    publish(output, "generate", lambda path: write_json(path / "samples.json", SAMPLES), inputs)


def export_context(run: Path, names=("pretrain", "finetune", "evaluate", "generate"), **sections) -> Context:
    """A context for exporting `run`, whose fine-tuning was LoRA unless `sections` say otherwise."""
    shutil.rmtree(run / ".partial" / "export", ignore_errors=True)
    config = make_config(run, **{"finetune": LORA, **sections})
    return make_context(config, "export", {name: run / name for name in names})
