"""A file is written completely or left as it was, and outputs that cannot be replaced are written through."""

import os
import re
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fairseq_resmlp.common.atomic_write import (
    atomic_directory,
    atomic_write,
    atomic_write_all,
    open_output,
    refuse_overwriting,
)
from fairseq_resmlp.common.errors import InputError

LEFTOVER = r"file\.[0-9a-f]{16}\.part"  # as documented in docs/reliability.md


@pytest.fixture
def no_tmpfile(monkeypatch):
    """Make os.open fail as on a file system without O_TMPFILE: a directory cannot be opened for writing."""
    monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)


@pytest.fixture(params=["without a name", "named"])
def temporary_kind(request):
    """Run a test on file systems with and without O_TMPFILE."""
    if request.param == "named":
        request.getfixturevalue("no_tmpfile")
    return request.param


def write(path, text):
    with atomic_write(str(path)) as temporary, open(temporary, "w") as file:
        file.write(text)


def permissions(path):
    return stat.S_IMODE(os.stat(path).st_mode)


# Regular files


def test_an_atomic_write_replaces_the_file_and_creates_its_directory(tmp_path, temporary_kind):
    path = tmp_path / "new" / "file"
    for text in ("old", "new"):
        with atomic_write(str(path)) as temporary:
            with open(temporary, "w") as file:
                file.write(text)
            assert not path.exists() or path.read_text() == "old"
            others = [name for name in os.listdir(path.parent) if name != "file"]
            assert len(others) == (temporary_kind == "named") and all(re.fullmatch(LEFTOVER, x) for x in others)
        assert path.read_text() == text
    assert os.listdir(path.parent) == ["file"]


def test_a_failed_atomic_write_keeps_the_old_file_and_leaves_no_other(tmp_path, temporary_kind):
    path = tmp_path / "file"
    path.write_text("old")
    for error in (RuntimeError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error), atomic_write(str(path)) as temporary:
            with open(temporary, "w") as file:
                file.write("incompl")
            raise error
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_several_files_are_replaced_after_all_are_complete_or_none(tmp_path, temporary_kind):
    paths = [tmp_path / "a", tmp_path / "b"]
    paths[0].write_text("old")

    def write_all(texts):
        with atomic_write_all(list(map(str, paths))) as temporary:
            for name, text in zip(temporary, texts, strict=True):
                Path(name).write_text(text)
                assert paths[0].read_text() == "old" and not paths[1].exists()

    with pytest.raises(ValueError, match="shorter"):
        write_all(["new"])
    assert paths[0].read_text() == "old" and os.listdir(tmp_path) == ["a"]
    write_all(["new", "new"])
    assert [path.read_text() for path in paths] == ["new", "new"] and len(os.listdir(tmp_path)) == 2


def test_nothing_is_replaced_if_one_of_several_files_cannot_be_written(tmp_path):
    (tmp_path / "a").write_text("old")
    (tmp_path / "directory").mkdir()
    for other in ("directory", "a/b", "/proc/none"):
        paths = [str(tmp_path / "a"), str(tmp_path / other)]
        with pytest.raises(InputError, match=re.escape(other)), atomic_write_all(paths):
            pytest.fail("the file cannot be written")
    assert (tmp_path / "a").read_text() == "old" and sorted(os.listdir(tmp_path)) == ["a", "directory"]


def test_content_reaches_the_disk_before_its_final_name(tmp_path, temporary_kind, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(os.fstat(fd).st_size), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda *paths: (calls.append(paths[1]), replace(*paths)))
    write(tmp_path / "file", "text")
    assert calls == [4, str(tmp_path / "file")]


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755, 0o444, 0o666])
def test_a_file_keeps_its_permissions_and_a_new_one_gets_the_usual_ones(tmp_path, temporary_kind, mode):
    kept, usual, new = tmp_path / "kept", tmp_path / "usual", tmp_path / "new"
    kept.write_text("old")
    kept.chmod(mode)
    usual.touch()
    with atomic_write(str(kept)) as temporary:
        others = [tmp_path / name for name in os.listdir(tmp_path) if name.endswith(".part")]
        assert not any(permissions(path) & 0o077 & ~mode for path in others)  # readable by others no earlier
        Path(temporary).write_text("new")
    assert kept.read_text() == "new" and permissions(kept) == mode
    write(new, "new")
    assert permissions(new) == permissions(usual)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
