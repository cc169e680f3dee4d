"""The command `fairseq-resmlp serve`."""

import re
import shutil
import socket
import subprocess
import sys

import pytest
import uvicorn
from click.testing import CliRunner

from fairseq_resmlp.cli.main import main
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.server import serve
from fairseq_resmlp.server.connections import listen
from fairseq_resmlp.server.logs import RECORDS_PER_MINUTE, LogLimit
from fairseq_resmlp.server.settings import Settings
from support.commands import run
from support.paths import GOLDEN


def invoke(*words):
    return CliRunner().invoke(main, ["serve", *map(str, words), "--port", "0", "--threads", "1"])


@pytest.fixture
def started(monkeypatch):
    """The arguments of each application that the command would have served."""
    found = []
    create = serve.create_app
    monkeypatch.setattr(serve, "create_app", lambda *args: (found.append(args), create(*args))[1])
    monkeypatch.setattr(uvicorn.Server, "run", lambda server, sockets: None)
    return found


def test_models_are_exported_directories_or_such_with_model_pt(exported_models, started, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done = invoke(exported_models / "int8", f"trained={GOLDEN}", "--beam", "2")
    assert done.exit_code == 0, done.output
    ((models, settings, host),) = started
    found = [(model.name, model.translator.network.dtype) for model in models.models]
    assert found == [("en-de", "int8"), ("trained", "float32")]
    assert (settings.beam, host) == (2, "127.0.0.1") and list(tmp_path.iterdir()) == []


def test_options_are_the_settings(exported_models, started, tmp_path):
    (tmp_path / "keys").write_text("one\n\ntwo\n")
    (tmp_path / "examples").write_text("Hello.\nBye.\n")
    folder = shutil.copytree(exported_models / "float32", tmp_path / "a=b")
    options = [
        *("--max-batch", 1, "--max-waiting", 3, "--max-characters", 7, "--max-lines", 5, "--max-connections", 9),
        *("--rate", 11, "--character-rate", 13, "--api-keys", tmp_path / "keys", "--trusted-proxy", "10.0.0.0/8"),
        *("--allowed-host", "a.example", "--allow-origin", "https://B.example", "--examples", tmp_path / "examples"),
    ]
    done = invoke(folder, *options)
    assert done.exit_code == 0, done.output
    ((models, settings, _),) = started
    assert models.models[0].name == "en-de"  # "=" belongs to the path
    expected = Settings(
        **{"max_batch": 1, "max_waiting": 3, "max_characters": 7, "max_lines": 5, "max_connections": 9, "rate": 11},
        **{"character_rate": 13, "api_keys": ["one", "two"], "allowed_hosts": ("a.example",)},
        **{"allowed_origins": ["https://b.example"], "examples": ["Hello.", "Bye."]},
        trusted_proxies=settings.trusted_proxies,
    )
    assert settings == expected and list(map(str, settings.trusted_proxies)) == ["10.0.0.0/8"]


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "Missing argument '[NAME=]MODEL...'"),
        (["missing"], "'missing' not found: specify an exported model, a run directory or a checkpoint"),
        (["name=missing"], "'missing' not found"),
        (["."], "no model found in .: there is no average*.pt, model.pt, checkpoint_best.pt, "),
        (["{model}", "{model}"], "2 models are named en-de: distinguish them with NAME=MODEL"),
        (["a b={model}"], "'a b' cannot be the name of a model"),
        (["{model}", "--beam", "10000"], "a beam of 10000 is too large"),
        (["{model}", "--host", "192.0.2.1"], "cannot listen on 192.0.2.1:0: Cannot assign requested address"),
        (["{model}", "--host", "not a host"], "cannot listen on not a host:0: "),
        (["{model}", "--trusted-proxy", "proxy.example"], "'proxy.example' does not appear to be an IPv4 or IPv6"),
        (["{model}", "--allow-origin", "example.org"], "'example.org' is not an origin such as https://example.org"),
        (["{model}", "--allow-origin", "https://a/b"], "'https://a/b' is not an origin such as https://example.org"),
        (["{model}", "--api-keys", "/dev/null"], "/dev/null is a device"),
        (["{model}", "--api-keys", "empty"], "empty contains no API keys: write one per line"),
        (["{model}", "--max-connections", "1000000000"], "--max-connections 1000000000 requires 1000000320 open files"),
        (["{model}", "--character-rate", "5"], "--character-rate 5 is smaller than --max-characters 5000"),
    ],
)
def test_invalid_arguments_are_reported_in_one_line(words, message, exported_models, started, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("\n")
    done = invoke(*(word.format(model=exported_models / "float32") for word in words))
    assert done.exit_code in (1, 2) and started == []
    last = done.output.splitlines()[-1]
    assert last.startswith("Error: ") and message in last


def test_a_port_in_use_is_reported_before_a_model_is_read():
    with listen("127.0.0.1", 0) as listening, pytest.raises(InputError, match="in use; choose another --port"):
        serve.serve(iter([pytest.fail]), "127.0.0.1", listening.getsockname()[1], Settings(), threads=1)


def test_an_ipv6_address_is_served():
    with listen("::1", 0) as listening:
        assert listening.family == socket.AF_INET6


def test_without_an_extra_package_the_error_gives_the_remedy(exported_models, monkeypatch):
    for name in ("fairseq_resmlp.server.serve", "fairseq_resmlp.server.app"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "fastapi", None)
    done = invoke(exported_models / "float32")
    assert done.output == "Error: the server requires fastapi: pip install 'fairseq-resmlp[server]'\n"


@pytest.mark.slow
def test_serving_loads_torch_but_neither_fairseq_nor_matplotlib(exported_models):
    code = """
import atexit, sys, uvicorn
uvicorn.Server.run = lambda server, sockets: None
names = {"fairseq", "hydra", "matplotlib", "omegaconf", "py3langid", "torch"}
atexit.register(lambda: print(sorted(names & set(sys.modules))))
from fairseq_resmlp.cli.main import main
main()
"""
    done = run("python", "-c", code, "serve", exported_models / "float32", "--port", "0", "--threads", "1", env={})
    assert done.stdout.splitlines()[-1] == "['py3langid', 'torch']"


# Log


def record(name="fairseq_resmlp.server", message="failed"):
    import logging

    return logging.LogRecord(name, logging.ERROR, "", 0, message, (), None)


def test_the_log_is_limited_and_counts_what_it_drops():
    now = [0.0]
    limit = LogLimit(lambda: now[0])
    assert sum(limit.filter(record()) for _ in range(1000)) == RECORDS_PER_MINUTE
    now[0] = 60
    last = record()
    assert limit.filter(last)
    assert last.getMessage() == f"failed ({1000 - RECORDS_PER_MINUTE} earlier messages were dropped)"


def test_text_of_clients_is_not_logged():
    assert not LogLimit().filter(record("fairseq_resmlp.inference.sentences", "a line was cut: a secret"))


@pytest.mark.slow
def test_an_interrupt_stops_the_command(exported_models):
    code = "from fairseq_resmlp.cli.main import main; main()"
    words = [sys.executable, "-c", code, "serve", str(exported_models / "float32"), "--port", "0", "--threads", "1"]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert re.fullmatch(r"Serving at http://127\.0\.0\.1:\d+\. Stop with Ctrl \+ C\.\n", line)
    process.send_signal(2)
    assert process.wait(60) == 0 and process.stderr.read() == ""
