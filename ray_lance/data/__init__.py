"""Reads and writes through Ray Data: datasources, datasinks and what runs in their tasks."""
