"""Computes new columns for every row: a dataset and a function in, the dataset with further columns out."""
