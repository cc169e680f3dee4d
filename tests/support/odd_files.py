"""Valid inputs of every command, and paths that are unusual in every way that a file system allows."""

import os
import shutil
import socket

from support.paths import GOLDEN
from support.run_directories import write_run_directory

LOOP, FIFO, NOT_UTF8 = "loop", "fifo", os.fsdecode(b"\xff\xfe")


def write_inputs(directory):
    """Write valid inputs: text, tokenized text, a SentencePiece model, checkpoints, scores, an archive."""
    directory.mkdir()
    for language, line in (("en", "The old king sees a small dog."), ("de", "Der alte K\u00f6nig sieht einen Hund.")):
        (directory / f"text.{language}").write_text(f"{line}\n" * 20, encoding="utf-8")
        pieces = " ".join(f"\u2581{word}" for word in line.split())
        (directory / f"pieces.{language}").write_text(f"{pieces}\n" * 20, encoding="utf-8")
    shutil.copy(GOLDEN / "model.pt", directory / "average.pt")
    (directory / "shortlist").write_text("\t\u2581der\n", encoding="utf-8")
    shutil.copytree(GOLDEN, directory / "golden", ignore=shutil.ignore_patterns("*.py", "*.json", "__pycache__"))
    run = write_run_directory(directory / "run")
    for name in ("model.pt", "raw"):  # translating and plotting weights take seconds
        path = run / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (run / "train.log").write_text("epoch 001: 10 / 500 loss=9, num_updates=10\n")  # one plot


def write_odd_files(directory):
    """Write files that are no valid input of any command. Returns the paths, also of some that cannot exist."""
    directory.mkdir()
    texts = {
        "empty": b"",
        "binary": bytes(range(256)) * 40,
        "not-utf8.en": b"a \xff b\nc\n",
        "utf16.en": "text\n".encode("utf-16"),
        "deep.json": b"[" * 100_000,
        "deep-object.json": b'{"a":' * 400 + b"1" + b"}" * 400,
        "nan.json": b'{"lines": NaN, "scores": [{"name": "x", "value": Infinity, "signature": null}]}',
        "wrong.json": b'{"lines": "many", "scores": {"version": 4}, "version": 4, "sizes": []}',
        "huge.json": b'{"lines": 1' + b"0" * 400 + b', "scores": [], "version": 1e999}',
        "surrogate.json": b'{"name": "\\ud800"}',
        "one-line": b"word=1 " * 15_000,
        "a\nb": b"a line feed in the name\n",
        "-dash": b"a dash in front\n",
        NOT_UTF8: b"a name that is not UTF-8\n",
        "n" * 255: b"the longest name\n",
        "hidden": b"not readable\n",
    }
    for name, data in texts.items():
        (directory / name).write_bytes(data)
    (directory / "hidden").chmod(0)
    (directory / "directory").mkdir()
    os.mkfifo(directory / FIFO)
    for name, target in ((LOOP, LOOP), ("dangling", "nowhere"), ("link", "empty")):
        (directory / name).symlink_to(target)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.path.relpath(directory / "socket"))
    own = [*texts, "directory", FIFO, LOOP, "dangling", "link", "socket", "missing", "n" * 300, "empty/file"]
    # The last one is a regular file that not even root can read.
    others = ["", ".", "/", "/dev/null", "/dev/full", "/dev/zero", "/dev/tty", "x/" * 3000, "/proc/self/mem"]
    return [*(str(directory / name) for name in own), *others]


def snapshot(directory):
    """Return what identifies the content of each file below a directory, without reading it."""
    found = {}
    for folder, folders, files in os.walk(directory):
        for name in [*folders, *files]:
            status = os.lstat(os.path.join(folder, name))
            found[os.path.join(folder, name)] = (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns)
    return found
