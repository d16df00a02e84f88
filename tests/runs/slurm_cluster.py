"""A SLURM of two nodes, both of them this machine."""

import getpass
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "scancel", "scontrol", "sinfo", "squeue")
# Nothing needs root, cgroups or munge; a node has as many CPUs as the configuration says.
_CONFIG = """\
ClusterName=two
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/linear
ReturnToService=2
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=all Nodes=node[1-2] Default=YES MaxTime=INFINITE State=UP
"""


def find_missing() -> list[str]:
    """Find the programs of SLURM that aren't installed."""
    return [name for name in PROGRAMS if _find(name) is None]


def free_ports(count: int) -> list[int]:
    """Find ports that are free now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_until(happened: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for something.

    Raises:
        TimeoutError: It doesn't happen.
    """
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.2)


class Cluster:
    """A running cluster.

    Args:
        config: Its `slurm.conf`.
    """

    def __init__(self, config: Path) -> None:
        self.config = config

    def call(self, *command: str | Path, **options: str | Path) -> str:
        """Run a command of SLURM, and return what it prints."""
        done = subprocess.run(["env", f"SLURM_CONF={self.config}", *command], capture_output=True, text=True, **options)
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def show(self, job: str) -> dict[str, str]:
        """The properties of a job."""
        words = self.call("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def logs(self) -> str:
        """The last lines of the daemons' logs."""
        return "\n".join(f"{path.name}: {path.read_text()[-2000:]}" for path in self.config.parent.glob("*.log"))


@contextmanager
def start_cluster(folder: Path) -> Iterator[Cluster]:
    """Start the daemons of a cluster in a new folder, and stop them at the end, with all jobs."""
    (folder / "state").mkdir(parents=True)
    config, host = folder / "slurm.conf", socket.gethostname().partition(".")[0]
    config.write_text(_CONFIG.format(host=host, user=getpass.getuser(), folder=folder, ports=free_ports(3)))
    cluster, daemons = Cluster(config), []
    try:
        for command in (["slurmctld"], ["slurmd", "-N", "node1"], ["slurmd", "-N", "node2"]):
            daemons.append(subprocess.Popen([_find(command[0]), "-D", "-f", config, *command[1:]],
                                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        try:
            wait_until(lambda: _idle_nodes(cluster) == 2, 60, "two idle nodes")
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{cluster.logs()}") from error
        yield cluster
    finally:
        _end_jobs(cluster)
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait(30)


def _find(program: str) -> str | None:
    """Find a program, also where only the administrator's path has it."""
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/usr/local/sbin")


def _end_jobs(cluster: Cluster) -> None:
    """End all jobs, and wait for the end of their processes, which outlive the daemons."""
    command = ["env", f"SLURM_CONF={cluster.config}"]
    for more in ([], ["--signal=KILL"]):
        subprocess.run([*command, "scancel", "--user", getpass.getuser(), *more], check=False)
        for _ in range(40):
            left = subprocess.run([*command, "squeue", "--noheader"], capture_output=True, text=True)
            if not left.stdout.strip():
                return
            time.sleep(0.5)


def _idle_nodes(cluster: Cluster) -> int:
    done = subprocess.run(["env", f"SLURM_CONF={cluster.config}", "sinfo", "--noheader", "--Node", "--format=%T"],
                          capture_output=True, text=True)
    return done.stdout.split().count("idle")
