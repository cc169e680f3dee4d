"""The fast path: an exported model translates as fairseq does, without fairseq."""

import io
import json
import math
import os
import random
import re
import site
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from conftest import ROOT, make_batch, make_model, make_sentences, make_task, run
from fairseq.sequence_generator import SequenceGenerator
from sacrebleu.metrics import BLEU
from test_lines import ODD, PLAIN
from torch.nn import functional as F

from fairseq_resmlp import ResMLPModel, fast, folder, search
from fairseq_resmlp.cli import main, progress_bar
from fairseq_resmlp.errors import InputError
from fairseq_resmlp.export import export
from fairseq_resmlp.fast import EOS, PAD, Network, fold
from fairseq_resmlp.search import Options
from fairseq_resmlp.shortlist import Shortlist
from fairseq_resmlp.translate import Translator

STORED = ROOT / "tests" / "stored"
MULTI30K = ROOT / "runs" / "multi30k.en-de"
LINES = [PLAIN, "Two dogs.", "", "A man sees a dog and a cat.", f"{PLAIN} {PLAIN}"]
SHORT = Options(beam=2, max_len_b=10)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The stored tiny model (N = 40), exported in float32 and in int8."""
    home = tmp_path_factory.mktemp("exported")
    for dtype in ("float32", "int8"):
        assert export(str(STORED), str(home / dtype), dtype=dtype) == ["en", "de"]
    return home


@pytest.fixture(scope="module")
def translator(exported):
    return Translator.load(str(exported / "float32"), options=SHORT)


def log_probabilities(network, source, target):
    """Teacher forcing, one step after the other: B x T x V."""
    memory = network.encode(source)
    B, T = target.shape
    store, ancestors = network.store(T, B), torch.empty(B, 0, dtype=torch.long)
    steps = []
    for t in range(T):
        x = network.step(target[:, t], t, ancestors, store, memory)
        steps.append(network.output.linear(x)[:, : network.shape.decoder_entries].log_softmax(-1))
        ancestors = torch.cat([ancestors, torch.arange(B)[:, None] + t * B], 1)
    return torch.stack(steps, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"share_all_embeddings": True},
        {"token_mixing": "none"},
        {"token_mixing": "toeplitz"},
        {"token_mixing": "toeplitz", "mixing_heads": 4, "encoder_max_positions": 15},
        {"token_mixing": "toeplitz_linear", "decoder_max_positions": 15},
        {"token_mixing": "toeplitz_linear", "mixing_heads": 4},
        {"mixing_heads": 2, "encoder_embed_dim": 24},
        {"no_mixing_bias": True},
        {"normalization": "layer"},
        {"normalization": "layer", "token_mixing": "toeplitz", "mixing_heads": 4, "encoder_embed_dim": 24},
        {"normalization": "layer", "token_mixing": "none"},
        {"encoder_embed_dim": 24, "encoder_layers": 3, "encoder_max_positions": 15, "decoder_attention_heads": 4},
        {"share_decoder_input_output_embed": True, "decoder_layers": 1},
    ],
    ids=str,
)
@torch.inference_mode()
def test_the_folded_network_is_the_model(options):
    model = make_model(**options)
    shape, weights = fold(model)
    assert {name: tuple(value.shape) for name, value in weights.items()} == shape.weights()
    assert (weights["decoder.embed"] is weights["encoder.embed"]) == ("share_all_embeddings" in options)
    batch = make_batch(make_sentences(5), make_sentences(5, seed=1), left_pad_source=False)["net_input"]
    expected = model(**batch)[0].log_softmax(-1)
    found = log_probabilities(Network(shape, weights), batch["src_tokens"], batch["prev_output_tokens"])
    real = batch["prev_output_tokens"].ne(PAD)
    torch.testing.assert_close(found[real], expected[real], rtol=0, atol=1e-5)


LAYER = {"normalization": "layer"}
SEARCHES = [
    {},
    {"beam": 1},
    {"beam": 7},
    {"lenpen": 0.2},
    {"lenpen": 2.0, "unkpen": 3.0},
    {"unkpen": -4.0},
    {"min_len": 6},
    {"max_len_b": 4},
    {"max_len_a": 0.5, "max_len_b": 2},
    {"min_len": 9, "max_len_b": 9},
]


MIXED = [({}, options) for options in SEARCHES]
MIXED += [({"token_mixing": "toeplitz", "mixing_heads": 4, **more}, {"min_len": 6}) for more in ({}, LAYER)]


@pytest.mark.parametrize("variant, options", MIXED, ids=str)
def test_the_search_gives_the_hypotheses_and_scores_of_fairseq(variant, options):
    model, task = make_model(seed=2, **variant), make_task()
    with torch.no_grad():
        model.decoder.final.beta += 2 * model.decoder.output_projection.weight[EOS]  # so that sentences end
    options = Options(**options)
    sources = make_sentences(23)
    generator = SequenceGenerator(
        [model],
        task.target_dictionary,
        beam_size=options.beam,
        max_len_a=options.max_len_a,
        max_len_b=options.max_len_b,
        min_len=options.min_len,
        len_penalty=options.lenpen,
        unk_penalty=options.unkpen,
    )
    batch = make_batch(sources, sources)
    expected = dict(zip(batch["id"].tolist(), generator.generate([model], batch)))
    found = search.translate(Network(*fold(model)), [source.tolist() for source in sources], options)
    for i, hypotheses in enumerate(found):
        assert [h.tokens for h in hypotheses] == [h["tokens"].tolist() for h in expected[i]]
        assert [h.score for h in hypotheses] == pytest.approx([h["score"].item() for h in expected[i]], abs=1e-5)
    if options == Options():  # the sentences leave the batch at different steps
        assert len({max(len(hypothesis.tokens) for hypothesis in hypotheses) for hypotheses in found}) > 2


def test_who_watches_a_search_sees_each_translation_grow_to_what_is_found():
    model = make_model(seed=2)
    with torch.no_grad():
        model.decoder.final.beta += 3 * model.decoder.output_projection.weight[EOS]  # so that sentences end
    network, sources, seen = Network(*fold(model)), [source.tolist() for source in make_sentences(7)], []
    found = search.translate(network, sources, Options(), watch=seen.append)
    assert found == search.translate(network, sources, Options())
    assert 3 < len(seen) < network.shape.decoder_N
    assert seen[-1] == [best.tokens for best, *_ in found]
    assert all(len(tokens) == 1 for tokens in seen[0]) and any(len(tokens) == 2 for tokens in seen[1])


@pytest.mark.parametrize(
    "options",
    [{}, {"decoder_layers": 1}, {"token_mixing": "none"}, {"token_mixing": "toeplitz", "mixing_heads": 4}, LAYER],
    ids=str,
)
def test_the_attention_over_a_found_translation_is_the_models_own(options):
    model = make_model(seed=2, **options)
    network = Network(*fold(model))
    for source, target in zip(make_sentences(5), make_sentences(5, seed=1)):
        batch = make_batch([source], [target])["net_input"]
        with torch.no_grad():
            expected = model(**batch)[1]["attn"][0][0]
        found = network.attention(source.tolist(), target.tolist())
        assert found.shape == (len(target), len(source))
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_a_beam_larger_than_there_are_entries_is_refused_by_name():
    network = Network(*fold(make_model()))
    V = network.shape.decoder_entries
    search.translate(network, [[5, 2]], Options(beam=(V - 2) // 2))
    with pytest.raises(InputError, match=rf"beam of {V // 2} is too large for {V} .*--beam {(V - 2) // 2} is"):
        search.translate(network, [[5, 2]], Options(beam=V // 2))
    with pytest.raises(InputError, match="too large for 9 "):
        search.translate(network, [[5, 2]], Options(beam=4), torch.arange(9))


def test_a_model_that_fairseq_has_prepared_folds_to_the_same():
    prepared = make_model(seed=2)
    prepared.make_generation_fast_()
    for name, expected in fold(make_model(seed=2))[1].items():
        torch.testing.assert_close(fold(prepared)[1][name], expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"token_mixing": "mlp"}, "--token-mixing other than linear, toeplitz, toeplitz_linear and none"),
        ({"token_mixing": "conv"}, "--token-mixing other than linear, toeplitz, toeplitz_linear and none"),
        ({"positional_embeddings": "learned"}, "--positional-embeddings"),
        ({"activation_fn": "relu"}, "--activation-fn"),
    ],
    ids=str,
)
def test_a_variant_that_the_fast_path_does_not_know_is_refused_by_name(options, said):
    with pytest.raises(InputError, match=f"{said} cannot be exported"):
        fold(make_model(**options))


def test_threads_that_share_a_model_do_not_disturb_each_other(translator):
    expected = {line: translator([line]) for line in LINES}
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda line: (line, translator([line])), LINES * 5))
    assert all(expected[line] == translation for line, translation in found)


def test_a_translation_does_not_depend_on_its_batch():
    network = Network(*fold(make_model(seed=2)))
    sources = [source.tolist() for source in make_sentences(12)]
    together = search.translate(network, sources, Options(max_len_b=12))
    for source, hypotheses in zip(sources, together):
        (alone,) = search.translate(network, [source], Options(max_len_b=12))
        assert [h.tokens for h in alone] == [h.tokens for h in hypotheses]
        assert [h.score for h in alone] == pytest.approx([h.score for h in hypotheses], abs=1e-5)


@pytest.mark.parametrize("words, logits", [(40, 1 << 22), (996, 1 << 22), (996, 5000), (1000, 5000)])
@pytest.mark.parametrize("k", [1, 4])
@torch.inference_mode()
def test_the_best_are_those_of_a_complete_sort(words, logits, k, monkeypatch):
    monkeypatch.setattr(fast, "LOGITS", logits)
    model = make_model(make_task(words=words))
    network = Network(*fold(model))
    B, V = 5, words + 4
    x, scores = 3 * torch.randn(B * k, 16), torch.randn(B, k)
    logs = network.output.linear(x)[:, :V].log_softmax(-1)
    logs[:, [PAD, EOS]] = -math.inf
    expected, flat = (logs.view(B, k, V) + scores[:, :, None]).view(B, -1).topk(8)
    found, tokens, beams = network.best(x, scores, 8, (PAD, EOS), 0.0, network.output)
    torch.testing.assert_close(found, expected)
    assert torch.equal(tokens, flat % V) and torch.equal(beams, flat // V)


def test_a_matrix_in_8_bits_is_off_by_half_a_step_at_most():
    matrix = torch.randn(30, 50, generator=torch.Generator().manual_seed(1)) * torch.logspace(-3, 3, 30)[:, None]
    matrix[7] = 0
    found = fast.quantise(matrix)
    assert found.rows.dtype == torch.int8
    assert ((found.float() - matrix).abs() <= 0.5001 * found.scale[:, None]).all()
    assert (found.scale <= matrix.abs().amax(1) / 127 + 1e-30).all()


@torch.inference_mode()
def rounding(weight, bias, dtype):
    """`fast.linear_layer` in int8, by float32's products of what int8 rounds to."""
    matrix = (weight if isinstance(weight, fast.Quantised) else fast.quantise(weight)).float()
    top = 127 if fast.REDUCE_RANGE else 255

    def layer(x):
        low, high = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        step = (high - low) / top
        return F.linear(torch.fake_quantize_per_tensor_affine(x, step, round(-low / step), 0, top), matrix, bias)

    return layer


