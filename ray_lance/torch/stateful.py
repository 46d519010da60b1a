"""A StatefulDataLoader that resumes a state of the last batch of an epoch with the next epoch. Needs torchdata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchdata.stateful_dataloader import StatefulDataLoader

__all__ = ["EpochwiseLoader"]


class EpochwiseLoader(StatefulDataLoader):
    """A loader of a :class:`~ray_lance.torch.LanceIterableDataset` with workers.

    A state that was saved while the loop handled its last batch would be resumed by a pass without a batch. Here it is
    treated like one that was saved after the loop. Workers cannot do that: to them both look the same.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume where a state was taken."""
        super().load_state_dict({**state_dict, "_iterator_finished": True} if self._is_over(state_dict) else state_dict)

    def _is_over(self, state: Mapping[str, Any]) -> bool:
        workers = state.get("_snapshot", {}).get("_worker_snapshots", {}).values()
        states = [worker["dataset_state"] for worker in workers]
        return self.dataset.is_over(states, state.get("_steps_since_snapshot", 0))  # type: ignore[no-any-return]
