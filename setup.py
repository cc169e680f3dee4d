"""Entry point for tools that need a setup.py. The package is described in pyproject.toml."""

from setuptools import setup

setup()
