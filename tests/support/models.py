"""Tiny models and tiny batches."""

import random

import torch
from fairseq.data import Dictionary, LanguagePairDataset
from fairseq.tasks.translation import TranslationConfig, TranslationTask

from fairseq_resmlp.model.config import ResMLPConfig
from fairseq_resmlp.model.registration import ResMLPModel


def make_dictionary(words=40):
    """Return a dictionary of the four special entries of fairseq and `words` artificial words."""
    dictionary = Dictionary()
    for i in range(words):
        dictionary.add_symbol(f"w{i}")
    return dictionary


def make_task(words=40, **cfg):
    """Return a translation task with one shared dictionary and no data."""
    dictionary = make_dictionary(words)
    return TranslationTask(TranslationConfig(source_lang="a", target_lang="b", **cfg), dictionary, dictionary)


TINY = {
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 32,
    "encoder_layers": 2,
    "encoder_max_positions": 24,
    "decoder_embed_dim": 16,
    "decoder_ffn_embed_dim": 32,
    "decoder_layers": 2,
    "decoder_max_positions": 24,
    "decoder_attention_heads": 2,
    "dropout": 0.0,
}


def make_model(task=None, seed=1, randomize=True, **options):
    """Return a tiny model in evaluation mode.

    Args:
        randomize: move every parameter away from its initial value. With zero matrices and unit scales, a wrong formula
            would pass the tests.
        options: of `ResMLPConfig`, in addition to `TINY`
    """
    torch.manual_seed(seed)
    model = ResMLPModel.build_model(ResMLPConfig(**{**TINY, **options}), task or make_task()).eval()
    if randomize:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "embed_tokens" not in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def make_sentences(count, longest=12, words=40, seed=0):
    """Return random sentences as tensors of token ids that end with the end-of-sentence token."""
    rng = random.Random(seed)
    return [
        torch.tensor([4 + rng.randrange(words) for _ in range(rng.randint(1, longest))] + [2]) for _ in range(count)
    ]


def make_batch(sources, targets, left_pad_source=True, pad_to_length=None):
    """Collate sentence pairs into a batch as fairseq does."""
    dictionary = make_dictionary()
    dataset = LanguagePairDataset(
        sources,
        [len(s) for s in sources],
        dictionary,
        targets,
        [len(t) for t in targets],
        dictionary,
        left_pad_source=left_pad_source,
        shuffle=False,
    )
    return dataset.collater([dataset[i] for i in range(len(sources))], pad_to_length=pad_to_length)