def test_in_int8_numbers_are_close_and_no_other(monkeypatch):
    """Nothing but rounding happens, to the bits that this CPU has for activations, and rounding to 8 changes little."""
    model = make_model(make_task(words=5000), decoder_embed_dim=64, decoder_ffn_embed_dim=128)  # oneDNN's and fbgemm's
    weights = fold(model)
    batch = make_batch(make_sentences(5), make_sentences(5, seed=1), left_pad_source=False)["net_input"]
    kept = batch["prev_output_tokens"].ne(PAD)

    def numbers(dtype):
        return log_probabilities(Network(*weights, dtype), batch["src_tokens"], batch["prev_output_tokens"])[kept]

    exact, quantised = numbers("float32"), numbers("int8")
    monkeypatch.setattr(fast, "linear_layer", rounding)
    assert (quantised - exact).abs().max() > 0
    assert (quantised - numbers("int8")).abs().max() < 0.001 * exact.std()
    monkeypatch.setattr(fast, "REDUCE_RANGE", False)
    assert (exact - numbers("int8")).abs().max() < 0.045 * exact.std()


# What a folder holds


@pytest.mark.parametrize("dtype", ["float32", "int8", "float16"])
def test_a_folder_gives_back_what_was_written(dtype, tmp_path):
    export(str(STORED), str(tmp_path / "model"), dtype=dtype)
    assert not list(tmp_path.glob("*.part"))
    found = folder.read(str(tmp_path / "model"))
    shape, weights = fold(ResMLPModelUnprepared())
    assert (found.shape, found.dtype, found.languages) == (shape, dtype, ["en", "de"])
    step = {"float32": 0, "int8": 1 / 250, "float16": 1 / 2000}[dtype]
    for name, value in weights.items():
        stored = found.weights[name]
        difference = ((stored.float() if dtype != "float32" else stored) - value).abs()
        assert (difference <= step * value.abs().max()).all()


