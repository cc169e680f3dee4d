"""Translation of text: every line gives one translation, in order, the one that fairseq gives."""

import math
import re
from concurrent.futures import ThreadPoolExecutor

import pytest
from sacrebleu.metrics import BLEU

from fairseq_resmlp import ResMLPModel
from fairseq_resmlp.common import onednn
from fairseq_resmlp.inference import quantization
from fairseq_resmlp.inference.beam_search import SearchOptions, beam_search
from fairseq_resmlp.inference.translator import Translator
from fairseq_resmlp.model.export import export_model
from fairseq_resmlp.modules import linear
from support.inference import SHORT
from support.paths import GOLDEN, ROOT
from support.texts import EDGE_CASES, PLAIN

MULTI30K = ROOT / "runs" / "multi30k.en-de"
LINES = [PLAIN, "Two dogs.", "", "A man sees a dog and a cat.", f"{PLAIN} {PLAIN}"]


def test_every_line_has_its_translation_in_order_the_one_that_fairseq_gives(translator):
    lines = [PLAIN, *(line for line in EDGE_CASES if len(line) < 100), PLAIN, "A boy hopes.", "", PLAIN]
    found = translator(lines)
    assert len(found) == len(lines)
    hub = ResMLPModel.from_pretrained(GOLDEN)
    texts = [i for i, line in enumerate(lines) if len(translator.encode(line)) > 1]
    expected = hub.translate([lines[i] for i in texts], beam=2, max_len_b=10)
    assert [found[i] for i in texts] == expected
    assert {found[i] for i in set(range(len(lines))) - set(texts)} == {""}
    assert found[lines.index("")] == found[lines.index(" ")] == ""


def test_threads_that_share_a_translator_do_not_affect_each_other(translator):
    expected = {line: translator([line]) for line in LINES}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda line: (line, translator([line])), LINES * 5))
    assert all(expected[line] == translation for line, translation in found)


def test_a_long_line_is_truncated_with_a_warning(translator, caplog):
    N = translator.network.config.encoder_max_positions
    found = translator([PLAIN, "The old king sees a small dog. " * 1000, PLAIN])
    assert found[0] == found[2] == translator([PLAIN])[0] and found[1]
    assert f"was truncated to its first {N - 1}, because N = {N} includes the end-of-sentence token" in caplog.text
    assert len(translator.encode("▁a " * (N - 1))) <= N


def test_batches_group_lines_of_similar_length_within_the_limits(translator, monkeypatch):
    monkeypatch.setattr(translator, "batch_size", 3)
    monkeypatch.setattr(translator, "max_tokens", 12)
    lengths = [4, 1, 9, 4, 20, 4, 3, 3, 1]
    batches = list(translator.batches(lengths))
    assert batches == [[4], [2], [0, 3, 5], [6, 7]]


def test_translations_are_yielded_before_all_lines_are_read(translator):
    read = []

    def windows():
        for i in range(3):
            read.append(i)
            yield [PLAIN, ""]

    counted = []
    stream = translator.stream(windows(), counted.append)
    assert next(stream) and read == [0]
    assert len(list(stream)) == 5 and read == [0, 1, 2]
    assert sum(counted) == 6


def test_the_shortlist_of_an_exported_model_is_used(tmp_path):
    (tmp_path / "shortlist.txt").write_text("\t. ▁Hund\n", encoding="utf-8")
    export_model(str(GOLDEN), str(tmp_path / "model"), shortlist=str(tmp_path / "shortlist.txt"))
    (found,) = Translator.load(str(tmp_path / "model"), options=SearchOptions(beam=1, max_len_b=10))([PLAIN])
    assert set(found.replace("Hund", "")) <= set(". ") and found


@pytest.mark.parametrize(("stored", "expected"), [("float32", "float32"), ("int8", "int8"), ("float16", "float32")])
def test_the_default_dtype_on_a_cpu_is_the_stored_one_or_float32(stored, expected, tmp_path):
    export_model(str(GOLDEN), str(tmp_path / "model"), dtype=stored)
    assert Translator.load(str(tmp_path / "model")).network.dtype == expected


# A trained model


@pytest.fixture(scope="module")
def multi30k(tmp_path_factory):
    """The model of examples/multi30k.en-de, exported in two dtypes, and the output of fairseq-generate on test2016."""
    trained = MULTI30K / "resmlp_small"
    model, output = trained / "average5.pt", trained / "test2016" / "generate-test.txt"
    if not (model.exists() and output.exists()):
        pytest.skip("no trained model: run scripts/reproduce.sh multi30k.en-de resmlp_small")
    directory = tmp_path_factory.mktemp("multi30k")
    for dtype in ("float32", "int8"):
        export_model(str(model), str(directory / dtype), str(MULTI30K / "data-bin"), str(MULTI30K / "spm.model"), dtype)
    lines = (MULTI30K / "raw" / "test2016.en").read_text(encoding="utf-8").split("\n")[:-1]
    references = (MULTI30K / "raw" / "test2016.de").read_text(encoding="utf-8").split("\n")[:-1]
    found = re.findall(r"^H-(\d+)\t([^\t]*)\t([^\n]*)$", output.read_text(encoding="utf-8"), re.M)
    generated = {int(i): (float(score) * math.log(2), text) for i, score, text in found}  # printed to base 2
    return directory, lines, references, [generated[i] for i in range(len(lines))]


def test_1000_lines_of_multi30k_are_translated_as_by_fairseq_generate(multi30k, record_promise):
    directory, lines, _, generated = multi30k
    translator = Translator.load(str(directory / "float32"))
    sources = [translator.encode(line) for line in lines]
    found = {}
    for batch in translator.batches([len(source) for source in sources]):
        hypotheses = beam_search(translator.network, [sources[i] for i in batch], SearchOptions())
        found.update(zip(batch, hypotheses))
    assert len(found) == len(lines) == 1000
    for i, (score, text) in enumerate(generated):
        assert translator.decode(found[i][0].tokens) == text
        assert found[i][0].score == pytest.approx(score, abs=1e-5)
    largest = max(abs(found[i][0].score - score) for i, (score, _) in enumerate(generated))
    record_promise(
        "In float32 the hypotheses of test2016 are those of fairseq-generate, with the same scores",
        f"1,000 of 1,000 lines; scores within {largest:.0e}",
    )


def test_int8_costs_at_most_0_3_bleu_on_multi30k(multi30k, record_promise):
    directory, lines, references, generated = multi30k
    exact = BLEU().corpus_score([text for _, text in generated], [references]).score
    rounded = BLEU().corpus_score(Translator.load(str(directory / "int8"))(lines), [references]).score
    assert rounded >= exact - 0.3
    record_promise(
        "int8 costs at most 0.3 BLEU on test2016", f"sacreBLEU {exact:.2f} in float32, {rounded:.2f} in int8"
    )


def test_translations_are_the_same_without_the_onednn_operator(exported_models, monkeypatch):
    lines = [line for line in LINES if line]
    expected = Translator.load(str(exported_models / "float32"), options=SHORT)(lines)

    def missing(*_):
        raise AttributeError("_linear_pointwise")

    monkeypatch.setattr(onednn, "_HAS_OPERATOR", False)
    for module in (linear, quantization):
        monkeypatch.setattr(module, "onednn_linear", missing)
    assert Translator.load(str(exported_models / "float32"), options=SHORT)(lines) == expected
    assert ResMLPModel.from_pretrained(GOLDEN).translate(lines, beam=2, max_len_b=10) == expected
