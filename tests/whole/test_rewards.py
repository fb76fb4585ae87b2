"""Catches learning from rewards that breaks between its stages, and a reward function that fails and is not named."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.lm.model import save_model
from pipeline.run.artifact import verify_chain
from tests.stages.tiny_model import make_model, make_tokenizer
from tests.whole.command import headwater, headwater_here, manifest

SHORT = """
def judge(completion, prompt, wanted):
    assert wanted == 7 and 'say' in prompt
    return -len(completion)
"""


def write_recipe(folder: Path, source: str, plain: bool = False, **changes) -> list[str]:
    """Forty prompts with a column beside them; two processes. plain: prompts are texts to go on with."""
    folder.mkdir(exist_ok=True)
    if not (folder / "base").is_dir():
        save_model(make_model(0, scale=0.05), make_tokenizer(folder / "tokenizer"), folder / "base")
    rows = [{"prompt": f"say {number}", "wanted": 7} for number in range(40)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "reward.py").write_text(source)
    tree = {
        "recipe": "llm",
        "run": {
            "output_dir": str(folder / "run"),
            "launch": "launch/ddp.yaml",
            "logging_steps": 1,
            "save_steps": 1,
            "threads": 1,
        },
        "model": {"pretrained": str(folder / "base")},
        "prompts": {"path": str(folder / "prompts.jsonl"), "held_out": 0.3, "plain": plain},
        "reinforce": {
            "reward": f"{folder / 'reward.py'}:judge",
            "sequence_length": 64,
            "max_completion_length": 6,
            "num_generations": 4,
            "max_steps": 4,
            "train_batch_size": 4,
            "learning_rate": 0.01,
            "bf16": False,
            **changes,
        },
        "evaluate": {"functions": 0, "multiple_choice": 0, "rewards": 8},
        "generate": {"prompts" if plain else "chat_prompts": ["say it"], "max_new_tokens": 4},
        "export": {"licence": "MIT"},
    }
    (folder / "recipe.yaml").write_text(json.dumps(tree))
    return [str(folder / "recipe.yaml")]


def test_every_stage_is_made_and_the_export_is_what_learnt(tmp_path):
    words = write_recipe(tmp_path, SHORT, beta=0.01)
    done = headwater("run", *words)
    output = tmp_path / "run"
    assert (done.code, done.err) == (0, "")
    stages = {"base", "tokenize", "reinforce", "evaluate", "generate", "export", "report"}
    assert {path.parent.name for path in output.glob("*/artifact.json")} == stages
    assert manifest(output, "reinforce")["made"]["world_size"] == 2
    verify_chain(output / "export")
    tuned, exported = (load_file(output / s / "model.safetensors") for s in ("reinforce/model", "export"))
    before = load_file(output / "base/model/model.safetensors")
    assert all(torch.equal(tuned[name], exported[name]) for name in tuned)
    assert any(not torch.equal(tuned[name], before[name]) for name in tuned)
    scores = json.loads((output / "evaluate" / "evaluation.json").read_text())["scores"]
    assert {("reward", "base"), ("reward", "reinforced"), ("reward change", "reinforced")} <= {
        (score["name"], score["model"]) for score in scores
    }
    assert "by `judge` of `reward.py`" in (output / "export" / "README.md").read_text()
    assert "up to date, nothing to do" in headwater("run", *words).out
    (tmp_path / "reward.py").write_text(SHORT + "# another\n")
    changed = headwater("run", *words, "--dry-run")
    assert "reward: reward.py" in changed.out and "conflict" in changed.out


BREAKS = """
CALLS = []

def judge(completion, prompt, wanted):
    CALLS.append(completion)
    return -len(completion) if len(CALLS) < 20 else 'good'
"""


def test_a_reward_that_fails_in_the_middle_is_named_and_the_run_goes_on_when_it_is_mended(tmp_path):
    words = write_recipe(tmp_path, BREAKS, plain=True)
    broken = headwater("run", *words)
    assert broken.code == 2 and "Traceback" not in broken.err
    assert "judge returned 'good', which is no finite number" in broken.err
    assert "completion: " in broken.err and "mend the function" in broken.err
    assert not (tmp_path / "run" / "reinforce").exists()
    write_recipe(tmp_path, SHORT, plain=True)
    done = headwater("run", *words)
    assert done.code == 0 and "reinforce: resuming after step" in done.out
    samples = json.loads((tmp_path / "run" / "generate" / "samples.json").read_text())
    assert [sample["kind"] for sample in samples] == ["base", "base", "reinforced", "reinforced"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"reward": "nowhere.py:judge"}, "no file nowhere.py"),
        ({"max_completion_length": 64}, "leaves no room for a prompt"),
        ({"num_generations": 1}, "greater than or equal to 2"),
        ({"packing": True}, "packing"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_made(tmp_path, changes, said):
    done = headwater_here("run", *write_recipe(tmp_path, SHORT, **changes))
    assert done.code == 2 and said in done.err and "Traceback" not in done.err
    assert not (tmp_path / "run").exists()


def test_zero_3_is_refused_by_name(tmp_path):
    done = headwater_here("run", *write_recipe(tmp_path, SHORT), "run.launch=launch/zero3.yaml")
    assert done.code == 2 and "not tested under ZeRO-3" in done.err


def test_a_reward_that_writes_where_the_model_lies_is_found_out(tmp_path):
    place = tmp_path / "run" / "base" / "model" / "config.json"
    spoils = SHORT.replace("    return", f"    open({str(place)!r}, 'a').write(' ')\n    return")
    done = headwater("run", *write_recipe(tmp_path, spoils, max_steps=1))
    assert done.code == 2 and "has changed while the stage ran: did the reward write there?" in done.err