def test_a_folder_of_the_first_version_is_read(tmp_path):
    """It had no other mixing than one A a layer and no normalisation, and no words for that."""
    export(str(STORED), str(tmp_path / "model"))
    config = tmp_path / "model" / "config.json"
    now = folder.read(str(tmp_path / "model"))
    written, new = json.loads(config.read_text()), ("mixing", "mixing_heads", "normalization")
    shape = {name: size for name, size in written["shape"].items() if name not in new}
    config.write_text(json.dumps({**written, "version": 1, "shape": shape}))
    then = folder.read(str(tmp_path / "model"))
    assert then.shape == now.shape and then.weights.keys() == now.weights.keys()


def ResMLPModelUnprepared():
    """The stored model as it was trained: fairseq's interface prepares its own for inference."""
    from fairseq import hub_utils

    return hub_utils.from_pretrained(str(STORED), "model.pt", str(STORED))["models"][0]


def damage(name, change):
    def apply(path):
        file = path / name
        change(file)

    return apply


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def rewrite(**changes):
    def apply(file):
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return apply


def mix_otherwise(file):
    config = json.loads(file.read_text())
    config["shape"]["mixing"] = "conv"
    file.write_text(json.dumps(config))


def ask_for_memory(file):
    config = json.loads(file.read_text())
    config["shape"]["encoder_N"] = 1 << 20
    file.write_text(json.dumps(config))


