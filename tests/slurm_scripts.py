"""The command that a SLURM script of conf/trainer/ runs."""

import os
import re
import subprocess
import tempfile
from pathlib import Path

from helpers import ROOT


def command_of(script: str, *options: str, **environment: str) -> list[str]:
    """The words after `srun`, with the sizes of the script's header.

    Args:
        script: Its path in the repository.
        options: Of the script.
        environment: Variables beside the necessary ones.

    Raises:
        subprocess.CalledProcessError: The script refuses.
    """
    header = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", (ROOT / script).read_text(), re.MULTILINE))
    sizes = {"SLURM_NNODES": header["nodes"], "SLURM_NTASKS_PER_NODE": header["ntasks-per-node"],
             "SLURM_CPUS_PER_TASK": header["cpus-per-task"]}
    with tempfile.TemporaryDirectory() as folder:
        srun = Path(folder, "srun")
        srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        srun.chmod(0o755)
        path = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
        done = subprocess.run(["bash", script, *options], cwd=ROOT, env=path | sizes | environment, check=True,
                              capture_output=True, text=True)
    return done.stdout.splitlines()
