"""A GPT and the loop around it in plain PyTorch, as short training scripts have them: fp32, nothing compiled.

B rows, T positions, D wide, V vocabulary entries, H heads.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.lm.config import Pretrain
from tests.benchmarks.workload import IGNORED, Rows


class Block(nn.Module):
    """Causal self-attention and a four times wider exact-GELU layer, each after a layer norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.attn_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.mlp_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        split = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self._projected(x_BTD)]
        mixed_BHTd = F.scaled_dot_product_attention(*split, is_causal=True)
        x_BTD = x_BTD + self.attn_out(mixed_BHTd.transpose(1, 2).flatten(2))
        return x_BTD + self.mlp_out(F.gelu(self.c_fc(self.ln_2(x_BTD))))

    def _projected(self, x_BTD: Tensor) -> tuple[Tensor, ...]:
        return self.c_attn(self.ln_1(x_BTD)).chunk(3, dim=-1)


class Gpt(nn.Module):
    """Learned positions, pre-norm blocks, the output head tied to the token embedding. [B, T] -> logits [B, T, V]."""

    def __init__(self, vocabulary: int, positions: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(vocabulary, width), nn.Embedding(positions, width)
        self.h = nn.ModuleList([Block(width, heads) for _ in range(layers)])
        self.ln_f = nn.LayerNorm(width)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTD = self.wte(tokens_BT) + self.wpe(torch.arange(tokens_BT.shape[1]))
        for block in self.h:
            x_BTD = block(x_BTD)
        return self.ln_f(x_BTD) @ self.wte.weight.T


def like(model: nn.Module) -> Gpt:
    """The same function as transformers' GPT-2 `model`, with a copy of its weights."""
    config = model.config
    gpt = Gpt(config.vocab_size, config.n_positions, config.n_embd, config.n_layer, config.n_head)
    gpt.load_state_dict(
        {_name(name): _value(name, value) for name, value in model.transformer.state_dict().items()}
    )
    return gpt


def _name(name: str) -> str:
    name = name.replace("attn.c_proj", "attn_out").replace("mlp.c_proj", "mlp_out")
    return name.replace("attn.c_attn", "c_attn").replace("mlp.c_fc", "c_fc")


def _value(name: str, value: Tensor) -> Tensor:
    """GPT-2's blocks hold their matrices transposed."""
    return value.T if ".c_" in name and value.ndim == 2 else value


def contestant(net: Gpt, rows: Rows, settings: Pretrain) -> Iterator[float]:
    """AdamW as torch gives it, clipping, and the loss read at each step."""
    betas, size = (settings.adam_beta1, settings.adam_beta2), settings.train_batch_size
    optimizer = torch.optim.AdamW(
        net.parameters(), lr=settings.learning_rate, betas=betas, weight_decay=settings.weight_decay
    )
    for step in range(settings.max_steps):
        items = [rows.item(step * size + row) for row in range(size)]
        tokens_BT = torch.stack([torch.from_numpy(item["input_ids"]) for item in items])
        labels_BT = torch.stack([torch.from_numpy(item["labels"]) for item in items])
        logits_BTV = net(tokens_BT)
        loss = F.cross_entropy(logits_BTV.flatten(0, 1), labels_BT.flatten(), ignore_index=IGNORED)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        yield loss.item()
