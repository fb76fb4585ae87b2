"""Data that Debian ships as a package: found, or downloaded, checked and unpacked without root."""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.run.errors import UserError
from pipeline.run.files import digest_of
from recipes.common import cached

DOWNLOAD_SECONDS = 600
ROOT = Path("/")


@dataclass(frozen=True)
class Package:
    """One pinned version.

    title: of the data, for people; place: the directory within the package that is wanted; holds: files or folders
    that it must have, to be taken as whole; way_out: for a machine that cannot download it.
    """

    title: str
    name: str
    version: str
    sha256: str
    megabytes: int
    place: Path
    holds: tuple[str, ...]
    way_out: str

    @property
    def installed(self) -> Path:
        return ROOT / self.place

    @property
    def cached(self) -> Path:
        """Where a download is kept for the next run."""
        return cached.place_of(f"{self.name}_{self.version}")


def find(package: Package, path: str | None) -> Path | None:
    """The directory with the data: `path`, the installed package or the cache; None: it is to be downloaded.

    Raises:
        UserError: `path` is given and lacks a part.
    """
    if path is not None:
        return cached.given(path, package.holds)
    return next(
        (place for place in (package.installed, package.cached) if cached.is_whole(place, package.holds)),
        None,
    )


def check_found(package: Package, path: str | None) -> None:
    """Raises UserError where the data is not here and this machine has not what a download needs."""
    if find(package, path) is None:
        check_download(package)


def check_download(package: Package) -> None:
    """Raises UserError where this machine has not what a download needs."""
    for tool in ("apt-get", "dpkg-deb"):
        if shutil.which(tool) is None:
            raise UserError(
                f"{package.title} is downloaded as a Debian package, and {tool} is not here\n{package.way_out}"
            )


def download(package: Package) -> Path:
    """Download, check and unpack; the directory appears in the cache whole or not at all.

    Raises:
        UserError: no apt, no network, no such version, or other bytes than expected.
    """
    check_download(package)
    place = package.cached
    place.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".download-") as scratch:
        file = _file_of(package, Path(scratch))
        found = digest_of(file)
        if found != package.sha256:
            raise UserError(
                f"{file.name} has the sha256 {found}\nexpected: {package.sha256}\n{package.way_out}"
            )
        subprocess.run(["dpkg-deb", "-x", file, Path(scratch) / "root"], check=True, capture_output=True)
        return cached.settle(Path(scratch) / "root" / package.place, place, package.holds)


def _file_of(package: Package, scratch: Path) -> Path:
    """The .deb in `scratch`: by the machine's package lists, or, where they are missing or old, by lists of our own."""
    wanted = f"{package.name}={package.version}"
    try:
        _apt(scratch, [], "download", wanted)
    except subprocess.SubprocessError:
        private = _private_lists(scratch)
        try:
            _apt(scratch, private, "update")
            _apt(scratch, private, "download", wanted)
        except subprocess.SubprocessError as error:
            raise UserError(
                f"cannot download the Debian package {package.name} {package.version}\n"
                f"{_reason(error)}\n{package.way_out}"
            ) from None
    return next(scratch.glob("*.deb"))


def _apt(scratch: Path, options: list[str], *command: str) -> None:
    # root, too, downloads as itself: apt's own user may not write here.
    unsandboxed = ["-o", "APT::Sandbox::User=root"]
    environment = os.environ | {"LC_ALL": "C"}
    subprocess.run(
        ["apt-get", *unsandboxed, *options, *command],
        cwd=scratch,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=DOWNLOAD_SECONDS,
    )


def _private_lists(scratch: Path) -> list[str]:
    """Options that keep apt's state below `scratch`; where packages come from stays the machine's own choice."""
    for name in ("lists/partial", "archives/partial"):
        (scratch / "apt" / name).mkdir(parents=True)
    (scratch / "apt" / "status").touch()
    state = {"State": "", "State::Lists": "lists", "State::status": "status", "Cache": ""}
    return [
        part for name, below in state.items() for part in ("-o", f"Dir::{name}={scratch / 'apt' / below}")
    ]


def _reason(error: subprocess.SubprocessError) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        lines = [line for line in error.stderr.splitlines() if line.startswith(("E:", "Err:"))]
        return (lines or [f"apt-get ended with {error.returncode}"])[0][:300]
    return str(error)[:300]
