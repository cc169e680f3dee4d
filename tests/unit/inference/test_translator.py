"""Translation of text: every line gives one result, in order, with the hypotheses that fairseq gives."""

import math
import re
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from sacrebleu.metrics import BLEU

from fairseq_resmlp import ResMLPModel
from fairseq_resmlp.common import onednn
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference import Translation, TranslationOptions, Translator, quantization
from fairseq_resmlp.inference.line import Sentence
from fairseq_resmlp.inference.translation import TranslationHypothesis
from fairseq_resmlp.inference.words import detokenize, encode_pieces, source_words, target_words
from fairseq_resmlp.model.export import export_model
from fairseq_resmlp.modules import linear
from support.corpora import NEWSTEST
from support.inference import SHORT, translate
from support.paths import GOLDEN, ROOT
from support.texts import EDGE_CASES, PLAIN

MULTI30K = ROOT / "runs" / "multi30k.en-de"
TATOEBA = ROOT / "runs" / "tatoeba.en-de"
LINES = [PLAIN, "Two dogs.", "", "A man sees a dog and a cat.", f"{PLAIN} {PLAIN}"]
BEAM_4 = TranslationOptions(beam=4, max_len_b=10)
NO_TOKENS = TranslationHypothesis("", 0.0, [], None)


def test_every_line_has_its_translation_in_order_the_one_that_fairseq_gives(translator):
    lines = [PLAIN, *(line for line in EDGE_CASES if len(line) < 100), PLAIN, "A boy hopes.", "", PLAIN]
    found = translate(translator, lines)
    assert len(found) == len(lines)
    hub = ResMLPModel.from_pretrained(GOLDEN)
    limit = translator.network.config.encoder_max_positions
    texts = [i for i, line in enumerate(lines) if 0 < len(translator.tokenize(line)) < limit]
    expected = hub.translate([lines[i] for i in texts], beam=2, max_len_b=10)
    assert [found[i] for i in texts] == expected
    assert {found[i] for i in set(range(len(lines))) - set(texts)} == {""}
    assert found[lines.index("")] == found[lines.index(" ")] == ""


def test_a_result_contains_the_hypotheses_best_first(translator):
    found, empty = translator.translate_batch([PLAIN, " "], beam=4, n_best=3, max_len_b=10)
    searched = translator.search([translator.prepare(PLAIN, TranslationOptions()).sentences[0].ids], BEAM_4)[0]
    assert [h.text for h in found.hypotheses] == [translator.decode(h.tokens) for h in searched[:3]]
    assert [h.score for h in found.hypotheses] == [h.score for h in searched[:3]]
    assert (found.text, found.score) == (found.hypotheses[0].text, found.hypotheses[0].score)
    assert "".join(found.hypotheses[2].tokens).replace("▁", " ").strip() == found.hypotheses[2].text
    assert found.source == PLAIN and found.source_tokens == translator.tokenize(PLAIN)
    assert found.alignments is None
    assert empty == Translation(" ", [NO_TOKENS], [], 0)


def test_unknown_tokens_are_counted(translator):
    found = translator.translate_batch(["A 漢 b", "A b", "漢 ½"], **SHORT)
    assert [(translation.unknown, len(translation.source_tokens)) for translation in found] == [(1, 4), (0, 2), (2, 4)]


def test_unpaired_surrogates_are_replaced_in_the_source_of_a_result(translator):
    (found,) = translator.translate_batch(["A \ud800 b"], **SHORT)
    assert found.source == "A \ufffd b"


@pytest.mark.parametrize(
    "options, message",
    [
        ({"n_best": 0}, "--n-best 0 is out of range: use a number from 1 to the beam size 4"),
        ({"n_best": 3, "beam": 2}, "--n-best 3 is out of range: use a number from 1 to the beam size 2"),
        ({"beam": 0}, "--beam 0 is out of range"),
        ({"min_len": -1}, "--min-len -1 is out of range"),
        ({"max_len_b": 10**400}, "--max-len-b 10000.* is out of range"),
        ({"unkpen": math.nan}, "--unkpen nan is out of range"),
    ],
)
def test_invalid_options_are_refused(options, message, translator):
    with pytest.raises(InputError, match=message):
        translator.translate_batch([PLAIN], **options)


# Alignments


def words(text, spans):
    return [text[start:end] for start, end in spans]


