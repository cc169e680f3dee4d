"""Helpers for tests of the inference network."""

import torch

from fairseq_resmlp.inference.network import Network
from fairseq_resmlp.model.export import to_inference_weights

LAYER_NORM = {"normalization": "layer"}
SHORT = {"beam": 2, "max_len_b": 10}  # options for the golden model, which rarely ends a sentence by itself


def translate(translator, lines, **options):
    """Return the best translation of each line, with the options `SHORT` and others."""
    return [translation.text for translation in translator.translate_batch(lines, **SHORT, **options)]


def make_network(model, dtype="float32"):
    """Convert a model for inference."""
    return Network(*to_inference_weights(model), dtype)


def teacher_forced_log_probs(network, source, target):
    """Return the log-probabilities of each target position, B x T x V, computed one step at a time."""
    cache = network.encode(source)
    B, T = target.shape
    ancestors, steps = torch.empty(B, 0, dtype=torch.long), []
    with network.search_memory(T, B) as store:
        for t in range(T):
            x = network.step(target[:, t], t, ancestors, store, cache)
            steps.append(network.output.linear(x)[:, : network.config.decoder_vocab_size].log_softmax(-1))
            ancestors = torch.cat([ancestors, torch.arange(B)[:, None] + t * B], 1)
    return torch.stack(steps, 1)
