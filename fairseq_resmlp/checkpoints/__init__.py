"""Checkpoint files: safe reading, atomic writing, averaging."""
