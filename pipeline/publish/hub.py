"""Upload an export to the Hub: exactly the files of its manifest, in one commit, private unless asked, then read back.

artifact.json itself stays here: it names the host, the command and the directories of the machine that ran. What of it
concerns others (digests, commits, versions, settings) is in the model card.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, NamedTuple

from pipeline.run import artifact
from pipeline.run.artifact import Artifact
from pipeline.run.errors import UserError

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.hf_api import RepoFile

MADE_BY_HUB = ".gitattributes"


class Pushed(NamedTuple):
    """url: of the commit's files; commit: its id; files: uploaded or there already, each read back and equal;
    others: what else the repository holds."""

    url: str
    commit: str
    files: tuple[str, ...]
    others: tuple[str, ...]


def run_push(run_or_directory: Path, repo_id: str, public: bool) -> None:
    """Push a run's export, or an exported directory, and print what is there now.

    Raises:
        UserError: as export_of and push.
    """
    made = export_of(run_or_directory)
    pushed = push(made.path, repo_id, private=not public)
    print(
        f"{len(pushed.files)} files in {pushed.url} ({'public' if public else 'private'}), each read back and equal"
    )
    for name in pushed.files:
        print(f"  {made.files[name]['sha256'][:16]} {made.files[name]['size']:12,} bytes {name}")
    if pushed.others:
        print(f"  not of this export, left as they were: {', '.join(pushed.others)}")


def export_of(run_or_directory: Path) -> Artifact:
    """The export in a run's output directory, or in the directory itself.

    Raises:
        UserError: there is none.
    """
    for directory in (run_or_directory, run_or_directory / "export"):
        made = artifact.read(directory)
        if made is not None and made.stage == "export":
            return made
    raise UserError(
        f"no export in {run_or_directory}\n"
        "expected: a run's output directory, or its export/\nway out: `headwater run RECIPE` with an export section"
    )


def push(directory: Path, repo_id: str, private: bool = True, revision: str | None = None) -> Pushed:
    """Upload the export in `directory` as one commit to `repo_id`, which is made where missing, and read it back.

    The token is the environment's (HF_TOKEN) or that of `hf auth login`.

    Args:
        private: what a new repository becomes, and what one that is there must be.
        revision: branch, made where missing; none: main.

    Raises:
        UserError: no export, a file that is damaged or a symlink, no token, a repository of the other visibility, or
            whatever the Hub refuses.
    """
    made = export_of(directory)
    paths = safe_files(made)
    with explained(repo_id):
        api = _api()
        _prepare(api, repo_id, private, revision)
        commit = _upload(api, repo_id, revision, made, paths)
        remote = _files(api, repo_id, commit)
    refuse_differences(made, paths, remote)
    others = tuple(sorted(remote.keys() - paths.keys() - {MADE_BY_HUB}))
    return Pushed(f"{api.endpoint}/{repo_id}/tree/{commit}", commit, tuple(sorted(paths)), others)


def safe_files(made: Artifact) -> dict[str, Path]:
    """Each name in the manifest with its file, every byte hashed again.

    Raises:
        UserError: a name that leads out of the directory, a symlink on the way, or bytes that are not the manifest's.
    """
    paths = {}
    for name in made.files:
        parts = PurePosixPath(name).parts
        if not parts or PurePosixPath(name).is_absolute() or ".." in parts:
            raise UserError(
                f"{made.path}: its manifest names {name!r}, which is not inside; nothing was uploaded"
            )
        paths[name] = path = made.path.joinpath(*parts)
        links = [step for step in (path, *path.parents[: len(parts) - 1]) if step.is_symlink()]
        if links:
            raise UserError(
                f"{links[0]} is a symlink: what it points to is no part of the export; nothing was uploaded"
            )
    wrong = artifact.damage(made)
    if wrong:
        raise UserError(f"{wrong}; nothing was uploaded\nway out: `headwater run RECIPE --replace export`")
    return paths


def refuse_differences(made: Artifact, paths: dict[str, Path], remote: dict[str, RepoFile]) -> None:
    """Raise UserError where the Hub does not hold what the manifest says."""
    for name, path in paths.items():
        if name not in remote or not _is_equal(remote[name], path, made.files[name]):
            raise UserError(
                f"{name} on the Hub is not the file of {made.path}\n"
                "way out: push again; a .gitignore in the repository may leave files out"
            )


def _is_equal(found: RepoFile, path: Path, expected: dict) -> bool:
    """By the sha256 of large files, and by git's own hash of small ones."""
    if found.lfs is not None:
        return (found.lfs.sha256, found.lfs.size) == (expected["sha256"], expected["size"])
    return found.blob_id == git_blob_hash(path)


