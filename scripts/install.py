"""Install fairseq-resmlp into a virtual environment: `PYTHON scripts/install.py [--venv DIR] [--extras NAME,NAME]`.

The Makefile calls it before every target. It checks everything it can before it downloads anything, replaces an
environment that belongs to another Python, and does nothing if the environment is up to date. fairseq is installed from
its wheel if there is one for this Python. Otherwise it is built without its compiled extensions, which the plugin
replaces (fairseq_resmlp/fairseq_patches/extensions.py), so no compiler is needed.

It runs on Python 3.6 and later, so that an unsupported version gets a clear message.
"""

import argparse
import glob
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SUPPORTED = ((3, 11), (3, 12), (3, 13))
FAIRSEQ = "fairseq-fixed==0.12.3.1"
WITH_WHEEL = ((3, 12),)  # Pythons for which the package index has a wheel of FAIRSEQ


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", default=os.path.join(ROOT, ".venv"), help="directory of the environment")
    parser.add_argument("--extras", default="", help="optional dependencies to install, joined by commas")
    parser.add_argument("--keep", action="store_true", help="accept an environment of another supported Python")
    options = parser.parse_args()
    python = os.path.join(options.venv, "bin", "python")
    version = version_of(python)
    if version in SUPPORTED and (options.keep or version == sys.version_info[:2]):
        if is_up_to_date(options.venv, options.extras):
            return
    else:
        check_python()
        create(options.venv, version)
        version = sys.version_info[:2]
    install(python, version, options.extras)
    with open(stamp(options.venv, options.extras), "w") as file:
        file.write(fingerprint())


def fail(message):
    sys.exit("error: " + message)


def version_of(python):
    """Return (major, minor) of an interpreter, or None if it does not run."""
    code = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        major, minor = done.stdout.split()
        return int(major), int(minor)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None


def check_python():
    """Stop if this interpreter is not supported or cannot create environments, and name one that can."""
    if sys.version_info[:2] not in SUPPORTED:
        found = "{}.{}".format(*sys.version_info[:2])
        fail(f"Python {found} ({sys.executable}) is not supported: {remedy()}")
    done = subprocess.run([sys.executable, "-c", "import venv, ensurepip"], stderr=subprocess.DEVNULL)
    if done.returncode:
        package = "python{}.{}-venv".format(*sys.version_info[:2])
        way = "apt-get install " + package if shutil.which("apt-get") else remedy()
        fail(f"{sys.executable} cannot create virtual environments, because venv or ensurepip is missing: {way}")


def remedy():
    for minor in sorted((minor for _, minor in SUPPORTED), reverse=True):
        name = f"python3.{minor}"
        path = shutil.which(name)
        if path and version_of(path) == (3, minor) and os.path.realpath(path) != os.path.realpath(sys.executable):
            return f"use PYTHON={name}"
    names = ", ".join("{}.{}".format(*version) for version in SUPPORTED)
    return f"install Python {names}, then use PYTHON=/path/to/python"


def create(venv, old_version):
    if os.path.lexists(venv):
        if not os.path.isfile(os.path.join(venv, "pyvenv.cfg")):
            fail(f"{venv} exists and is not a virtual environment: remove it, or use --venv")
        belongs = "Python {}.{}".format(*old_version) if old_version else "a Python that does not run any more"
        print(f"Replacing {venv}, which belongs to {belongs}.", flush=True)
        shutil.rmtree(venv)
    print(f"Installing into {os.path.relpath(venv)} with {sys.executable}.", flush=True)
    run([sys.executable, "-m", "venv", venv])


def install(python, version, extras):
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    constrained = ["install", "-c", os.path.join(ROOT, "constraints.txt")]
    run([*pip, *constrained, "torch", "numpy", "setuptools", "wheel"])
    name, version_wanted = FAIRSEQ.split("==")
    check = f"from importlib.metadata import version; assert version({name!r}) == {version_wanted!r}"
    if run([python, "-c", check], check=False):
        install_fairseq(pip, constrained, version)
    package = ROOT + (f"[{extras}]" if extras else "")
    # Without build isolation, which would download the build requirements a second time.
    run([*pip, *constrained, "--no-build-isolation", "-e", package])


def install_fairseq(pip, constrained, version):
    if version in WITH_WHEEL:
        run([*pip, *constrained, FAIRSEQ])
        return
    with tempfile.TemporaryDirectory() as folder:
        # READTHEDOCS makes fairseq's setup.py leave out its extensions. Without pip's cache, which would hand the
        # resulting wheel to other projects.
        environment = {**os.environ, "READTHEDOCS": "1"}
        options = ["--no-deps", "--no-build-isolation", "--no-cache-dir", "--no-binary", "fairseq-fixed", "-w", folder]
        run([*pip, "wheel", *options, FAIRSEQ], env=environment)
        run([*pip, *constrained, *glob.glob(os.path.join(folder, "*.whl"))])


def run(command, check=True, **kwargs):
    """Run a command. Returns its exit status, or ends with it if `check`."""
    quiet = {} if check else {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    status = subprocess.run(command, **quiet, **kwargs).returncode
    if check and status:
        fail("{} ended with status {}".format(" ".join(command), status))
    return status


def stamp(venv, extras):
    return os.path.join(venv, "installed-" + (extras.replace(",", "-") or "base"))


def fingerprint():
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        with open(os.path.join(ROOT, name), "rb") as file:
            digest.update(file.read())
    return digest.hexdigest()


def is_up_to_date(venv, extras):
    try:
        with open(stamp(venv, extras)) as file:
            return file.read() == fingerprint()
    except OSError:
        return False


if __name__ == "__main__":
    main()
