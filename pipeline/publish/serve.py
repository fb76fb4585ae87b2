"""`headwater serve RUN`: an exported model behind the API that clients know, by the best server that is installed."""

import importlib.util
import os
import shutil
import socket
import sys
from pathlib import Path

from pipeline.run.errors import UserError

NEEDED = ("fastapi", "uvicorn", "openai")  # of transformers[serving]


def run_serve(model: str, host: str, port: int) -> None:
    """Become the server; does not return.

    Raises:
        UserError: no model, no server installed, or the port is taken.
    """
    from pipeline.lm.directory import directory_of

    directory = directory_of(model).absolute()
    name, command = command_of(directory, host, port)
    check_port(host, port)
    print(f"http://{host}:{port}/v1 serves {directory} by {name}; Ctrl-C ends it", flush=True)
    from huggingface_hub.constants import HF_HUB_CACHE

    Path(HF_HUB_CACHE).mkdir(parents=True, exist_ok=True)  # transformers' list of models looks there (5.23)
    os.execvp(command[0], command)


def command_of(directory: Path, host: str, port: int) -> tuple[str, list[str]]:
    """(the server's name, its command): vLLM where it is installed and there is a GPU, else `transformers serve`.

    Raises:
        UserError: neither is installed.
    """
    import torch

    where = ["--host", host, "--port", str(port)]
    vllm = _beside("vllm")
    if vllm and torch.cuda.is_available():
        return "vLLM", [vllm, "serve", str(directory), *where]
    if missing := [package for package in NEEDED if importlib.util.find_spec(package) is None]:
        raise UserError(
            f"no server is installed: transformers serve lacks {', '.join(missing)}\n"
            "way out: pip install headwater[serve], or vllm where there is a GPU"
        )
    return "transformers serve", [_beside("transformers") or "transformers", "serve", str(directory), *where]


def _beside(name: str) -> str | None:
    """A program of this environment, activated or not."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return shutil.which(name, path=places)


def check_port(host: str, port: int) -> None:
    """Raises UserError where nothing can listen there."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise UserError(f"--host {host} --port {port}: {why}\nway out: another --port") from None
