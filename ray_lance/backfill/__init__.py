"""Computes new columns for every row of a dataset and writes them beside the data (``add_columns``)."""