def test_every_target_word_is_aligned_to_the_source_word_with_most_attention(translator):
    (found,) = translator.translate_batch([f"  {PLAIN}"], **SHORT, alignments=True)
    (sentence,) = translator.prepare(PLAIN, TranslationOptions()).sentences
    (best, *_) = translator.search([sentence.ids], TranslationOptions(**SHORT))[0]
    attention = translator.network.attention(sentence.ids, best.tokens)
    source, target = PLAIN.split(), found.text.split()
    strongest = {alignment.target: alignment for alignment in reversed(found.alignments)}
    assert words(found.text, sorted(strongest)) == target
    for (start, _), alignment in strongest.items():
        tokens = token_numbers(found.hypotheses[0].tokens)[len(found.text[:start].split())]
        weights = [attention[tokens][:, places].mean(0).sum() for places in token_numbers(found.source_tokens)]
        assert found.source[slice(*alignment.source)] == source[int(torch.stack(weights).argmax())]
        assert alignment.weight == pytest.approx(float(max(weights)), abs=1e-4)


def token_numbers(tokens):
    """Return the numbers of the tokens of each word."""
    found = []
    for i, token in enumerate(tokens):
        if token.startswith("▁"):
            found.append([])
        found[-1].append(i)
    return found


@pytest.mark.parametrize(
    "line, expected",
    [
        (" Two\u3000 \ufb01ne  e\u0301 dogs. ", ["Two", "\ufb01ne", "e\u0301", "dogs."]),
        ("\U0001f469\u200d\U0001f467 x", ["\U0001f469\u200d\U0001f467", "x"]),
        ("½ \u2581a b\u2028c", ["½", "▁a", "b", "c"]),
        ("\ufb03", ["\ufb03"]),
    ],
)
def test_source_words_are_places_in_the_text_before_normalization(line, expected, translator):
    found = source_words(line, encode_pieces(translator.sentencepiece, line))
    assert words(line, [word.span for word in found]) == expected


def test_scripts_without_spaces_are_aligned_by_token():
    tokens = ["▁", "今日", "は", "▁OK", "です", "。", "▁a", "b"]
    found = target_words(tokens)
    assert words(detokenize(tokens), [word.span for word in found]) == ["今日", "は", "OK", "です", "。", "ab"]
    assert [list(word.tokens) for word in found] == [[0, 1], [2], [3], [4], [5], [6, 7]]


# Threads, limits and order


def test_threads_that_share_a_translator_do_not_affect_each_other(translator):
    expected = {line: translate(translator, [line]) for line in LINES}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda line: (line, translate(translator, [line])), LINES * 5))
    assert all(expected[line] == translation for line, translation in found)


def test_the_threads_of_torch_are_as_before_after_a_translation(exported_models):
    before = torch.get_num_threads()
    translator = Translator.load(str(exported_models / "float32"), threads=before + 1)
    seen = []
    (sentence,) = translator.prepare(PLAIN, TranslationOptions(**SHORT)).sentences
    translator.translate_sentences([sentence], lambda targets: seen.append(torch.get_num_threads()))
    assert set(seen) == {before + 1}
    assert torch.get_num_threads() == before


