"""Translations and scores of real text do not depend on batching, padding side or incremental decoding."""

import shutil

import pytest
import torch
from fairseq.data import LanguagePairDataset
from omegaconf import OmegaConf

from fairseq_resmlp import ResMLPModel
from support.commands import run, train_options
from support.corpora import LANGUAGES, MULTI30K, NEWSTEST, copy_multi30k, prepare

TIE = 1e-5


@pytest.fixture(scope="module")
def hub(request, tmp_path_factory):
    """The model of --model, or a small model of Multi30k, trained for less than a minute."""
    for text in (MULTI30K, NEWSTEST):
        if not text.exists():
            pytest.skip(f"text not found in {text}")
    directory = request.config.getoption("--model")
    if directory is None:
        directory = tmp_path_factory.mktemp("multi30k")
        copy_multi30k(directory / "raw")
        prepare(directory / "raw", directory, 2000)
        options = train_options(directory / "data-bin", directory)
        sizes = ["--encoder-max-positions=256", "--decoder-max-positions=256"]
        run("fairseq-train", *options, *sizes, "--max-update", "300", "--max-tokens", "1500", "--disable-validation")
        shutil.copy(directory / "checkpoint_last.pt", directory / "model.pt")
        shutil.copy(directory / "spm.model", directory / "sentencepiece.bpe.model")
        for language in LANGUAGES:
            shutil.copy(directory / "data-bin" / f"dict.{language}.txt", directory)
    # The longest line of newstest2013 exceeds the N of a model of Multi30k.
    return ResMLPModel.from_pretrained(directory, encoder_max_positions=512, decoder_max_positions=512)


@pytest.fixture(scope="module")
def sources(hub, request):
    """The sources of test2016 and newstest2013 as LongTensors of token ids; every eighth for the small model."""
    files = (MULTI30K / "test2016.en", NEWSTEST / "en-de.en")
    lines = [line for file in files for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
    assert len(lines) == 4000
    return [hub.encode(line) for line in (lines if request.config.getoption("--model") else lines[::8])]


def search(hub, sources, left_pad_source=True, beam=4, **limits):
    """Translate with beam search in batches of the given limits. Returns the best hypothesis of each source."""
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
        hypotheses = hub.task.inference_step(generator, hub.models, batch)
        found.update((i, best) for i, (best, *_) in zip(batch["id"].tolist(), hypotheses, strict=True))
    return [found[number] for number in range(len(sources))]


@pytest.fixture(scope="module")
def alone(hub, sources):
    """The reference: every source translated in a batch of its own."""
    return search(hub, sources, max_sentences=1)


@pytest.mark.slow
@pytest.mark.parametrize("left_pad_source", [True, False])
@pytest.mark.parametrize("limits", [{"max_sentences": 7}, {"max_sentences": 64}, {"max_tokens": 4000}])
def test_batching_does_not_change_translations(hub, sources, alone, left_pad_source, limits, record_promise):
    found = search(hub, sources, left_pad_source, **limits)
    ties, largest = 0, 0.0
    for one, other in zip(alone, found, strict=True):
        difference = abs(one["score"] - other["score"]).item()
        largest = max(largest, difference)
        assert difference <= TIE
        if not torch.equal(one["tokens"], other["tokens"]):
            ties += 1  # two hypotheses with the same score up to rounding
    assert ties <= len(sources) / 500
    batch = " ".join(f"{name} {value}" for name, value in limits.items())
    side = "left" if left_pad_source else "right"
    record_promise(
        f"Batching with {batch}, padded on the {side}, does not change the translations",
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
        "Incremental decoding gives the log-probabilities of the full forward pass",
        f"{sum(len(one['tokens']) for one in alone):,} tokens, within {largest:.1e}",
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_translates_without_nan(hub, sources, alone, dtype, record_promise):
    """A NaN would raise an error (`explain_failed_search`). Some words differ because of rounding."""
    hub.to(dtype)
    try:
        found = search(hub, sources, max_sentences=64)
    finally:
        hub.float()
    assert all(one["positional_scores"].isfinite().all() for one in found)
    same = sum(torch.equal(one["tokens"], other["tokens"]) for one, other in zip(alone, found, strict=True))
    assert same > len(sources) / 3
    record_promise(
        f"Translation in {str(dtype).split('.')[1]} gives no NaN (on a CPU)",
        f"{len(sources):,} sentences, {same:,} of them translated as in float32",
    )
