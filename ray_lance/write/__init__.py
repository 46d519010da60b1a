"""Writes files and commits them; imports no Ray."""

from __future__ import annotations

from ray_lance.write.options import WriteOptions, WriteSummary

__all__ = ["WriteOptions", "WriteSummary"]
