"""Rendezvous: ranks by the environment, decisions and errors that reach all processes."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from jsonargparse import Namespace
from lightning.fabric.plugins.environments import LightningEnvironment

from common.errors import OtherProcessFailed, UserError
from common.io.ranks import guess_global_zero
from common.run.rendezvous import Rendezvous, agent_store, find_cluster_environment, set_processes
from common.run.watch import watch_launcher

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2", "GROUP_WORLD_SIZE": "2"}
SLURM = {"SLURM_JOB_NAME": "job", "SLURM_NTASKS": "4", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2"}


@pytest.mark.parametrize(
    "variables, rank",
    [
        ({}, 0),
        ({"LOCAL_RANK": "1"}, 1),
        ({"NODE_RANK": "1"}, 2),
        ({"NODE_RANK": "1", "LOCAL_RANK": "1"}, 3),
        ({"GROUP_RANK": "1"}, 2),
        ({**TORCHRUN, "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0"}, 0),
        ({**TORCHRUN, "RANK": "2", "LOCAL_RANK": "0", "GROUP_RANK": "1"}, 2),
        # torchrun under srun: the nodes' order is torchrun's
        ({**TORCHRUN, **SLURM, "RANK": "0", "LOCAL_RANK": "0", "GROUP_RANK": "0", "SLURM_PROCID": "1"}, 0),
        ({**SLURM, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}, 0),
        ({**SLURM, "SLURM_PROCID": "2", "SLURM_LOCALID": "0", "SLURM_NODEID": "1"}, 2),
        ({**SLURM, "SLURM_JOB_NAME": "bash", "SLURM_PROCID": "1"}, 0),  # a shell in an allocation
    ],
)
def test_rank_is_lightnings_and_guessed_alike_without_it(monkeypatch, variables, rank):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert guess_global_zero() == (rank == 0)
    assert Rendezvous(find_cluster_environment(), devices=2, num_nodes=2).rank == rank


@pytest.mark.parametrize("variables", [TORCHRUN, {**SLURM, "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}])
def test_devices_and_nodes_follow_from_what_started_the_processes(monkeypatch, variables):
    for name, value in {**variables, "RANK": "0", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    options = Namespace(accelerator="cpu", devices="auto", num_nodes=1)
    assert set_processes(options, find_cluster_environment()) == (2, 2) == (options.devices, options.num_nodes)
    with pytest.raises(UserError, match="devices=3"):
        set_processes(Namespace(accelerator="cpu", devices=3, num_nodes=1), find_cluster_environment())


class Node(LightningEnvironment):
    """Environment of the first process of a node."""

    def __init__(self, node: int) -> None:
        super().__init__()
        self.node = node

    def node_rank(self) -> int:
        return self.node


def meet(monkeypatch, *actions):
    """What each node's `action(rendezvous)` returns or raises, all at the same time."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("MASTER_PORT", str(server.getsockname()[1]))
    results = [None] * len(actions)

    def take_part(node):
        try:
            with Rendezvous(Node(node), 1, len(actions)) as rendezvous:
                results[node] = actions[node](rendezvous)
        except Exception as error:
            results[node] = error

    threads = [threading.Thread(target=take_part, args=(node,)) for node in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive(), "hangs"
    return results


def refuse():
    raise UserError("exists")


def test_decisions_are_rank_zeros(monkeypatch):
    def decide(rendezvous):
        return [rendezvous.broadcast(lambda number=number: [rendezvous.rank, number]) for number in range(3)]

    assert meet(monkeypatch, decide, decide, decide) == [[[0, 0], [0, 1], [0, 2]]] * 3


def test_an_error_of_rank_zero_ends_all_and_is_printed_once(monkeypatch):
    first, *others = meet(monkeypatch, *[lambda rendezvous: rendezvous.broadcast(refuse)] * 3)
    assert type(first) is UserError and [type(error) for error in others] == [OtherProcessFailed] * 2
    assert {str(error) for error in [first, *others]} == {"exists"}


def test_an_error_of_another_process_ends_all_too(monkeypatch):
    results = meet(monkeypatch, lambda rendezvous: 0, lambda rendezvous: refuse(), lambda rendezvous: 2)
    assert [type(error) for error in results] == [OtherProcessFailed, UserError, OtherProcessFailed]


def test_a_process_that_vanishes_is_named(monkeypatch):
    def vanish(rendezvous):
        rendezvous.peers[0].close()

    first, *_ = meet(monkeypatch, lambda rendezvous: 0, vanish, lambda rendezvous: 2)
    assert type(first) is UserError and str(first) == "process 1 of 3 ended before the training began"


def test_nodes_without_an_address_end_with_what_to_set(monkeypatch):
    monkeypatch.delenv("MASTER_PORT", raising=False)
    with pytest.raises(UserError, match="MASTER_ADDR and MASTER_PORT"), Rendezvous(Node(1), 1, 2):
        pass


def test_a_process_whose_launcher_died_during_its_imports_ends(monkeypatch):
    ended = []
    monkeypatch.setattr("common.run.watch.end", ended.append)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("CAPSTONES_LAUNCHER", "1")  # not this process's parent
    watch_launcher(LightningEnvironment(), 1)
    deadline = time.monotonic() + 5
    while not ended and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ended == ["process 1: the process that started it has died"]


def test_torchruns_agent_that_has_ended_is_noticed_at_once():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UserError, match=f"torchrun's store at 127.0.0.1:{port} does not answer"):
        agent_store("127.0.0.1", port)
