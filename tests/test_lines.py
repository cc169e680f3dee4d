"""Lines of any text: one translation for each, in their order, whatever else is among them."""

import re

import pytest
import torch
from conftest import PLUGIN, ROOT, run
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairseq_resmlp import ResMLPModel, text
from fairseq_resmlp.errors import InputError

STORED = ROOT / "tests" / "stored"
PLAIN = "Two women said that a child bought the book."

# What has broken translation systems, beside any text at all.
ODD = [
    *("", " ", "\t", "\u3000", "\r", "a\rb", "\0", "a\0b", "\x1b[31m", "\x07\x08\x7f", "\ufeff", "\ufffe", "\u2028"),
    *("\u2029", "\x85", "\x0b\x0c", "\x1c\x1d", "\ud800", "\udc00\ud800", "\udcff", "a\ud83db", "\U0010ffff"),
    *("?", "...!!!", "---", "\u0300", "e\u0301\u0301", "\ufdfa", "\u202eabc\u202c", "\u200b\u200d", "漢字かな交じり文"),
    *("עברית ועוד", "مرحبا بالعالم", "\U0001f469\u200d\U0001f467\ufe0f", "\U0001f1e9\U0001f1ea", "ß" * 300),
    *("<s>", "</s>", "<pad>", "<unk>", "<pad> <pad> a", "</s> a </s>", "▁", "▁▁ ▁", "@@ @@", "a" * 5000, "a b " * 2000),
    *("${oc.env:HOME}", "%s {} {0}", "H-0\t-1\tx", "S-1\ty", "\\n", "1e999", "NaN"),
]
any_line = st.one_of(
    st.sampled_from(ODD),
    st.text(st.characters(exclude_characters="\n", exclude_categories=()), max_size=60),
    st.text(st.sampled_from("ab .,!?\r\t\0\u2028\ud800\U0001f600<>/▁"), max_size=30),
)
any_bytes = st.binary(max_size=40).map(lambda data: data.replace(b"\n", b" "))


@pytest.fixture(scope="module")
def hub():
    """The stored tiny model, N = 40."""
    return ResMLPModel.from_pretrained(STORED)


SHORT = {"beam": 2, "max_len_b": 10}


@pytest.fixture(scope="module")
def plain(hub):
    return hub.translate([PLAIN], **SHORT)[0]


