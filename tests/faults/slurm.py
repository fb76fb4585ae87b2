"""A real Slurm on one machine: munge, a controller, and a node in each network namespace of hosts.py."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.faults import hosts
from tests.helpers import ROOT

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "nsenter", "unshare")
START_SECONDS = 30.0
CONFIGURATION = """
ClusterName=headwater
SlurmctldHost={controller}({address})
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={munge}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
JobAcctGatherType=jobacct_gather/none
ReturnToService=2
KillWait=10
SchedulerParameters=bf_interval=5,sched_interval=5
NodeName=DEFAULT CPUs=2 State=UNKNOWN
{addresses}
PartitionName=all Nodes={names} Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why no Slurm can be run here; empty where it can."""
    lacking = [name for name in PROGRAMS if _program(name) is None]
    if lacking:
        return f"{' and '.join(lacking)} not installed; on Debian: apt-get install slurm-wlm munge"
    return hosts.missing()


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


@dataclass(frozen=True)
class Slurm:
    """A cluster that runs; `environment` is what its commands need."""

    folder: Path
    environment: dict[str, str]

    def ask(self, *command: str, **environment: str) -> str:
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment | environment, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def state(self, job: str) -> dict[str, str]:
        """The job as `scontrol` tells it: JobState, Restarts, ExitCode and so on."""
        words = self.ask("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)


@contextmanager
def running(folder: Path, count: int) -> Iterator[Slurm]:
    """`count` nodes, each a host of its own."""
    folder.mkdir(parents=True)
    for name in ("state", "munge", *(f"spool-node{number}" for number in range(count))):
        (folder / name).mkdir(mode=0o755)
    daemons: list[subprocess.Popen] = []
    with hosts.cluster(count, outside=True) as place:
        try:
            yield _started(folder, place, daemons)
        finally:
            for each in reversed(daemons):
                each.terminate()
            for each in daemons:
                try:
                    each.wait(15)
                except subprocess.TimeoutExpired:
                    each.kill()
                    each.wait()


def _started(folder: Path, place: list[hosts.Host], daemons: list[subprocess.Popen]) -> Slurm:
    names = [f"node{host.number}" for host in place]
    known = "".join(f"{host.address} {name}\n" for host, name in zip(place, names, strict=True))
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n{known}")
    configuration, munge = folder / "slurm.conf", folder / "munge" / "socket"
    configuration.write_text(
        CONFIGURATION.format(
            controller=os.uname().nodename, address=hosts.OUTSIDE, munge=munge, folder=folder,
            names=",".join(names),
            addresses="\n".join(
                f"NodeName={name} NodeAddr={host.address}" for host, name in zip(place, names, strict=True)
            ),
        )
    )  # fmt: skip
    environment = os.environ | {"SLURM_CONF": str(configuration)}
    key = folder / "munge" / "key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)

    def daemon(name: str, *command: str) -> None:
        log = open(folder / f"{name}.log", "w")
        daemons.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        log.close()

    munged = [str(_program("munged")), "--foreground", "--force", f"--socket={munge}", f"--key-file={key}"]
    files = [f"--{kind}-file={folder / 'munge' / kind}" for kind in ("pid", "seed", "log")]
    daemon("munged", *munged, *files)
    _until(munge.exists, folder / "munged.log")
    daemon("slurmctld", str(_program("slurmctld")), "-D", "-c")
    slurm = Slurm(folder, environment)
    for host, name in zip(place, names, strict=True):
        daemon(name, *hosts.named(host, name, folder / "hosts", f"exec {_program('slurmd')} -D"))

    def all_idle() -> bool:
        told = subprocess.run(["sinfo", "-h", "-o", "%T %D"], env=environment, capture_output=True, text=True)
        return told.stdout.split() == ["idle", str(len(place))]

    _until(all_idle, folder / "slurmctld.log")
    return slurm


def _until(ready, log: Path) -> None:
    patience = time.monotonic() + START_SECONDS
    while not ready():
        assert time.monotonic() < patience, log.read_text()[-3000:]
        time.sleep(0.1)
