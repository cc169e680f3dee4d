"""The same translations and scores whatever the batch, the padding side and the way of decoding, over real text."""

import shutil

import pytest
import torch
from conftest import run, train_options
from fairseq.data import LanguagePairDataset
from omegaconf import OmegaConf
from test_raw_text import MULTI30K, prepare

from fairseq_resmlp import ResMLPModel

NEWSTEST = MULTI30K.parent / "newstest2013"
TIE = 1e-5


@pytest.fixture(scope="module")
def hub(request, tmp_path_factory):
    """The model folder of --model, or a small model of Multi30k, trained for less than a minute."""
    for text in (MULTI30K, NEWSTEST):
        if not text.exists():
            pytest.skip(f"no text in {text}")
    folder = request.config.getoption("--model")
    if folder is None:
        folder = tmp_path_factory.mktemp("multi30k")
        (folder / "raw").mkdir()
        for split, source in (("train", "train"), ("valid", "valid"), ("test", "test2016")):
            for language in ("en", "de"):
                shutil.copy(MULTI30K / f"{source}.{language}", folder / "raw" / f"{split}.{language}")
        prepare(folder / "raw", folder, 2000)
        options = [str(option) for option in train_options(folder / "data-bin", folder)]
        sizes = ["--encoder-max-positions=256", "--decoder-max-positions=256"]
        run("fairseq-train", *options, *sizes, "--max-update", "300", "--max-tokens", "1500", "--disable-validation")
        shutil.copy(folder / "checkpoint_last.pt", folder / "model.pt")
        shutil.copy(folder / "spm.model", folder / "sentencepiece.bpe.model")
        for language in ("en", "de"):
            shutil.copy(folder / "data-bin" / f"dict.{language}.txt", folder)
    # The longest line of newstest2013 has more pieces than a model of Multi30k was made for.
    return ResMLPModel.from_pretrained(folder, encoder_max_positions=512, decoder_max_positions=512)


@pytest.fixture(scope="module")
def sources(hub, request):
    """The sources of test2016 and newstest2013 as LongTensors of pieces; every eighth for the small model."""
    files = (MULTI30K / "test2016.en", NEWSTEST / "en-de.en")
    lines = [line for file in files for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
    assert len(lines) == 4000
    return [hub.encode(line) for line in (lines if request.config.getoption("--model") else lines[::8])]


def search(hub, sources, left_pad_source=True, beam=4, **limits):
    """The best hypothesis of each source by beam search, in batches of these limits."""
    generator = hub.task.build_generator(hub.models, OmegaConf.merge(hub.cfg.generation, {"beam": beam}))
    dataset = LanguagePairDataset(
        sources,
        [len(source) for source in sources],
        hub.src_dict,
        tgt_dict=hub.tgt_dict,
        left_pad_source=left_pad_source,
    )
    batches = hub.task.get_batch_iterator(dataset, max_positions=hub.max_positions, **limits)
    found = {}
    for batch in batches.next_epoch_itr(shuffle=False):
        for number, hypotheses in zip(batch["id"].tolist(), hub.task.inference_step(generator, hub.models, batch)):
            found[number] = hypotheses[0]
    return [found[number] for number in range(len(sources))]


@pytest.fixture(scope="module")
def alone(hub, sources):
    """Every source translated in a batch of its own: the standard for the others."""
    return search(hub, sources, max_sentences=1)


@pytest.mark.slow
@pytest.mark.parametrize("left_pad_source", [True, False])
@pytest.mark.parametrize("limits", [{"max_sentences": 7}, {"max_sentences": 64}, {"max_tokens": 4000}])
def test_the_batch_changes_no_translation(hub, sources, alone, left_pad_source, limits, record_promise):
    found = search(hub, sources, left_pad_source, **limits)
    ties, largest = 0, 0.0
    for one, other in zip(alone, found):
        difference = abs(one["score"] - other["score"]).item()
        largest = max(largest, difference)
        assert difference <= TIE
        if not torch.equal(one["tokens"], other["tokens"]):
            ties += 1  # two hypotheses whose scores differ by less than rounding
    assert ties <= len(sources) / 500
    batch = " ".join(f"{name} {value}" for name, value in limits.items())
    record_promise(
        f"In batches of {batch}, padded on the {'left' if left_pad_source else 'right'}, the translations are the same",
        f"{len(sources):,} sentences, {ties} ties, scores within {largest:.1e}",
    )


@pytest.mark.slow
def test_incremental_decoding_gives_the_scores_of_the_full_model(hub, sources, alone, record_promise):
    largest = 0.0
    for start in range(0, len(sources), 50):
        some, found = sources[start : start + 50], alone[start : start + 50]
        dataset = LanguagePairDataset(
            some,
            [len(source) for source in some],
            hub.src_dict,
            [one["tokens"] for one in found],
            [len(one["tokens"]) for one in found],
            hub.tgt_dict,
            shuffle=False,
        )
        batch = dataset.collater([dataset[i] for i in range(len(some))])
        with torch.no_grad():
            scores = hub.models[0].get_normalized_probs(hub.models[0](**batch["net_input"]), log_probs=True)
        scores = scores.gather(-1, batch["target"].unsqueeze(-1)).squeeze(-1)
        for i, number in enumerate(batch["id"].tolist()):
            expected = found[number]["positional_scores"]
            largest = max(largest, (scores[i, : len(expected)] - expected).abs().max().item())
    assert largest <= 1e-5
    record_promise(
        "Decoding token by token gives the log-probabilities of the whole model",
        f"{sum(len(one['tokens']) for one in alone):,} tokens, within {largest:.1e}",
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_translates_without_nan(hub, sources, alone, dtype, record_promise):
    """Of all sentences: `mends.refuse_translations_without_scores` would raise. Some words differ by rounding."""
    hub.to(dtype)
    try:
        found = search(hub, sources, max_sentences=64)
    finally:
        hub.float()
    assert all(one["positional_scores"].isfinite().all() for one in found)
    same = sum(torch.equal(one["tokens"], other["tokens"]) for one, other in zip(alone, found))
    assert same > len(sources) / 3
    record_promise(
        f"{str(dtype).split('.')[1]} gives no NaN in translation (on a CPU)",
        f"{len(sources):,} sentences, {same:,} translated as in float32",
    )
