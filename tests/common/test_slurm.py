"""SLURM: a cluster of one node, started for the tests; they skip where its packages are missing."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_launchers import FLAGS, weights

from commands import ROOT, environment, free_port

TOOLS = ("slurmctld", "slurmd", "munged", "srun", "sbatch", "scontrol")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(any(shutil.which(tool) is None for tool in TOOLS), reason="needs slurm-wlm and munge"),
    pytest.mark.skipif(os.geteuid() != 0, reason="SLURM's daemons run as root"),
]

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
SlurmctldPort={port}
SlurmdPort={port_of_node}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1
NodeName={host} NodeAddr=127.0.0.1 CPUs=4 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES State=UP OverSubscribe=FORCE
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Environment of SLURM's commands, with a cluster that runs."""
    folder, host = tmp_path_factory.mktemp("slurm"), socket.gethostname().split(".")[0]
    for name in ("state", "spool", "munge"):
        (folder / name).mkdir()
    folder.chmod(0o755)
    settings = {"host": host, "folder": folder, "port": free_port(), "port_of_node": free_port()}
    (folder / "slurm.conf").write_text(CONFIG.format(**settings))
    (folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\nCgroupAutomount=no\n")
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    env = {**environment(folder), "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "SLURM_CONF": str(folder / "slurm.conf")}
    files = {"key-file": key, "socket": folder / "munge.sock", "pid-file": folder / "munge.pid"}
    files |= {"log-file": folder / "munge/log", "seed-file": folder / "munge/seed"}
    subprocess.run(["munged", "--force", *(f"--{name}={path}" for name, path in files.items())], check=True)
    daemons = [subprocess.Popen(["slurmctld", "-D"], env=env), subprocess.Popen(["slurmd", "-D", "-N", host], env=env)]
    try:
        deadline = time.monotonic() + 60
        while "idle" not in subprocess.run(["sinfo", "-h", "-o", "%T"], env=env, capture_output=True, text=True).stdout:
            assert time.monotonic() < deadline, (folder / "slurmctld.log").read_text()
            time.sleep(0.5)
        yield env
    finally:
        for daemon in daemons:
            daemon.terminate()
        os.kill(int((folder / "munge.pid").read_text()), 15)


def srun(env: dict[str, str], folder: Path, *flags: str, tasks: str = "--ntasks-per-node=2") -> tuple[int, str]:
    """Exit code and output of the training as a job of two tasks."""
    command = ["srun", "-J", "training", "-n", "2", tasks, sys.executable, "-m", "toy.train", *FLAGS, *flags]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=240)
    return done.returncode, done.stdout + done.stderr


def test_two_tasks_make_one_folder_finish_and_resume(slurm, tmp_path):
    code, out = srun(slurm, tmp_path)
    assert code == 0 and out.count("run folder runs") == 1, out
    (run,) = (tmp_path / "runs" / "toy").iterdir()
    assert (run / "summary.json").is_file() and not list(run.glob("hpc_ckpt*"))
    code, out = srun(slurm, tmp_path, "--name", run.name, "--resume", "auto", "--max_epochs", "4")
    assert code == 0, out
    code, _ = srun(slurm, tmp_path, "--name", "whole", "--max_epochs", "4")
    pairs = zip(weights(run), weights(run.with_name("whole")), strict=True)
    assert code == 0 and all((a == b).all() for a, b in pairs)


def test_tasks_that_lightning_cannot_use_are_one_line(slurm, tmp_path):
    code, out = srun(slurm, tmp_path, tasks="--ntasks=2")
    errors = [line for line in out.splitlines() if line.startswith("error: ")]
    assert code == 2 and len(errors) == 1 and "--ntasks-per-node=2" in errors[0], out


@pytest.mark.parametrize("name", ["USR1", "TERM"])
def test_a_job_that_is_signalled_saves_requeues_itself_and_ends_as_if_uninterrupted(slurm, tmp_path, name):
    """SIGUSR1, as SLURM sends it before a job's time is over, and SIGTERM, by the script of the repository."""
    flags = [*FLAGS, "--max_epochs", "60", "--checkpoint_every", "20", "--data.batch_size", "4"]
    script = (ROOT / "cluster" / "slurm.sh").read_text().replace("projects.$project.train", "toy.train")
    script = script.replace("srun --kill", "srun -n 2 --kill").replace("python -m", f"{sys.executable} -m")
    (tmp_path / "job.sh").write_text(script)
    command = ["sbatch", "--parsable", "-J", "long", "--output", "log.txt", "job.sh", "toy", *flags]
    job = subprocess.run(command, cwd=tmp_path, env=slurm, capture_output=True, text=True, check=True).stdout.strip()
    run = tmp_path / "runs" / "toy" / f"long-{job}"
    wait_for(lambda: any(run.glob("checkpoints/step-*.ckpt")), 120, tmp_path / "log.txt")
    subprocess.run(["scancel", f"--signal={name}", job], env=slurm, check=True)
    wait_for(lambda: (run / "summary.json").is_file(), 240, tmp_path / "log.txt")
    log = (tmp_path / "log.txt").read_text()
    assert f"stopped by SIG{name}; state saved in" in log and f"resuming runs/toy/long-{job}" in log, log
    code, out = srun(slurm, tmp_path, "--name", "whole", *flags)
    assert code == 0, out
    assert all((a == b).all() for a, b in zip(weights(run), weights(run.with_name("whole")), strict=True))


def wait_for(condition, seconds: float, log: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, log.read_text() if log.is_file() else "no log"
        time.sleep(0.5)
