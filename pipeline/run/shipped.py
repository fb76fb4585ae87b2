"""Files that come with the program, in a checkout and in an installed wheel alike: recipes and launch files by name."""

from pathlib import Path

from pipeline.run.errors import UserError, nearest

HERE = Path(__file__).parents[2]  # of the checkout, or the folder that the wheel was installed into
LAUNCH = HERE / "launch"
RECIPES = HERE / "recipes"


def find_recipe(given: Path) -> Path:
    """The YAML that `given` names: a file here, else a shipped one, as `llm/quickstart` or as its path in a checkout.

    Raises:
        UserError: neither is there; the nearest name is in the message.
    """
    found = _found(given, (HERE, RECIPES))
    if found is None:
        choices = [path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.glob("*/*.yaml")]
        short = given.as_posix().removesuffix(".yaml").removeprefix("recipes/")
        raise UserError(
            f"no recipe at {given}, nor among those that come with headwater\n{nearest(short, choices)}\n"
            "expected: a YAML file, or a name such as llm/quickstart"
        )
    return found


def find_launch_file(given: Path) -> Path:
    """The launch file that `given` names: a file here, else a shipped one, as `zero2` or `launch/zero2.yaml`.

    Raises:
        UserError: neither is there; the nearest name is in the message.
    """
    found = _found(given, (HERE, LAUNCH))
    if found is None:
        known = [path.stem for path in LAUNCH.glob("*.yaml")]
        names = ", ".join(f"{name}.yaml" for name in sorted(known))
        raise UserError(
            f"run.launch: no launch file at {given}\n{_close(given.stem, known)}in launch/: {names}"
        )
    return found


def _close(given: str, choices: list[str]) -> str:
    """A line with the nearest name where one is near; the list of all stands below it."""
    line = nearest(given, choices)
    return "" if line.startswith("choices") else f"{line}\n"


def _found(given: Path, folders: tuple[Path, ...]) -> Path | None:
    """The first file of that name, with `.yaml` added where it is left out; a local one wins."""
    places = [given, *(folder / given for folder in folders)]
    names = [name for place in places for name in (place, Path(f"{place}.yaml"))]
    return next((name for name in names if _is_readable(name)), None)


def _is_readable(path: Path) -> bool:
    try:
        return path.exists() and not path.is_dir()  # a pipe such as /dev/stdin is a recipe too
    except (OSError, ValueError):  # a name that no file system takes
        return False
