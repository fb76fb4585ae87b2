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
# What takes minutes to make and is made once: every test that asks for it runs in one process, wherever it stands.
SHARED = {"report_of": "launchers", "finished": "quickstart"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="add the cases that are marked exhaustive")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without --all, leave out what is marked exhaustive. With `-n`, a file's tests stay together, for its fixtures."""
    exhaustive = [item for item in items if item.get_closest_marker("exhaustive")]
    config.stash[LEFT_OUT] = Counter(item.nodeid.partition("[")[0] for item in exhaustive)
    if exhaustive and not config.getoption("--all"):
        items[:] = [item for item in items if not item.get_closest_marker("exhaustive")]
        config.hook.pytest_deselected(items=exhaustive)
    for item in items:
        shared = [group for name, group in SHARED.items() if name in getattr(item, "fixturenames", ())]
        item.add_marker(pytest.mark.xdist_group(shared[0] if shared else str(item.path)))


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


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """The nets here are too small to share out: threads that wait for one another cost 40 times the work (a VAE)."""
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"  # of the processes that tests start
