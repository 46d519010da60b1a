"""Training ranks as processes of their own, spawned as ``torch.multiprocessing`` does, with a process group."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

__all__ = ["run_ranks"]


def run_ranks(work: Callable[..., Any], world_size: int, *arguments: Any, folder: Path) -> list[Any]:
    """What ``work(*arguments)`` returned on each rank, as JSON.

    Args:
        work: A function of a module, to be called on every rank in an initialised process group.
        world_size: Number of ranks.
        *arguments: What it gets, pickled as the arguments of spawned processes are.
        folder: An empty folder for what the ranks return.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_rank, (world_size, port, folder, work, arguments), nprocs=world_size)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world_size)]


def _rank(
    rank: int, world_size: int, port: int, folder: Path, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=world_size)
    try:
        (folder / f"{rank}.json").write_text(json.dumps(work(*arguments)))
        torch.distributed.barrier()
    finally:
        torch.distributed.destroy_process_group()
