"""Shared fixtures: a tiny model, a tiny corpus of made words, fairseq's commands in subprocesses."""

import atexit
import functools
import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from fairseq.data import Dictionary, LanguagePairDataset
from fairseq.tasks.translation import TranslationConfig, TranslationTask

import fairseq_resmlp  # noqa: F401  mends fairseq
from fairseq_resmlp.model import ResMLPConfig, ResMLPModel
from fairseq_resmlp.score import surroundings

ROOT = Path(__file__).resolve().parents[1]
PLUGIN = ROOT / "fairseq_resmlp"

if "PYTEST_XDIST_WORKER" in os.environ:  # several tests at a time: one core for each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(2, len(os.sched_getaffinity(0))))))


def pytest_addoption(parser):
    parser.addoption("--promises", help="JSON file for what docs/reliability.md promises, with the figures reached")
    parser.addoption("--fuzz-lines", type=int, default=300, help="lines of the fuzz test (default: 300)")
    parser.addoption("--model", help="model folder for test_numbers.py (default: it trains a small one)")
    parser.addoption("--soak-seconds", type=int, default=60, help="length of the soak test's training (default: 60)")


@pytest.fixture
def record_promise(request):
    """Called with a promise and the figure that this test reached: they go into --promises, if it is given."""

    def record(promise, figure):
        name = request.config.getoption("--promises")
        if name is None:
            return
        path = Path(name)
        promises = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        promises[promise] = {
            "figure": figure,
            "test": request.node.nodeid.split("[")[0],
            "slow": request.node.get_closest_marker("slow") is not None,
            **surroundings(),
        }
        path.write_text(json.dumps(promises, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    return record


def make_dictionary(words=40):
    """A dictionary of `words` made words after fairseq's four special entries."""
    dictionary = Dictionary()
    for i in range(words):
        dictionary.add_symbol(f"w{i}")
    return dictionary


def make_task(words=40, **cfg):
    """A translation task over one shared dictionary, without data."""
    dictionary = make_dictionary(words)
    return TranslationTask(TranslationConfig(source_lang="a", target_lang="b", **cfg), dictionary, dictionary)


TINY = {
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 32,
    "encoder_layers": 2,
    "encoder_max_positions": 24,
    "decoder_embed_dim": 16,
    "decoder_ffn_embed_dim": 32,
    "decoder_layers": 2,
    "decoder_max_positions": 24,
    "decoder_attention_heads": 2,
    "dropout": 0.0,
}


def make_model(task=None, seed=1, randomise=True, **options):
    """A tiny model in evaluation mode; `randomise` moves every parameter off its initial value.

    Zero matrices and unit scales would let a wrong formula pass.
    """
    torch.manual_seed(seed)
    model = ResMLPModel.build_model(ResMLPConfig(**{**TINY, **options}), task or make_task()).eval()
    if randomise:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "embed_tokens" not in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_sentences(count, longest=12, words=40, seed=0):
    """Token tensors, each closed by the end-of-sentence mark."""
    rng = random.Random(seed)
    return [
        torch.tensor([4 + rng.randrange(words) for _ in range(rng.randint(1, longest))] + [2]) for _ in range(count)
    ]


def make_batch(sources, targets, left_pad_source=True, pad_to_length=None):
    """fairseq's own collated batch."""
    dictionary = make_dictionary()
    dataset = LanguagePairDataset(
        sources,
        [len(s) for s in sources],
        dictionary,
        targets,
        [len(t) for t in targets],
        dictionary,
        left_pad_source=left_pad_source,
        shuffle=False,
    )
    return dataset.collater([dataset[i] for i in range(len(sources))], pad_to_length=pad_to_length)


def load_script(path):
    """Import a script of the repository that is not in a package."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# In place of a command: have it run by forks.py, and end as it ended.
FORKED = """#!{python} -ES
import array, json, os, signal, socket, sys
command = [os.path.join({bin!r}, os.path.basename(sys.argv[0])), *sys.argv[1:]]
if os.path.basename(command[0]) == "python":
    if not (len(command) > 1 and os.path.isfile(command[1])):
        os.execv({python!r}, command)
    del command[0]
connection = socket.socket(socket.AF_UNIX)
connection.connect({path!r})
request = json.dumps([command, os.getcwd(), dict(os.environ)]).encode() + b"\\n"
sent = connection.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [0, 1, 2]))])
connection.sendall(request[sent:])
status = int(connection.makefile().readline())
if status < 0:
    os.kill(os.getpid(), -status)
