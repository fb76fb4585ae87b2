"""Catches bytes other than the pinned ones, a second download, half a cache, and an error without its way out."""

import gzip
import os
import re
import tarfile
from dataclasses import replace

import numpy as np
import pytest

from pipeline.run.errors import UserError
from pipeline.run.files import digest_of
from recipes.common import debian
from recipes.common.debian import Package
from recipes.common.images import fashion_mnist

FAKE_APT = """#!/bin/sh
echo "$@" >> {log}
for word in "$@"; do case "$word" in
  update) touch {log}.updated ;;
  download) if [ -e {log}.updated ] || [ {lists} = yes ]; then cp {package} ./dataset-fashion-mnist_1_all.deb
            else echo "E: Unable to locate package" >&2; exit 100; fi ;;
esac; done
"""
FAKE_DPKG = """#!/bin/sh
mkdir -p "$3" && tar -xf "$2" -C "$3"
"""


def package() -> Package:
    """As a test left it."""
    return fashion_mnist.PACKAGE


@pytest.fixture
def machine(tmp_path, fashion_files, monkeypatch):
    """`machine(lists)`: an apt that serves the small files; lists: whether it knows the package without `update`."""
    package, log, tools = tmp_path / "package.tar", tmp_path / "apt.log", tmp_path / "bin"
    with tarfile.open(package, "w") as tar:
        for path in sorted(fashion_files[0].glob("*.gz")):
            tar.add(path, f"./{fashion_mnist.PACKAGE.place}/{path.name}")
    monkeypatch.setattr(fashion_mnist, "PACKAGE", replace(fashion_mnist.PACKAGE, sha256=digest_of(package)))
    monkeypatch.setattr(debian, "ROOT", tmp_path / "installed")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tools.mkdir()

    def make(lists: bool):
        texts = {
            "apt-get": FAKE_APT.format(log=log, package=package, lists="yes" if lists else "no"),
            "dpkg-deb": FAKE_DPKG,
        }
        for name, text in texts.items():
            (tools / name).write_text(text)
            (tools / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
        return log

    return make


def test_a_download_is_unpacked_into_the_cache_and_the_next_run_finds_it(machine, fashion_files):
    log = machine(lists=True)
    assert debian.find(package(), None) is None
    place = debian.download(package())
    assert place == debian.find(package(), None) == package().cached
    calls = log.read_text().splitlines()
    assert len(calls) == 1 and calls[0].endswith(f"download {package().name}={package().version}")
    assert os.listdir(place.parent) == [place.name]  # no scratch is left
    for split, (images, labels) in zip(("train", "held_out"), fashion_files[1], strict=True):
        read_images, read_labels = fashion_mnist.read(place, split)
        assert read_images.dtype == np.uint8 and read_labels.dtype == np.int64
        assert np.array_equal(read_images[..., 0], images) and np.array_equal(read_labels, labels)


def test_without_package_lists_it_makes_its_own_and_leaves_the_machines_alone(machine):
    log = machine(lists=False)
    debian.download(package())
    first, update, second = log.read_text().splitlines()
    assert "Dir::" not in first
    for call in (update, second):
        for name in ("State", "State::Lists", "State::status", "Cache"):
            (place,) = re.findall(rf"-o Dir::{name}=(\S+)", call)
            assert place.startswith(str(package().cached.parent / ".download-"))


def test_other_bytes_than_the_pinned_ones_are_refused_and_not_kept(machine, monkeypatch):
    machine(lists=True)
    monkeypatch.setattr(fashion_mnist, "PACKAGE", replace(package(), sha256="0" * 64))
    with pytest.raises(UserError, match="has the sha256 .*\nexpected: 0{64}\nway out: data.path=DIRECTORY"):
        debian.download(package())
    assert debian.find(package(), None) is None and os.listdir(package().cached.parent) == []


def test_an_installed_package_is_used_where_it_lies(fashion_files, machine, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "PACKAGE", replace(package(), place=fashion_files[0]))
    assert debian.find(package(), None) == fashion_files[0]


def test_what_another_run_has_unpacked_meanwhile_is_left_alone(machine, monkeypatch):
    machine(lists=True)
    download = debian._file_of

    def while_another_run_is_faster(wanted, scratch):
        monkeypatch.setattr(debian, "_file_of", download)
        debian.download(package())
        return download(wanted, scratch)

    monkeypatch.setattr(debian, "_file_of", while_another_run_is_faster)
    removed = []
    monkeypatch.setattr(debian.shutil, "rmtree", lambda place, **_: removed.append(place))
    assert debian.download(package()) == debian.find(package(), None)
    assert removed.count(package().cached) == 1  # by the faster one, before there was anything


def test_half_a_cache_is_replaced(machine):
    machine(lists=True)
    package().cached.mkdir(parents=True)
    (package().cached / "train-images-idx3-ubyte.gz").write_bytes(b"")
    assert debian.find(package(), None) is None
    fashion_mnist.read(debian.download(package()), "train")


def test_a_failing_apt_is_quoted_in_one_line_with_the_way_out(machine, tmp_path):
    machine(lists=False)
    (tmp_path / "bin" / "apt-get").write_text("#!/bin/sh\necho 'E: Could not resolve' >&2\nexit 100\n")
    with pytest.raises(
        UserError, match="cannot download .*\nE: Could not resolve\nway out: data.path=DIRECTORY"
    ):
        debian.download(package())


@pytest.mark.parametrize("missing", ["apt-get", "dpkg-deb"])
def test_a_machine_without_apt_is_told_so(machine, tmp_path, monkeypatch, missing):
    machine(lists=True)
    (tmp_path / "bin" / missing).unlink()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(UserError, match=f"{missing} is not here\nway out: data.path=DIRECTORY"):
        debian.check_download(package())


def test_a_directory_is_used_as_given_or_refused_by_what_it_lacks(fashion_files):
    directory, _ = fashion_files
    assert debian.find(package(), str(directory)) == directory
    (directory / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(
        UserError, match=f"{directory} has no t10k-labels-idx1-ubyte.gz\nexpected: train-images"
    ):
        debian.find(package(), str(directory))


def no_gzip(path, write_idx):
    path.write_bytes(b"not compressed")


def cut_off(path, write_idx):
    path.write_bytes(path.read_bytes()[:-40])


def too_few_bytes(path, write_idx):
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))


def other_numbers(path, write_idx):
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:2] + b"\x09" + content[3:]))  # signed bytes


def other_dimensions(path, write_idx):
    write_idx(path, np.zeros((30, 784), np.uint8))


def other_sides(path, write_idx):
    write_idx(path, np.zeros((30, 27, 28), np.uint8))


def fewer_than_labels(path, write_idx):
    write_idx(path, np.zeros((29, 28, 28), np.uint8))


@pytest.mark.parametrize(
    "damage, said",
    [
        (no_gzip, "cannot be read"),
        (cut_off, "cannot be read"),
        (too_few_bytes, "is no idx file of 3 dimensions, or is cut off"),
        (other_numbers, "is no idx file of 3 dimensions"),
        (other_dimensions, "is no idx file of 3 dimensions"),
        (other_sides, "holds 30 x 27 x 28 pixels beside 30 labels\nexpected: N x 28 x 28"),
        (fewer_than_labels, "holds 29 x 28 x 28 pixels beside 30 labels"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_damaged_file_is_named(fashion_files, write_idx, damage, said):
    directory, _ = fashion_files
    path = directory / "train-images-idx3-ubyte.gz"
    damage(path, write_idx)
    with pytest.raises(UserError, match=f"{path} {said}"):
        fashion_mnist.read(directory, "train")
