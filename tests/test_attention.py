"""Catches a backend that computes something else, a document that sees its neighbour, memory that grows with T x T."""

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from pipeline.data.packing import PackedDocuments, collate
from pipeline.lm import attention
from pipeline.lm.attention import boundaries, chosen, isolating_mask
from pipeline.lm.config import Model
from pipeline.lm.model import build_config, build_model
from pipeline.lm.recipe import TokenLoss, size_of
from pipeline.run.errors import UserError
from pipeline.run.launch import Launch
from tests.benchmarks.workload import training
from tests.exhaustive import exhaustive
from tests.tiny_language_model import (
    ARCHITECTURES,
    VOCABULARY,
    loss_and_logits,
    random_documents,
    shard_of,
    tiny_model,
)

LENGTH, WINDOW = 64, 5
MIXED = {
    "layer_types": ["sliding_attention", "full_attention"],
    "use_sliding_window": True,
    "sliding_window": WINDOW,
}
EXPERTS = {"num_local_experts": 2, "num_experts_per_tok": 1}
CHUNKS = {
    "layer_types": ["chunked_attention", "full_attention"],
    "attention_chunk_size": WINDOW,
    "intermediate_size_mlp": 64,
    "head_dim": 8,
} | EXPERTS
GROUPED = ARCHITECTURES["llama"]
# Plain; dropout's own names; a window on all layers, on some; blocks; sinks and scores that no fused kernel computes.
NETS = {
    "llama": ("llama", {}),
    "gpt2": ("gpt2", {"attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0}),
    "windows": ("mistral", GROUPED | {"sliding_window": WINDOW}),
    "some windows": ("qwen3", GROUPED | {"head_dim": 16} | MIXED),
    "chunks": ("llama4_text", GROUPED | CHUNKS),
    "sinks": ("gpt_oss", GROUPED | {"head_dim": 8, "sliding_window": WINDOW} | EXPERTS),
    "softcapped": ("gemma2", GROUPED | {"head_dim": 8, "sliding_window": WINDOW}),
}
CASES = [
    *(
        (name, backend)
        for name in ("llama", "gpt2", "windows", "some windows")
        for backend in ("sdpa", "flash")
    ),
    ("chunks", "sdpa"),
]


def net_of(name: str, backend: str) -> TokenLoss:
    architecture, fields = NETS[name]
    model = Model(
        architecture=architecture,
        config=ARCHITECTURES.get(architecture, {}) | fields | {"initializer_range": 0.2},
    )
    torch.manual_seed(0)
    return TokenLoss(
        build_model(build_config(model, VOCABULARY, {"pad_token_id": 2}, LENGTH), backend)
    ).eval()


@pytest.fixture
def batch(tmp_path: Path) -> dict[str, torch.Tensor]:
    """Two rows of 64: documents of 12, 20, 3 and 29 tokens; the rest of that one, 9, and padding."""
    split = PackedDocuments(shard_of(tmp_path, random_documents(12, 20, 3, 40, 9)), LENGTH, None)
    return collate([split.item(0), split.item(1)])


def test_boundaries_are_where_documents_and_rows_begin():
    ids = torch.tensor([[0, 0, 1, 2, 2], [0, 0, 0, -1, -1]])
    assert boundaries(ids).tolist() == [0, 2, 3, 5, 8, 10] and boundaries(ids).dtype == torch.int32


@pytest.mark.parametrize(("name", "backend"), CASES)
def test_every_backend_has_the_loss_and_gradients_of_plain_products(name, backend, batch):
    found = {}
    for kind in ("eager", backend):
        net = net_of(name, kind)
        loss, logits = loss_and_logits(net, batch)
        loss.backward()
        found[kind] = (
            loss.detach(),
            logits[batch["document_ids"] >= 0],
            {n: p.grad for n, p in net.named_parameters()},
        )
    (loss, logits, gradients), (ours, own, computed) = found["eager"], found[backend]
    assert float(ours) == pytest.approx(float(loss), rel=1e-6)  # measured at worst 2e-7
    torch.testing.assert_close(own, logits, rtol=0, atol=2e-5)  # measured at worst 5e-6
    for parameter, gradient in gradients.items():
        if gradient is None:
            assert computed[parameter] is None
            continue
        scale = float(gradient.abs().max()) or 1.0
        assert float((computed[parameter] - gradient).abs().max()) < 2e-5 * scale, (
            parameter
        )  # measured at worst 4e-6


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.parametrize(
    "name", ["softcapped", *map(exhaustive, ("llama", "windows", "some windows", "chunks"))]
)
def test_flex_computes_what_plain_products_do_and_keeps_documents_apart(name, batch):
    """Forward alone: torch has no backward of it on a CPU; tests/gpu has the gradients."""
    first = batch["document_ids"] == 0
    changed = batch | {
        "input_ids": torch.where(first, (batch["input_ids"] + 4) % (VOCABULARY - 3) + 3, batch["input_ids"])
    }
    found = {}
    for backend in ("eager", "flex"):
        net = net_of(name, backend)
        with torch.no_grad():
            found[backend] = [loss_and_logits(net, rows)[1] for rows in (batch, changed)]
    real, others = batch["document_ids"] >= 0, batch["document_ids"] > 0
    expected, (before, after) = found["eager"][0], found["flex"]
    torch.testing.assert_close(before[real], expected[real], rtol=0, atol=2e-5)
    torch.testing.assert_close(after[others], before[others], rtol=0, atol=1e-5)
    assert not torch.equal(after[first], before[first])


SPECIAL = [(name, backend) for name, backend in CASES if name not in ("llama", "gpt2")]
SPECIAL += [(name, "eager") for name in ("windows", "some windows", "chunks", "sinks", "softcapped")]


@pytest.mark.parametrize(("name", "backend"), SPECIAL)
def test_a_document_sees_its_own_past_and_nothing_of_its_neighbours(name, backend, batch):
    """Of layers that are not plain causal attention; tests/invariance/test_documents_apart.py has those that are."""
    net = net_of(name, backend)
    first = batch["document_ids"] == 0
    ids = batch["input_ids"]
    changed = batch | {"input_ids": torch.where(first, (ids - 3 + 7) % (VOCABULARY - 3) + 3, ids)}
    with torch.no_grad():
        (_, before), (_, after) = (loss_and_logits(net, rows) for rows in (batch, changed))
    others = batch["document_ids"] > 0
    assert torch.equal(before[others], after[others]) or name in (
        "sinks",
        "chunks",
    )  # experts sort tokens of all rows
    torch.testing.assert_close(before[others], after[others], rtol=0, atol=1e-5)
    assert not torch.equal(before[first], after[first])


@pytest.mark.parametrize(
    ("name", "backend"),
    [("windows", "eager"), ("windows", "sdpa"), ("windows", "flash"), ("softcapped", "eager")],
)
def test_a_packed_document_has_the_logits_that_it_has_alone(name, backend, batch):
    net = net_of(name, backend)
    seen = []
    with (
        torch.no_grad(),
        net.model.get_output_embeddings().register_forward_hook(lambda *three: seen.append(three[2])),
    ):
        _, packed = loss_and_logits(net, batch)
        seen.clear()
        net.model(input_ids=batch["input_ids"][:1, 35:64], use_cache=False)
    torch.testing.assert_close(packed[:1, 35:64], seen[0], rtol=0, atol=2e-5)  # measured at worst 5e-6


def test_a_window_counts_within_its_document_and_blocks_from_its_beginning():
    ids = torch.tensor([[0, 0, 0, 1, 1, 1, 1]])
    window, chunk = (
        isolating_mask(ids, "sdpa", torch.float32, *reach)[0, 0] for reach in ((2, None), (None, 2))
    )
    seen = lambda mask: [row.nonzero().flatten().tolist() for row in mask]  # noqa: E731
    assert seen(window) == [[0], [0, 1], [1, 2], [3], [3, 4], [4, 5], [5, 6]]
    assert seen(chunk) == [[0], [0, 1], [2], [3], [3, 4], [5], [5, 6]]


def test_generation_with_the_backend_is_transformers_own(batch):
    ids = batch["input_ids"][:1, :9]
    found = [
        tiny_model("llama", LENGTH, backend).generate(
            ids, max_new_tokens=12, do_sample=False, eos_token_id=None
        )
        for backend in ("sdpa", "flash")
    ]
    assert torch.equal(*found)


def planned(backend: str, length: int, **changes) -> float:
    model = Model(architecture="llama", config=GROUPED | {"hidden_size": 64, "num_attention_heads": 4})
    config = build_config(model, 256, {}, length)
    settings = training(sequence_length=length, train_batch_size=1, per_device_train_batch_size=1, **changes)
    launch = Launch(Path("one.yaml"), 1, None, {})
    return size_of(config, settings, length, None, launch, backend).activations


def test_memory_of_a_row_is_linear_in_its_length_without_a_mask():
    short, middle, long = (planned("flash", length) for length in (512, 2048, 8192))
    assert (long - middle) / (middle - short) == pytest.approx(
        4, rel=0.001
    )  # weights in bf16 are kept whatever T is
    assert planned("sdpa", 8192) - long > 8192 * 8192 - 2048  # a byte an entry of the mask


BF16, FP32, GPU = {"bf16": True}, {"bf16": False}, {"gpu": True}


@pytest.mark.parametrize(
    ("name", "where", "length", "expected"),
    [
        ("llama", BF16, 512, "eager"),
        ("llama", BF16, 513, "flash"),
        ("llama", FP32, 256, "sdpa"),
        ("llama", FP32, 257, "flash"),
        ("llama", BF16 | GPU, 256, "flash"),
        ("llama", FP32 | GPU, 4096, "sdpa"),
        ("some windows", BF16 | GPU, 4096, "flash"),
        ("chunks", BF16 | GPU, 4096, "sdpa"),
        ("sinks", BF16 | GPU, 4096, "eager"),
        ("softcapped", FP32, 4096, "eager"),
    ],
)
def test_auto_is_the_fastest_that_computes_what_the_model_needs(monkeypatch, name, where, length, expected):
    monkeypatch.setattr(attention.torch.cuda, "is_available", lambda: where.get("gpu", False))
    architecture, fields = NETS[name]
    config = AutoConfig.for_model(architecture, **(ARCHITECTURES.get(architecture, {}) | fields))
    assert chosen("auto", config, where.get("bf16", False), length) == expected


def test_dropout_of_attention_has_no_variable_length_kernel(monkeypatch):
    monkeypatch.setattr(attention.torch.cuda, "is_available", lambda: True)
    assert chosen("auto", AutoConfig.for_model("gpt2"), True, 1024) == "sdpa"


@pytest.mark.parametrize(
    ("name", "backend"), [("sinks", "flash"), ("softcapped", "sdpa"), ("chunks", "flash"), ("llama", "flex")]
)
def test_a_backend_that_would_compute_something_else_is_refused(name, backend):
    architecture, fields = NETS[name]
    config = AutoConfig.for_model(architecture, **fields)
    with pytest.raises(
        UserError, match=f"model.attention: {backend} with {architecture}: .*\nway out: model.attention: auto"
    ):
        chosen(backend, config, False, 4096)