def resize(file):
    config = json.loads(file.read_text())
    config["shape"]["decoder_hidden"] += 1
    file.write_text(json.dumps(config))


def with_checksum(change):
    """Change the weights by somebody who knows about the checksum."""

    def apply(path):
        file = path / "weights.pt"
        change(file)
        config = json.loads((path / "config.json").read_text())
        config["sha256"]["weights.pt"] = folder._sha256(str(file))
        (path / "config.json").write_text(json.dumps(config))

    return apply


class Hostile:
    def __reduce__(self):
        return print, ("run",)


def change_weights(change):
    def apply(file):
        weights = torch.load(file, weights_only=True)
        change(weights)
        torch.save(weights, file)

    return apply


def compress(file):
    with zipfile.ZipFile(file) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in records.items():
            archive.writestr(name, data)


FAULTS = {
    "no config": (damage("config.json", Path.unlink), "has no config.json"),
    "config cut off": (damage("config.json", lambda file: file.write_text(file.read_text()[:40])), "is damaged"),
    "version": (damage("config.json", rewrite(version=99)), "has version 99 of the format"),
    "no shape": (damage("config.json", rewrite(shape={})), "is damaged"),
    "shape": (damage("config.json", resize), r"is \(\d+, \d+\) of torch.int8, it should be \(\d+, \d+\)"),
    "memory": (damage("config.json", ask_for_memory), "entries, more than"),
    "mixing": (damage("config.json", mix_otherwise), "neither linear nor toeplitz"),
    "dtype": (damage("config.json", rewrite(dtype="float32")), "it should be .* of torch.float32"),
    "files": (damage("config.json", rewrite(sha256={"../model": ""})), "is damaged"),
    "no weights": (damage("weights.pt", Path.unlink), "weights.pt is missing"),
    "weights": (damage("weights.pt", flip), "weights.pt is damaged"),
    "dictionary": (damage("dict.target.txt", flip), "dict.target.txt is damaged"),
    "pieces": (damage("sentencepiece.bpe.model", flip), "sentencepiece.bpe.model is damaged"),
    "code": (with_checksum(lambda file: torch.save({"a": Hostile()}, file)), "is refused, since it is more than plain"),
    "nothing": (with_checksum(lambda file: file.write_bytes(b"")), "is empty"),
    "compressed": (with_checksum(compress), "is a compressed archive"),
    "checksums": (damage("config.json", rewrite(sha256=["weights.pt"])), "is damaged"),
    "languages": (damage("config.json", rewrite(languages="ab")), "is damaged"),
    "nested": (damage("config.json", lambda file: file.write_text("[" * 100_000)), "is damaged"),
    "list": (with_checksum(lambda file: torch.save([1], file)), "holds no weights"),
    "not a number": (
        with_checksum(change_weights(lambda weights: weights["output.bias"].fill_(math.nan))),
        "output.bias has weights that are infinite or not numbers",
    ),
    "more": (with_checksum(change_weights(lambda weights: weights.update(x=torch.ones(1)))), "holds x, which no"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_is_not_whole_is_refused_in_one_line(fault, exported, tmp_path, capsys):
    path = tmp_path / "model"
    path.mkdir()
    for file in (exported / "int8").iterdir():
        (path / file.name).write_bytes(file.read_bytes())
    break_it, message = FAULTS[fault]
    break_it(path)
    with pytest.raises(InputError, match=message) as error:
        folder.read(str(path))
    assert "\n" not in str(error.value)
    assert "run" not in capsys.readouterr().out


def test_an_export_that_fails_leaves_nothing_and_no_folder_is_overwritten(exported, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="is there already"):
        export(str(STORED), str(exported / "int8"))
    with pytest.raises(InputError, match="sentencepiece.bpe.model: name it as --spm"):
        export(str(STORED / "model.pt"), str(tmp_path / "model"), pieces=str(tmp_path / folder.PIECES))

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        export(str(STORED), str(tmp_path / "model"))
    assert list(tmp_path.iterdir()) == []


def test_a_dictionary_is_read_as_fairseq_reads_it(tmp_path):
    from fairseq.data import Dictionary

    (tmp_path / "dict.txt").write_text("a 3\n\u2028 2\nb c 1\n\xa0 5\na 1 #fairseq:overwrite\nmadeupword0000 0\n")
    assert folder.read_dictionary(str(tmp_path / "dict.txt")) == Dictionary.load(str(tmp_path / "dict.txt")).symbols
    (tmp_path / "dict.txt").write_text("a 3\na 2\n")
    with pytest.raises(InputError, match="line 2"):
        folder.read_dictionary(str(tmp_path / "dict.txt"))


# Text


def test_every_line_has_its_translation_in_order_the_one_that_fairseq_gives(translator):
    lines = [PLAIN, *(line for line in ODD if len(line) < 100), PLAIN, "A boy hopes.", "", PLAIN]
    found = translator(lines)
    assert len(found) == len(lines)
    hub = ResMLPModel.from_pretrained(STORED)
    texts = [i for i, line in enumerate(lines) if len(translator.encode(line)) > 1]
    expected = hub.translate([lines[i] for i in texts], beam=2, max_len_b=10)
    assert [found[i] for i in texts] == expected
    assert {found[i] for i in set(range(len(lines))) - set(texts)} == {""}
    assert found[lines.index("")] == found[lines.index(" ")] == ""


def test_a_long_line_is_cut_with_a_warning(translator, caplog):
    N = translator.network.shape.encoder_N
    found = translator([PLAIN, "The old king sees a small dog. " * 1000, PLAIN])
    assert found[0] == found[2] == translator([PLAIN])[0] and found[1]
    assert f"pieces is cut to its first {N - 1}, which is what N = {N} holds" in caplog.text
    assert len(translator.encode("▁a " * (N - 1))) <= N


def test_batches_hold_lines_of_a_length_and_no_more_than_asked_for(translator, monkeypatch):
    monkeypatch.setattr(translator, "batch_size", 3)
    monkeypatch.setattr(translator, "max_tokens", 12)
    lengths = [4, 1, 9, 4, 20, 4, 3, 3, 1]
    batches = list(translator.batches(lengths))
    assert batches == [[4], [2], [0, 3, 5], [6, 7]]


def test_lines_come_out_before_all_are_read(translator):
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


# The shortlist


def test_a_shortlist_leaves_its_pieces_alone_to_choose_from(tmp_path):
    model, sources = make_model(seed=2), [[5, 6, EOS], [7, 9, 9, EOS]]
    network, options = Network(*fold(model)), Options(max_len_b=6)
    path = tmp_path / "shortlist.txt"
    path.write_text("\tw10 w11 w12 nothing\nw1\tw20 w21\nw3\tw22\nunknown\tw30\nw2\tw11\n", encoding="utf-8")
    entries = make_task().source_dictionary.symbols
    shortlist = Shortlist.read(str(path), entries, entries)
    assert [entries[i] for i in shortlist.allowed(sources)] == [*entries[:4], "w10", "w11", "w12", "w20", "w21", "w22"]
    assert [entries[i] for i in shortlist.allowed(sources[1:])] == [*entries[:4], "w10", "w11", "w12", "w22"]
    for dtype in ("float32", "int8"):
        network = Network(*fold(model), dtype)
        found = search.translate(network, sources, options, shortlist.allowed(sources))
        used = {token for hypotheses in found for hypothesis in hypotheses for token in hypothesis.tokens}
        assert used <= set(shortlist.allowed(sources).tolist())
        everything = search.translate(network, sources, options, torch.arange(len(entries)))
        assert everything == search.translate(network, sources, options)


@pytest.mark.parametrize("text", ["a b\n", "a b\tc\n"])
def test_a_file_that_is_no_shortlist_is_refused(text, tmp_path):
    (tmp_path / "shortlist.txt").write_text(text)
    with pytest.raises(InputError, match="line 1 is not one source piece, a tab and target pieces"):
        Shortlist.read(str(tmp_path / "shortlist.txt"), [], [])


def test_a_shortlist_learns_which_pieces_go_together(tmp_path):
    """Every word has one translation, in another order; the articles stand in every line."""
    rng, lines = random.Random(1), []
    for _ in range(200):
        words = rng.sample(range(30), rng.randint(2, 6))
        lines.append((f"the {' '.join(f's{i}' for i in words)}", f"{' '.join(f't{i}' for i in words[::-1])} der"))
    for side, name in enumerate(("source", "target")):
        (tmp_path / name).write_text("".join(f"{line[side]}\n" for line in lines + [("", "Bob"), ("Bob", "Bob")]))
    words = ["shortlist", *(str(tmp_path / name) for name in ("source", "target")), "--always", "1", "--each", "1"]
    words += ["--output", str(tmp_path / "shortlist")]
    assert CliRunner().invoke(main, words).exit_code == 0
    found = dict(line.split("\t") for line in (tmp_path / "shortlist").read_text().splitlines())
    assert found == {"": "der", "the": "der", "Bob": "Bob", **{f"s{i}": f"t{i}" for i in range(30)}}
    (tmp_path / "source").write_text("one line\n")
    assert re.match("Error: .* has 1 lines", CliRunner().invoke(main, words).output)


def test_an_exported_shortlist_is_used(exported, tmp_path):
    (tmp_path / "shortlist.txt").write_text("\t. ▁Hund\n", encoding="utf-8")
    export(str(STORED), str(tmp_path / "model"), shortlist=str(tmp_path / "shortlist.txt"))
    (found,) = Translator.load(str(tmp_path / "model"), options=Options(beam=1, max_len_b=10))([PLAIN])
    assert set(found.replace("Hund", "")) <= set(". ") and found


# Commands


@pytest.fixture(scope="module")
def without_fairseq(tmp_path_factory):
    """Called with arguments of fairseq-resmlp: runs it where torch, click and sentencepiece are all there is."""
    packages = tmp_path_factory.mktemp("packages")
    for path in filter(os.path.isdir, site.getsitepackages()):  # Debian's Python names folders that are not there
        for entry in Path(path).iterdir():
            if not re.match(r"fairseq|__editable__|omegaconf|hydra|sacrebleu|numpy|tqdm|.*\.pth$", entry.name):
                (packages / entry.name).symlink_to(entry)
    (packages / "fairseq_resmlp").symlink_to(ROOT / "fairseq_resmlp")
    start = (sys.executable, "-S", "-c", "from fairseq_resmlp.cli import main; main(prog_name='fairseq-resmlp')")
    return lambda *words, **options: run(*start, *words, env={"PYTHONPATH": str(packages)}, **options)


def test_the_command_translates_without_fairseq(without_fairseq, exported, translator, tmp_path):
    lines = [PLAIN, "", "  ", "A boy hopes.", "\u2028", PLAIN]
    (tmp_path / "input").write_bytes("\n".join(lines).encode() + b"\n\xff")
    options = ("translate", exported / "float32", "--beam", "2", "--max-len-b", "10", "--threads", "1")
    piped = without_fairseq(*options, stdin=(tmp_path / "input").read_bytes())
    assert piped.stdout.split("\n") == [*translator(lines), *translator(["\ufffd"]), ""]
    assert "line 7 is not UTF-8" in piped.stderr
    without_fairseq(*options, "--input", tmp_path / "input", "--output", tmp_path / "output")
    assert (tmp_path / "output").read_text(encoding="utf-8") == piped.stdout


def test_a_pipe_is_read_once_and_whole(exported, translator, tmp_path):
    pipe, out = tmp_path / "pipe", tmp_path / "out"
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(pipe.write_text, "".join(f"{line}\n" for line in LINES), "utf-8")
        command = ["translate", exported / "float32", "--input", pipe, "--output", out, "--beam", 2, "--max-len-b", 10]
        done = CliRunner().invoke(main, [str(word) for word in command])
    assert done.exit_code == 0, done.output
    assert out.read_text(encoding="utf-8").split("\n")[:-1] == translator(LINES)


def test_the_input_is_not_overwritten(exported, tmp_path):
    text = tmp_path / "text"
    text.write_text("Hello.\n")
    done = CliRunner().invoke(
        main, ["translate", str(exported / "float32"), "--input", str(text), "--output", str(text)]
    )
    assert done.exit_code == 1 and "would overwrite its own input" in done.output
    assert text.read_text() == "Hello.\n"


def test_the_progress_bar_counts_lines_on_a_terminal_whether_or_not_it_knows_how_many(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    for length, shown in ((20, "10/20"), (None, "10")):
        with progress_bar(length) as done:
            done(10)
        assert shown in terminal.getvalue()
        assert "/0" not in terminal.getvalue()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "nowhere"}, "there is no .*dict.en.txt: name the folder of"),
        ({"pieces": __file__}, "is not a SentencePiece model"),
        ({"shortlist": "other"}, "has no piece of this model's dictionary"),
    ],
    ids=str,
)
def test_what_an_export_would_copy_is_checked_first(options, message, tmp_path):
    (tmp_path / "other").write_text("\tnever seen\nnever\tseen\n")
    (tmp_path / "nowhere").mkdir()
    options = {name: str(tmp_path / value) for name, value in options.items()}
    with pytest.raises(InputError, match=message):
        export(str(STORED), str(tmp_path / "model"), **options)
    assert not (tmp_path / "model").exists()


