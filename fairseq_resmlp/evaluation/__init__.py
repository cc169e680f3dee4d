"""Scoring, and reading the files of a training run: checkpoints, logs and test sets."""
