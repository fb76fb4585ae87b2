"""Catches a README that shows a command, an option, a file or a recipe that does not exist."""

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from pipeline.__main__ import parse
from pipeline.run.errors import UserError
from pipeline.run.stage import open_recipe
from tests.whole.command import ENVIRONMENT, MINIATURE, ROOT

README = (ROOT / "README.md").read_text()
BEGINNINGS = ("headwater ", "accelerate launch ", "./launch/")


def blocks(text: str) -> list[list[str]]:
    """The lines of each fenced block."""
    return [block.strip("\n").split("\n") for block in re.findall(r"^```\w*\n(.*?)^```", text, re.S | re.M)]


def commands(text: str) -> list[str]:
    """Every line of the blocks that hold commands, without comments; what stands in brackets made an example."""
    found = [line for block in blocks(text) if block[0].startswith(BEGINNINGS) for line in block]
    plain = (re.sub(r"\s+#.*", "", line).strip() for line in found)
    return [line.replace("[section.key=value ...]", "run.logging_steps=5") for line in plain if line]


def stated_in_recipes() -> list[str]:
    """The commands that open each YAML, as they are written there."""
    texts = [re.sub(r"\\\n#", "", file.read_text()) for file in sorted(ROOT.glob("recipes/*/*.yaml"))]
    found = [
        re.findall(r"^#\s+(?:command\s+)?((?:headwater|accelerate launch) .+)$", text, re.M) for text in texts
    ]
    return [re.sub(r"\s+[(#].*", "", line).strip() for lines in found for line in lines]


def check(command: str) -> None:
    """Take a command as its own program would take it; nothing is trained, loaded or written.

    Raises:
        AssertionError, SystemExit or UserError: it is not one that works.
    """
    words = shlex.split(command)
    if words[0] == "headwater":
        check_headwater(words[1:])
    elif words[:2] == ["accelerate", "launch"]:
        check_launched(words[2:])
    else:
        assert re.fullmatch(r"\./launch/\w+", words[0]), f"no test knows how to try: {command}"
        assert os.access(ROOT / words[0], os.X_OK), f"{words[0]} cannot be run"


def fault(command: str) -> str | None:
    """What is wrong with a command; None where it works."""
    try:
        check(command)
    except (AssertionError, SystemExit, UserError) as error:
        return repr(error)
    return None


def check_headwater(arguments: list[str]) -> None:
    if arguments[0] == "chat":
        from pipeline.lm.chat import _parser

        _parser().parse_args(arguments[1:])
        return
    given = parse(arguments)
    if "recipe" in given:
        open_recipe(ROOT / given.recipe, given.overrides)


def check_launched(arguments: list[str]) -> None:
    from accelerate.commands.launch import launch_command_parser

    given = launch_command_parser().parse_args(arguments)
    assert (ROOT / given.config_file).is_file(), given.config_file
    assert given.module, "only modules are launched"
    spec = find_spec(given.training_script)
    assert spec is not None, f"no module {given.training_script}"
    if spec.submodule_search_locations is not None:
        assert find_spec(f"{given.training_script}.__main__"), f"{given.training_script} cannot be run"
    open_recipe(ROOT / given.training_script_args[0], given.training_script_args[1:])


def test_the_commands_are_found():
    found = commands(README)
    assert {"./launch/quickstart", "./launch/test"} <= set(found)
    verbs = {line.split()[1] for line in found if line.startswith("headwater ")}
    assert {"run", "plan", "status", "verify", "chat", "export"} <= verbs
    assert sum(line.startswith("accelerate launch ") for line in found) >= 2
    assert len(stated_in_recipes()) >= len(list(ROOT.glob("recipes/*/*.yaml")))


@pytest.mark.parametrize("command", commands(README) + stated_in_recipes())
def test_a_command_that_is_shown_exists(command):
    assert fault(command) is None


@pytest.mark.parametrize(
    "command",
    [
        "headwater trian recipes/llm/quickstart.yaml",
        "headwater run recipes/llm/quickstrat.yaml",
        "headwater run recipes/llm/quickstart.yaml --dry",
        "headwater run recipes/llm/quickstart.yaml pretrain.steps=1",
        "headwater chat runs/quickstart --loud",
        "headwater export runs/quickstart --to user/name",
        "accelerate launch --config_file launch/zero9.yaml -m pipeline.pretrain recipes/llm/quickstart.yaml",
        "accelerate launch --config_file launch/zero2.yaml -m pipeline.pertrain recipes/llm/quickstart.yaml",
        "accelerate launch --config_file launch/zero2.yaml -m recipes.gan recipes/gan/rings.yaml",
        "accelerate launch --config_file launch/zero2.yaml -m recipes.llm recipes/llm/quickstart.yaml",
        "./launch/quikstart",
        "pip install headwater",
    ],
)
def test_a_command_that_does_not_exist_would_be_noticed(command, capsys):
    assert fault(command)


# The case of tests/test_recipes.py that holds what a family trains to the contract; music, molecules and augmentation
# train the language model.
GUARANTEED = {
    "llm": "language model",
    "music": "language model",
    "molecules": "language model",
    "augmentation": "language model",
    "diffusion": "U-Net",
    "design": "design",
    "text_to_image": "text to image",
    "text_to_image_lora": "image LoRA",
    "captioning": "captioning",
    "vision_chat": "vision chat",
    "transcription": "transcription",
    "gan": "GAN",
    "vae": "VAE",
    "pixelcnn": "PixelCNN",
    "wavenet": "WaveNet",
    "seq2seq": "T5",
}
FAMILIES = sorted(path.name for path in (ROOT / "recipes").iterdir() if (path / "__init__.py").is_file())