def test_without_fairseq_the_other_commands_say_so_in_one_line(without_fairseq, tmp_path):
    done = without_fairseq("export", STORED, tmp_path / "model", check=False)
    assert done.returncode == 1
    assert re.fullmatch("Error: this command needs fairseq, which is not installed: .*", done.stderr.splitlines()[-1])


@pytest.mark.parametrize(
    "options, message",
    [
        (["--dtype", "float16"], "float16 is not for the device cpu"),
        (["--device", "cuda"], "--device cuda is not here"),
        (["--device", "gpu"], "--device gpu is not here"),
        (["--lenpen", "nan"], "--lenpen nan: give a number from -10 to 10"),
        (["--lenpen=-100000"], "--lenpen -100000.0: give a number from -10 to 10"),
        (["--max-len-a", "nan"], "--max-len-a nan: give a number from 0 to 1000"),
        (["--max-len-b", "0"], "the least length 1 is more than the greatest, 0"),
    ],
)
def test_the_command_names_wrong_options_in_one_line(options, message, exported, tmp_path):
    if "cuda" in options and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    (tmp_path / "input").write_text("a\n")
    threads = ["--threads", str(torch.get_num_threads())]
    words = ["translate", str(exported / "int8"), "--input", str(tmp_path / "input"), *threads, *options]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 1
    assert done.output.startswith("Error: ") and message in done.output and done.output.count("\n") == 1