def threads_of_a_new_thread():
    """Return the number of threads that torch uses in a thread that starts now."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def watch_searches(translator, monkeypatch, together=0):
    """Record the thread and torch's number of threads of each search.

    The first search of each of `together` threads waits until all of them have begun, so that every thread has some.
    """
    found, search = [], translator.search
    barrier, this_thread = threading.Barrier(max(together, 1), timeout=60), threading.local()

    def watched(*arguments):
        found.append((threading.get_ident(), torch.get_num_threads()))
        if together and not hasattr(this_thread, "has_waited"):
            this_thread.has_waited = barrier.wait()
        return search(*arguments)

    monkeypatch.setattr(translator, "search", watched)
    return found


@pytest.mark.parametrize("kind", ["float32", "int8", "int8 with a shortlist"])
def test_workers_share_the_threads_and_give_the_translations_of_one_worker(
    kind, exported_models, monkeypatch, tmp_path
):
    path, before = str(exported_models / kind.split()[0]), torch.get_num_threads()
    if "shortlist" in kind:
        entries = [line.split(" ")[0] for line in (GOLDEN / "dict.de.txt").read_text(encoding="utf-8").splitlines()]
        (tmp_path / "shortlist.txt").write_text(f"\t{' '.join(entries[:200])}\n", encoding="utf-8")
        path = str(tmp_path / "model")
        export_model(str(GOLDEN), path, dtype="int8", shortlist=str(tmp_path / "shortlist.txt"))
    threads, filters = 2 * before + 3, list(warnings.filters)
    lines = [" ".join(LINES[: 1 + i % 3]) for i in range(40)]
    expected = Translator.load(path, threads=threads, workers=1, max_batch=4).translate_batch(lines, **SHORT)
    translator = Translator.load(path, threads=threads, workers=2, max_batch=4)
    searches = watch_searches(translator, monkeypatch, together=2)
    found = translator.translate_batch(lines, **SHORT)
    assert [line.text for line in found] == [line.text for line in expected]
    assert [line.score for line in found] == pytest.approx([line.score for line in expected], abs=1e-5)
    assert len({thread for thread, _ in searches}) == 2
    assert {threads for _, threads in searches} == {before + 1, before + 2}
    assert warnings.filters == filters
    assert torch.get_num_threads() == threads_of_a_new_thread() == before


def test_translators_in_several_threads_leave_the_number_of_threads_as_it_was(exported_models):
    before = torch.get_num_threads()
    translators = [Translator.load(str(exported_models / "float32"), threads=n, max_batch=1) for n in (2, 3, 5)]
    with ThreadPoolExecutor(6) as pool:
        for found in pool.map(lambda translator: translate(translator, [PLAIN] * 8), translators * 4):
            assert found == [found[0]] * 8
        assert set(pool.map(lambda _: torch.get_num_threads(), range(6))) == {before}
    assert torch.get_num_threads() == threads_of_a_new_thread() == before


@pytest.mark.parametrize("count, workers", [(3, 2), (8, 1)])
def test_few_batches_are_translated_one_by_one_with_all_threads(count, workers, exported_models, monkeypatch):
    translator = Translator.load(str(exported_models / "float32"), threads=4, workers=workers, max_batch=4)
    searches = watch_searches(translator, monkeypatch)
    translator.translate_batch([PLAIN] * 4 * count, **SHORT)
    assert searches == [(threading.get_ident(), 4)] * count


def test_there_are_not_more_workers_than_threads(exported_models, monkeypatch):
    translator = Translator.load(str(exported_models / "float32"), threads=2, workers=8, max_batch=1)
    searches = watch_searches(translator, monkeypatch, together=2)
    translator.translate_batch([PLAIN] * 16, **SHORT)
    assert len({thread for thread, _ in searches}) == 2
    with pytest.raises(InputError, match="--workers 0 is out of range: use at least 1"):
        Translator.load(str(exported_models / "float32"), workers=0)


@pytest.mark.parametrize("error", [InputError, KeyboardInterrupt])
def test_an_error_ends_the_translation_of_all_workers(error, exported_models):
    before = torch.get_num_threads()
    translator = Translator.load(str(exported_models / "float32"), threads=2, workers=2, max_batch=1)
    steps, step = [], translator.network.step

    def watched(*arguments):
        steps.append(1)
        return step(*arguments)

    translator.network.step = watched
    done = []

    def fail(lines):
        done.append(lines)
        if sum(done) >= 3:
            steps.clear()
            raise error("enough")

    stream = translator.stream([[PLAIN] * 100], TranslationOptions(beam=2, min_len=38), fail)
    with pytest.raises(error, match="enough"):
        list(stream)
    assert len(steps) < 38  # of one more sentence
    assert torch.get_num_threads() == threads_of_a_new_thread() == before
    del translator.network.step
    assert translate(translator, [PLAIN])


def test_searches_reuse_their_memory(exported_models):
    translator = Translator.load(str(exported_models / "float32"), threads=2, workers=2, max_batch=1)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: translate(translator, [PLAIN] * 8), range(12)))
    assert len(translator.network._stores) <= 2


def test_batches_group_lines_of_similar_length_within_the_limits(exported_models):
    translator = Translator.load(str(exported_models / "float32"), max_batch=3, max_tokens=12)
    lengths = [4, 1, 9, 4, 20, 4, 3, 3, 1]
    sentences = [Sentence(str(i), 0, [], [0] * n, TranslationOptions()) for i, n in enumerate(lengths)]
    batches = [[int(sentence.text) for sentence in batch] for batch in translator.batches(sentences)]
    assert batches == [[4], [2], [0, 3, 5], [6, 7]]


def test_translations_are_yielded_before_all_lines_are_read(translator):
    read = []

    def windows():
        for i in range(3):
            read.append(i)
            yield [PLAIN, ""]

    counted = []
    stream = translator.stream(windows(), TranslationOptions(**SHORT), counted.append)
    assert next(stream).text and read == [0]
    assert len(list(stream)) == 5 and read == [0, 1, 2]
    assert sum(counted) == 6


def test_abandoned_sentences_have_no_hypotheses_and_do_not_affect_the_others(translator):
    sources = [translator.prepare(line, TranslationOptions()).sentences[0].ids for line in (PLAIN, "Two dogs.", PLAIN)]
    expected = translator.search(sources, BEAM_4)
    found = translator.search(sources, BEAM_4, lambda targets: [0] if len(targets[0]) == 3 else None)
    assert found == [[], *expected[1:]]
    steps = []
    found = translator.search(sources, BEAM_4, lambda targets: steps.append(1) or [0, 1, 2])
    assert found == [[], [], []] and len(steps) == 1


def test_the_shortlist_of_an_exported_model_is_used(tmp_path):
    (tmp_path / "shortlist.txt").write_text("\t. ▁Hund\n", encoding="utf-8")
    export_model(str(GOLDEN), str(tmp_path / "model"), shortlist=str(tmp_path / "shortlist.txt"))
    found = Translator.load(str(tmp_path / "model")).translate_batch([PLAIN], beam=1, max_len_b=10)[0].text
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
    found = translator.translate_batch(lines)
    assert len(found) == len(lines) == 1000
    for translation, (score, text) in zip(found, generated):
        assert translation.text == text
        assert translation.score == pytest.approx(score, abs=1e-5)
    largest = max(abs(translation.score - score) for translation, (score, _) in zip(found, generated))
    record_promise(
        "float32 gives the hypotheses and scores of fairseq-generate on test2016",
        f"1,000 of 1,000 lines; scores within {largest:.0e}",
    )


@pytest.mark.parametrize("bits", [8, 7])
def test_int8_costs_at_most_0_3_bleu_on_multi30k(bits, multi30k, record_promise, monkeypatch):
    if bits == 8 and quantization.REDUCE_RANGE:
        pytest.skip("needs AVX512-VNNI: without it, products of 8 bits overflow")
    monkeypatch.setattr(quantization, "REDUCE_RANGE", bits == 7)
    directory, lines, references, generated = multi30k
    exact = BLEU().corpus_score([text for _, text in generated], [references]).score
    translations = Translator.load(str(directory / "int8")).translate_batch(lines)
    rounded = BLEU().corpus_score([translation.text for translation in translations], [references]).score
    assert rounded >= exact - 0.3
    record_promise(
        f"int8, with activations of {bits} bits, loses at most 0.3 BLEU on test2016",
        f"sacreBLEU {exact:.2f} in float32, {rounded:.2f} in int8",
    )


@pytest.mark.slow
def test_int8_costs_at_most_0_3_bleu_on_newstest2013(record_promise, tmp_path):
    model = TATOEBA / "resmlp_small" / "average5.pt"
    if not (model.exists() and NEWSTEST.is_dir()):
        pytest.skip("needs scripts/reproduce.sh tatoeba.en-de resmlp_small, and newstest2013 in ../shared/data")
    lines, references = (
        (NEWSTEST / f"en-de.{language}").read_text(encoding="utf-8").split("\n")[:-1] for language in ("en", "de")
    )
    scores = {}
    for dtype in ("float32", "int8"):
        exported = str(tmp_path / dtype)
        export_model(str(model), exported, str(TATOEBA / "data-bin"), str(TATOEBA / "spm.model"), dtype)
        translations = Translator.load(exported).translate_batch(lines)
        scores[dtype] = BLEU().corpus_score([translation.text for translation in translations], [references]).score
    assert scores["int8"] >= scores["float32"] - 0.3
    record_promise(
        f"int8, with activations of {7 if quantization.REDUCE_RANGE else 8} bits, loses at most 0.3 BLEU on "
        "newstest2013 with a model trained on Tatoeba",
        f"sacreBLEU {scores['float32']:.2f} in float32, {scores['int8']:.2f} in int8",
    )


def test_translations_are_the_same_without_the_onednn_operator(exported_models, monkeypatch):
    lines = [line for line in LINES if line]
    expected = translate(Translator.load(str(exported_models / "float32")), lines)

    def missing(*_):
        raise AttributeError("_linear_pointwise")

    monkeypatch.setattr(onednn, "_HAS_OPERATOR", False)
    for module in (linear, quantization):
        monkeypatch.setattr(module, "onednn_linear", missing)
    assert translate(Translator.load(str(exported_models / "float32")), lines) == expected
    assert ResMLPModel.from_pretrained(GOLDEN).translate(lines, beam=2, max_len_b=10) == expected


def test_a_single_text_or_an_unavailable_device_is_refused(translator, exported_models):
    with pytest.raises(InputError, match=r"needs a list of lines: use \[text\]"):
        translator.translate_batch(PLAIN)
    with pytest.raises(InputError, match="--device meta is not available"):
        Translator.load(str(exported_models / "float32"), device="meta")
