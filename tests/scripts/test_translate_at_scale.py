"""The example that translates with Ray: every line once and in order, also if a worker is killed, and resumable."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fairseq_resmlp.inference.translator import Translator
from fairseq_resmlp.model.export import export_model
from support.files import read_lines, write_lines
from support.paths import GOLDEN, ROOT, load_script

ray = pytest.importorskip("ray", reason="Ray not found: pip install 'fairseq-resmlp[ray]'")
pytestmark = pytest.mark.slow

SCRIPT = ROOT / "examples" / "translate-at-scale" / "translate.py"
LINES = [" ".join(f"w{(7 * i + k) % 40}" for k in range(i % 9)) for i in range(400)]  # some are empty
OPTIONS = ("--beam", "2", "--shard-mib", "0.0003", "--workers", "2")


def actors(parent):
    """Return the process ids of the actors that a process has started."""
    parents, names = {}, {}
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(directory.name)] = int((directory / "stat").read_text().rpartition(") ")[2].split()[1])
            names[int(directory.name)] = (directory / "cmdline").read_text()
        except OSError:
            continue  # it has ended

    def is_below(pid):
        return pid == parent or (pid in parents and is_below(parents[pid]))

    return [pid for pid, name in names.items() if re.match("ray::.*ShardTranslator", name) and is_below(pid)]


def start(model, text, out):
    return subprocess.Popen([sys.executable, SCRIPT, model, text, out, *OPTIONS], stdout=subprocess.PIPE, text=True)


def finish(process):
    said = process.communicate()[0].splitlines()
    assert process.returncode == 0, said
    return said


def test_each_line_is_translated_once_although_a_worker_is_killed_and_a_second_run_continues(tmp_path, exported):
    text, out = write_lines(tmp_path / "text", LINES), tmp_path / "out"
    process = start(exported, text, out)
    while not list(out.glob("shard-*")):
        assert process.poll() is None
        time.sleep(0.05)
    victim, *others = actors(process.pid)
    os.kill(victim, signal.SIGKILL)
    done_then = len(list(out.glob("shard-*")))
    said = finish(process)
    assert len(others) == 1
    shards = sorted(out.glob("shard-*"))
    assert done_then < len(shards)
    assert sum(f" of {len(shards)}: " in line for line in said) == len(shards)
    found = Translator.load(str(exported)).translate_batch(LINES, beam=2)
    assert [line for shard in shards for line in read_lines(shard)] == [translation.text for translation in found]

    before = {shard: (shard.read_bytes(), shard.stat().st_mtime_ns) for shard in shards}
    for shard in shards[1:3]:
        shard.unlink()
    assert finish(start(exported, text, out))[-1].startswith(f"{len(shards)} shards, of which 2 were translated now")
    after = {shard: (shard.read_bytes(), shard.stat().st_mtime_ns) for shard in shards}
    changed = [shard for shard in shards if after[shard] != before[shard]]
    assert changed == shards[1:3] and all(after[shard][0] == before[shard][0] for shard in shards)

    done = subprocess.run(
        [sys.executable, SCRIPT, exported, text, out, *OPTIONS, "--beam", "1"], capture_output=True, text=True
    )
    message = f"Error: {out} was written with another model, text or options: choose another directory\n"
    assert (done.returncode, done.stderr) == (1, message)


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_shards_of_any_size_divide_a_text_into_its_lines(tmp_path, size):
    text = tmp_path / "text"
    text.write_bytes(b"a\n\nbc d\r\n\xff\n\n\nlast")
    script = load_script(SCRIPT)
    lines = [line for shard in script.find_shards(text, tmp_path, size) for line in script.read_shard(shard)]
    assert lines == [
        "a",
        "",
        "bc d",
        "\ufffd",
        "",
        "",
        "last",
    ]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The golden model in float32, in which a translation does not depend on the batch."""
    directory = tmp_path_factory.mktemp("exported") / "model"
    export_model(str(GOLDEN), str(directory), dtype="float32")
    return directory
