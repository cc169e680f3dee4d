"""The Dockerfile's instructions, run in a virtual environment. No image is built, because that needs an engine."""

import fnmatch
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request

import pytest

from fairseq_resmlp.model.export import export_model
from support.paths import GOLDEN, ROOT

TEXT = (ROOT / "Dockerfile").read_text()


def instructions(text=TEXT):
    """Return the instructions of a Dockerfile, as (name, rest), without comments and line continuations."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in lines.splitlines() if line.strip()]


def last(name):
    return [rest for instruction, rest in instructions() if instruction == name][-1]


def test_what_the_image_is_built_from_is_in_the_build_context():
    patterns = (ROOT / ".dockerignore").read_text().split()
    assert patterns[0] == "*"
    copied = [name for instruction, rest in instructions() if instruction == "COPY" for name in rest.split()[:-1]]
    assert sorted(copied) == sorted(pattern[1:] for pattern in patterns if pattern.startswith("!"))
    assert all((ROOT / name).exists() for name in copied)
    assert not fnmatch.filter(copied, "*fairseq_resmlp/*")


def test_the_server_does_not_run_as_root_and_names_its_model_and_port():
    names = [name for name, _ in instructions()]
    assert last("USER") not in ("root", "0")
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")
    assert last("VOLUME") in json.loads(last("CMD"))
    assert f":{last('EXPOSE')}/health" in last("HEALTHCHECK")


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason="constraints.txt is for Python 3.11, like the image")
def test_the_installation_serves_a_model_without_fairseq(tmp_path, exported_model):
    """COPY, ENV and the installation with pip, then the command and the health check of the image."""
    source, venv = tmp_path / "source", tmp_path / "venv"
    source.mkdir()
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    environment = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    environment |= {"PATH": f"{venv / 'bin'}:{os.environ['PATH']}", "PIP_RETRIES": "0"}
    for instruction, rest in instructions():
        if instruction == "ARG":
            name, _, default = rest.partition("=")
            environment[name] = os.environ.get(name, default)
        elif instruction == "ENV":
            environment |= dict(part.split("=", 1) for part in shlex.split(rest))
            environment.pop("PIP_NO_CACHE_DIR", None)
        elif instruction == "COPY":
            *names, target = rest.split()
            for name in names:
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, source / target, ignore=shutil.ignore_patterns("__pycache__"))
                else:
                    shutil.copy(ROOT / name, source / target)
        elif instruction == "RUN" and rest.startswith("pip "):
            subprocess.run(["sh", "-c", rest], cwd=source, env=environment, check=True)
    absent = "import importlib.util as u, sys; sys.exit(u.find_spec('fairseq') is not None)"
    subprocess.run([venv / "bin" / "python", "-c", absent], cwd=tmp_path, env=environment, check=True)

    words = [*json.loads(last("ENTRYPOINT")), *json.loads(last("CMD")), "--port", "0"]
    words = [str(exported_model) if word == last("VOLUME") else word for word in words]
    server = subprocess.Popen(words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        port = re.search(r":(\d+)\. Stop", server.stdout.readline())[1]
        check = [word.replace(last("EXPOSE"), port) for word in json.loads(last("HEALTHCHECK").split("CMD ")[1])]
        assert subprocess.run(check, env=environment).returncode == 0
        body = json.dumps({"q": "w1 w2", "source": "en", "target": "de"}).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{port}/translate", body)
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request) as answer:
            assert "translatedText" in json.load(answer)
        server.send_signal(signal.SIGTERM)  # as docker stop
        assert server.wait(timeout=20) in (0, -signal.SIGTERM)
        assert subprocess.run(check, env=environment, stderr=subprocess.DEVNULL).returncode != 0
    finally:
        server.kill()
        server.wait()


@pytest.fixture(scope="module")
def exported_model(tmp_path_factory):
    """The golden model, exported."""
    directory = tmp_path_factory.mktemp("exported") / "model"
    export_model(str(GOLDEN), str(directory))
    return directory
