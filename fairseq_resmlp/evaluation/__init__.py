"""Scores, and what a training run has left on disk: checkpoints, logs, test sets."""
