"""Fixtures of all tests: what each launcher did with the toy recipe, run once a session."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import launch, once

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

    @once
    def report(launcher: str, source: str | None = None) -> Report:
        if source is not None:
            report(source)  # leaves the checkpoints
        arguments = [str(checkpoints_of_launchers), launcher, *([source] if source else [])]
        file, processes = (None, None) if launcher == "one" else (launcher, 2)
        return launch(file, "tests.worker", *arguments, num_processes=processes)

    return report


@pytest.fixture(autouse=True, scope="session")
def hub_home(tmp_path_factory) -> None:
    """No test reads or writes the user's own Hub cache."""
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("hub"))
