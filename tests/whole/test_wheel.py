"""Catches a wheel or sdist that lacks a file of the checkout, and a shipped file that only a checkout finds."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from tests.whole.command import ENVIRONMENT, ROOT

SDIST = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
PACKAGES = ("launch", "pipeline", "recipes", "tokenizer")
WHERE = "import json, {0}; print(json.dumps([m.__file__ for m in ({0})]))".format(
    "pipeline.run.shipped, recipes.gan, tokenizer"
)


def checkout() -> list[str]:
    """Every file that belongs to the checkout, new ones included."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in found.split("\0") if name and (ROOT / name).is_file()]


def needed() -> set[str]:
    """Every file that the program reads, or that runs it: all of the four packages."""
    return {name for name in checkout() if name.split("/")[0] in PACKAGES}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the wheel and the sdist, built from a copy of the checkout without its untracked leftovers."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in checkout():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(out)]
    for command in (["-m", "pip", "wheel", *options, "."], ["-c", SDIST, str(out)]):
        done = subprocess.run([sys.executable, *command], cwd=source, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
    return out


@pytest.fixture(scope="module")
def site(built, tmp_path_factory) -> Path:
    """Where the wheel is installed: a folder with nothing else."""
    target = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(target)
    return target


def installed(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python on the installed wheel alone, started in `folder`."""
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": str(site)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_the_wheel_holds_what_the_checkout_needs(site):
    held = {path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()}
    assert {"launch/zero2.yaml", "recipes/llm/quickstart.yaml", "pipeline/__main__.py"} <= needed()
    assert needed() - held == set()
    assert not any(name.startswith("tests/") for name in held)


def test_the_sdist_holds_what_the_checkout_needs(built):
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        held = {name.partition("/")[2]: archive.getmember(name) for name in archive.getnames()}
    assert needed() | {"pyproject.toml", "README.md", "LICENSE"} <= set(held)
    assert held["launch/quickstart"].mode & 0o111, "the script cannot be run"


def test_the_modules_come_from_the_wheel(site, tmp_path):
    done = installed(site, tmp_path, "-c", WHERE)
    assert done.returncode == 0, done.stderr
    assert all(Path(file).is_relative_to(site) for file in json.loads(done.stdout))


@pytest.mark.parametrize("recipe", ["llm/quickstart", "recipes/llm/quickstart.yaml"])
def test_a_shipped_recipe_is_decided_from_any_folder(site, tmp_path, recipe):
    done = installed(site, tmp_path, "-m", "pipeline", "run", recipe, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert [line.split()[1] for line in done.stdout.splitlines()] == ["run"] * 8
    assert list(tmp_path.iterdir()) == []


def test_a_shipped_recipe_is_planned_from_any_folder(site, tmp_path):
    done = installed(site, tmp_path, "-m", "pipeline", "plan", "llm/quickstart")
    assert done.returncode == 0, done.stderr
    assert "pretrain: zero2.yaml, 2 processes" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_stage_is_launched_from_any_folder(site, tmp_path):
    words = ["stage", "train", "gan/ring", "train.max_steps=2", "run.launch=launch/ddp.yaml"]
    done = installed(site, tmp_path, "-m", "pipeline", *words)
    assert (done.returncode, done.stderr) == (0, "")
    made = json.loads((tmp_path / "runs/gan-ring/train/artifact.json").read_text())["made"]
    assert (made["commit"], made["world_size"]) == ("unknown", 2)


def test_the_repository_around_an_installation_is_not_its_commit(built, tmp_path):
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "--quiet"], [*author, "commit", "--quiet", "--allow-empty", "-m", "a"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    asked = "from pipeline.run.provenance import commit; print(commit())"
    assert installed(tmp_path / "site", tmp_path, "-c", asked).stdout == "unknown\n"


def test_a_front_door_takes_a_short_name(site, tmp_path):
    output = "run.output_dir=out"
    words = ["-m", "pipeline.train_tokenizer", "llm/quickstart", "corpus.max_documents=5", output]
    done = installed(site, tmp_path, *words, "tokenizer.vocabulary_size=300")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "tokenizer" / "artifact.json").is_file()


# How names are found, without a wheel: the same code in both places.


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_local_file_of_a_shipped_name_wins(here):
    from pipeline.run.shipped import RECIPES, find_launch_file, find_recipe

    for name in ("llm/quickstart", "recipes/llm/quickstart.yaml", "llm/quickstart.yaml"):
        assert find_recipe(Path(name)).samefile(RECIPES / "llm/quickstart.yaml")
    (here / "llm").mkdir()
    (here / "llm" / "quickstart.yaml").write_text("recipe: llm\n")
    (here / "zero2.yaml").write_text("{}\n")
    assert find_recipe(Path("llm/quickstart")).samefile(here / "llm/quickstart.yaml")
    assert find_launch_file(Path("zero2")).samefile(here / "zero2.yaml")
    assert find_launch_file(Path("launch/zero2.yaml")).samefile(RECIPES.parent / "launch/zero2.yaml")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("llm/quickstrat", "did you mean 'llm/quickstart'?"),
        ("recipes/vae/fashion_mnist_qv.yaml", "did you mean 'vae/fashion_mnist_vq'?"),
        ("nothing/like.it", "choices: augmentation/glosses"),
        ("a" * 300, "choices: "),
        (".", "choices: "),
        ("..", "choices: "),
    ],
)
def test_the_nearest_recipe_is_named(here, given, told):
    from pipeline.run.errors import UserError
    from pipeline.run.shipped import find_recipe

    with pytest.raises(UserError, match="no recipe at") as refused:
        find_recipe(Path(given))
    assert told in str(refused.value) and str(refused.value).count("\n") < 5


def test_the_nearest_launch_file_is_named(here):
    from pipeline.run.errors import UserError
    from pipeline.run.shipped import find_launch_file

    with pytest.raises(UserError, match="did you mean 'zero3_offload'") as refused:
        find_launch_file(Path("launch/zero3_offlaod.yaml"))
    assert "zero2.yaml" in str(refused.value)
