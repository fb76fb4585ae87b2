"""Catches a command line that grows or turns slow, and an import that runs against the layers."""

import ast
import subprocess
import sys
import time
from argparse import ArgumentParser, _SubParsersAction
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from pipeline.__main__ import VERBS, main, parse, parser
from pipeline.lm import chat
from tests.whole.command import RECIPE, ROOT, headwater

# Every verb, its positional arguments, and its options. A new one is a decision, made here.
RECIPE_AND_OVERRIDES = ["recipe", "overrides"]
FROZEN = {
    "run": (RECIPE_AND_OVERRIDES, ["--dry-run", "--replace", "--launch"]),
    "stage": (["name", *RECIPE_AND_OVERRIDES], ["--launch"]),
    "data": (["recipe", "overrides"], ["--show"]),
    "init": (["model", "data"], []),
    "plan": (
        RECIPE_AND_OVERRIDES,
        ["--gpus", "--launch", "--gpu-memory", "--hosts", "--price", "--gpu-tflops"],
    ),
    "prove": (["name", *RECIPE_AND_OVERRIDES], []),
    "status": (RECIPE_AND_OVERRIDES, ["--json"]),
    "verify": (["directory"], []),
    "export": (["run"], ["--push", "--public"]),
    "doctor": ([], []),
    "generate": (
        ["model"],
        ["--prompts", "--out", "--max-new-tokens", "--temperature", "--top-p", "--top-k", "--min-p"]
        + ["--repetition-penalty", "--samples", "--seed", "--batch-size", "--stop"],
    ),
    "compare": (["models"], ["--data", "--batch-size", "--seed"]),
    "serve": (["model"], ["--host", "--port"]),
    "gguf": (["model", "out"], ["--type"]),
    "reproduce": (["model", "out", "overrides"], ["--run"]),
    "runs": (["folder"], []),
    "clean": (["run"], ["--yes"]),
    "score": (["directory"], ["--data", "--batch-size"]),
    "merge": (
        ["out", "sources"],
        ["--method", "--weights", "--base", "--density", "--seed", "--like", "--licence"],
    ),
    "translate": (["run", "file"], []),
    "continue": (["run", "file", "out"], ["--seed"]),
    "infill": (["run", "file", "out"], ["--bars", "--seed"]),
    "draw": (["run", "request", "out"], ["--count", "--seed", "--negative"]),
    "explain": (["run", "text", "out"], []),
    "describe": (["run", "pictures"], ["--ask"]),
    "transcribe": (["run", "clips"], []),
    "vary": (["run", "design", "out"], ["--count", "--seed", "--strength"]),
    "blend": (["run", "first", "second", "out"], ["--count"]),
    "chat": (["run"], ["--max-new-tokens", "--temperature", "--top-p", "--tools", "--system", "--seed"]),
}


def offered(command: ArgumentParser) -> tuple[list[str], list[str]]:
    """(positional arguments, options) of a parser, help left out."""
    actions = [action for action in command._actions if action.dest != "help"]
    options = [name for action in actions for name in action.option_strings]
    return [action.dest for action in actions if not action.option_strings], options


def test_the_command_line_is_frozen():
    verbs = next(action for action in parser()._actions if isinstance(action, _SubParsersAction))
    found = {name: offered(command) for name, command in verbs.choices.items()}
    assert found.pop("chat") == ([], [])  # it reads its own options
    assert found | {"chat": offered(chat._parser())} == FROZEN
    assert offered(parser()) == (["verb"], ["--version"])
    assert set(VERBS) == set(FROZEN) - {"chat"}


def test_overrides_may_stand_behind_options_and_nothing_else_may():
    given = parse(["run", RECIPE, "a.b=1", "--dry-run", "c.d=2"])
    assert (given.overrides, given.dry_run) == (["a.b=1", "c.d=2"], True)
    for wrong in (["run", RECIPE, "--dry-run", "word"], ["run", RECIPE, "--dr"], ["verify", "x", "a=1"]):
        with pytest.raises(SystemExit) as stopped:
            parse(wrong)
        assert stopped.value.code == 2


