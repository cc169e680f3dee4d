"""Paths in the repository, and loading of scripts that belong to no package."""

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PLUGIN = ROOT / "fairseq_resmlp"
GOLDEN = ROOT / "tests" / "golden"  # a tiny trained model, N = 40
SCRIPTS = ROOT / "scripts"


def load_script(path):
    """Import a script that belongs to no package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
