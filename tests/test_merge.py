"""Catches a merge that is not its formula, sources that do not belong together, and a result that nobody looked at."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pipeline.__main__ import main
from pipeline.lm.config import Lora
from pipeline.lm.model import save_model
from pipeline.lm.tuning.lora import add_adapters, save_adapter
from pipeline.publish import merge as merging
from pipeline.publish.merge import Merge, Source, _largest, _slerp, _ties
from tests.stages.tiny_model import make_model, make_tokenizer


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    """A base and two models of its shape; one of another, and one with another vocabulary."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = make_tokenizer(folder / "tokenizer")
    for seed, name in enumerate(("base", "one", "two")):
        save_model(make_model(seed), tokenizer, folder / name)
    save_model(make_model(0, tied=False), tokenizer, folder / "untied")
    save_model(make_model(3), tokenizer, folder / "other")
    file = folder / "other" / "tokenizer.json"
    file.write_text(file.read_text().replace('"the"', '"teh"', 1) + "\n")
    return {path.name: path for path in folder.iterdir()}


def weights(directory: Path) -> dict[str, torch.Tensor]:
    return load_file(directory / "model.safetensors")


def merged(models, tmp_path, *sources: str, method: str = "linear", **options) -> dict[str, torch.Tensor]:
    words = ["merge", str(tmp_path / "out"), *(str(models[name]) for name in sources), "--method", method]
    for name, value in options.items():
        words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    assert main([*words, "--licence", "MIT"]) == 0
    return weights(tmp_path / "out")


def test_linear_is_the_weighted_mean_and_plain_transformers_loads_it(models, tmp_path):
    found = merged(models, tmp_path, "one", "two", weights=[1, 3])
    one, two = weights(models["one"]), weights(models["two"])
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, (one[name] + 3 * two[name]) / 4)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template
    assert sum(p.numel() for p in model.parameters()) == sum(t.numel() for t in found.values())
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Merged by `linear`" in card and "| one | 1 |" in card and "| two | 3 |" in card
    assert json.loads((tmp_path / "out" / "merge.json").read_text())["weights"] == [1.0, 3.0]


def test_task_arithmetic_adds_what_each_source_learnt(models, tmp_path):
    base = str(models["base"])
    found = merged(models, tmp_path, "one", "two", method="task_arithmetic", base=base, weights=[0.5, 0.25])
    b, one, two = (weights(models[name]) for name in ("base", "one", "two"))
    for name, tensor in found.items():
        expected = b[name] + 0.5 * (one[name] - b[name]) + 0.25 * (two[name] - b[name])
        torch.testing.assert_close(tensor, expected)


def test_dare_keeps_a_share_and_scales_it_up(models, tmp_path):
    found = merged(
        models, tmp_path, "one", "two", method="dare", base=str(models["base"]), density=0.25, weights=[1, 0]
    )
    b, one = weights(models["base"]), weights(models["one"])
    name = "model.layers.0.mlp.up_proj.weight"
    change, whole = found[name] - b[name], (one[name] - b[name]) * 4
    kept = change.abs() > 1e-6
    assert kept.float().mean() == pytest.approx(0.25, abs=0.05)
    torch.testing.assert_close(change[kept], whole[kept], rtol=1e-4, atol=1e-5)


def test_ties_is_pefts_where_weights_are_equal():
    from peft.utils.merge_utils import ties

    torch.manual_seed(0)
    changes = [torch.randn(20, 10) for _ in range(3)]
    theirs = ties(changes, torch.ones(3), density=0.3, majority_sign_method="total")
    torch.testing.assert_close(_ties(changes, (1.0, 1.0, 1.0), 0.3), theirs)


def test_ties_leaves_out_what_goes_against_the_elected_sign():
    changes = [torch.tensor([1.0, -2.0]), torch.tensor([-3.0, -4.0])]
    assert _ties(changes, (1.0, 1.0), 1.0).tolist() == [-3.0, -3.0]
    assert _largest(torch.tensor([1.0, -5.0, 2.0, 0.0]), 0.5).tolist() == [0, -5, 2, 0]


def test_slerp_keeps_to_the_arc():
    one, other = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    torch.testing.assert_close(_slerp(one, other, 0.5), torch.tensor([0.5**0.5, 0.5**0.5]))
    torch.testing.assert_close(_slerp(one, other, 0.0), one)
    torch.testing.assert_close(_slerp(one, 3 * one, 0.5), 2 * one)  # no angle: straight
    torch.testing.assert_close(_slerp(torch.zeros(2), one, 0.5), one / 2)


def test_checkpoints_of_a_stage_are_averaged(models, tmp_path):
    for number, name in enumerate(("one", "two")):
        saved = {f"model/weight/model.{key}": tensor for key, tensor in weights(models[name]).items()}
        (tmp_path / f"step-{number}").mkdir()
        save_file(
            saved | {"model/exp_avg/x": torch.zeros(1)}, tmp_path / f"step-{number}" / "state.safetensors"
        )
    words = ["merge", str(tmp_path / "out"), str(tmp_path / "step-0"), str(tmp_path / "step-1")]
    assert main([*words, "--like", str(models["base"]), "--licence", "MIT"]) == 0
    one, two = weights(models["one"]), weights(models["two"])
    for name, tensor in weights(tmp_path / "out").items():
        torch.testing.assert_close(tensor, (one[name] + two[name]) / 2)


