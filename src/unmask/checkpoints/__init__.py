"""Weights on disk: our own format, and the files that other projects publish."""
