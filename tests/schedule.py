"""Which tests pytest-xdist runs in the same process: those that share the Ray cluster."""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling

__all__ = ["OneCluster"]


class OneCluster(LoadScopeScheduling):
    """Gives every test of tests/integration to one process, and the others one by one to whichever is free.

    The marks that pytest-xdist 3.8 has for that are without effect in pytest 9.2, which does not read what they change.
    """

    def _split_scope(self, nodeid: str) -> str:
        return "cluster" if nodeid.startswith("tests/integration/") else nodeid