def test_the_installed_command_is_this_one():
    (script,) = entry_points(group="console_scripts", name="headwater")
    assert script.load() is main


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]], ids=" ".join)
def test_help_comes_at_once_and_loads_no_library(arguments):
    script = "import sys; from pipeline.__main__ import main\ntry: main()\nfinally: print(*sys.modules)"
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert time.perf_counter() - started < 1  # measured 0.1
    assert done.returncode == 0, done.stderr
    text, _, modules = done.stdout.rstrip().rpartition("\n")
    assert text.startswith(("usage: headwater", "headwater "))
    heavy = {
        "torch",
        "transformers",
        "datasets",
        "accelerate",
        "deepspeed",
        "tokenizers",
        "numpy",
        "pydantic",
    }
    assert heavy & set(modules.split()) == set()


# Which packages of this project a package may import. Tests may import everything.
LAYERS = {
    "tokenizer": {"tokenizer"},
    "pipeline": {"tokenizer", "pipeline"},
    "recipes": {"tokenizer", "pipeline", "recipes"},
}
HOUSE = {*LAYERS, "tests"}
# The rooms of pipeline/, each with those whose modules it may import; the stages at the top may import all of them.
ROOMS = {
    "run": {"run"},
    "train": {"run", "train"},
    "data": {"run", "train", "data"},
    "lm": {"run", "train", "data", "lm"},
    "scores": {"run", "train", "data", "lm", "scores"},
    "publish": {"run", "train", "data", "lm", "scores", "publish"},
}
STAGES = "base evaluate export finetune generate prefer pretrain reference reinforce report reward_model"
STAGES = f"{STAGES} tokenize train_tokenizer"
FAMILIES = {path.parent.name for path in ROOT.glob("recipes/*/__init__.py")} - {"common"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """The dotted name of every import in a file, those inside functions included; relative ones made whole."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            parents = path.relative_to(ROOT).parent.parts
            above = parents[: len(parents) - node.level + 1] if node.level else ()
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def importers(package: str, names: set[str]) -> set[str]:
    """Files of `package` that import one of `names` or anything within it."""
    return {
        path.relative_to(ROOT).as_posix()
        for path in modules(package)
        for found in imports(path)
        if any(found == name or found.startswith(f"{name}.") for name in names)
    }


@pytest.mark.parametrize("package", LAYERS)
def test_imports_run_one_way(package):
    assert modules(package), "nothing was looked at"
    assert importers(package, HOUSE - LAYERS[package]) == set()


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_one_way(room):
    """A room that imports a stage, or a room built upon it, can no longer be read or moved by itself."""
    closed = {f"pipeline.{name}" for name in {*ROOMS, *STAGES.split(), "__main__"} - ROOMS[room]}
    assert importers(f"pipeline/{room}", closed) == set()


def test_the_top_of_the_pipeline_is_the_list_of_stages():
    top = {path.stem for path in (ROOT / "pipeline").glob("*.py")} - {"__init__", "__main__"}
    assert top == set(STAGES.split())
    rooms = {path.parent.name for path in (ROOT / "pipeline").glob("*/__init__.py")}
    assert rooms == set(ROOMS)


def test_the_engine_alone_imports_accelerate_and_deepspeed():
    for library, files in (("accelerate", {"runtime"}), ("deepspeed", {"interface", "zero"})):
        found = set().union(*(importers(package, {library}) for package in LAYERS))
        assert found == {f"pipeline/train/engine/{name}.py" for name in files}


# An application, and the family whose nets or data it takes.
BUILT_ON = {
    "design": {"recipes.diffusion"},
    "text_to_image": {"recipes.diffusion"},
    "text_to_image_lora": {"recipes.diffusion"},
    "augmentation": {"recipes.molecules"},
    "vision_chat": {"recipes.captioning"},
}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_families_do_not_know_each_other(family):
    others = {f"recipes.{other}" for other in FAMILIES - {family}} - BUILT_ON.get(family, set())
    assert importers(f"recipes/{family}", others) == set()


def test_the_pipeline_names_no_family():
    """stage.py looks one up by the name that the YAML gives; no other module of pipeline/ knows that recipes exist."""
    naming = {
        path.relative_to(ROOT).as_posix()
        for path in modules("pipeline")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "recipes." in node.value
    }
    assert naming == {"pipeline/run/stage.py"}
    named = {f"recipes.{family}" for family in FAMILIES}
    assert not any(name in (ROOT / "pipeline/run/stage.py").read_text() for name in named)


def test_a_plan_leaves_stderr_empty(tmp_path):
    """bitsandbytes, which peft imports, spoke of a kernel that nothing here calls, on CPUs with AVX-512 bf16."""
    done = headwater("plan", RECIPE, f"run.output_dir={tmp_path}/run")
    assert done.code == 0 and done.err == ""