def test_shards_are_cut_and_found_again(models, tmp_path, monkeypatch):
    monkeypatch.setattr(merging, "SHARD_BYTES", 20_000)
    asked = Merge(
        (str(models["one"]), str(models["two"])), (1.0, 1.0), "linear", None, 0.5, 0, str(models["one"])
    )
    merging.run_merge(asked, tmp_path / "out", "MIT")
    assert len(list((tmp_path / "out").glob("model-*-of-*.safetensors"))) > 2
    assert Source(tmp_path / "out").shapes() == Source(models["one"]).shapes()


REFUSED = {
    "one source": (["one"], [], "one source is no merge"),
    "another shape": (["one", "untied"], [], "is of another shape"),
    "another vocabulary": (["one", "other"], [], "different tokenizers"),
    "no base": (["one", "two"], ["--method", "ties"], "way out: --base"),
    "three on an arc": (
        ["one", "two", "base"],
        ["--method", "slerp", "--weights", "1", "1", "1"],
        "joins two",
    ),
    "a weight too few": (["one", "two"], ["--weights", "1"], "1 weights for 2 sources"),
    "a density of 0": (["one", "two"], ["--density", "0"], "--density 0.0"),
    "no such method": (["one", "two"], ["--method", "tie"], "--method 'tie'"),
    "no licence": (["one", "two"], ["--licence", "none"], "--licence"),
    "no weights": (["one", "tokenizer"], [], "holds no safetensors"),
}


@pytest.mark.parametrize(("sources", "more", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_merged_is_refused_and_nothing_written(models, tmp_path, capsys, sources, more, said):
    words = ["merge", str(tmp_path / "out"), *(str(models[name]) for name in sources)]
    assert main([*words, *more, *([] if "--licence" in more else ["--licence", "MIT"])]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_result_that_is_not_what_was_computed_is_not_published(models, tmp_path, monkeypatch):
    write = merging._write

    def spoilt(asked: Merge, out: Path) -> None:
        write(asked, out)
        tensors = weights(out)
        tensors["model.norm.weight"] += 1
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})

    monkeypatch.setattr(merging, "_write", spoilt)
    asked = Merge(
        (str(models["one"]), str(models["two"])), (1.0, 1.0), "linear", None, 0.5, 0, str(models["one"])
    )
    with pytest.raises(RuntimeError, match=r"model\.norm\.weight is not what was computed"):
        merging.run_merge(asked, tmp_path / "out", "MIT")
    assert not (tmp_path / "out").exists()


ADAPTERS = {
    "plain": {"lora_alpha": 6.0},
    "rslora": {"use_rslora": True, "lora_alpha": 3.0},
    "patterns": {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"down_proj": 9.0}},
    "saved whole": {"modules_to_save": ("norm",)},
}


@pytest.fixture
def adapter(models, tmp_path):
    """`adapter(kind, seed)`: the directory of an adapter of the base, and the weights that peft merges it into."""

    def made(kind: str, seed: int) -> tuple[Path, dict[str, torch.Tensor]]:
        settings = Lora(r=4, **ADAPTERS[kind])
        net = add_adapters(AutoModelForCausalLM.from_pretrained(models["base"]), settings)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in net.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        place = tmp_path / f"adapter-{kind}-{seed}"
        save_adapter(net, place, models["base"], settings)
        return place, net.merge_and_unload().state_dict()

    return made


PEFT = pytest.mark.filterwarnings(
    "ignore:`(is_gradient_checkpointing|gradient_checkpointing_enable)` is deprecated:FutureWarning"
)


@PEFT
@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_adapter_stands_for_what_peft_merges_it_into(models, adapter, tmp_path, kind):
    place, expected = adapter(kind, 1)
    base = str(models["base"])
    if kind == "plain":
        found = merged(models | {"adapter": place}, tmp_path, "adapter", base=base)
        AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    else:
        found = dict(merging.merged(Merge((str(place),), (1.0,), "linear", base, 0.5, 0, base)))
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-7)
    assert any(not torch.equal(tensor, weights(models["base"])[name]) for name, tensor in found.items())


@PEFT
def test_two_adapters_and_a_model_join_by_every_method(models, adapter, tmp_path):
    (one, first), (two, second) = adapter("plain", 1), adapter("rslora", 2)
    known = models | {"a": one, "b": two}
    found = merged(known, tmp_path, "a", "b", "one", base=str(models["base"]), weights=[1, 2, 1])
    third = weights(models["one"])
    for name, tensor in found.items():
        expected = (first[name] + 2 * second[name] + third[name]) / 4
        torch.testing.assert_close(tensor, expected, rtol=1e-5, atol=1e-6)
    base = str(models["base"])
    for method in ("slerp", "ties", "dare", "task_arithmetic"):
        asked = Merge((str(one), str(two)), (0.5, 0.5), method, base, 0.5, 0, base)
        merging.checked(asked, "MIT")
        found = dict(merging.merged(asked))
        changed = [name for name in found if not torch.equal(found[name], weights(models["base"])[name])]
        assert len(changed) == 14, "each linear layer of two, and nothing else"


@PEFT
def test_an_adapter_that_is_no_product_on_this_base_is_refused(models, adapter, tmp_path, capsys):
    place, _ = adapter("plain", 1)

    def said(*words: str) -> str:
        assert main(["merge", str(tmp_path / "none"), *words, "--licence", "MIT"]) == 2
        return capsys.readouterr().err

    assert "is an adapter\nway out: --base DIRECTORY" in said(str(place), str(place))
    (place / "quantisation.json").write_text("{}")
    assert "on a base in codes" in said(str(place), "--base", str(models["base"]))
    (place / "quantisation.json").unlink()
    settings = json.loads((place / "adapter_config.json").read_text())
    (place / "adapter_config.json").write_text(json.dumps(settings | {"use_dora": True}))
    assert "more than LoRA's products" in said(str(place), "--base", str(models["base"]))
