"""Command-line options and shared fixtures."""

import fcntl
import json
import os
import random
import shutil
import signal

import pytest
import torch

from fairseq_resmlp.evaluation.provenance import score_environment
from support.commands import run, train_options

if "PYTEST_XDIST_WORKER" in os.environ:  # several tests run in parallel
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # for the processes that tests start: all cores are busy
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(2, len(os.sched_getaffinity(0))))))

# Programs that are started in the background, or with nohup, ignore these signals, and so do their child processes.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_addoption(parser):
    parser.addoption("--promises", help="JSON file to which the guarantees of docs/reliability.md are written")
    parser.addoption("--fuzz-lines", type=int, default=300, help="random lines in the fuzz tests (default: 300)")
    parser.addoption("--model", help="model directory for test_batch_invariance.py (default: train a small model)")
    parser.addoption("--soak-seconds", type=int, default=60, help="length of training in the soak test (default: 60)")


@pytest.fixture
def record_promise(request):
    """Function that adds a guarantee and the figure that this test measured to the file of --promises, if any."""

    def record(promise, figure):
        name = request.config.getoption("--promises")
        if name is None:
            return
        found = {
            "figure": figure,
            "test": request.node.nodeid.split("[")[0],
            "slow": request.node.get_closest_marker("slow") is not None,
            **score_environment(),
        }
        del found["command"]  # with paths of this machine
        with open(name, "a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # tests may run in parallel
            file.seek(0)
            promises = json.loads(file.read() or "{}")
            file.truncate(0)
            file.write(json.dumps({**promises, promise: found}, indent=1, ensure_ascii=False) + "\n")

    return record


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """Directory with the raw files and the data-bin of a copy task. One line of the test set is empty."""
    directory = tmp_path_factory.mktemp("toy")
    rng = random.Random(3)
    for split, count in (("train", 300), ("valid", 13), ("test", 21)):
        lines = [" ".join(f"w{rng.randrange(40)}" for _ in range(rng.randint(1, 8))) for _ in range(count)]
        if split == "test":
            lines[5] = ""
        for language in ("src", "tgt"):
            (directory / f"{split}.{language}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    prefixes = [part for s in ("train", "valid", "test") for part in (f"--{s}pref", directory / s)]
    run(
        *("fairseq-preprocess", "-s", "src", "-t", "tgt", *prefixes, "--joined-dictionary"),
        *("--destdir", directory / "data-bin"),
    )
    return directory


@pytest.fixture(scope="session")
def trained(toy):
    """The directory of `toy` with a model that fairseq-train has trained for three epochs."""
    done = run("fairseq-train", *train_options(toy / "data-bin", toy / "checkpoints"), "--max-epoch", "3")
    (toy / "train.log").write_text(done.stdout + done.stderr)
    return toy


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, as a `Browser` of Playwright's synchronous API."""
    sync_api = pytest.importorskip(
        "playwright.sync_api", reason="Playwright not found: pip install 'fairseq-resmlp[test]'"
    )
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("Chromium not found: apt-get install chromium")
    quiet = ["background-networking", "component-update", "sync"]  # otherwise it sends requests of its own
    options = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", *(f"--disable-{x}" for x in quiet)]
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=options)
        yield opened
        opened.close()
