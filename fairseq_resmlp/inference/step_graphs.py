"""Steps of the decoder at fixed sizes, recorded as CUDA graphs.

A step on a GPU consists of some 20 small kernels per layer, and launching them takes longer than computing them. A
graph launches all of them at once, but always with the same shapes and addresses. Therefore, the inputs are copied into
buffers of fixed sizes: sentences are padded to a power of two, positions to a multiple of 32.

On other devices, the same steps run without graphs, which is how they are tested.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fairseq_resmlp.inference.network import EncoderCache, Network

POSITIONS = 32
MOST_DECODERS = 8  # of different sizes that a network keeps, each with a store of its own


def round_up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


class FixedSizeDecoder:
    """The decoder for up to B sentences of up to S tokens, with k hypotheses each.

    Rows of absent sentences contain numbers that nobody reads. Positions that do not exist yet have the weight zero.
    """

    def __init__(self, network: Network, B: int, S: int, k: int):
        config, device, dtype = network.config, network.device, network.float
        L, h, d = config.decoder_layers, config.attention_heads, config.decoder_embed_dim
        N = config.decoder_max_positions
        self.network, self.R = network, B * k
        self.cache = EncoderCache(
            torch.zeros(L, B, h, d // h, S, dtype=dtype, device=device),
            torch.zeros(L, B, h, S, d // h, dtype=dtype, device=device),
            torch.zeros(B, h, 1, S, dtype=dtype, device=device),
        )
        self.store = torch.zeros(N, self.R, L, d, dtype=dtype, device=device)
        self.tokens = torch.zeros(self.R, dtype=torch.long, device=device)
        self.ancestors = torch.zeros(self.R, N, dtype=torch.long, device=device)
        self.t = torch.zeros(1, dtype=torch.long, device=device)
        self.positions = torch.arange(N, device=device)
        self.graphs: dict[int, Callable[[], Tensor]] = {}

    def load(self, cache: EncoderCache) -> EncoderCache:
        """Copy the encoder output of a batch into the buffers. Returns their part for the batch."""
        assert self.cache.mask is not None
        _, B, _, _, S = cache.keys.shape
        self.ancestors.zero_()
        self.cache.mask.fill_(float("-inf"))
        self.cache.mask[B:, :, :, 0] = 0  # absent sentences attend to something, because softmax of nothing is NaN
        self.cache.mask[:B, :, :, :S] = 0 if cache.mask is None else cache.mask
        self.cache.keys[:, :B, :, :, :S] = cache.keys
        self.cache.values[:, :B, :, :S] = cache.values
        return EncoderCache(self.cache.keys[:, :B], self.cache.values[:, :B], self.cache.mask[:B])

    def step(self, tokens: Tensor, t: int, ancestors: Tensor) -> Tensor:
        """Compute `Network.step` for the rows of the batch, with the store and the cache of this decoder."""
        R = len(tokens)
        self.tokens[:R].copy_(tokens)
        self.ancestors[:R, :t].copy_(ancestors)
        self.t.fill_(t)
        P = min(round_up(t, POSITIONS), self.network.config.decoder_max_positions)
        if P not in self.graphs:
            self.graphs[P] = self.record(P)
        return self.graphs[P]()[:R]

    def compute(self, P: int) -> Tensor:
        """Compute a step with P past positions. Shape: R x d."""
        network, t = self.network, self.t
        A = network.past_A.index_select(0, t)[0, :, :, :P] * (self.positions[:P] < t)  # L x m x P
        bias = network.mixing_bias.index_select(0, t)[0]
        bias = network.add_past(bias, A, self.ancestors[:, :P], self.store)
        x, inputs = network.run_layers(self.tokens, bias, network.gate.index_select(0, t)[0], self.cache)
        self.store.index_copy_(0, t, torch.stack(inputs, 1)[None])
        return x

    def record(self, P: int) -> Callable[[], Tensor]:
        """Return a function that computes a step with P past positions: on a GPU, a graph."""
        if not torch.backends.cuda.is_built():
            return lambda: self.compute(P)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries allocate their memory at the first call
            self.compute(P)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            x = self.compute(P)

        def replay() -> Tensor:
            graph.replay()
            return x

        return replay


def fixed_size_decoder(network: Network, sentences: int, length: int, beam: int) -> FixedSizeDecoder:
    """Return a decoder of the network for a batch of this size. It is used again for batches of similar sizes."""
    key = 1 << (sentences - 1).bit_length(), round_up(length, POSITIONS), beam
    decoders = network.fixed_size_decoders
    if key not in decoders:
        while len(decoders) >= MOST_DECODERS:
            del decoders[next(iter(decoders))]
        decoders[key] = FixedSizeDecoder(network, *key)
    return decoders[key]
