"""What tests of the language model share: tiny random decoders of three architectures, rows of documents, a run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipeline.data.packing import PackedConversations
from pipeline.data.shards import Shard, ShardWriter
from pipeline.lm.config import Model
from pipeline.lm.model import build_config, build_model
from pipeline.lm.recipe import LanguageModel, TokenLoss
from pipeline.run.config import Training
from pipeline.train.engine import Runtime
from pipeline.train.loop import Trainer, steps
from pipeline.train.recipe import Batch

VOCABULARY = 37
INPUTS = ("input_ids", "labels", "document_ids", "position_ids")
ALONE = Runtime(rank=0, world_size=1, device=torch.device("cpu"), zero_stage=None)
_GROUPED = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
ARCHITECTURES: dict[
    str, dict[str, Any]
] = {  # grouped queries; learned positions and tied weights; normed queries
    "llama": _GROUPED,
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
    "qwen3": _GROUPED | {"head_dim": 16},
}


def tiny_model(
    architecture: str, positions: int, attention: str = "sdpa", scale: float = 0.2, **fields: Any
) -> PreTrainedModel:
    """fp32, in evaluation mode, made as pretraining makes it.

    scale: standard deviation of the weights; 0.2 gives logits of a trained model's size.
    """
    config = ARCHITECTURES.get(architecture, {}) | {"initializer_range": scale} | fields
    settings = Model(architecture=architecture, attention=attention, config=config)
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    torch.manual_seed(0)
    return build_model(build_config(settings, VOCABULARY, special, positions), settings.attention).eval()


def random_documents(*lengths: int) -> list[list[int]]:
    """Documents of these lengths, of tokens that are not special: an embedding gives padding (2) no gradient."""
    random = np.random.default_rng(0)
    return [random.integers(3, VOCABULARY, size=length).tolist() for length in lengths]


def shard_of(directory: Path, documents: list[list[int]]) -> Shard:
    with ShardWriter(directory, "documents", VOCABULARY, tokenizer_sha256="a" * 64) as writer:
        for document in documents:
            length = np.array([len(document)])
            writer.add(np.array(document), length, byte_lengths=length)
    return Shard.open(directory, "documents")


def loss_and_logits(net: TokenLoss, batch: Batch) -> tuple[Tensor, Tensor]:
    """The summed loss, 0-d, and the logits [B, T, V] that it was taken of."""
    seen = []
    head = net.model.get_output_embeddings()
    with head.register_forward_hook(lambda module, inputs, output: seen.append(output)):
        found = net(*(batch[name] for name in INPUTS))
    (logits_BTV,) = seen
    return found if isinstance(found, Tensor) else found[0], logits_BTV  # experts' balance beside it


def trained(
    directory: Path,
    documents: list[list[int]],
    build: Callable[[], nn.Module],
    **training: Any,
) -> tuple[Trainer, list[tuple[float, float]]]:
    """The trainer after six steps of four rows, fp32, unless `training` says otherwise; each step's (loss, norm).

    A row holds as many whole documents as 32 tokens do; the loss is in nats a token.
    """
    chosen = {"learning_rate": 1e-2, "max_steps": 6, "train_batch_size": 4, "bf16": False} | training
    split = PackedConversations(shard_of(directory, documents), 32, None, on_long="error")
    trainer = Trainer(LanguageModel(Training(**chosen), build, split, None, 32), ALONE)
    figures = [(info.sums["model/loss"].mean, info.gradient_norms["model"]) for info in steps(trainer)]
    return trainer, figures
