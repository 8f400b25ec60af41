"""Storage of a study: a file of this machine, a database that several machines reach, or Optuna's gRPC proxy of one."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from common.errors import UserError, one_line
from common.io.connectivity import reachable

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

HEARTBEAT_SECONDS = 20  # between two signs of life of a running trial
GRACE_SECONDS = 60  # without one after which it counts as killed
CONNECT_SECONDS = 5.0
PORTS = {"postgresql": 5432, "mysql": 3306, "mariadb": 3306, "mssql": 1433, "oracle": 1521}


def open_storage(url: str | None, folder: Path) -> BaseStorage:
    """Storage at `url`; without one in a file of `folder`.

    A trial that was killed is given to the next process that asks for one, which continues its run. (A gRPC proxy hears no
    signs of life: there only a trial that was stopped by a signal is.)

    Raises:
        UserError: It cannot be opened, or its server not be reached.
    """
    from optuna.storages import GrpcStorageProxy, RDBStorage, RetryHeartbeatStaleTrialCallback

    if url is None:
        folder.mkdir(parents=True, exist_ok=True)
        url = f"sqlite:///{folder / 'study.db'}"
    with storage_errors_named(ImportError, ValueError):
        server = urlsplit(url)
        if not server.scheme or "://" not in url:
            raise UserError("--storage: use a URL: sqlite:///FILE, postgresql://…, mysql://… or grpc://HOST:PORT")
        kind = server.scheme.partition("+")[0]
        port = server.port or PORTS.get(kind)
        if server.hostname and port and not reachable(f"{kind}://{server.hostname}:{port}", CONNECT_SECONDS):
            raise UserError(f"--storage: no server answers at {server.hostname}:{port}; start it, or correct the URL")
        if kind == "grpc":
            if not (server.hostname and port):
                raise UserError("--storage: a gRPC proxy is grpc://HOST:PORT")
            return GrpcStorageProxy(host=server.hostname, port=port)
        return RDBStorage(
            url,
            heartbeat_interval=HEARTBEAT_SECONDS,
            grace_period=GRACE_SECONDS,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
        )


@contextmanager
def storage_errors_named(*more: type[Exception]) -> Iterator[None]:
    """Context in which an error of the storage, or one of `more`, is a UserError.

    Optuna's experimental features, which heartbeats and the proxy are, are used without a warning.
    """
    import optuna
    from sqlalchemy.exc import SQLAlchemyError

    failures: list[Any] = [SQLAlchemyError, optuna.exceptions.StorageInternalError, *more]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            yield
        except Exception as error:
            grpc = sys.modules.get("grpc")
            if not isinstance(error, tuple(failures) if grpc is None else (*failures, grpc.RpcError)):
                raise
            line = one_line(error.__cause__ or error, 200)
            raise UserError(f"--storage: {line}; once it is there, the same command continues the search") from error