def test_a_file_keeps_its_owner(tmp_path):
    write(tmp_path / "file", "old")
    os.chown(tmp_path / "file", 1234, 5678)
    write(tmp_path / "file", "new")
    status = os.stat(tmp_path / "file")
    assert (status.st_uid, status.st_gid) == (1234, 5678)


@pytest.mark.parametrize("target", ["file", "other/file", "new", "../{}/file", "link2"])
def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path, temporary_kind, target):
    (tmp_path / "other").mkdir()
    (tmp_path / "file").write_text("old")
    (tmp_path / "link2").symlink_to("other/new")
    target = target.format(tmp_path.name)
    (tmp_path / "link").symlink_to(target)
    write(tmp_path / "link", "new")
    assert os.readlink(tmp_path / "link") == target and (tmp_path / target).read_text() == "new"
    assert (tmp_path / "link2").is_symlink()
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


def test_files_of_others_with_names_of_temporaries_stay_as_they_are(tmp_path, temporary_kind):
    victim = tmp_path / "victim"
    victim.write_text("theirs")
    (tmp_path / "file.part").symlink_to(victim)
    (tmp_path / "other.part").write_text("theirs")
    (tmp_path / f"file.{16 * '0'}.part").write_text("theirs")
    before = sorted(os.listdir(tmp_path))
    for name in ("file", "other"):
        write(tmp_path / name, "ours")
    assert sorted(os.listdir(tmp_path)) == sorted([*before, "file", "other"])
    assert {(tmp_path / name).read_text() for name in before} == {"theirs"}


def test_a_temporary_never_takes_an_existing_name(tmp_path, no_tmpfile, monkeypatch):
    monkeypatch.setattr("secrets.token_hex", lambda size: "0" * 2 * size)
    victim, guessed = tmp_path / "victim", tmp_path / f"file.{16 * '0'}.part"
    for link in (False, True):
        victim.write_text("theirs")
        guessed.symlink_to(victim) if link else guessed.write_text("theirs")
        with pytest.raises(InputError, match="cannot write .*file: File exists"):
            write(tmp_path / "file", "ours")
        assert guessed.read_text() == victim.read_text() == "theirs"
        guessed.unlink()


def test_of_two_writers_the_last_one_wins_completely(tmp_path, temporary_kind):
    path = str(tmp_path / "file")
    with atomic_write(path) as one:
        with open(one, "w") as file:
            file.write("1" * 1000)
        with atomic_write(path) as two, open(two, "w") as file:
            file.write("2" * 10)
        assert (tmp_path / "file").read_text() == "2" * 10
        with open(one, "a") as file:
            file.write("1" * 1000)
    assert (tmp_path / "file").read_text() == "1" * 2000 and os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127, "\U0001f600" * 63, "-", "a b\n'\"", "\udcff", "file.part"])
def test_any_file_name_can_be_written(tmp_path, temporary_kind, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / name, name):  # also without a directory
        write(path, "text")
    assert (tmp_path / name).read_text() == "text" and os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("path", [".", "..", "directory", "directory/", "new/", "link", ""])
def test_a_directory_as_output_is_refused(tmp_path, path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("directory")
    os.symlink("directory", "link")
    for output in (atomic_write, open_output):
        with pytest.raises(InputError, match=": specify "), output(path):
            pytest.fail("a directory cannot be written")
    assert sorted(os.listdir()) == ["directory", "link"] and not os.listdir("directory")


# Killed processes

WRITER = """
import os, sys, time
from fairseq_resmlp.common.atomic_write import atomic_write
if {named}:
    os.O_TMPFILE = os.O_DIRECTORY
with atomic_write(sys.argv[1]) as temporary, open(temporary, "w") as file:
    file.write("incompl")
    file.flush()
    print("ready", flush=True)
    time.sleep(60)
"""


def killed_while_writing(path, number, named=False):
    command = [sys.executable, "-c", WRITER.format(named=named), path]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(number)
    process.communicate()
    return process.returncode


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGKILL", "SIGHUP"])
def test_nothing_remains_of_a_killed_process(tmp_path, name):
    (tmp_path / "file").write_text("old")
    assert killed_while_writing(tmp_path / "file", signal.Signals[name]) == -signal.Signals[name]
    assert (tmp_path / "file").read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_without_o_tmpfile_a_killed_process_leaves_a_recognizable_file(tmp_path):
    (tmp_path / "file").write_text("old")
    killed_while_writing(tmp_path / "file", signal.SIGINT, named=True)
    assert os.listdir(tmp_path) == ["file"]
    killed_while_writing(tmp_path / "file", signal.SIGKILL, named=True)
    (leftover,) = set(os.listdir(tmp_path)) - {"file"}
    assert re.fullmatch(LEFTOVER, leftover) and (tmp_path / "file").read_text() == "old"


def test_an_interruption_waits_until_all_files_are_replaced(tmp_path, monkeypatch):
    replace = os.replace

    def interrupted(source, target):
        os.kill(os.getpid(), signal.SIGINT)
        replace(source, target)

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt), atomic_write_all([str(tmp_path / name) for name in "ab"]) as temporary:
        for path in temporary:
            Path(path).write_text("new")
    assert [(tmp_path / name).read_text() for name in sorted(os.listdir(tmp_path))] == ["new", "new"]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


