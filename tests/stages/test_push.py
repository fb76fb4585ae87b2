"""Catches an upload of anything but the manifest's files, into the open, unread, or with a traceback for the user."""

import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from hub_server import READER, TOKEN, HubServer, Repository
from tiny_model import make_model, publish_model

from pipeline.publish import hub
from pipeline.run import artifact
from pipeline.run.errors import UserError
from pipeline.run.files import digest_of, sealed, write_json

ROOT = Path(__file__).parents[2]
SECRET = b"the secret of this machine"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A run's directory with a published export of a tiny model and an adapter folder."""
    from tiny_model import publish

    run = tmp_path_factory.mktemp("run")
    model = publish_model(run, "pretrain", make_model(0)) / "model"

    def fill(directory):
        shutil.copytree(model, directory, dirs_exist_ok=True)
        (directory / "README.md").write_text("---\nlicense: mit\n---\n\n# tiny\n")
        (directory / "adapter").mkdir()
        shutil.copyfile(model / "model.safetensors", directory / "adapter" / "adapter_model.safetensors")
        (directory / "adapter" / "adapter_config.json").write_text("{}")

    publish(run, "export", fill, ("pretrain",))
    return run


@pytest.fixture
def export(published, tmp_path):
    """A copy of the export, to be tampered with."""
    return shutil.copytree(published / "export", tmp_path / "export")


@pytest.fixture
def server():
    with HubServer() as running:
        yield running


def environment(server_url, home, **changes):
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    ours = {"HF_ENDPOINT": server_url, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home), "HF_TOKEN": TOKEN}
    ours |= {
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
        "PYTHONPATH": str(ROOT),
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    return {key: value for key, value in {**kept, **ours, **changes}.items() if value is not None}


def push(directory, server, home, *options, repository="user/tiny", **changes):
    """`headwater export DIRECTORY --push ...` in a process of its own: HF_ENDPOINT is read at import."""
    command = [sys.executable, "-m", "pipeline", "export", str(directory), "--push", repository, *options]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment(server.url, home, **changes), timeout=120
    )


def refused(done):
    """The message of a push that ended as the user's error, without a traceback."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    message = done.stderr[done.stderr.index("error: ") :]
    assert len(message.strip().splitlines()) <= 5
    return message


PULL = """
import hashlib, json, sys
from pathlib import Path
from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer

token = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained("user/tiny", token=token)
tokenizer = AutoTokenizer.from_pretrained("user/tiny", token=token)
folder = Path(snapshot_download("user/tiny", token=token))
files = [path for path in folder.rglob("*") if path.is_file()]
seen = {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
print(json.dumps({"files": seen, "parameters": model.num_parameters(), "ids": tokenizer("the end")["input_ids"]}))
"""


def pull(server, home):
    command = [sys.executable, "-c", PULL, TOKEN]
    return subprocess.run(
        command, capture_output=True, text=True, env=environment(server.url, home, HF_TOKEN=None), timeout=120
    )


def test_what_is_pulled_is_what_was_published(published, server, tmp_path):
    done = push(published, server, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    made = artifact.read(published / "export")
    assert f"{len(made.files)} files in {server.url}/user/tiny/tree/" in done.stdout
    assert "(private)" in done.stdout and "left as they were" not in done.stdout
    pulled = pull(server, tmp_path / "fresh")
    assert pulled.returncode == 0, pulled.stderr
    seen = json.loads(pulled.stdout.splitlines()[-1])
    seen["files"].pop(".gitattributes")
    assert seen["files"] == {name: file["sha256"] for name, file in made.files.items()}
    assert seen["parameters"] == make_model(0).num_parameters()
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{server.url}/user/tiny/resolve/main/config.json")


def test_repository_is_private_unless_public_is_asked(published, server, tmp_path):
    push(published, server, tmp_path)
    assert server.repositories["user/tiny"].private is True
    done = push(published, server, tmp_path, "--public", repository="user/open")
    assert "(public)" in done.stdout
    assert server.repositories["user/open"].private is False


def test_one_commit_holds_the_manifests_files_alone(export, server, tmp_path):
    (export / "stray.txt").write_bytes(SECRET)
    (tmp_path / "secret").write_bytes(SECRET)
    (export / "link.json").symlink_to(tmp_path / "secret")
    (export / "folder").symlink_to(tmp_path)
    done = push(export, server, tmp_path / "home")
    assert done.returncode == 0, done.stderr
    repository = server.repositories["user/tiny"]
    assert repository.files.keys() == {".gitattributes", *artifact.read(export).files}
    assert len(repository.commits) == 2
    sent = b"".join(body for _, _, body in server.requests) + b"".join(server.objects.values())
    assert SECRET not in sent and b"dGhlIHNlY3JldCBvZiB0aGlz" not in sent and b"secret-host" not in sent


@pytest.mark.parametrize("name", ["config.json", "adapter/adapter_config.json"])
def test_symlink_in_place_of_a_file_stops_the_push(export, server, tmp_path, name):
    original = (export / name).rename(tmp_path / "elsewhere.json")
    (export / name).symlink_to(original)
    with pytest.raises(UserError, match="is a symlink"):
        hub.safe_files(hub.export_of(export))
    assert "is a symlink" in refused(push(export, server, tmp_path / "home"))
    assert server.requests == []


def test_symlink_in_place_of_a_folder_stops_the_push(export, tmp_path):
    moved = (export / "adapter").rename(tmp_path / "elsewhere")
    (export / "adapter").symlink_to(moved)
    with pytest.raises(UserError, match="adapter is a symlink"):
        hub.safe_files(hub.export_of(export))


def test_export_reached_through_a_symlink_is_fine(export, tmp_path):
    (tmp_path / "latest").symlink_to(export)
    assert hub.safe_files(hub.export_of(tmp_path / "latest")).keys() == artifact.read(export).files.keys()


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "adapter/../../secret"])
def test_manifest_that_names_a_file_outside_stops_the_push(export, tmp_path, name):
    (tmp_path / "secret").write_bytes(SECRET)
    manifest = json.loads((export / "artifact.json").read_text())
    outside = export / name
    manifest["files"][name] = {"size": outside.stat().st_size, "sha256": digest_of(outside)}
    write_json(export / "artifact.json", sealed(manifest))
    with pytest.raises(UserError, match="not inside"):
        hub.safe_files(hub.export_of(export))


def test_damaged_file_stops_the_push(export):
    content = bytearray((export / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (export / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="another sha256"):
        hub.safe_files(hub.export_of(export))


def test_only_an_export_is_pushed(published):
    assert hub.export_of(published).path == hub.export_of(published / "export").path
    for other in (published / "pretrain", published / "nothing"):
        with pytest.raises(UserError, match="no export in"):
            hub.export_of(other)


def test_wrong_token_is_the_users_error(published, server, tmp_path):
    assert "the Hub refuses the token" in refused(push(published, server, tmp_path, HF_TOKEN="hf_wrong"))
    assert server.repositories == {}


def test_missing_token_is_the_users_error(published, server, tmp_path):
    assert "hf auth login" in refused(push(published, server, tmp_path, HF_TOKEN=None))
    assert server.requests == []


def test_token_that_may_not_write_is_the_users_error(published, server, tmp_path):
    assert "write access" in refused(push(published, server, tmp_path, HF_TOKEN=READER))
    assert server.repositories == {}


def test_nothing_goes_into_a_repository_of_the_other_visibility(published, server, tmp_path):
    server.repositories["user/tiny"] = Repository(private=False)
    assert "is there and public" in refused(push(published, server, tmp_path))
    server.repositories["user/tiny"].private = True
    assert "is there and private" in refused(push(published, server, tmp_path, "--public"))
    assert server.repositories["user/tiny"].files.keys() == {".gitattributes"}


def test_name_that_is_none_is_the_users_error(published, server, tmp_path):
    assert "USER/NAME" in refused(push(published, server, tmp_path, repository="a/b/c"))


def test_unreachable_hub_is_the_users_error(published, server, tmp_path):
    server.server_close()
    assert "cannot be reached" in refused(push(published, server, tmp_path))
    assert "HF_HUB_OFFLINE" in refused(push(published, server, tmp_path, HF_HUB_OFFLINE="1"))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_file_that_arrives_changed_is_noticed(published, server, tmp_path, name):
    server.spoil = name
    assert f"{name} on the Hub is not the file" in refused(push(published, server, tmp_path))


def test_file_that_the_repository_ignores_is_noticed(published, server, tmp_path):
    server.repositories["user/tiny"] = Repository(private=True, ignored={"config.json"})
    assert "config.json on the Hub" in refused(push(published, server, tmp_path))


def test_push_again_sends_no_large_file_twice_and_names_what_else_is_there(published, server, tmp_path):
    push(published, server, tmp_path)
    server.repositories["user/tiny"].files["old.bin"] = b"old"
    server.requests.clear()
    done = push(published, server, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "left as they were: old.bin" in done.stdout
    assert not [path for method, path, _ in server.requests if method == "PUT"]


def test_revision_is_a_branch_of_its_own(published, server, tmp_path):
    call = (
        "import pathlib, sys; from pipeline.publish import hub; "
        "hub.push(pathlib.Path(sys.argv[1]), 'user/tiny', revision='v1')"
    )
    command = [sys.executable, "-c", call, str(published / "export")]
    subprocess.run(command, check=True, env=environment(server.url, tmp_path), timeout=120)
    assert server.repositories["user/tiny"].branches == ["main", "v1"]
    commits = [path for _, path, _ in server.requests if "/commit/" in path]
    assert commits == ["/api/models/user/tiny/commit/v1"]