@pytest.mark.parametrize("family", [name for name in FAMILIES if name != "common"])
def test_a_family_has_its_place_its_commands_its_headers_and_its_guarantees(family):
    """A folder of recipes that nobody is told of, whose YAML says neither machine nor result, or that no test holds."""
    from tests.recipe_cases import CASES

    assert re.search(rf"^  {family}/  +\S", README, re.M), "not in the map of the tree"
    assert f"recipes/{family}/" in README.partition("## The tree")[0], "no recipe of it is named"
    files = sorted((ROOT / "recipes" / family).glob("*.yaml"))
    assert files
    for file in files:
        header = file.read_text().partition("\nrecipe:")[0].lower()
        for told in ("headwater run recipes/", "hardware", "wall time", "expect"):
            assert told in header, f"{file.name} says nothing of: {told}"
    assert GUARANTEED[family] in CASES
    assert any((ROOT / "tests").rglob(f"*{family}*")) or family in ("llm", "vae"), "no tests of its own"


# The same lines run: on the miniature where they read a run, as a dry run or a no-op where they would train.

CHEAP = {"run": ["--dry-run"], "plan": [], "status": [], "verify": [], "chat": ["--max-new-tokens", "4"]}
SAID = {
    "run": "report       up to date",
    "plan": "memory a process: ",
    "status": '"state": "up to date"',
    "verify": ": verified",
}
RUN = [line for line in commands(README) if line.startswith("headwater ") and line.split()[1] in CHEAP]
PICTURES = [line for line in RUN if line.split()[1] == "run" and "recipes/llm/" not in line]
LAUNCHED = [line for line in commands(README) if line.startswith("accelerate launch ")]


def run(words: list[str], typed: str = "") -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=ROOT,
        env=os.environ | ENVIRONMENT,
        input=typed,
        capture_output=True,
        text=True,
        timeout=120,
    )


def on_the_miniature(words: list[str], output: Path) -> list[str]:
    """The command on a finished run instead of runs/quickstart, or with the settings that made it."""
    words = [word.replace("runs/quickstart", str(output)) for word in words]
    if "recipes/llm/quickstart.yaml" in words:
        words += [f"run.output_dir={output}", *MINIATURE]
    return words


@pytest.mark.parametrize("command", PICTURES)
def test_a_use_of_an_image_model_is_a_stage(command, tmp_path):
    words = [*shlex.split(command)[1:], "data.source=digits", "data.image_size=8", "--dry-run"]
    done = run(["pipeline", *words, f"run.output_dir={tmp_path}"])
    section = next(word.partition(".")[0] for word in words[2:] if "=" in word)
    stage = "train" if section == "run" else section
    assert done.returncode == 0, done.stderr
    assert re.search(rf"^{stage} +run", done.stdout, re.M)


@pytest.mark.parametrize("command", [line for line in RUN if line not in PICTURES])
def test_a_headwater_command_works_on_a_run(command, finished):
    verb = command.split()[1]
    done = run(["pipeline", *on_the_miniature(command.split()[1:], finished[0]), *CHEAP[verb]], "hello\n")
    assert done.returncode == 0, done.stderr
    if verb == "plan":  # everything is there: what it says of training is the same
        processes = 64 if "--gpus 64" in command else 2
        assert f"pretrain: zero2.yaml, {processes} processes" in done.stdout
    assert SAID.get(verb, "") in done.stdout


@pytest.mark.parametrize("command", [line for line in LAUNCHED if "quickstart" in line])
def test_a_launched_stage_finds_a_finished_run_up_to_date(command, finished):
    words = shlex.split(command)
    module = words[words.index("-m") + 1]
    done = run([module, *on_the_miniature(words[words.index("-m") + 2 :], finished[0])])
    assert (done.returncode, done.stdout) == (0, f"{module.rpartition('.')[2]}: up to date\n"), done.stderr


@pytest.mark.parametrize("command", LAUNCHED)
def test_a_launched_module_reads_its_recipe(command, tmp_path):
    (tmp_path / "file").touch()
    words = shlex.split(command)
    done = run([*words[words.index("-m") + 1 :], f"run.output_dir={tmp_path / 'file' / 'run'}"])
    assert done.returncode == 2 and f"{tmp_path / 'file'} is a file" in done.stderr


@pytest.mark.parametrize(
    ("script", "named"),
    [("quickstart", "exec headwater run recipes/llm/quickstart.yaml "), ("test", "exec python -m pytest ")],
)
def test_a_script_of_the_fresh_machine_runs_what_it_says(script, named):
    path = ROOT / "launch" / script
    assert os.access(path, os.X_OK) and named in path.read_text()
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    assert subprocess.run(["bash", "-n", ROOT / "launch" / "environment"]).returncode == 0
    assert '. "$(dirname "$0")/environment" ' in path.read_text()


def test_the_map_names_what_is_there():
    (tree,) = (block for block in blocks(README) if block[0].startswith("pipeline/"))
    folder = ""
    for line in tree:
        if not line.startswith(" "):
            folder = line.split()[0]
        for name in re.findall(r"\b\w+\.py\b", line):
            assert (ROOT / folder / name).is_file(), f"{folder}{name}"
    named = {line.split()[0] for line in tree if not line.startswith(" ")}
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tops = {path.split("/")[0] + "/" * ("/" in path) for path in tracked.splitlines()}
    beside = {"README.md", "LICENSE", "pyproject.toml"}  # and nothing that was downloaded into the checkout
    assert {name for name in tops if not name.startswith(".")} == named | beside