# Outputs that cannot be replaced


@pytest.mark.parametrize("output", ["atomic_write", "open_output"])
def test_a_fifo_receives_the_content_and_stays(tmp_path, output):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    for name in ("fifo", "link"):
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit((tmp_path / "fifo").read_text)
            write_with(output, tmp_path / name, "text\n" * 50_000)
        assert reading.result() == "text\n" * 50_000
    assert (tmp_path / "fifo").is_fifo() and (tmp_path / "link").is_symlink() and len(os.listdir(tmp_path)) == 2


def write_with(output, path, text):
    if output == "atomic_write":
        write(path, text)
    else:
        with open_output(str(path)) as out:
            out.write(text)


@pytest.mark.parametrize("output", ["atomic_write", "open_output"])
def test_a_device_is_written_through(tmp_path, output):
    before = os.stat("/dev/null")
    (tmp_path / "link").symlink_to("/dev/null")
    for path in ("/dev/null", tmp_path / "link"):
        write_with(output, path, "text")
    assert os.stat("/dev/null") == before and (tmp_path / "link").is_symlink()
    with pytest.raises(InputError, match="^cannot write /dev/full: No space left on device$"):
        write_with(output, "/dev/full", "text")


@pytest.mark.parametrize("output", ["atomic_write", "open_output"])
@pytest.mark.parametrize("path", ["/dev/fd/{}", "/proc/self/fd/{}", "/proc/thread-self/fd/{}", "link"])
def test_an_open_file_is_appended_to_and_not_truncated(tmp_path, output, path):
    (tmp_path / "file").write_text("before\n")
    inode = os.stat(tmp_path / "file").st_ino
    with open(tmp_path / "file", "a") as file:
        os.symlink(f"/dev/fd/{file.fileno()}", tmp_path / "link")
        write_with(output, tmp_path / path.format(file.fileno()), "text\n")
        file.write("after\n")
    assert (tmp_path / "file").read_text() == "before\ntext\nafter\n" and os.stat(tmp_path / "file").st_ino == inode


@pytest.mark.parametrize("path", ["/dev/stdout", "/dev/stderr", "/dev/fd/1", "-"])
def test_standard_streams_are_written_through(path, capfd):
    write_with("open_output", path, "ä\n")
    if path != "-":
        write_with("atomic_write", path, "ö\n")
    streams = capfd.readouterr()
    assert (streams.err if path == "/dev/stderr" else streams.out) == ("ä\n" if path == "-" else "ä\nö\n")


def test_a_descriptor_that_cannot_be_written_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("text")
    with open(tmp_path / "file") as file:
        path = f"/dev/fd/{file.fileno()}"
        with pytest.raises(InputError, match=f"^cannot write {path}: it is open only for reading$"):
            write_with("open_output", path, "new")
    with pytest.raises(InputError, match=f"^cannot write {path}: Bad file descriptor$"):
        write_with("atomic_write", path, "new")
    monkeypatch.setattr(sys, "__stdout__", None)  # as for a process that was started with closed standard output
    with pytest.raises(InputError, match="^cannot write standard output: Bad file descriptor$"):
        write_with("open_output", "-", "new")
    assert (tmp_path / "file").read_text() == "text"


def test_text_is_utf8_with_lf_line_endings(tmp_path):
    write_with("open_output", tmp_path / "file", "ä\u2028\r\nx\n")
    assert (tmp_path / "file").read_bytes() == "ä\u2028\r\nx\n".encode()


# Errors