# A trained model


@pytest.fixture(scope="module")
def multi30k(tmp_path_factory):
    """The model of examples/multi30k.en-de, exported in both dtypes, and what fairseq-generate made of test2016."""
    trained = MULTI30K / "resmlp_small"
    model, made = trained / "average5.pt", trained / "test2016" / "generate-test.txt"
    if not (model.exists() and made.exists()):
        pytest.skip("no trained model: scripts/reproduce.sh multi30k.en-de resmlp_small makes it")
    home = tmp_path_factory.mktemp("multi30k")
    for dtype in ("float32", "int8"):
        export(str(model), str(home / dtype), str(MULTI30K / "data-bin"), str(MULTI30K / "spm.model"), dtype)
    lines = (MULTI30K / "raw" / "test2016.en").read_text(encoding="utf-8").split("\n")[:-1]
    references = (MULTI30K / "raw" / "test2016.de").read_text(encoding="utf-8").split("\n")[:-1]
    found = re.findall(r"^H-(\d+)\t([^\t]*)\t([^\n]*)$", made.read_text(encoding="utf-8"), re.M)
    generated = {int(i): (float(score) * math.log(2), text) for i, score, text in found}  # printed to base 2
    return home, lines, references, [generated[i] for i in range(len(lines))]


def test_1000_lines_of_multi30k_are_translated_as_by_fairseq_generate(multi30k, record_promise):
    home, lines, _, generated = multi30k
    translator = Translator.load(str(home / "float32"))
    sources = [translator.encode(line) for line in lines]
    found = {}
    for batch in translator.batches([len(source) for source in sources]):
        found.update(zip(batch, search.translate(translator.network, [sources[i] for i in batch], Options())))
    assert len(found) == len(lines) == 1000
    for i, (score, text) in enumerate(generated):
        assert translator.decode(found[i][0].tokens) == text
        assert found[i][0].score == pytest.approx(score, abs=1e-5)
    furthest = max(abs(found[i][0].score - score) for i, (score, _) in enumerate(generated))
    record_promise(
        "In float32 the hypotheses of test2016 are those of fairseq-generate, with the same scores",
        f"1,000 of 1,000 lines; scores within {furthest:.0e}",
    )


def test_int8_costs_at_most_0_3_bleu_on_multi30k(multi30k, record_promise):
    home, lines, references, generated = multi30k
    exact = BLEU().corpus_score([text for _, text in generated], [references]).score
    rounded = BLEU().corpus_score(Translator.load(str(home / "int8"))(lines), [references]).score
    assert rounded >= exact - 0.3
    record_promise(
        "int8 costs at most 0.3 BLEU on test2016", f"sacreBLEU {exact:.2f} in float32, {rounded:.2f} in int8"
    )
