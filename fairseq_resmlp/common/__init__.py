"""Helpers shared by every layer. They import nothing else of this package."""
