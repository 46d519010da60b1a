"""The cursor of a training run: rows returned in, a JSON state out that any number of ranks can resume."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ray_lance.arguments import as_integer
from ray_lance.errors import CursorMismatchError, InvalidArgumentError
from ray_lance.order.permutation import RowPermutation

__all__ = ["CURSOR_VERSION", "Cursor"]

CURSOR_VERSION = 1
"""Version of the JSON form."""

_KEYS = ("version", "epoch", "rows", "lanes", "fingerprint", "order")
_GLOBAL_BATCH = "global_batch"


@dataclass(frozen=True)
class Cursor:
    """How much of an epoch all ranks together have read. Counts rows that were returned, not rows that were prefetched.

    Attributes:
        epoch: The epoch, from 0.
        rows: Rows of this epoch that all ranks together have returned.
        lanes: Lanes of the schedule, which must stay the same.
        fingerprint: Fingerprint of the order.
        order: Description of the order in plain JSON types, for the message of a refusal.
        global_batch: Rows of a step over all ranks; None where it is not known, as in states of older releases.
    """

    epoch: int
    rows: int
    lanes: int
    fingerprint: str
    order: Mapping[str, Any] = field(default_factory=dict)
    global_batch: int | None = None

    def __post_init__(self) -> None:
        for name, minimum in (("epoch", 0), ("rows", 0), ("lanes", 1)):
            object.__setattr__(self, name, as_integer(name, getattr(self, name), minimum))
        if self.global_batch is not None:
            object.__setattr__(self, "global_batch", as_integer("global_batch", self.global_batch, 1))
        if not isinstance(self.fingerprint, str) or not self.fingerprint:
            raise InvalidArgumentError(f"fingerprint={self.fingerprint!r} must be a non-empty string")
        if not isinstance(self.order, Mapping):
            raise InvalidArgumentError(f"order={self.order!r} must be a mapping")

    @classmethod
    def at_start(cls, fingerprint: str, lanes: int, order: Mapping[str, Any] | None = None, epoch: int = 0) -> Cursor:
        """The cursor before the first row of an epoch.

        Args:
            fingerprint: Of the whole order that the ranks share (not of a rank's shard of it).
            lanes: Lanes of the schedule.
            order: Its description.
            epoch: The epoch.
        """
        return cls(epoch=epoch, rows=0, lanes=lanes, fingerprint=fingerprint, order=dict(order or {}))

    @classmethod
    def of(cls, permutation: RowPermutation, lanes: int, rows: int = 0) -> Cursor:
        """The cursor after ``rows`` rows of a permutation in its epoch."""
        return cls(permutation.epoch_number, rows, lanes, permutation.fingerprint, permutation.describe())

    def advance(self, rows: int) -> Cursor:
        """The cursor at ``rows`` rows of the same epoch (the total, not a difference)."""
        return replace(self, rows=rows)

    def next_epoch(self) -> Cursor:
        """The cursor before the first row of the next epoch."""
        return replace(self, epoch=self.epoch + 1, rows=0)

    def check(
        self,
        fingerprint: str,
        lanes: int,
        order: Mapping[str, Any] | None = None,
        global_batch: int | None = None,
    ) -> None:
        """Refuse to resume in another order, or in other steps.

        Args:
            fingerprint: Fingerprint of the order to resume.
            lanes: Its lanes.
            order: Its description, compared entry by entry for the message.
            global_batch: Rows of its steps over all ranks; None compares nothing.

        Raises:
            CursorMismatchError: Fingerprint, lanes or global batch differ; the message shows both sides.
        """
        differences: list[str] = []
        if self.fingerprint != fingerprint:
            differences.append(f"fingerprint: cursor {self.fingerprint}, here {fingerprint}")
            differences += _differences(self.order, order or {})
        if self.lanes != lanes:
            differences.append(f"lanes: cursor {self.lanes}, here {lanes}")
        if differences:
            raise CursorMismatchError(
                "the cursor belongs to another order, in which its position means other rows:\n  "
                + "\n  ".join(differences)
                + "\nOpen the same dataset version with the same filter, split, shuffle settings and lanes, or start "
                "the epoch again without the cursor."
            )
        if None not in (self.global_batch, global_batch) and self.global_batch != global_batch:
            raise CursorMismatchError(
                f"global_batch: cursor {self.global_batch}, here {global_batch}: the steps after the cursor would not "
                "be those of the run that saved it. Keep the rows of all ranks' batches together the same, or change "
                f"them on purpose with state['global_batch'] = {global_batch}: the rest of the epoch is then read in "
                "steps of that size, each row once."
            )

    def to_json(self) -> dict[str, Any]:
        """A dict of plain JSON types."""
        state = {
            "version": CURSOR_VERSION,
            "epoch": self.epoch,
            "rows": self.rows,
            "lanes": self.lanes,
            "fingerprint": self.fingerprint,
            "order": dict(self.order),
        }
        return state if self.global_batch is None else {**state, "global_batch": self.global_batch}

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Cursor:
        """Read what ``to_json`` wrote.

        Raises:
            InvalidArgumentError: A key is missing, unknown or of the wrong type, or the version is not known.
        """
        if not isinstance(state, Mapping):
            raise InvalidArgumentError(f"state={state!r:.200} must be the dict that state_dict() returned")
        missing = [key for key in _KEYS if key not in state]
        unknown = [key for key in state if key not in (*_KEYS, _GLOBAL_BATCH)]
        if missing or unknown:
            raise InvalidArgumentError(
                f"state is not a cursor: missing keys {missing}, unknown keys {unknown}; pass what state_dict() "
                "returned"
            )
        if state["version"] != CURSOR_VERSION:
            raise InvalidArgumentError(
                f"state['version']={state['version']!r} is not the version this release reads, {CURSOR_VERSION}"
            )
        return cls(**{key: state[key] for key in _KEYS[1:]}, global_batch=state.get(_GLOBAL_BATCH))


def _differences(mine: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """One line per entry that differs, nested entries by dotted names."""
    left, right = _flat(mine), _flat(other)
    absent = "(absent)"
    return [
        f"{key}: cursor {left.get(key, absent)!r}, here {right.get(key, absent)!r}"
        for key in sorted(left.keys() | right.keys())
        if left.get(key, absent) != right.get(key, absent)
    ]


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat.update(_flat(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = list(value) if isinstance(value, tuple) else value
    return flat
