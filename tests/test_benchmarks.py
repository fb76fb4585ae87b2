"""Catches a benchmark that would compare two sides that do not train the same, or fail where there is no GPU."""

import json

import pytest
import torch

from pipeline.lm.config import Model
from tests.benchmarks import (
    attention,
    bare_gpt,
    cpu_training,
    feeding,
    finetune,
    framework_tax,
    gpu_training,
    quantised,
    sampling,
)
from tests.benchmarks.workload import Rows, new_model, parity_gate, recipe, training, warm_up

VOCABULARY, LENGTH = 64, 16
ROWS = Rows(VOCABULARY, LENGTH)
GPT = cpu_training.gpt_shape(layers=2, heads=2, width=16)


def tiny_llama() -> Model:
    shape = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    return Model(architecture="llama", attention="sdpa", config=shape)


def small(**changes):
    sizes = dict(sequence_length=LENGTH, train_batch_size=4, per_device_train_batch_size=2)
    return training(**(sizes | changes))


class ShiftedRows(Rows):
    """The fault to find: each label one position too far."""

    def item(self, index: int) -> dict:
        item = super().item(index)
        return item | {"labels": torch.tensor(item["labels"]).roll(-1).numpy()}


def gpt_losses(rows: Rows, **changes) -> tuple[dict[str, list[float]], dict[str, float]]:
    """First losses of our GPT-2 on the true rows beside the bare GPT on `rows`, with `changes` to its settings."""
    contestants, tolerances = cpu_training.gpt_contestants(GPT, ROWS, small(), compiled=False)
    net = bare_gpt.like(new_model(GPT, VOCABULARY, LENGTH))
    contestants["bare_fp32"] = bare_gpt.contestant(net, rows, small(**changes))
    return warm_up(contestants, 3)[0], tolerances


def test_the_bare_gpt_computes_what_gpt2_computes():
    model = new_model(GPT, VOCABULARY, LENGTH, attention="sdpa")  # the kind that the bare one calls
    for parameter in model.parameters():  # large enough for the two kinds of GELU to differ
        torch.nn.init.normal_(parameter, std=0.5)
    tokens = torch.tensor(ROWS.tokens[:3].astype("int64"))
    torch.testing.assert_close(
        bare_gpt.like(model)(tokens), model(tokens).logits, rtol=0, atol=1e-6
    )  # worst seen: 0; a tanh GELU: 5e-4


@pytest.mark.filterwarnings(  # peft 0.21 asks transformers 5.23 under old names
    "ignore:`(is_gradient_checkpointing|gradient_checkpointing_enable)` is deprecated:FutureWarning"
)
def test_the_quantised_and_the_sampling_benchmark_print_their_ratios():
    shape = tiny_llama().config | {"hidden_size": 128, "intermediate_size": 256}
    wide = Model(architecture="llama", config=shape)
    found = quantised.measure(wide, VOCABULARY, LENGTH, 2, 1, 2, warmup=1)
    assert set(found["ratios"]) == {"nf4", "int8"}
    bases = found["bases"]
    assert bases["nf4"]["weights_gb"] < bases["int8"]["weights_gb"] < bases["plain"]["weights_gb"]
    json.dumps([found, sampling.measure(tiny_llama(), VOCABULARY, 64, 4, 2)])


def test_the_gpt_race_prints_a_ratio_of_each_of_ours():
    contestants, tolerances = cpu_training.gpt_contestants(GPT, ROWS, small(), compiled=False)
    found = cpu_training.compare(contestants, tolerances, small(), steps=1, repeats=2)
    assert set(found["ratios"]) == {"ours_fp32 / bare_fp32", "ours_bf16 / bare_fp32"}
    json.dumps(found)


def test_the_gate_refuses_other_targets():
    losses, tolerances = gpt_losses(ShiftedRows(VOCABULARY, LENGTH))
    with pytest.raises(SystemExit, match="ours_fp32 and bare_fp32 do not train the same"):
        parity_gate(losses, tolerances)


def test_the_gate_refuses_another_learning_rate():
    losses, tolerances = gpt_losses(ROWS, learning_rate=1.1e-3)
    assert losses["bare_fp32"][0] == pytest.approx(losses["ours_fp32"][0], abs=tolerances["ours_fp32"])
    with pytest.raises(SystemExit, match="do not train the same"):
        parity_gate(losses, tolerances)


def test_the_gate_refuses_a_loss_that_is_no_number():
    with pytest.raises(SystemExit, match="do not train the same"):
        parity_gate({"peer": [1.0], "ours": [float("nan")]}, {"ours": 1.0})


