"""Rendezvous: rank zero's decisions reach all processes, and a fault in one ends all, before Lightning connects them."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any

from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    LSFEnvironment,
    MPIEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)
from lightning.pytorch.utilities import rank_zero_only
from torch.distributed import TCPStore

from common.errors import OtherProcessFailed, UserError, one_line
from common.io.ranks import error_of_all, set_global_rank
from common.nn.device import count_devices
from common.run.watch import LAUNCHER

DECISIONS = "CAPSTONES_DECISIONS"  # rank zero's decisions, for the processes that Lightning's launcher starts
JOIN_SECONDS = 300
STORE_SECONDS = 5  # torchrun's store is there before any process is
ANSWER_SECONDS = 1800  # a process may have to read a large data set first


def find_cluster_environment() -> ClusterEnvironment:
    """Cluster environment, in the order in which the Trainer looks for one; SLURM's without Lightning's own requeueing.

    Raises:
        UserError: SLURM's variables do not fit together.
    """
    try:
        for kind in (TorchElasticEnvironment, SLURMEnvironment, LSFEnvironment, MPIEnvironment):
            if kind.detect():
                return SLURMEnvironment(auto_requeue=False) if kind is SLURMEnvironment else kind()
    except RuntimeError as error:
        raise error_of_all(one_line(error)) from error
    return LightningEnvironment()


def set_processes(options: Any, environment: ClusterEnvironment) -> tuple[int, int]:
    """Processes on each node and nodes, which are set in the Trainer's `options` where they follow from the environment.

    Raises:
        UserError: The options do not fit the processes that torchrun or SLURM has started.
    """
    if not isinstance(environment, LightningEnvironment):
        local = os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("SLURM_NTASKS_PER_NODE", ""))
        if options.devices == "auto" and local.isdecimal():
            options.devices = int(local)
        nodes = os.environ.get("GROUP_WORLD_SIZE", os.environ.get("SLURM_NNODES", ""))
        if options.num_nodes == 1 and nodes.isdecimal():
            options.num_nodes = int(nodes)
    devices = count_devices(options.accelerator, options.devices)
    try:
        environment.validate_settings(devices, options.num_nodes)
    except ValueError as error:
        raise error_of_all(one_line(error)) from error
    return devices, options.num_nodes


@contextmanager
def decisions_forgotten() -> Iterator[None]:
    """Context at whose end no process that is started later takes itself for one of this run."""
    try:
        yield
    finally:
        for name in (DECISIONS, LAUNCHER):
            os.environ.pop(name, None)


class Rendezvous:
    """Rendezvous of a run's processes: a context that all leave together, each with an error or none.

    Under torchrun, SLURM and the like all processes exist from the start. Lightning's launcher starts those of a node later,
    from the node's first process: then these meet, and the others find the decisions in the environment.

    Args:
        environment: Cluster environment.
        devices: Processes on each node.
        num_nodes: Nodes.

    Attributes:
        rank: Global rank of this process.
    """

    def __init__(self, environment: ClusterEnvironment, devices: int, num_nodes: int) -> None:
        self.environment = environment
        self.peers: list[Peer] = []  # on rank zero all others, in the others rank zero
        self.inherited: list[Any] | None = None
        by_lightning = isinstance(environment, LightningEnvironment)
        node, local = environment.node_rank(), environment.local_rank()
        self.rank = node * devices + local if by_lightning else environment.global_rank()
        set_global_rank(self.rank)
        rank_zero_only.rank = self.rank  # type: ignore[attr-defined]  # else Lightning takes the first of every node for it
        self.member, self.members = self.rank, environment.world_size()
        if by_lightning:
            self.members = devices * num_nodes
            if local > 0 and DECISIONS in os.environ:
                self.inherited = json.loads(os.environ[DECISIONS])
            if not environment.creates_processes_externally:
                self.member, self.members = node, num_nodes

    def __enter__(self) -> Rendezvous:
        if self.inherited is None:
            os.environ |= {DECISIONS: "[]", LAUNCHER: str(os.getpid())}
            if self.members > 1:
                self._join()
        return self

    def _join(self) -> None:
        if isinstance(self.environment, LightningEnvironment) and "MASTER_PORT" not in os.environ:
            raise UserError(
                "several nodes: set NODE_RANK, and the same MASTER_ADDR and MASTER_PORT on all; see docs/clusters.md"
            )
        host, port = self.environment.main_address, self.environment.main_port
        deadline = time.monotonic() + JOIN_SECONDS
        store = agent_store(host, port) if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" else None
        key = f"capstones/port/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        if self.member == 0:
            with socket.create_server(("", port if store is None else 0)) as server:
                if store is not None:  # which has the port itself
                    store.set(key, str(server.getsockname()[1]))
                self.peers = accept_peers(server, self.members, deadline)
        else:
            if store is not None:
                port = int(store.get(key))
            self.peers = [connect(host, port, self.member, deadline)]

    def broadcast(self, decide: Callable[[], Any]) -> Any:
        """What `decide` returns on rank zero, a value that JSON can hold, in all processes.

        Raises:
            UserError: Whatever `decide` raises, on rank zero.
            OtherProcessFailed: The same in the other processes.
        """
        if self.inherited is not None:
            return self.inherited.pop(0)
        if self.member > 0:
            value = self.peers[0].receive()
        else:
            value = decide()
            for peer in self.peers:
                peer.send({"value": value})
        os.environ[DECISIONS] = json.dumps([*json.loads(os.environ[DECISIONS]), value])
        return value

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Leaves together with all others. Raises OtherProcessFailed if another one has an error, and this one none."""
        if not self.peers:
            return
        with contextlib.ExitStack() as stack:
            for peer in self.peers:
                stack.callback(peer.close)
            if error is not None:
                for peer in self.peers:
                    peer.send({"error": one_line(error)})
            elif self.member == 0:
                self._dismiss()
            else:
                self.peers[0].send({"value": None})
                self.peers[0].receive()
                self.peers[0].wait_for_end()  # the port is free for Lightning's own connections

    def _dismiss(self) -> None:
        """Waits for all others, and lets them go; with an error if one has one."""
        try:
            for peer in self.peers:
                peer.receive()
        except UserError as error:
            for peer in self.peers:
                peer.send({"error": str(error)})
            raise
        for peer in self.peers:
            peer.send({"value": None})


