"""Fixtures of all tests: what each launcher did with the toy recipe, run once; `--all`; and what shares a process."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.helpers import launch, once

Report = dict[str, Any]
# The files of launch/ that these start; their twins for GPUs are started by tests/test_recipes.py.
FILES = {"one": None, "ddp": "cpu_ddp", "zero1": "zero1", "zero2": "cpu_zero2", "zero3": "cpu_zero3"}
LEFT_OUT = pytest.StashKey[Counter]()  # the cases marked `exhaustive`, by test
# With `-n`: files that ask for what takes minutes to make run in one process, which makes it once.
TOGETHER = {
    "test_drawing.py": "launchers",
    "test_engines.py": "launchers",
    "test_accumulation.py": "launchers",
    "test_resume.py": "launchers",
    "test_launch_files.py": "launchers",
    "learning/test_gan.py": "launchers",
    "test_quickstart.py": "quickstart",
    "test_bad_input.py": "quickstart",
    "test_prove.py": "quickstart",
    "test_corruption.py": "quickstart",
    "test_security.py": "quickstart",
    "test_after_training.py": "quickstart",
    "test_reproduce.py": "quickstart",
}
LONG = ("test_recipes.py", "invariance/", "whole/")  # begin first: nobody waits for one of them at the end


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="add the cases that are marked exhaustive")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without --all, leave out what is marked exhaustive."""
    exhaustive = [item for item in items if item.get_closest_marker("exhaustive")]
    config.stash[LEFT_OUT] = Counter(item.nodeid.partition("[")[0] for item in exhaustive)
    if exhaustive and not config.getoption("--all"):
        items[:] = [item for item in items if not item.get_closest_marker("exhaustive")]
        config.hook.pytest_deselected(items=exhaustive)
    items.sort(key=lambda item: next((n for n, name in enumerate(LONG) if name in item.nodeid), len(LONG)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n`, a file's tests stay together, for its fixtures, in the order that they were collected in."""
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return next((group for name, group in TOGETHER.items() if file.endswith(f"/{name}")), file)

    config.option.loadscopereorder = False
    return Together(config, log)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of `-n` tells the one that prints what it left out."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["left_out"] = dict(session.config.stash[LEFT_OUT])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    node.config.stash[LEFT_OUT] = Counter(getattr(node, "workeroutput", {}).get("left_out", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many cases were left out; with --all, how many each test got more. `-q` hides pytest's own line."""
    cases = config.stash.get(LEFT_OUT, Counter())
    if not cases:
        return
    if not config.getoption("--all"):
        terminalreporter.write_line(f"{cases.total()} exhaustive cases were left out; --all adds them")
        return
    terminalreporter.write_line(f"--all added {cases.total()} exhaustive cases:")
    for test, number in cases.items():
        terminalreporter.write_line(f"  {number:4} {test}")


@pytest.fixture(scope="session")
def checkpoints_of_launchers(tmp_path_factory) -> Path:
    """LAUNCHER/CASE/step-00000002: what tests.worker saves under each launcher that has run."""
    return tmp_path_factory.mktemp("launchers")


@pytest.fixture(scope="session")
def report_of(checkpoints_of_launchers) -> Callable[..., Report]:
    """`report_of(launcher, source=None)`: what tests.worker saw; with a source, on resuming that one's checkpoints.

    launcher: `one` for one plain process, or what FILES names, which is two processes.
    """

    @once
    def report(launcher: str, source: str | None = None) -> Report:
        if (launcher, source) == ("zero3", "one"):
            return report("zero3")  # resumes them in its one launch
        if source is not None or launcher == "zero3":
            report(source or "one")  # leaves the checkpoints
        arguments = [str(checkpoints_of_launchers), launcher, *([source] if source else [])]
        return launch(FILES[launcher], "tests.worker", *arguments)

    return report


@pytest.fixture(autouse=True, scope="session")
def hub_home(tmp_path_factory) -> None:
    """No test reads or writes the user's own Hub cache."""
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("hub"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """The nets here are too small to share out: threads that wait for one another cost 40 times the work (a VAE).

    Before every test, for a stage that was run within one sets as many threads as the machine has cores.
    """
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
