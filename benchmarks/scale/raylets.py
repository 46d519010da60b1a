"""What the nodes' raylets have counted: objects spilled to disk, and pieces of objects received from other nodes.

Ray's metrics need packages that this library does not depend on. The raylets also print their state to their logs, and
that is where the counters are read from. Set ``ENVIRONMENT`` before a cluster is started.
"""

from __future__ import annotations

import re
import time
from pathlib import Path

import ray

EVERY_S = 0.5
ENVIRONMENT = {
    "RAY_event_stats_print_interval_ms": str(int(1000 * EVERY_S)),
    # An object is one piece, so that the pieces that a node has received are objects.
    "RAY_object_manager_default_chunk_size": str(2**29),
}
_BEGIN = "[state-dump] NodeManager:"
_COUNTERS = {
    "spilled_objects": re.compile(r"- cumulative spill requests: (\d+)"),
    "received_objects": re.compile(r"- num chunks received total: (\d+)"),
    "failed": re.compile(r"- num chunks received failed \(all\): (\d+)"),
}
_PATIENCE_S = 60.0


def counted() -> list[dict[str, int]]:
    """The counters of each node of this process's cluster, as they are now or later."""
    logs = sorted(Path(ray._private.worker._global_node.get_logs_dir_path()).glob("raylet*.out"))
    begin = {log: log.read_text().count(_BEGIN) for log in logs}
    deadline = time.monotonic() + _PATIENCE_S
    # The dump that is being written now may be older than this call, so the one after it is waited for.
    while any(log.read_text().count(_BEGIN) < begin[log] + 3 for log in logs):
        if time.monotonic() > deadline:
            raise TimeoutError(f"no raylet has printed its state for {_PATIENCE_S:.0f} s")
        time.sleep(EVERY_S / 5)
    return [_last(log.read_text()) for log in logs]


def _last(text: str) -> dict[str, int]:
    dump = text.split(_BEGIN)[-2]  # the last one may be incomplete
    found = {name: pattern.search(dump) for name, pattern in _COUNTERS.items()}
    return {name: int(match.group(1)) for name, match in found.items() if match is not None}
