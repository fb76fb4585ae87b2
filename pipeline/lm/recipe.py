"""The language-model recipe: packed rows in, a sum of token losses out.

Shapes: B rows, T positions, V vocabulary entries.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)

from pipeline.data.packing import IGNORED, collate
from pipeline.lm.attention import apart, boundaries, implementation_of, packs
from pipeline.lm.config import Lora, Pretrain, Reinforce, RewardModel, Tuning
from pipeline.lm.experts import Balance, balance_weight, routers_of
from pipeline.lm.isolation import check_isolated
from pipeline.lm.machine import compiled, kernels
from pipeline.lm.recurrent import keep_apart
from pipeline.lm.tuning.freezing import freeze
from pipeline.lm.tuning.lora import add_adapters
from pipeline.lm.tuning.quantised import QuantisedLinear, quantise, quantised_layers
from pipeline.lm.ulysses import Sharing, shared
from pipeline.run.activations import kept_bytes
from pipeline.run.config import Training
from pipeline.run.launch import Launch
from pipeline.run.memory import Size, moment_bytes
from pipeline.run.plan import Batches
from pipeline.train.optimizer import parameter_groups
from pipeline.train.recipe import Batch, Clock, Loss, Split, Sum


class TokenLoss(nn.Module):
    """A causal language model that returns the summed loss, so that every launcher wraps one plain forward."""

    def __init__(self, model: PreTrainedModel, packed: bool = True):
        """packed: rows hold several documents; else one each, and padding behind it, which nothing before it sees."""
        super().__init__()
        self.model, self.packed = model, packed
        base = getattr(model, "get_base_model", lambda: model)()  # peft's forward names fewer
        self.positioned = "position_ids" in inspect.signature(base.forward).parameters
        if packed:
            keep_apart(model)
        self.routers = routers_of(model)
        if self.routers:
            model.config.output_router_logits = False  # transformers' own balance loss wants another mask

    def forward(
        self,
        input_ids_BT: Tensor,
        labels_BT: Tensor,
        document_ids_BT: Tensor,
        position_ids_BT: Tensor,
        weights_BT: Tensor | None = None,
        boundaries_N: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Balance]:
        """The negative log-likelihood in nats, summed over labels that are not IGNORED; 0-d, fp32.

        With a mixture of experts whose config weighs its balance, also how even each row's routing was.

        weights_BT: fp32, of each label; none: all 1. boundaries_N: where documents begin, as pipeline.lm.attention has
        it; none: found from document_ids_BT.
        """
        logits_BTV = self.logits(input_ids_BT, document_ids_BT, position_ids_BT, boundaries_N)
        return self.with_balance(summed_loss(logits_BTV, labels_BT, weights_BT), document_ids_BT)

    def logits(
        self,
        input_ids_BT: Tensor,
        document_ids_BT: Tensor,
        position_ids_BT: Tensor,
        boundaries_N: Tensor | None,
    ) -> Tensor:
        """Of each position, its document alone before it, [B, T, V], or what `predicted` gives."""
        rows = {}
        if self.packed:
            mask = apart(self.model, document_ids_BT, boundaries_N)
            rows = {"attention_mask": mask} | ({"position_ids": position_ids_BT} if self.positioned else {})
        if self.routers:
            self.routers.listen()
        return self.predicted(dict(input_ids=input_ids_BT, **rows, use_cache=False, return_dict=True))

    def predicted(self, rows: dict[str, Any]) -> Tensor:
        return self.model(**rows).logits

    def with_balance(self, found: Tensor, document_ids_BT: Tensor) -> Tensor | tuple[Tensor, Balance]:
        return (found, self.routers.balance(document_ids_BT >= 0)) if self.routers else found


def summed_loss(logits_BTV: Tensor, labels_BT: Tensor, weights_BT: Tensor | None = None) -> Tensor:
    """Cross-entropy in nats, weighted, summed over labels that are not IGNORED; 0-d, fp32 whatever the logits are."""
    return token_losses(logits_BTV, labels_BT, weights_BT).sum()


def token_losses(logits_BTV: Tensor, labels_BT: Tensor, weights_BT: Tensor | None = None) -> Tensor:
    """The same of each position, 0 where the label is IGNORED; [B, T], fp32."""
    weights = None if weights_BT is None else weights_BT.flatten()
    losses_N = _TokenLosses.apply(logits_BTV.flatten(0, 1), labels_BT.flatten(), weights)
    return losses_N.view_as(labels_BT)


class _TokenLosses(torch.autograd.Function):
    """Cross-entropy a few rows at a time (N rows), so that no fp32 copy of all logits is ever made.

    The logits are a training step's largest tensor. `F.cross_entropy` on fp32 logits keeps four more of their size;
    this keeps the gradient, in the logits' own precision and made while a chunk's exponentials are in the cache.
    """

    @staticmethod
    def forward(ctx, logits_NV: Tensor, labels_N: Tensor, weights_N: Tensor | None) -> Tensor:
        """Where there is a gradient, it is w (softmax(logits) - one_hot(label)) for each row, 0 for IGNORED rows."""
        rows = rows_at_once(logits_NV)
        counted_N1, targets_N1 = (labels_N != IGNORED)[:, None], labels_N.clamp(min=0)[:, None]
        weights_N1 = counted_N1.float() if weights_N is None else weights_N[:, None] * counted_N1
        losses_N1 = logits_NV.new_empty(counted_N1.shape, dtype=torch.float32)
        gradient_NV = torch.empty_like(logits_NV) if ctx.needs_input_grad[0] else None
        for first in range(0, len(logits_NV), rows):
            chunk = slice(first, first + rows)
            logits, targets, counted = logits_NV[chunk], targets_N1[chunk], counted_N1[chunk]
            weights = weights_N1[chunk]
            shifted = logits.to(torch.float32, copy=True).sub_(logits.amax(1, keepdim=True))
            picked = shifted.gather(1, targets)
            exponentials = shifted.exp_()
            sums = exponentials.sum(1, keepdim=True)
            losses_N1[chunk] = torch.where(counted, weights * (sums.log() - picked), 0.0)
            if gradient_NV is not None:
                exponentials.mul_(torch.where(counted, weights / sums, 0.0))
                gradient_NV[chunk] = exponentials.scatter_add_(1, targets, -weights)
        ctx.save_for_backward(gradient_NV)
        return losses_N1.squeeze(1)

    @staticmethod
    def backward(ctx, upstream_N: Tensor) -> tuple[Tensor, None, None]:
        (gradient_NV,) = ctx.saved_tensors
        # Of a sum every upstream is the same number: a product with one is half as long as with a column.
        alike = upstream_N.stride() == (0,)
        return gradient_NV.mul_(upstream_N[0] if alike else upstream_N[:, None]), None, None


def rows_at_once(logits_NV: Tensor) -> int:
    """Rows whose fp32 logits stay in a CPU's cache (4 MB), or fill a GPU without filling its memory (256 MB)."""
    entries = 2**20 if logits_NV.device.type == "cpu" else 2**26
    return max(1, entries // logits_NV.shape[1])


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The repeated blocks of a decoder: its longest module list."""
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return max(lists, key=len)


def flops_per_token(model: PreTrainedModel, sequence_length: int) -> float:
    """6 N + 12 L d T: forward and backward of the matrices and of the attention scores (arXiv:2204.02311, app. B).

    N counts every parameter but the input embedding, unless it is tied to the output head; of experts, as many as a
    token passes through.
    """
    config = model.config.get_text_config()
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings()
    tied = head is not None and head.weight is embedding
    experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None) or 1
    passed = getattr(config, "num_experts_per_tok", None) or experts
    share = {True: passed / experts, False: 1.0}
    matrices = sum(p.numel() * share[".experts." in name] for name, p in model.named_parameters())
    matrices -= 0 if tied else embedding.numel()
    matrices += sum(
        layer.in_features * layer.out_features - layer.weight.numel() for _, layer in quantised_layers(model)
    )
    return 6 * matrices + 12 * config.num_hidden_layers * config.hidden_size * sequence_length


def _noisy(alpha: float, module: nn.Module, _: tuple, embedded_BTD: Tensor) -> Tensor:
    """NEFTune (arXiv:2310.05914). Drawn from torch's generator, which the loop seeds by step, so it resumes exactly."""
    if not module.training:
        return embedded_BTD
    size = alpha / math.sqrt(embedded_BTD.shape[1] * embedded_BTD.shape[2])
    return embedded_BTD + torch.empty_like(embedded_BTD).uniform_(-size, size)


ROWS = ("input_ids", "labels", "document_ids", "position_ids")


def counted(batch: Batch) -> Tensor:
    """How much each label counts, [B, T]: its weight, and without weights 1 where there is one."""
    return batch["weights"] if "weights" in batch else batch["labels"] != IGNORED


@dataclass
class LanguageModel:
    """Next-token training of one net on rows that hold several documents, each seen alone, or one each.

    build: makes the net with the weights to start from; a peft model trains its adapters only. sequence_length: tokens
    a row, on average where rows are not packed. noise: NEFTune's alpha. sharing: among processes that share each row.
    """

    training: Training
    build: Callable[[], PreTrainedModel]
    train: Split
    held: Split | None
    sequence_length: int
    packed: bool = True
    noise: float = 0.0
    sharing: Sharing | None = None
    flops_per_sample: float = 0.0
    balance_weight: float = 0.0

    turns = ema = ("model",)
    unit = "tokens"

    def __post_init__(self) -> None:
        self.optimizers = {"model": self.training}
        self.units_per_sample = self.sequence_length

    @property
    def zero_stages(self) -> tuple[int, ...]:
        """ZeRO-3 would cut a quantised base's codes apart from their scales."""
        lora = getattr(self.training, "lora", None)
        return (1, 2) if lora and lora.quantisation else (1, 2, 3)

    def nets(self) -> dict[str, nn.Module]:
        net = self.build()
        self.balance_weight = balance_weight(net.config)
        self.flops_per_sample = flops_per_token(net, self.sequence_length) * self.sequence_length
        module = self.wrapped(net.train())
        if self.packed:
            check_isolated(module)
        if self.noise:
            net.get_input_embeddings().register_forward_hook(partial(_noisy, self.noise))
        if self.training.gradient_checkpointing:
            net.gradient_checkpointing_enable({"use_reentrant": False})
            net.enable_input_require_grads()
        if self.sharing:
            shared(net, self.sharing)
        assert self.training.torch_compile != "auto", "decided where a recipe is opened"
        if compiled(self.training, self.packed):
            for layer in decoder_layers(net):
                layer.compile()
        return {"model": module}

    def wrapped(self, net: PreTrainedModel) -> TokenLoss:
        """The module whose forward gives what `loss` needs."""
        return TokenLoss(net, self.packed)

    def data(self) -> Split:
        return self.train

    def held_out(self) -> Split | None:
        return self.held

    def collate(self, items: list[dict[str, np.ndarray]]) -> Batch:
        batch = collate(items)
        batch |= {"boundaries": boundaries(batch["document_ids"])}
        return self.sharing.stretch(batch) if self.sharing else batch

    def count(self, turn: str, batch: Batch) -> float:
        """Supervised tokens, or the sum of their weights where there are some."""
        return float(counted(batch).sum())

    def loss(self, turn: str, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> Loss:
        rows = (batch[name] for name in ROWS)
        found = nets["model"](*rows, batch.get("weights"), batch["boundaries"])
        if isinstance(found, Tensor):
            return Loss(found)
        # A row's balance counts as much as its supervised tokens do: over a step, and however the step is cut.
        cross_entropy, routed = found
        counted_B = counted(batch).sum(1)
        routers = {f"router_{name[:-2]}": (of_B * counted_B).sum() for name, of_B in routed._asdict().items()}
        total = cross_entropy + self.balance_weight * routers["router_balance"]
        parts = {"cross_entropy": cross_entropy} | routers
        return Loss(total, {name: part.detach() for name, part in parts.items()})

    def evaluate(self, nets: dict[str, nn.Module], batch: Batch, clock: Clock) -> dict[str, Sum]:
        loss = self.loss("model", nets, batch, clock)
        return {"loss": Sum(float(loss.parts.get("cross_entropy", loss.total)), self.count("model", batch))}

    def sample(self, nets: dict[str, nn.Module], seeds: list[int], out: Path) -> dict[str, float]:
        """One continuation of the empty document a seed, as text ids in `out/SEED.npy`."""
        from pipeline.lm.decoding import sample

        net = nets["model"].model.eval()
        start = [net.config.bos_token_id if net.config.bos_token_id is not None else net.config.eos_token_id]
        for seed in seeds:
            ids = sample(
                net,
                None,
                start,
                max_new_tokens=self.sequence_length - 1,
                temperature=1.0,
                top_p=1.0,
                seed=seed,
            )
            np.save(out / f"{seed}.npy", np.asarray(ids, dtype=np.int64))
        return {}


def size_of(
    config: PretrainedConfig,
    training: Pretrain | Tuning,
    sequence_length: int,
    lora: Lora | None,
    launch: Launch,
    attention: str,
    new_tokens: list[int] | None = None,
) -> Size:
    """What training a decoder of this config on this launcher holds and does; counted on an empty model.

    new_tokens: as add_adapters has it.
    """
    scores = isinstance(training, RewardModel)
    auto = AutoModelForSequenceClassification if scores else AutoModelForCausalLM
    with torch.device("meta"):
        model = auto.from_config(config, attn_implementation=implementation_of(attention))
        rows = rows_of_sample(training)
        flops = flops_per_token(model, sequence_length) * sequence_length * training.train_batch_size * rows
        total = sum(parameter.numel() for parameter in model.parameters())
        freeze(model, training.freeze)
        if lora and lora.quantisation:
            model = quantise(model, lora)
        kind = "SEQ_CLS" if scores else "CAUSAL_LM"
        net = add_adapters(model, lora, new_tokens, kind) if lora else model
        coded = [layer for _, layer in quantised_layers(net)]
    trained = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    moments = moment_bytes(parameter_groups(net, training))
    stretch = sequence_length // training.sequence_parallel_size
    shape = (Batches.derive(training, launch.num_processes).micro * rows, stretch)
    packed = packs(training.packing, config)
    activations = _activations(_measured(net, packed, scores), training, shape, launch.zero_stage is not None)
    beside = 4 * _beside(training, total)  # fp32, whole on every process
    activations += beside + (math.prod(shape) * config.vocab_size * 4 if beside else 0)
    parameters = total + (trained if lora else 0)
    in_codes = sum(layer.in_features * layer.out_features for layer in coded)
    return Size(
        parameters,
        trained,
        moments,
        flops,
        activations + _made_again(coded, bool(training.bf16)),
        kernels(attention, training, packed),
        in_codes=in_codes,
        code_bytes=sum(layer.bytes() for layer in coded),
    )


def _made_again(layers: list[QuantisedLinear], bf16: bool) -> int:
    """Bytes of the largest matrix that is made of its codes where it is multiplied with."""
    largest = max((layer.in_features * layer.out_features for layer in layers), default=0)
    return largest * (2 if bf16 else 4)


def rows_of_sample(training: Pretrain | Tuning) -> int:
    """Rows that one sample of a batch makes: the answers that are sampled to a prompt, else one."""
    return getattr(training, "num_generations", 1)


def _beside(training: Pretrain | Tuning, own: int) -> int:
    """Parameters of a second model in memory: a teacher's, or those of the model before that rewards compare with."""
    from transformers import AutoConfig

    if teacher := getattr(training, "teacher", None):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(teacher.model))
        return sum(parameter.numel() for parameter in model.parameters())
    return own if isinstance(training, Reinforce) and training.beta else 0


def _measured(net: PreTrainedModel, packed: bool, scores: bool) -> TokenLoss:
    from pipeline.lm.tuning.ranking import AnswerScores, with_padding

    return AnswerScores(with_padding(net, 0, 0), packed) if scores else TokenLoss(net, packed)


def _activations(net: TokenLoss, training: Training, shape: tuple[int, int], zero: bool) -> float:
    """Bytes at the peak of a micro-batch of `shape` (B, T): what autograd keeps, and the logits beside that."""

    config, scores = net.model.config, isinstance(training, RewardModel)

    def forward() -> Tensor:
        rows_BT = torch.zeros(shape, dtype=torch.long)
        each_row = torch.arange(0, shape[0] * shape[1] + 1, shape[1], dtype=torch.int32)
        return net.train()(rows_BT, rows_BT, rows_BT, rows_BT, 2 if scores else None, each_row)

    dtype = torch.bfloat16 if training.bf16 and zero else torch.float32
    if getattr(config.get_text_config(), "num_experts_per_tok", None):
        # Without memory, torch multiplies the experts' matrices in bf16 alone: fp32 keeps twice as much.
        kept = kept_bytes([net], forward, torch.bfloat16, autocast=False) * (1 if training.bf16 else 2)
    else:
        kept = kept_bytes([net], forward, dtype, autocast=training.bf16 and not zero)
    positions, width = math.prod(shape), 2 if training.bf16 else 4
    logits = 0 if scores else positions * config.vocab_size * width
    if training.gradient_checkpointing:  # a layer's input each, and one layer at a time with all it keeps
        layers = config.num_hidden_layers
        kept = logits + layers * positions * config.hidden_size * width + (kept - logits) / layers
    return kept + logits
