"""Any text: one translation per line, in order, unaffected by the other lines."""

import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairseq_resmlp import ResMLPModel
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.text import read_lines
from support.commands import run
from support.paths import GOLDEN, PLUGIN
from support.texts import EDGE_CASES, PLAIN

any_line = st.one_of(
    st.sampled_from(EDGE_CASES),
    st.text(st.characters(exclude_characters="\n", exclude_categories=()), max_size=60),
    st.text(st.sampled_from("ab .,!?\r\t\0\u2028\ud800\U0001f600<>/▁"), max_size=30),
)
any_bytes = st.binary(max_size=40).map(lambda data: data.replace(b"\n", b" "))


@pytest.fixture(scope="module")
def hub():
    """The golden model, N = 40."""
    return ResMLPModel.from_pretrained(GOLDEN)


SHORT = {"beam": 2, "max_len_b": 10}


@pytest.fixture(scope="module")
def plain(hub):
    """The translation of `PLAIN`."""
    return hub.translate([PLAIN], **SHORT)[0]


@pytest.fixture(scope="module")
def fuzz(request):
    """Function that calls `check` with lists of lines drawn from the strategy `line`, --fuzz-lines in all."""
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


def test_translate_returns_one_line_per_input_line_in_order(hub, plain, fuzz, record_promise):
    def check(some):
        found = hub.translate([PLAIN, *some, PLAIN], **SHORT)
        assert len(found) == len(some) + 2
        assert all(isinstance(text, str) for text in found)
        assert found[0] == found[-1] == plain

    check(EDGE_CASES)
    count = fuzz(check, any_line)
    record_promise(
        "`HubTranslator.translate` returns one line per input line, in order, for any text",
        f"{count:,} random lines, {len(EDGE_CASES)} edge cases",
    )


def interactive(*options, stdin=b"", env=None):
    """Run fairseq-interactive with the golden model."""
    return run(
        *("fairseq-interactive", GOLDEN, "--user-dir", PLUGIN, "--cpu", "--path", GOLDEN / "model.pt"),
        *("-s", "en", "-t", "de", "--bpe", "sentencepiece"),
        *("--sentencepiece-model", GOLDEN / "sentencepiece.bpe.model"),
        *("--beam", "2", "--max-len-b", "10", "--buffer-size", "50", "--batch-size", "50", *options),
        stdin=stdin,
        env=env,
    )


def test_interactive_returns_one_line_per_input_line_in_order(plain, fuzz, record_promise):
    """Every second line is `PLAIN`, whose translation is known; the others are any bytes."""
    texts = [line.encode("utf-8", "surrogatepass") for line in EDGE_CASES]
    bytes_of_text = any_line.map(lambda line: line.encode("utf-8", "surrogatepass"))
    count = fuzz(lambda some: texts.extend(some), st.one_of(bytes_of_text, any_bytes))
    data = b"".join(text + b"\n" + PLAIN.encode() + b"\n" for text in texts)
    found = re.findall(r"^D-(\d+)\t[^\t\n]*\t([^\n]*)$", interactive(stdin=data).stdout, re.M)
    assert [int(number) for number, _ in found] == list(range(2 * len(texts)))
    assert {text for _, text in found[1::2]} == {plain}
    record_promise(
        "`fairseq-interactive` returns one line per input line, in order, for any bytes",
        f"{count:,} random lines, {len(EDGE_CASES)} edge cases",
    )


def test_a_long_line_is_truncated_with_a_warning_and_the_others_are_unaffected(hub, plain, caplog):
    N = hub.max_positions[0]
    megabyte = "The old king sees a small dog. " * 33_000
    found = hub.translate([PLAIN, megabyte, PLAIN], **SHORT)
    assert found[0] == found[2] == plain
    tokens = hub.encode(megabyte)
    assert f"a line of {len(tokens) - 1:,} tokens was truncated to its first {N - 1}" in caplog.text
    beginning = hub.string(tokens[: N - 1]).replace(" ", "").replace("▁", " ")
    assert found[1] == hub.translate([beginning], **SHORT)[0]


def test_a_line_as_long_as_n_is_not_truncated(hub, caplog):
    N = hub.max_positions[0]
    hub.generate([hub.binarize("▁a " * (N - 1))], beam=2)
    assert "truncated" not in caplog.text
    hub.generate([hub.binarize("▁a " * N)], beam=2)
    assert "truncated" in caplog.text


def test_interactive_truncates_a_long_line_and_continues_for_any_options(plain):
    data = f"{PLAIN}\n{PLAIN * 20000}\n{PLAIN}\n".encode()
    done = interactive("--max-tokens", "30", "--batch-size", "1", "--skip-invalid-size-inputs-valid-test", stdin=data)
    found = re.findall(r"^D-(\d)\t[^\t\n]*\t([^\n]*)$", done.stdout, re.M)
    assert [number for number, _ in found] == ["0", "1", "2"]
    assert found[0][1] == found[2][1] == plain
    assert "tokens was truncated to its first 39, because N = 40 includes the end-of-sentence token" in done.stderr


def test_a_file_is_read_like_standard_input(plain, tmp_path):
    data = b"\xff\n" + PLAIN.encode()  # without a final line feed
    (tmp_path / "input").write_bytes(data)
    for done in (interactive(stdin=data), interactive("--input", tmp_path / "input")):
        assert "line 1 is not valid UTF-8 (invalid start byte at byte 0)" in done.stderr
        assert re.findall(r"^D-1\t[^\t]*\t(.*)$", done.stdout, re.M) == [plain]


@pytest.mark.parametrize("buffer_size", [1, 2, 3, 4])
def test_lines_end_only_at_line_feeds(tmp_path, buffer_size):
    (tmp_path / "input").write_bytes("a\rb\n\nc\u2028d\r\n e".encode())
    found = list(read_lines(str(tmp_path / "input"), buffer_size))
    assert [line for buffer in found for line in buffer] == ["a\rb", "", "c\u2028d", "e"]
    assert all(len(buffer) == buffer_size for buffer in found[:-1]) and 0 < len(found[-1]) <= buffer_size


def test_other_errors_are_not_reported_as_overflow(hub):
    with pytest.raises(InputError, match="--min-len 100 is larger than the maximum length"):
        hub.translate([PLAIN], beam=2, max_len_b=4, min_len=100)


def test_interactive_writes_utf_8_to_any_terminal(plain):
    done = interactive(stdin=PLAIN.encode(), env={"PYTHONIOENCODING": "ascii"})
    assert re.findall(r"^D-0\t[^\t]*\t(.*)$", done.stdout, re.M) == [plain]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_overflow_is_an_error_and_not_a_translation(dtype):
    hub = ResMLPModel.from_pretrained(GOLDEN)
    with torch.no_grad():
        hub.models[0].encoder.layers[0].mixing_post.alpha.fill_(torch.finfo(dtype).max)
    with pytest.raises(InputError, match="no translation with a finite score"):
        hub.to(dtype).translate([PLAIN], **SHORT)