LIMITED = """
import resource, signal, sys
from fairseq_resmlp.common.atomic_write import open_output
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with open_output(sys.argv[1]) as out:
    out.write("x" * 100_000)
"""


def test_a_full_disk_is_reported_with_the_name_of_the_file(tmp_path):
    """A file size limit stands in for a full disk."""
    (tmp_path / "old").write_text("old")
    for name, unchanged in (("old", ", which is unchanged"), ("new", "")):
        done = subprocess.run([sys.executable, "-c", LIMITED, tmp_path / name], capture_output=True, text=True)
        last = done.stderr.splitlines()[-1]
        assert last.endswith(f"InputError: cannot write {tmp_path / name}{unchanged}: File too large")
    assert (tmp_path / "old").read_text() == "old" and os.listdir(tmp_path) == ["old"]


def test_errors_of_reading_other_files_keep_their_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"), atomic_write(str(tmp_path / "file")):
        open(tmp_path / "missing").close()
    assert not os.listdir(tmp_path)


# Directories


def test_a_directory_appears_complete_or_not_at_all(tmp_path, temporary_kind):
    path = tmp_path / "new" / "directory"
    with pytest.raises(RuntimeError), atomic_directory(str(path), ["a", "b"]) as temporary:
        Path(temporary["a"]).write_text("incompl")
        raise RuntimeError
    assert os.listdir(path.parent) == []
    with atomic_directory(f"{path}/", ["a", "b"]) as temporary:
        for name, file in temporary.items():
            Path(file).write_text(name)
            assert not path.exists()
    assert {name: (path / name).read_text() for name in os.listdir(path)} == {"a": "a", "b": "b"}
    assert os.listdir(path.parent) == ["directory"]
    (tmp_path / "usual").mkdir()
    (tmp_path / "usual" / "a").touch()
    assert permissions(path) == permissions(tmp_path / "usual")
    assert permissions(path / "a") == permissions(tmp_path / "usual" / "a")
    message = "cannot write .*directory: Directory not empty"
    with pytest.raises(InputError, match=message), atomic_directory(str(path), ["c"]):
        pass
    assert sorted(os.listdir(path)) == ["a", "b"] and os.listdir(path.parent) == ["directory"]


# Inputs


@pytest.mark.parametrize("output", ["in", "./in", "{}/in", "hard", "soft", "soft2", "other/../in", "linked/in"])
def test_an_output_that_is_an_input_is_refused(tmp_path, output, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("in", "in2"):
        Path(name).write_text("text")
    os.mkdir("other")
    os.link("in", "hard")
    os.symlink("in", "soft")
    os.symlink("soft", "soft2")
    os.symlink(".", "linked")
    output = output.format(tmp_path)
    message = "its own input" if output == "in" else "the input in"
    with pytest.raises(InputError, match=f"^{re.escape(output)} would overwrite {message}: choose another output$"):
        refuse_overwriting(["new", output], ["missing", "in2", "in"])


def test_descriptors_of_an_input_are_refused(tmp_path):
    (tmp_path / "in").write_text("text")
    with open(tmp_path / "in", "a") as file:
        for name in ("/dev/fd", "/proc/self/fd"):
            with pytest.raises(InputError, match="would overwrite the input"):
                refuse_overwriting([f"{name}/{file.fileno()}"], [str(tmp_path / "in")])
    program = "from fairseq_resmlp.common.atomic_write import *; refuse_overwriting(['-'], ['-' if {} else 'in'])"
    for redirected in (True, False):
        with open(tmp_path / "in", "r+") as file:
            done = subprocess.run(
                [sys.executable, "-c", program.format(redirected)],
                stdin=file if redirected else subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.PIPE,
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": os.getcwd()},
            )
        assert b"InputError: standard output would overwrite " in done.stderr
    assert (tmp_path / "in").read_text() == "text"


def test_one_file_for_two_outputs_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("old").write_text("text")
    os.symlink("old", "link")
    os.symlink("new", "dangling")
    for outputs in (["new", "new"], ["new", "./new"], ["old", "link"], ["new", "dangling"]):
        with pytest.raises(InputError, match="would be written twice"):
            refuse_overwriting(outputs, [])


def test_other_outputs_are_accepted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("in", "same content"):
        Path(name).write_text("text")
    refuse_overwriting(["same content", "new", "-"], ["in", "in", "missing", "-"])
    refuse_overwriting(["/dev/null", "/dev/null"], ["/dev/null"])
