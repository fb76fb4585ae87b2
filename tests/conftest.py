"""Fixtures of all tests: what each launcher did with the toy recipe, run once a session."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import launch

Report = dict[str, Any]


@pytest.fixture(scope="session")
def checkpoints_of_launchers(tmp_path_factory) -> Path:
    """LAUNCHER/CASE/step-00000002: what tests.worker saves under each launcher that has run."""
    return tmp_path_factory.mktemp("launchers")


@pytest.fixture(scope="session")
def report_of(checkpoints_of_launchers) -> Callable[..., Report]:
    """`report_of(launcher, source=None)`: what tests.worker saw; with a source, on resuming that one's checkpoints.

    launcher: `one` for one plain process, or a file of launch/ by its stem, on two processes.
    """
    reports: dict[tuple[str, str | None], Report | AssertionError] = {}

    def report(launcher: str, source: str | None = None) -> Report:
        if source is not None:
            report(source)  # leaves the checkpoints
        if (launcher, source) not in reports:
            arguments = [str(checkpoints_of_launchers), launcher, *([source] if source else [])]
            file, processes = (None, None) if launcher == "one" else (launcher, 2)
            reports[launcher, source] = _kept(file, arguments, processes)
        found = reports[launcher, source]
        if isinstance(found, AssertionError):
            raise found
        return found

    return report


def _kept(file: str | None, arguments: list[str], processes: int | None) -> Report | AssertionError:
    """The report, or why there is none: a launcher that fails must not be launched again for every test."""
    try:
        return launch(file, "tests.worker", *arguments, num_processes=processes)
    except AssertionError as error:
        return error


@pytest.fixture(autouse=True, scope="session")
def hub_home(tmp_path_factory) -> None:
    """No test reads or writes the user's own Hub cache."""
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("hub"))
