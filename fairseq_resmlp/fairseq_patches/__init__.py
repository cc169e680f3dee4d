"""Fixes for fairseq bugs with current Python and torch, applied when the plugin is imported.

fairseq imports --user-dir before it reads data or checkpoints, so one import covers every command. Each patch states
fairseq's issue number if there is one, changes nothing where fairseq no longer needs it, and has a test in
tests/unit/fairseq_patches or tests/fairseq_cli that fails without it.
"""
