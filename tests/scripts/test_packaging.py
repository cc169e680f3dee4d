"""The sdist and the wheel install and work outside of the checkout."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from support.commands import train_options
from support.paths import GOLDEN, PLUGIN, ROOT

pytestmark = pytest.mark.slow


def run(*command, cwd, **kwargs):
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, env=environment, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(PLUGIN, source / "fairseq_resmlp", ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder / "dist", cwd=source)
    return folder / "dist"


@pytest.fixture(scope="module")
def installed(dist, tmp_path_factory):
    """An environment with the wheel, and with the dependencies of this environment."""
    environment = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", environment, cwd=environment)
    bin = environment / "bin"
    (wheel,) = dist.glob("*.whl")
    run(bin / "python", "-m", "pip", "install", "--no-deps", "--no-index", wheel, cwd=environment)
    # fairseq looks for --user-dir next to itself, where a link would lead elsewhere.
    site = Path(run(bin / "python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=bin).strip())
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if package.name == "fairseq":
            shutil.copytree(package, site / package.name)
        elif not re.search("fairseq.resmlp", package.name) and not (site / package.name).exists():
            (site / package.name).symlink_to(package)
    return environment


def test_the_archives_contain_the_package_and_its_data(dist):
    (sdist,) = dist.glob("*.tar.gz")
    (wheel,) = dist.glob("*.whl")
    with tarfile.open(sdist) as archive:
        in_sdist = {name.partition("/")[2] for name in archive.getnames()}
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = set(archive.namelist())
    expected = {
        str(file.relative_to(ROOT))
        for file in PLUGIN.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".pyc"
    }
    assert expected <= in_sdist
    assert expected <= in_wheel
    assert not [name for name in in_wheel if name.startswith(("tests", "scripts", "docs"))]


def test_the_installed_package_is_not_the_checkout(installed):
    code = "import fairseq_resmlp; print(fairseq_resmlp.__file__)"
    assert str(installed) in run(installed / "bin" / "python", "-c", code, cwd=installed)


def test_the_installed_commands_export_and_translate(installed, tmp_path):
    command = installed / "bin" / "fairseq-resmlp"
    assert "version 0.2.0" in run(command, "--version", cwd=tmp_path)
    run(command, "export", GOLDEN, "exported", "--dtype", "float32", cwd=tmp_path)
    (tmp_path / "source.txt").write_text("w1 w2\n\n", encoding="utf-8")
    run(command, "translate", "exported", "--input", "source.txt", "--output", "target.txt", cwd=tmp_path)
    first, second, rest = (tmp_path / "target.txt").read_text(encoding="utf-8").split("\n")
    assert first
    assert second == rest == ""


def test_fairseq_train_finds_the_installed_plugin_by_name(installed, toy, tmp_path):
    options = train_options(toy / "data-bin", tmp_path / "checkpoints")
    options[options.index(PLUGIN)] = "fairseq_resmlp"
    code = "from fairseq_cli.train import cli_main; cli_main()"
    said = run(installed / "bin" / "python", "-c", code, *options, "--max-update", "2", cwd=tmp_path)
    assert "ResMLPModel" in said
    assert (tmp_path / "checkpoints" / "checkpoint_last.pt").is_file()