def test_the_trainer_takes_the_same_targets_and_steps():
    contestants, _ = cpu_training.llama_contestants(tiny_llama(), ROWS, small(bf16=False), compiled=False)
    contestants.pop("trainer_tuned").close()  # never asked for a step, it has started no process
    losses, _ = warm_up(contestants, cpu_training.GATED)
    contestants["trainer"].close()
    gaps = parity_gate(losses, {"ours": cpu_training.FP32_TOLERANCE})
    assert 0 <= gaps["ours"] <= cpu_training.FP32_TOLERANCE


def test_the_bare_loop_of_the_framework_tax_is_ours(monkeypatch):
    from pipeline.lm.recipe import TokenLoss

    monkeypatch.setattr(framework_tax, "ROWS", 4)
    net = TokenLoss(new_model(tiny_llama(), VOCABULARY, LENGTH).train())
    settings = small(per_device_train_batch_size=4)
    contestants = {
        "bare": framework_tax.bare(net, ROWS),
        "ours": cpu_training.ours(tiny_llama(), ROWS, settings),
    }
    gaps = parity_gate(warm_up(contestants, 3)[0], {"ours": framework_tax.TOLERANCE})
    assert 0 <= gaps["ours"] <= framework_tax.TOLERANCE


def test_without_cuda_the_gpu_benchmark_says_so(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu_training.main()
    line = json.loads(capsys.readouterr().out)
    assert (line["benchmark"], line["ran"], line["reason"]) == (
        "gpu_training",
        False,
        "no CUDA device is here",
    )


@pytest.mark.filterwarnings(
    "ignore:`torch.jit.script_method`:DeprecationWarning"
)  # on importing deepspeed's Muon
@pytest.mark.parametrize("name", gpu_training.SHAPES)
def test_the_gpu_benchmark_measures_its_recipes_at_a_tiny_width(name):
    config = recipe(name)
    widths = {
        "gpt2_124m": dict(n_embd=16, n_layer=2, n_head=2),
        "llama_1b": dict(hidden_size=64, intermediate_size=32, num_hidden_layers=2),
    }
    model = config.model.model_copy(update={"config": config.model.config | widths[name]})
    fields = {"sequence_length": LENGTH, "train_batch_size": 16, "per_device_train_batch_size": 1}
    pretrain = config.pretrain.model_copy(update=fields | {"torch_compile": False})
    tiny = config.model_copy(update={"model": model, "pretrain": pretrain})
    found = gpu_training.measure(tiny, VOCABULARY, steps=1, repeats=2, side=64, products=2)
    model, matmul = (found["tflops_per_second"][side] for side in ("model", "matmul"))
    assert 0 < 0.999 * model["min"] / matmul["max"] <= found["ratio"]["min"]
    assert found["ratio"]["max"] <= 1.001 * model["max"] / matmul["min"]  # printed to four digits
    assert found["batch"].startswith(f"2 x {LENGTH} tokens a step, 2 micro-batches")


def test_the_race_of_attention_trains_the_same_three_ways():
    found = attention.measure(64, False, steps=1, repeats=2, tokens=128)
    assert max(found["losses_differ_by"].values()) < 1e-4
    assert 0 < found["over_dense"]["min"] and set(found["tokens_per_second"]) == set(attention.CONTESTANTS)


def test_the_race_of_feeds_runs_the_loop_both_ways(tmp_path):
    workload = feeding.Workload("text", samples=2, device=1000.0)
    shares = feeding.measure(workload, *feeding.text(tmp_path), repeats=2)["waiting_share"]
    # That the loop is fed by what `before` names: a batch made within the step always costs some of it.
    assert 0 < shares["before"]["min"] <= shares["before"]["max"] < 1
    assert 0 <= shares["after"]["max"] < 1


def test_the_fine_tuning_race_counts_what_each_side_is_taught(tmp_path):
    """TRL's marks and ours on the same conversations: as many tokens, but for the line breaks that TRL adds."""
    talks = finetune.conversations(30)
    shard = finetune.shard_of(tmp_path, 30)
    tokenizer = finetune.tokenizer_of(finetune.TEMPLATE, training=True)
    rows = [
        tokenizer.apply_chat_template(talk, return_dict=True, return_assistant_tokens_mask=True)[
            "assistant_masks"
        ]
        for talk in talks
    ]
    prompted_and_behind = (
        2  # line breaks before the answer, which its prompt ends in, and behind the stop token
    )
    assert int(shard.targets.sum()) == sum(map(sum, rows)) - prompted_and_behind * len(talks)