class Peer:
    """Connection to another process of the run, which carries a line of JSON for each message."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        connection.settimeout(ANSWER_SECONDS)
        self.connection = connection
        self.lines = connection.makefile("rw", encoding="utf-8")
        self.name = name

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message; one that has ended gets none."""
        with contextlib.suppress(OSError):
            self.lines.write(json.dumps(message) + "\n")
            self.lines.flush()

    def receive(self) -> Any:
        """Value of the next message.

        Raises:
            OtherProcessFailed: The other process has an error, which it prints itself.
            UserError: The other process has ended, or says nothing for half an hour.
        """
        try:
            message = json.loads(self.lines.readline())
        except (OSError, ValueError) as error:
            raise UserError(f"{self.name} ended before the training began") from error
        if "error" in message:
            raise OtherProcessFailed(message["error"])
        return message.get("value")

    def wait_for_end(self) -> None:
        """Waits until the other process has closed the connection."""
        with contextlib.suppress(OSError):
            self.lines.readline()

    def close(self) -> None:
        """Closes the connection."""
        with contextlib.suppress(OSError):
            self.lines.close()
            self.connection.close()


def agent_store(host: str, port: int) -> TCPStore:
    """Store that torchrun's agent has opened at the run's port. Raises UserError if it has ended since."""
    try:
        socket.create_connection((host, port), timeout=STORE_SECONDS).close()  # else TCPStore tries for minutes
        return TCPStore(host, port, None, False, timedelta(seconds=JOIN_SECONDS))
    except (OSError, RuntimeError) as error:
        raise UserError(f"torchrun's store at {host}:{port} does not answer: {one_line(error, 120)}") from error


def accept_peers(server: socket.socket, members: int, deadline: float) -> list[Peer]:
    """Connections of all other processes, in the order of their ranks. Raises UserError if one does not come in time."""
    peers: dict[int, Peer] = {}
    while len(peers) < members - 1:
        server.settimeout(max(0.01, deadline - time.monotonic()))
        try:
            connection, _ = server.accept()
        except TimeoutError as error:
            missing = next(member for member in range(1, members) if member not in peers)
            raise UserError(f"process {missing} of {members} has not come within {JOIN_SECONDS} s") from error
        peer = Peer(connection, "another process")
        with contextlib.suppress(UserError, ValueError, TypeError):  # whatever else knocks at the port
            member = int(peer.receive())
            peer.name = f"process {member} of {members}"
            peers[member] = peer
    return [peers[member] for member in sorted(peers)]


def connect(host: str, port: int, member: int, deadline: float) -> Peer:
    """Connection of process `member` to rank zero. Raises UserError if it does not answer in time."""
    while True:
        try:
            connection = socket.create_connection((host, port), timeout=max(0.01, deadline - time.monotonic()))
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(f"process {member}: no answer of process 0 at {host}:{port}: {one_line(error)}") from error
            time.sleep(0.2)
            continue
        peer = Peer(connection, "process 0")
        peer.send({"value": member})
        return peer
