"""The installer checks what it can before it downloads, and replaces an environment that does not fit."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from support.paths import ROOT, SCRIPTS, load_script

OWN = sys.version_info[:2]


@pytest.fixture
def installer(monkeypatch, tmp_path):
    """The script, with commands that are recorded in `ran` and not run."""
    script = load_script(SCRIPTS / "install.py")
    script.ran = []

    def run(command, check=True, **kwargs):
        script.ran.append([str(word) for word in command])
        if command[1:3] == ["-m", "venv"]:
            (tmp_path / ".venv").mkdir()
            (tmp_path / ".venv" / "pyvenv.cfg").write_text("")
        return 1  # where it is asked for: fairseq is not installed

    monkeypatch.setattr(script, "run", run)
    return script


def install(script, monkeypatch, venv, *options):
    monkeypatch.setattr(sys, "argv", ["install.py", "--venv", str(venv), *options])
    script.main()
    return script.ran


def exit_message(script, monkeypatch, venv, *options):
    with pytest.raises(SystemExit) as ended:
        install(script, monkeypatch, venv, *options)
    assert script.ran == []
    assert "\n" not in ended.value.code
    return ended.value.code


@pytest.mark.parametrize("version", [(3, 9), (3, 14)])
def test_an_unsupported_python_ends_before_anything_runs_and_names_one_that_works(
    installer, monkeypatch, tmp_path, version
):
    monkeypatch.setattr(
        installer, "sys", SimpleNamespace(version_info=version, executable="/odd/python", exit=sys.exit)
    )
    monkeypatch.setattr(installer.shutil, "which", lambda name: f"/somewhere/{name}")
    monkeypatch.setattr(installer, "version_of", lambda path: (3, 12) if path.endswith("python3.12") else None)
    monkeypatch.setattr(installer.argparse.ArgumentParser, "parse_args", lambda self: options(tmp_path))
    with pytest.raises(SystemExit) as ended:
        installer.main()
    name = "{}.{}".format(*version)
    assert ended.value.code == f"error: Python {name} (/odd/python) is not supported: use PYTHON=python3.12"
    monkeypatch.setattr(installer.shutil, "which", lambda name: None)
    with pytest.raises(SystemExit, match=r"install Python 3\.11, 3\.12, 3\.13, then use PYTHON=/path/to/python"):
        installer.main()
    assert installer.ran == []


def options(folder):
    return SimpleNamespace(venv=str(folder / ".venv"), extras="", keep=False)


def test_without_venv_the_package_to_install_is_named(installer, monkeypatch, tmp_path):
    monkeypatch.setattr(installer.subprocess, "run", lambda *a, **k: SimpleNamespace(returncode=1, stdout=b""))
    monkeypatch.setattr(installer.shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr(installer, "version_of", lambda path: None)
    message = exit_message(installer, monkeypatch, tmp_path / ".venv")
    assert message.endswith("apt-get install python{}.{}-venv".format(*OWN))


def test_a_directory_that_is_no_environment_is_left_alone(installer, monkeypatch, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("precious")
    message = exit_message(installer, monkeypatch, tmp_path / "mine")
    assert "exists and is not a virtual environment" in message
    assert (tmp_path / "mine" / "file").read_text() == "precious"


@pytest.mark.parametrize("keep", [False, True])
def test_an_environment_of_another_python_is_replaced_unless_it_is_to_be_kept(
    installer, monkeypatch, tmp_path, keep, capsys
):
    other = next(version for version in installer.SUPPORTED if version != OWN)
    venv = tmp_path / ".venv"
    venv.mkdir()
    (venv / "pyvenv.cfg").write_text("")
    (venv / "old").write_text("")
    monkeypatch.setattr(installer, "version_of", lambda path: other)
    install(installer, monkeypatch, venv, *(["--keep"] if keep else []))
    assert (venv / "old").exists() == keep
    assert ("which belongs to Python {}.{}.".format(*other) in capsys.readouterr().out) != keep
    assert [sys.executable, "-m", "venv", str(venv)] not in installer.ran or not keep


def test_an_environment_that_is_up_to_date_is_left_as_it_is(installer, monkeypatch, tmp_path):
    venv = tmp_path / ".venv"
    assert install(installer, monkeypatch, venv, "--extras", "server,report")
    installer.ran.clear()
    monkeypatch.setattr(installer, "version_of", lambda path: OWN)
    assert install(installer, monkeypatch, venv, "--extras", "server,report") == []
    assert install(installer, monkeypatch, venv, "--extras", "test")[-1][-1] == f"{ROOT}[test]"
    installer.ran.clear()
    monkeypatch.setattr(installer, "fingerprint", lambda: "of other requirements")
    assert install(installer, monkeypatch, venv, "--extras", "test")


def test_fairseq_comes_from_its_wheel_or_is_built_without_extensions_and_without_pips_cache(installer):
    installer.install_fairseq(["pip"], ["install"], (3, 12))
    assert installer.ran == [["pip", "install", installer.FAIRSEQ]]
    installer.ran.clear()
    environments = []
    run = installer.run
    installer.run = lambda command, env=None, **kwargs: (environments.append(env), run(command))
    installer.install_fairseq(["pip"], ["install"], (3, 13))
    wheel, _ = installer.ran
    assert wheel[1] == "wheel" and "--no-cache-dir" in wheel and wheel[-1] == installer.FAIRSEQ
    assert environments[0]["READTHEDOCS"] == "1" and environments[1] is None


def test_a_failing_command_is_named(capfd):
    script = load_script(SCRIPTS / "install.py")
    with pytest.raises(SystemExit, match="python.* ended with status 3"):
        script.run([sys.executable, "-c", "raise SystemExit(3)"])
    assert script.run([sys.executable, "-c", "raise SystemExit(3)"], check=False) == 3


def test_the_versions_of_the_installer_and_of_the_package_agree():
    script = load_script(SCRIPTS / "install.py")
    project = (ROOT / "pyproject.toml").read_text()
    assert f'"{script.FAIRSEQ}; python_version < ' in project
    for version in script.SUPPORTED:
        assert '"Programming Language :: Python :: {}.{}"'.format(*version) in project
    makefile = (ROOT / "Makefile").read_text()
    assert f"{script.SUPPORTED[0]} <= sys.version_info[:2] <= {script.SUPPORTED[-1]}" in makefile


def test_the_help_of_the_installer_needs_nothing():
    done = subprocess.run([sys.executable, "-S", SCRIPTS / "install.py", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--extras" in done.stdout