@pytest.fixture(scope="module")
def fuzz(request):
    """Called with a function that takes a list of lines, and with what draws one line: tries --fuzz-lines lines."""
    count = request.config.getoption("--fuzz-lines")

    def run_all(check, line):
        examples = settings(
            max_examples=max(1, count // 10),
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        examples(given(st.lists(line, min_size=10, max_size=10))(check))()
        return count

    return run_all


def test_translate_gives_as_many_lines_as_it_gets_and_shifts_none(hub, plain, fuzz, record_promise):
    def check(some):
        found = hub.translate([PLAIN, *some, PLAIN], **SHORT)
        assert len(found) == len(some) + 2
        assert all(isinstance(text, str) for text in found)
        assert found[0] == found[-1] == plain

    check(ODD)
    count = fuzz(check, any_line)
    record_promise(
        "`translate` gives one line for each, in order, whatever the text",
        f"{count:,} drawn lines, {len(ODD)} odd ones",
    )


def interactive(*options, stdin=b"", env=None):
    """fairseq-interactive with the stored model."""
    return run(
        *("fairseq-interactive", STORED, "--user-dir", PLUGIN, "--cpu", "--path", STORED / "model.pt"),
        *("-s", "en", "-t", "de", "--bpe", "sentencepiece"),
        *("--sentencepiece-model", STORED / "sentencepiece.bpe.model"),
        *("--beam", "2", "--max-len-b", "10", "--buffer-size", "50", "--batch-size", "50", *options),
        stdin=stdin,
        env=env,
    )


def test_interactive_gives_as_many_lines_as_it_gets_and_shifts_none(plain, fuzz, record_promise):
    """Any bytes; every second line is a plain one, whose translation is known."""
    texts = [line.encode("utf-8", "surrogatepass") for line in ODD]
    bytes_of_text = any_line.map(lambda line: line.encode("utf-8", "surrogatepass"))
    count = fuzz(lambda some: texts.extend(some), st.one_of(bytes_of_text, any_bytes))
    data = b"".join(text + b"\n" + PLAIN.encode() + b"\n" for text in texts)
    found = re.findall(r"^D-(\d+)\t[^\t\n]*\t([^\n]*)$", interactive(stdin=data).stdout, re.M)
    assert [int(number) for number, _ in found] == list(range(2 * len(texts)))
    assert {text for _, text in found[1::2]} == {plain}
    record_promise(
        "`fairseq-interactive` gives one line for each, in order, whatever the bytes",
        f"{count:,} drawn lines, {len(ODD)} odd ones",
    )


def test_a_long_line_is_cut_with_a_warning_and_the_others_stay(hub, plain, caplog):
    N = hub.max_positions[0]
    megabyte = "The old king sees a small dog. " * 33_000
    found = hub.translate([PLAIN, megabyte, PLAIN], **SHORT)
    assert found[0] == found[2] == plain
    pieces = hub.encode(megabyte)
    assert f"a line of {len(pieces) - 1:,} pieces is cut to its first {N - 1}" in caplog.text
    beginning = hub.string(pieces[: N - 1]).replace(" ", "").replace("▁", " ")
    assert found[1] == hub.translate([beginning], **SHORT)[0]


def test_a_line_as_long_as_n_is_not_cut(hub, caplog):
    N = hub.max_positions[0]
    hub.generate([hub.binarize("▁a " * (N - 1))], beam=2)
    assert "is cut" not in caplog.text
    hub.generate([hub.binarize("▁a " * N)], beam=2)
    assert "is cut" in caplog.text


def test_interactive_cuts_a_long_line_and_goes_on_whatever_options_say(plain):
    data = f"{PLAIN}\n{PLAIN * 20000}\n{PLAIN}\n".encode()
    done = interactive("--max-tokens", "30", "--batch-size", "1", "--skip-invalid-size-inputs-valid-test", stdin=data)
    found = re.findall(r"^D-(\d)\t[^\t\n]*\t([^\n]*)$", done.stdout, re.M)
    assert [number for number, _ in found] == ["0", "1", "2"]
    assert found[0][1] == found[2][1] == plain
    assert "pieces is cut to its first 39, which is what N = 40 holds" in done.stderr


def test_a_file_is_read_like_the_standard_input(plain, tmp_path):
    data = b"\xff\n" + PLAIN.encode()  # without a line feed at its end
    (tmp_path / "input").write_bytes(data)
    for done in (interactive(stdin=data), interactive("--input", tmp_path / "input")):
        assert "line 1 is not UTF-8 (invalid start byte at byte 0)" in done.stderr
        assert re.findall(r"^D-1\t[^\t]*\t(.*)$", done.stdout, re.M) == [plain]


@pytest.mark.parametrize("buffer_size", [1, 2, 3, 4])
def test_read_ends_lines_at_line_feeds_alone(tmp_path, buffer_size):
    (tmp_path / "input").write_bytes("a\rb\n\nc\u2028d\r\n e".encode())
    found = list(text.read(str(tmp_path / "input"), buffer_size))
    assert [line for buffer in found for line in buffer] == ["a\rb", "", "c\u2028d", "e"]
    assert all(len(buffer) == buffer_size for buffer in found[:-1]) and 0 < len(found[-1]) <= buffer_size


def test_another_mistake_is_not_taken_for_an_overflow(hub):
    with pytest.raises(AssertionError, match="min_len cannot be larger than max_len"):
        hub.translate([PLAIN], beam=2, max_len_b=4, min_len=100)


def test_interactive_writes_utf_8_whatever_the_terminal_is(plain):
    done = interactive(stdin=PLAIN.encode(), env={"PYTHONIOENCODING": "ascii"})
    assert re.findall(r"^D-0\t[^\t]*\t(.*)$", done.stdout, re.M) == [plain]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_numbers_that_overflow_are_an_error_and_not_a_translation(dtype):
    hub = ResMLPModel.from_pretrained(STORED)
    with torch.no_grad():
        hub.models[0].encoder.layers[0].mixing_post.alpha.fill_(torch.finfo(dtype).max)
    with pytest.raises(InputError, match="no translation with a finite score"):
        hub.to(dtype).translate([PLAIN], **SHORT)
