"""A StatefulDataLoader whose state after the last batch of an epoch is followed by the next epoch. Needs torchdata."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torchdata.stateful_dataloader import StatefulDataLoader

__all__ = ["EpochwiseLoader"]


class EpochwiseLoader(StatefulDataLoader):
    """A loader of a :class:`~ray_lance.torch.LanceIterableDataset` with workers.

    A state that was saved in the body of the loop's last batch would be continued by a pass without a batch: here it
    counts as one that was saved when the loop had ended. Workers cannot tell, for both look the same to them.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume where a state was taken."""
        super().load_state_dict({**state_dict, "_iterator_finished": True} if self._is_over(state_dict) else state_dict)

    def _is_over(self, state: Mapping[str, Any]) -> bool:
        workers = state.get("_snapshot", {}).get("_worker_snapshots", {}).values()
        states = [worker["dataset_state"] for worker in workers]
        return self.dataset.is_over(states, state.get("_steps_since_snapshot", 0))  # type: ignore[no-any-return]
