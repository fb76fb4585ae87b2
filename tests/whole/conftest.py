"""The quickstart in miniature, run once for all tests that only read it or a copy of it."""

import shutil
from pathlib import Path

import pytest

from tests.whole.command import Done, run_miniature


@pytest.fixture(scope="session")
def finished(tmp_path_factory) -> tuple[Path, Done]:
    """The output directory of an uninterrupted run, and how the command ended. Nothing in it may be changed."""
    output = tmp_path_factory.mktemp("whole") / "quickstart"
    done = run_miniature(output)
    assert done.code == 0, f"{done.out}\n{done.err}"
    return output, done


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of the finished run, to change."""
    return shutil.copytree(finished[0], tmp_path / "quickstart")