def git_blob_hash(path: Path) -> str:
    """The id under which git stores a file's bytes: sha1 of `blob SIZE\\0` and the bytes."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _api() -> HfApi:
    from huggingface_hub import HfApi, get_token
    from huggingface_hub.utils import disable_progress_bars

    token = get_token()
    if token is None:
        raise UserError(
            "no Hugging Face token: uploading needs one with write access\n"
            "way out: `hf auth login`, or HF_TOKEN in the environment (huggingface.co/settings/tokens)"
        )
    if not sys.stderr.isatty():
        disable_progress_bars()
    return HfApi(token=token, library_name="headwater")


def _prepare(api: HfApi, repo_id: str, private: bool, revision: str | None) -> None:
    """Make the repository, and the branch; never upload into one of the other visibility."""
    api.whoami()  # a bad token is named as such before anything is created
    api.create_repo(repo_id, private=private, exist_ok=True)
    if bool(api.model_info(repo_id).private) != private:
        there, asked = ("public", "private") if private else ("private", "public")
        raise UserError(
            f"{repo_id} is there and {there}, and {asked} was asked for; nothing was uploaded\n"
            f"way out: another name, {'`--public`' if private else 'no `--public`'}, or its settings on the Hub"
        )
    if revision is not None:
        api.create_branch(repo_id, branch=revision, exist_ok=True)


def _upload(api: HfApi, repo_id: str, revision: str | None, made: Artifact, paths: dict[str, Path]) -> str:
    """One commit, so that the repository never holds half an export; the id of the commit.

    Not upload_folder: it follows symlinks, matches names by patterns, and may commit in parts.
    """
    from huggingface_hub import CommitOperationAdd

    operations = [CommitOperationAdd(name, path) for name, path in sorted(paths.items())]
    message = f"Export {made.digest[:16]}"
    return api.create_commit(repo_id, operations, commit_message=message, revision=revision).oid


def _files(api: HfApi, repo_id: str, commit: str) -> dict[str, RepoFile]:
    from huggingface_hub.hf_api import RepoFile

    entries = api.list_repo_tree(repo_id, recursive=True, revision=commit)
    return {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}


@contextmanager
def explained(repo_id: str) -> Iterator[None]:
    """Turn what the Hub or the network refuses into a UserError with the way out."""
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, OfflineModeIsEnabled

    try:
        yield
    except HFValidationError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{repo_id!r} is no repository name: {reason}\nexpected: USER/NAME") from None
    except OfflineModeIsEnabled:
        raise UserError(
            "the Hub is switched off by HF_HUB_OFFLINE\nway out: unset it and push again"
        ) from None
    except HfHubHTTPError as error:
        raise UserError(_refusal(repo_id, error)) from None
    except HTTPError as error:
        raise UserError(
            f"the Hub cannot be reached: {' '.join(str(error).split())[:200] or type(error).__name__}\n"
            "way out: check network, proxy and HF_ENDPOINT, then push again: what is there already is not sent twice"
        ) from None


def _refusal(repo_id: str, error: HfHubHTTPError) -> str:
    status = error.response.status_code
    if status == 401:
        return (
            "the Hub refuses the token: it is wrong or has expired\n"
            "way out: `hf auth login`, or another HF_TOKEN (it goes before the login)"
        )
    if status == 403:
        return (
            f"the token may not write to {repo_id}\nway out: a token with write access, or a name of your own"
        )
    reason = " ".join(str(error.server_message or error).split())[:300]
    return (
        f"the Hub refuses to take {repo_id} ({status}): {reason}\nway out: push again later, or another name"
    )
