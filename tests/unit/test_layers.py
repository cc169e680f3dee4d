"""The import layers of docs/architecture.md are enforced."""

import shutil
import subprocess
import sys

import pytest

from support.paths import PLUGIN, ROOT


def lint(folder):
    """Run import-linter on a copy of the package, with the contracts of pyproject.toml."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(folder)})


@pytest.fixture
def copy(tmp_path):
    pytest.importorskip("importlinter", reason="import-linter is not installed: pip install 'fairseq-resmlp[lint]'")
    shutil.copytree(PLUGIN, tmp_path / "fairseq_resmlp", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_the_package_keeps_its_layers(copy):
    done = lint(copy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 kept, 0 broken" in done.stdout


@pytest.mark.parametrize(
    "module, line, named",
    [
        ("inference/network.py", "import fairseq", "fairseq_resmlp.inference is not allowed to import fairseq"),
        (
            "server/limits.py",
            "from omegaconf import OmegaConf",
            "fairseq_resmlp.server is not allowed to import omegaconf",
        ),
        (
            "report/plots.py",
            "from fairseq_resmlp.model import hub",
            "fairseq_resmlp.report.plots is not allowed to import",
        ),
        ("resmlp.py", "from fairseq_resmlp.model import hub", "fairseq_resmlp.resmlp is not allowed to import"),
        (
            "data/corpus.py",
            "from fairseq_resmlp.inference import config",
            "fairseq_resmlp.data is not allowed to import",
        ),
    ],
)
def test_a_forbidden_import_fails(copy, module, line, named):
    file = copy / "fairseq_resmlp" / module
    file.write_text(f"{file.read_text()}\n{line}\n")
    done = lint(copy)
    assert done.returncode == 1
    assert named in done.stdout