sys.exit(status)
"""


@functools.lru_cache(maxsize=None)
def forks():
    """A folder with python and the commands of fairseq and of the plugin, run in forks of one process of forks.py."""
    folder = Path(tempfile.mkdtemp())
    bin, path = Path(sys.executable).parent, str(folder / "socket")
    command = [sys.executable, Path(__file__).with_name("forks.py"), path]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(shutil.rmtree, folder)
    atexit.register(server.stdin.close)
    text = FORKED.format(python=sys.executable, bin=str(bin), path=path)
    for name in ("python", *(command.name for command in bin.glob("fairseq-*"))):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    assert server.stdout.readline() == b"listening\n"
    return folder


def run(*command, check=True, stdin="", cwd=None, env=None):
    """Run a command as a user would; the result has .stdout and .stderr. Fails the test if the command fails.

    stdin is text or bytes. Python scripts and the commands of fairseq and of the plugin, those that a shell script runs
    among them, are run in forks of one process that has imported fairseq, unless there is an environment of their own:
    a command with limits or privileges of its own needs one, be it empty.
    """
    words = [str(part) for part in command]
    stdin = stdin if isinstance(stdin, bytes) else stdin.encode("utf-8")
    folders = [*([forks()] if env is None else []), Path(sys.executable).parent, os.environ["PATH"]]
    environment = {**os.environ, "PATH": os.pathsep.join(map(str, folders)), **(env or {})}
    done = subprocess.run(words, input=stdin, capture_output=True, cwd=cwd, env=environment)
    done.stdout, done.stderr = done.stdout.decode("utf-8"), done.stderr.decode("utf-8")
    if check and done.returncode != 0:
        said = f"{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        pytest.fail(f"{' '.join(words)}\nexit {done.returncode}\n{said}")
    return done


def train_options(data_bin, save_dir):
    """The options of a short training run of a tiny model on the CPU."""
    sizes = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    return [
        data_bin,
        *("--user-dir", PLUGIN, "--arch", "resmlp_tiny", *sizes, "--share-all-embeddings"),
        *("--optimizer", "adagrad", "--lr", "0.05", "--lr-scheduler", "fixed", "--warmup-updates", "20"),
        *("--criterion", "label_smoothed_cross_entropy", "--label-smoothing", "0.1", "--max-tokens", "400"),
        *("--cpu", "--seed", "1", "--num-workers", "0", "--save-dir", save_dir, "--log-format", "simple"),
    ]


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A copying corpus with an empty line, preprocessed: folder with raw files and data-bin."""
    folder = tmp_path_factory.mktemp("toy")
    rng = random.Random(3)
    for split, count in (("train", 300), ("valid", 13), ("test", 21)):
        lines = [" ".join(f"w{rng.randrange(40)}" for _ in range(rng.randint(1, 8))) for _ in range(count)]
        if split == "test":
            lines[5] = ""
        for language in ("src", "tgt"):
            (folder / f"{split}.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    prefixes = [part for s in ("train", "valid", "test") for part in (f"--{s}pref", folder / s)]
    run(
        *("fairseq-preprocess", "-s", "src", "-t", "tgt", *prefixes, "--joined-dictionary"),
        *("--destdir", folder / "data-bin"),
    )
    return folder


@pytest.fixture(scope="session")
def trained(toy):
    """The toy corpus with a model trained on it for three epochs, by fairseq-train."""
    done = run("fairseq-train", *train_options(toy / "data-bin", toy / "checkpoints"), "--max-epoch", "3")
    (toy / "train.log").write_text(done.stdout + done.stderr)
    return toy


@pytest.fixture(scope="module")
def browser():
    """A Chromium without a window: `browser.new_page()` of playwright's synchronous interface."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no playwright: pip install 'fairseq-resmlp[test]'")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    quiet = ["background-networking", "component-update", "sync"]  # it is to ask for nothing but the page
    options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", *(f"--disable-{x}" for x in quiet)]
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=options)
        yield opened
        opened.close()
