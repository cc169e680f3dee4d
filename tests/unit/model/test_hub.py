"""The hub interface: alignments per call, scores of given translations, and files that do not fit together."""

import hashlib
import json
import shutil
import threading
from argparse import Namespace

import pytest
import torch

from fairseq_resmlp import ResMLPModel
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.data.sentencepiece_files import train_sentencepiece
from fairseq_resmlp.inference.translator import Translator
from fairseq_resmlp.model.export import export_model
from support.files import write_files
from support.paths import GOLDEN
from support.texts import PLAIN

SHORT = {"beam": 2, "max_len_b": 10}
SENTENCES = [PLAIN, "A man sees a dog.", ""]


@pytest.fixture(scope="module")
def hub():
    return ResMLPModel.from_pretrained(GOLDEN)


@pytest.fixture(scope="module")
def tokens(hub):
    return [hub.encode(sentence) for sentence in SENTENCES]


@pytest.fixture(scope="module")
def with_alignment_at_load(tokens):
    hub = ResMLPModel.from_pretrained(GOLDEN, print_alignment="hard")
    return hub.generate(tokens, **SHORT)


def alignments(found):
    return [[hypothesis["alignment"] for hypothesis in hypotheses] for hypotheses in found]


@pytest.mark.parametrize("value", ["hard", True])
def test_an_alignment_can_be_requested_per_call(hub, tokens, with_alignment_at_load, value):
    found = hub.generate(tokens, print_alignment=value, **SHORT)
    assert alignments(found) == alignments(with_alignment_at_load)
    assert any(pairs for hypotheses in alignments(found) for pairs in hypotheses)
    alone = hub.generate(tokens[0], print_alignment=value, **SHORT)
    assert alignments([alone]) == alignments(with_alignment_at_load)[:1]
    assert len(hub.generate(tokens, **SHORT)[0][0]["alignment"]) == 0  # the next call is not affected


def test_a_soft_alignment_is_the_attention_of_each_token(hub, tokens):
    for encoded, hypotheses in zip(tokens, hub.generate(tokens, print_alignment="soft", **SHORT), strict=True):
        for hypothesis in hypotheses:
            rows = torch.tensor([[float(p) for p in row] for row in hypothesis["alignment"]])
            assert rows.shape == (len(hypothesis["tokens"]), len(encoded))
            torch.testing.assert_close(rows.sum(1), torch.ones(len(rows)), atol=1e-4, rtol=0)


def test_an_alignment_does_not_change_the_translations_of_other_threads(hub, tokens):
    expected = [hypotheses[0]["tokens"].tolist() for hypotheses in hub.generate(tokens, **SHORT)]
    found, stop = [], threading.Event()

    def translate():
        while not stop.is_set():
            found.append(hub.generate(tokens, **SHORT))

    thread = threading.Thread(target=translate)
    thread.start()
    for _ in range(5):
        assert all(pairs != [] for pairs in alignments(hub.generate(tokens[:1], print_alignment="hard", **SHORT))[0])
    stop.set()
    thread.join()
    for hypotheses in found:
        assert [h[0]["tokens"].tolist() for h in hypotheses] == expected
        assert all(len(h[0]["alignment"]) == 0 for h in hypotheses)


@pytest.mark.parametrize("options", [{"print_alignment": "both"}, {"print_alignment": "soft", "verbose": True}])
def test_an_unknown_alignment_is_refused(hub, tokens, options):
    with pytest.raises(InputError, match="print_alignment='.*' is not supported"):
        hub.generate(tokens, **options)


def test_the_score_of_a_translation_is_that_of_the_search(hub, tokens):
    best = [hypotheses[0] for hypotheses in hub.generate(tokens, **SHORT)]
    scores = hub.score(SENTENCES, [hub.decode(hypothesis["tokens"]) for hypothesis in best])
    same = [i for i in range(len(best)) if scores[i]["tokens"].tolist() == best[i]["tokens"].tolist()]
    assert same  # a translation may be tokenized in another way
    for i in same:
        torch.testing.assert_close(scores[i]["positional_scores"], best[i]["positional_scores"], atol=1e-4, rtol=0)
        torch.testing.assert_close(scores[i]["score"], best[i]["positional_scores"].mean(), atol=1e-4, rtol=0)
    one = hub.score(SENTENCES[1], hub.decode(best[1]["tokens"]), print_alignment=True)
    assert one["alignment"] and abs(one["score"] - scores[1]["score"]) < 1e-4
    assert hub.score([], []) == []


@pytest.mark.parametrize("pair", [(SENTENCES,), (SENTENCES, ["Ein Hund."]), (PLAIN,), (SENTENCES, "Ein Hund.")])
def test_scoring_without_translations_is_refused(hub, pair):
    with pytest.raises(InputError, match=r"use score\(sentences, translations\)|pass one for each"):
        hub.score(*pair)


def test_a_sentence_that_is_too_long_to_score_is_refused(hub):
    with pytest.raises(InputError, match="exceeds N = 40"):
        hub.score(["a"], ["a b " * 100])


def test_a_sentencepiece_model_that_does_not_fit_is_refused(hub, tmp_path, exported_models):
    other = tmp_path / "other.model"
    with open(other, "wb") as out:
        lines = [f"unrelated words {i} appear here" for i in range(50)]
        train_sentencepiece(write_files(tmp_path, text="\n".join(lines)), out, 50, 1000)
    for source, name in ((GOLDEN, "model"), (exported_models / "float32", "exported")):
        shutil.copytree(source, tmp_path / name)
        shutil.copy(other, tmp_path / name / "sentencepiece.bpe.model")
    config = tmp_path / "exported" / "config.json"
    content = json.loads(config.read_text())
    content["sha256"]["sentencepiece.bpe.model"] = hashlib.sha256(other.read_bytes()).hexdigest()
    config.write_text(json.dumps(content))
    for load in (
        lambda: export_model(str(GOLDEN), str(tmp_path / "out"), sentencepiece=str(other)),
        lambda: ResMLPModel.from_pretrained(tmp_path / "model"),
        lambda: ResMLPModel.from_pretrained(GOLDEN, sentencepiece_model=str(other)),
        lambda: Translator.load(str(tmp_path / "exported")),
        lambda: hub.task.build_bpe(Namespace(_name="sentencepiece", sentencepiece_model=str(other))),  # generate
    ):
        with pytest.raises(InputError, match=r"model does not fit the dictionaries: \d+% of its pieces are unknown"):
            load()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_best": 2}, "n_best is not an option of fairseq-generate: did you mean nbest"),
        ({"beam": 0}, "--beam 0 is less than 1"),
        ({"beam": "4"}, 'beam must be a int, not "4"'),
    ],
)
def test_options_of_a_translation_that_fairseq_would_ignore_are_refused(hub, options, message):
    with pytest.raises(InputError, match=message):
        hub.translate(SENTENCES, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"encoder_max_position": 50},
            "encoder_max_position is not an option of .*: did you mean encoder_max_positions",
        ),
        ({"bpe": "spm"}, "bpe='spm' not found: use one of .*sentencepiece"),
    ],
)
def test_options_of_a_model_that_fairseq_would_ignore_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        ResMLPModel.from_pretrained(GOLDEN, **options)
