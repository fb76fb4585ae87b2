"""Several hosts on one machine: network namespaces on a bridge, each with its own launcher, as a cluster has them."""

import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.helpers import ROOT
from tests.whole.command import ENVIRONMENT

NETWORK, PORT = "10.77.0", 29500
OUTSIDE = f"{NETWORK}.254"  # this machine itself, where it is one of them
LIMIT_SECONDS = 120.0


def missing() -> str:
    """Why no such hosts can be made here; empty where they can."""
    if os.geteuid():
        return "making network namespaces needs root"
    if shutil.which("ip") is None:
        return "ip (iproute2) is not installed"
    name = f"hw-{uuid.uuid4().hex[:6]}"
    tried = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if tried.returncode:
        return f"no network namespace can be made: {tried.stderr.strip()}"
    _ip("netns", "delete", name)
    return ""


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@dataclass(frozen=True)
class Host:
    """One of them: its namespace, its number, and the outer end of its cable."""

    namespace: str
    number: int
    cable: str

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number + 1}"

    def unplug(self) -> None:
        """Nothing goes in or out any more, and nobody is told."""
        _ip("link", "set", self.cable, "down")

    def plug(self) -> None:
        _ip("link", "set", self.cable, "up")


def named(host: Host, name: str, known: Path, command: str) -> list[str]:
    """`command` of a shell on a host that is called `name` and knows the names in the file `known`.

    Not by `ip netns exec`: it lays a /sys of its own over this one, without the cgroups that some programs ask for.
    """
    begun = f"mount --bind {known} /etc/hosts && hostname {name} && {command}"
    network = f"--net=/run/netns/{host.namespace}"
    return ["nsenter", network, "unshare", "--uts", "--mount", "sh", "-c", begun]


@contextmanager
def cluster(count: int, outside: bool = False) -> Iterator[list[Host]]:
    """`count` hosts that see each other. outside: and this machine."""
    mark = uuid.uuid4().hex[:6]
    bridge, hosts = f"hwb{mark}", []
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("link", "set", bridge, "up")
        if outside:
            _ip("addr", "add", f"{OUTSIDE}/24", "dev", bridge)
        for number in range(count):
            host = Host(f"hw-{mark}-{number}", number, f"hw{mark}{number}")
            hosts.append(host)
            _ip("netns", "add", host.namespace)
            _ip("link", "add", host.cable, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
            _ip("link", "set", host.cable, "master", bridge, "up")
            within = ("netns", "exec", host.namespace, "ip")
            _ip(*within, "addr", "add", f"{host.address}/24", "dev", "eth0")
            _ip(*within, "link", "set", "eth0", "up")
            _ip(*within, "link", "set", "lo", "up")
        yield hosts
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "delete", host.namespace], capture_output=True)
        subprocess.run(["ip", "link", "delete", bridge], capture_output=True)


def start(
    hosts: list[Host], module: str, arguments: list[str], output: Path, **environment: str
) -> list[subprocess.Popen]:
    """`launch/multi_host.yaml` on each host, as its header says, with one process each and without GPUs."""
    running = []
    for rank, host in enumerate(hosts):
        command = [
            "ip", "netns", "exec", host.namespace, sys.executable, "-m", "accelerate.commands.launch",
            "--config_file", "launch/multi_host.yaml", "--num_machines", str(len(hosts)),
            "--num_processes", str(len(hosts)), "--machine_rank", str(rank),
            "--main_process_ip", hosts[0].address, "--main_process_port", str(PORT), "-m", module, *arguments,
        ]  # fmt: skip
        network = {"GLOO_SOCKET_IFNAME": "eth0", "TP_SOCKET_IFNAME": "eth0"}
        given = {"DS_ACCELERATOR": "cpu", "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "20", **network, **environment}
        log = open(output.with_name(f"{output.name}.host{rank}.log"), "w")
        running.append(
            subprocess.Popen(command, cwd=ROOT, env=os.environ | ENVIRONMENT | given, stdout=log, stderr=log)
        )
        log.close()
    return running


def ended(running: list[subprocess.Popen], limit: float = LIMIT_SECONDS) -> list[int | None]:
    """Exit codes of the launchers; None of one that has not ended after `limit` seconds, and was killed."""
    until = time.monotonic() + limit
    codes: list[int | None] = []
    for process in running:
        try:
            codes.append(process.wait(max(0.1, until - time.monotonic())))
        except subprocess.TimeoutExpired:
            for each in [*psutil.Process(process.pid).children(recursive=True), process]:
                each.kill()
            process.wait()
            codes.append(None)
    return codes
