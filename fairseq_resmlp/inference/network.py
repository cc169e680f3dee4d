"""The network for inference: a trained model with every Aff absorbed into its neighbors.

"Aff has no cost at inference time, as it can be absorbed in the adjacent linear layer" (arXiv 2105.03404, section 2):

    B (alpha x + beta) + b                       = (B alpha) x + (B beta + b)
    alpha (C x + b) + beta                       = (alpha C) x + (alpha b + beta)
    alpha' (A (alpha x + beta) + b) + beta'      = alpha' alpha * (A x) + [alpha' (rowsum(A) beta + b) + beta']

From a model in memory to token ids of translations:

    config, weights = to_inference_weights(model)           # of fairseq_resmlp.model.export
    network = Network(config, weights, dtype="int8", device="cpu")
    beam_search(network, [[5, 6, 2], ...], SearchOptions(beam=4))     # [[Hypothesis(tokens, score), ...], ...]

Dimensions, in addition to those of `resmlp.py`:

    L   layers of the decoder
    k   hypotheses (beams) per sentence: 1 at the first step, then the beam size
    R   rows, B k: one per hypothesis, those of one sentence adjacent
    h   heads of the cross-attention, each of d / h channels
    m   heads of the mixing: matrices A per layer, each for d / m channels
    t   the step: the number of earlier target positions
"""

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from fairseq_resmlp.common.activation import ACTIVATION
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference.config import EOS, PAD, UNK, NetworkConfig, Weights
from fairseq_resmlp.inference.quantization import Linear, QuantizedMatrix, make_linear, quantize

DTYPES = ("float32", "int8", "float16")
BLOCK = 128  # columns of the output layer that are reduced together, see `Network.topk_candidates`
MAX_LOGITS = 1 << 22  # computed at a time: above 32 MiB, malloc requests fresh pages from the system at every step


def check_device(device: str) -> None:
    """Raise InputError if torch cannot compute on a device."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about names that are no devices any more
            (torch.ones(1, device=device) + 1).item()  # a tensor on "meta" has a shape only
    except (RuntimeError, AssertionError, ImportError) as error:  # all three, if torch is built without the device
        reason = str(error).split("\n")[0].split(". ")[0]
        raise InputError(f"--device {device} is not available: {reason}; use cpu or cuda") from error


def expand_mixing(A: Tensor, config: NetworkConfig, N: int) -> Tensor:
    """Return A of all layers of a stack, L x m x N x N, from the weight that `NetworkConfig.mixing_weight` names."""
    if config.mixing == "linear":
        return A.view(-1, config.mixing_heads, N, N)
    i = torch.arange(N, device=A.device)
    offset = i[:, None] - i
    return A[:, :, offset.clamp(min=0)].tril() if A.size(2) == N else A[:, :, offset + N - 1]


class EncoderCache(NamedTuple):
    """The encoder output as the decoder reads it: keys and values of the cross-attention, once per sentence."""

    keys: Tensor  # L x B x h x d/h x S
    values: Tensor  # L x B x h x S x d/h
    mask: Tensor | None  # B x h x 1 x S, 0 at tokens and -inf at padding; None without padding

    def compact(self, moves: Sequence[tuple[int, int]], count: int) -> "EncoderCache":
        """Overwrite sentence i with sentence j for each (i, j) of `moves`, and keep the first `count` sentences."""
        if moves:
            to, source = torch.tensor(moves, device=self.keys.device).t()
            for tensor in (self.keys, self.values):
                tensor[:, to] = tensor[:, source]
            if self.mask is not None:
                self.mask[to] = self.mask[source]
        mask = None if self.mask is None else self.mask[:count]
        return EncoderCache(self.keys[:, :count], self.values[:, :count], mask)


class OutputLayer(NamedTuple):
    """The output layer, for all entries of the dictionary or for a shortlist."""

    linear: Linear
    tokens: Tensor | None  # LongTensor: the entry of each column; None: column i is entry i


class Network:
    """The inference network on a device.

    Args:
        config: sizes
        weights: float32 tensors or `QuantizedMatrix`, by the names of `NetworkConfig.weight_shapes`; float matrices are
            quantized if dtype is int8
        dtype: type of the matrices: float32, int8 (CPU only) or float16 (GPU only)
        device: a torch device such as cpu or cuda:0
        cuda_graphs: launch the kernels of a step at once, see `fairseq_resmlp.inference.step_graphs`

    Raises:
        InputError: the device does not support the dtype or CUDA graphs
    """

    def __init__(
        self,
        config: NetworkConfig,
        weights: Weights,
        dtype: str = "float32",
        device: str = "cpu",
        cuda_graphs: bool = False,
    ):
        kind = torch.device(device).type
        if cuda_graphs and kind != "cuda":
            raise InputError(f"CUDA graphs are not supported on device {device}: use --device cuda")
        self.cuda_graphs = cuda_graphs
        self.fixed_size_decoders: dict[tuple[int, int, int], Any] = {}
        if dtype not in DTYPES:
            raise InputError(f"unknown dtype {dtype}: use {', '.join(DTYPES)}")
        if (dtype == "int8" and kind != "cpu") or (dtype == "float16" and kind == "cpu"):
            raise InputError(f"{dtype} is not supported on device {device}: int8 requires a CPU, float16 a GPU")
        self.config, self.dtype, self.device = config, dtype, torch.device(device)
        self.float = torch.float16 if dtype == "float16" else torch.float32
        self.activation = ACTIVATION[config.activation]

        def get(name: str) -> Tensor:
            value = weights[name]
            value = value.float() if isinstance(value, QuantizedMatrix) else value
            return value.to(self.device, self.float).contiguous()

        def linear(name: str) -> Linear:
            weight = weights[f"{name}.weight"] if dtype == "int8" else get(f"{name}.weight")
            return make_linear(weight, get(f"{name}.bias"), dtype)

        self.source_embed = get("encoder.embed")
        tied = weights["decoder.embed"] is weights["encoder.embed"]
        self.target_embed = self.source_embed if tied else get("decoder.embed")
        self.A = expand_mixing(
            get(config.mixing_weight("encoder")[0]), config, config.encoder_max_positions
        )  # L x m x N x N
        self.scale, self.shift, self.bias = (get(f"encoder.{name}") for name in ("scale", "shift", "bias"))
        self.ffn = [(linear(f"encoder.{i}.B"), linear(f"encoder.{i}.C")) for i in range(config.encoder_layers)]
        self.keys_values = linear("decoder.keys_values")
        A = expand_mixing(get(config.mixing_weight("decoder")[0]), config, config.decoder_max_positions)
        self.past_A = A.permute(2, 0, 1, 3).contiguous()  # N x L x m x N: row t of every matrix
        self.mixing_scale = get("decoder.scale")[:, None]  # L x 1 x d
        self.mixing_bias = get("decoder.bias").transpose(0, 1)[:, :, None].contiguous()  # N x L x 1 x d
        # The factor of x itself in x + scale * (A[t, t] x + ...), N x L x d. If the x in brackets is normalized, the
        # first x is added separately.
        self.normalized = config.normalization == "layer"
        diagonal = A.diagonal(dim1=2, dim2=3).permute(2, 0, 1)  # N x L x m
        self.gate = self.mixing_scale[:, 0] * self.spread(diagonal, config.decoder_embed_dim) + (not self.normalized)
        self.layers = [
            tuple(linear(f"decoder.{i}.{name}") for name in ("q", "out", "B", "C"))
            for i in range(config.decoder_layers)
        ]
        self.layer_numbers = torch.arange(config.decoder_layers, device=self.device)[:, None, None]
        self.head_numbers = torch.arange(config.mixing_heads, device=self.device)[:, None]
        output = weights["output.weight"]
        if dtype == "int8" and not isinstance(output, QuantizedMatrix):
            output = quantize(output)
        elif dtype != "int8":
            output = get("output.weight")
        self.output_weight, self.output_bias = output, get("output.bias")
        self._stores: list[Tensor] = []  # memory that no search uses at the moment
        self._graphs_lock = threading.Lock()  # CUDA graphs read and write fixed memory: one search at a time

    @cached_property
    def output(self) -> OutputLayer:
        """The output layer for all entries. It is packed when it is first needed: never, with a shortlist."""
        return self.output_layer()

    def normalize(self, x: Tensor) -> Tensor:
        """Return LayerNorm(x) without scale and shift, or x itself if the model has no LayerNorm."""
        return F.layer_norm(x, x.shape[-1:]) if self.normalized else x

    @staticmethod
    def spread(x: Tensor, d: int) -> Tensor:
        """Repeat values per mixing head for each channel. Shape: ... x m to ... x d, or ... x 1 unchanged."""
        m = x.size(-1)
        return x if m == 1 else x.repeat_interleave(d // m, -1)

    @staticmethod
    def mix(A: Tensor, x: Tensor) -> Tensor:
        """Compute A x, with A of m x T x T, one matrix per group of channels. Shape: B x T x d to B x T x d."""
        m, (B, T, d) = len(A), x.shape
        if m == 1:
            return torch.matmul(A[0], x)
        return torch.matmul(A, x.view(B, T, m, d // m).transpose(1, 2)).transpose(1, 2).reshape(B, T, d)

    def output_layer(self, allowed: Tensor | None = None) -> OutputLayer:
        """Return the output layer for some entries of the dictionary.

        Args:
            allowed (LongTensor): entries in ascending order, including the first four; None: all
        """
        weight, bias = self.output_weight, self.output_bias
        padding = -len(bias if allowed is None else allowed) % BLOCK  # columns with logits of minus infinity

        def rows(matrix: Tensor, value: float = 0) -> Tensor:
            if allowed is not None:
                matrix = matrix.index_select(0, allowed)
            return torch.cat([matrix, matrix.new_full((padding, *matrix.shape[1:]), value)]) if padding else matrix

        weight = (
            QuantizedMatrix(rows(weight.rows), rows(weight.scale, 1))
            if isinstance(weight, QuantizedMatrix)
            else rows(weight)
        )
        tokens = None if allowed is None else torch.cat([allowed, allowed.new_full((padding,), PAD)])
        return OutputLayer(make_linear(weight, rows(bias, float("-inf")), self.dtype), tokens)

    @contextmanager
    def search_memory(self, positions: int, rows: int) -> Iterator[Tensor]:
        """Reserve memory for the input of every mixing layer at every position and row: positions x rows x L x d.

        Several searches can run at the same time, except with CUDA graphs, which do not use this memory.
        """
        if self.cuda_graphs:
            with self._graphs_lock:
                yield torch.empty(0)
            return
        sizes = (positions, rows, self.config.decoder_layers, self.config.decoder_embed_dim)
        count = positions * rows * sizes[2] * sizes[3]
        try:
            memory = self._stores.pop()  # of an earlier search, because fresh pages cost time
        except IndexError:
            memory = torch.empty(0)
        if memory.numel() < count:
            memory = torch.empty(count, dtype=self.float, device=self.device)
        try:
            yield memory[:count].view(sizes)
        finally:
            self._stores.append(memory)

    def encode(self, source: Tensor) -> EncoderCache:
        """Encode a batch. Linear layers process tokens only, not padding.

        Args:
            source (LongTensor): B x S, padded on the right
        """
        B, S = source.shape
        L, h = self.config.decoder_layers, self.config.attention_heads
        keep = source.ne(PAD)
        tokens = keep.view(-1).nonzero()[:, 0]
        real = None if len(tokens) == B * S else tokens

        def pad(x: Tensor) -> Tensor:  # tokens x d to B x S x d, zero at padding
            return (x if real is None else x.new_zeros(B * S, x.size(1)).index_copy_(0, real, x)).view(B, S, -1)

        def pack(x: Tensor) -> Tensor:  # B x S x d to tokens x d
            x = x.reshape(B * S, -1)
            return x if real is None else x.index_select(0, real)

        x = pack(F.embedding(source, self.source_embed))
        is_token = keep.to(self.float).t()  # S x B
        for layer, (apply_B, apply_C) in enumerate(self.ffn):
            A = self.A[layer, :, :S, :S]
            sums = self.spread(torch.matmul(A, is_token).permute(2, 1, 0), x.size(1))  # row sums of A, B x S x 1 or d
            bias = torch.addcmul(self.bias[layer, :S], sums, self.shift[layer])
            x = x + pack(torch.addcmul(bias, self.mix(A, pad(self.normalize(x))), self.scale[layer]))
            x.add_(apply_C(self.activation(apply_B(self.normalize(x)))))
        both = pad(self.keys_values(self.normalize(x))).view(B, S, L, 2, h, -1)
        keys = both[:, :, :, 0].permute(2, 0, 3, 4, 1).contiguous()
        values = both[:, :, :, 1].permute(2, 0, 3, 1, 4).contiguous()
        if real is None:
            return EncoderCache(keys, values, None)
        mask = torch.zeros_like(keep, dtype=self.float).masked_fill_(~keep, float("-inf"))
        return EncoderCache(keys, values, mask[:, None, None].repeat(1, h, 1, 1))

    def step(self, tokens: Tensor, t: int, ancestors: Tensor, store: Tensor, cache: EncoderCache) -> Tensor:
        """Compute the decoder at position t, up to the output layer.

        The store is append-only: `ancestors` locates the past of each hypothesis in it. The contribution of the past to
        the mixing of every layer is known before the step begins, so it is computed for all layers at once.

        Args:
            tokens (LongTensor): R, the previous tokens
            t (int): the position
            ancestors (LongTensor): R x t, the rows of `store`, viewed as (positions * rows), of the earlier positions
            store: memory from `search_memory`, filled up to t; the x of this step are added
            cache: output of `encode`

        Returns:
            R x d
        """
        bias = self.mixing_bias[t]
        if t:
            bias = self.add_past(bias, self.past_A[t, :, :, :t], ancestors, store)
        x, inputs = self.run_layers(tokens, bias, self.gate[t], cache)
        torch.stack(inputs, 1, out=store[t, : len(tokens)])
        return x

    def add_past(self, bias: Tensor, A: Tensor, ancestors: Tensor, store: Tensor) -> Tensor:
        """Add the contribution of the earlier positions to the bias of every mixing layer.

        Args:
            bias: L x 1 x d
            A: L x m x t, the row of each matrix
            ancestors, store: as for `step`

        Returns:
            L x R x d
        """
        (L, m, t), R, d = A.shape, len(ancestors), self.config.decoder_embed_dim
        places = ancestors * L + self.layer_numbers  # L x R x t
        if m > 1:  # view each row of the store as m rows of d / m channels
            places = places[:, :, None] * m + self.head_numbers
        weights = A[:, None].expand(L, R, m, t).reshape(L * R * m, t)
        table = store.view(-1, d // m)
        past = F.embedding_bag(places.view(L * R * m, t), table, per_sample_weights=weights, mode="sum")
        return torch.addcmul(bias, past.view(L, R, d), self.mixing_scale)

    def run_layers(
        self, tokens: Tensor, bias: Tensor, gate: Tensor, cache: EncoderCache
    ) -> tuple[Tensor, list[Tensor]]:
        """Compute the layers of the decoder at one position.

        Args:
            tokens (LongTensor): R
            bias: L x R x d or L x 1 x d, the mixing without the current position
            gate: L x d, the factor of the current position
            cache: output of `encode`

        Returns:
            R x d, and the input of each mixing layer, R x d each
        """
        _, B, h, _, _ = cache.keys.shape
        R, d = len(tokens), self.config.decoder_embed_dim
        k = R // B
        mask = None if cache.mask is None else cache.mask.flatten(0, 1)
        x = F.embedding(tokens, self.target_embed)
        inputs = []
        for (q_proj, out_proj, apply_B, apply_C), mixed, factor, keys, values in zip(
            self.layers, bias, gate, cache.keys.flatten(1, 2), cache.values.flatten(1, 2)
        ):
            inputs.append(self.normalize(x))
            mixed = torch.addcmul(mixed, inputs[-1], factor)
            x = x + mixed if self.normalized else mixed
            q = q_proj(self.normalize(x)).view(B, k, h, -1).transpose(1, 2).reshape(B * h, k, -1)
            p = torch.bmm(q, keys) if mask is None else torch.baddbmm(mask, q, keys)
            attended = torch.bmm(p.softmax(-1), values).view(B, h, k, -1).transpose(1, 2).reshape(R, d)
            x.add_(out_proj(attended))
            x.add_(apply_C(self.activation(apply_B(self.normalize(x)))))
        return self.normalize(x), inputs

    def topk_candidates(
        self, x: Tensor, scores: Tensor, count: int, banned: Sequence[int], unkpen: float, output: OutputLayer
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Find the best continuations of each sentence, exactly.

        The `count` best continuations of a sentence are all in the `count` blocks of columns with the largest maxima,
        so only those blocks are sorted.

        Args:
            x: R x d, output of `step`
            scores: B x k, log-probabilities of the hypotheses so far
            count: number of continuations
            banned: columns to exclude
            unkpen: penalty subtracted from the log-probability of the unknown word
            output: the output layer

        Returns:
            scores, entries of the dictionary, and hypotheses that they continue, B x count each, best first
        """
        k = scores.size(1)
        parts = []
        entries = self.config.decoder_vocab_size if output.tokens is None else len(output.tokens)
        each = max(1, MAX_LOGITS // (entries * k))  # sentences
        for rows, score in zip(x.split(each * k), scores.split(each)):
            logs = output.linear(rows).float()
            torch.log_softmax(logs, -1, out=logs)  # in place: allocating memory costs as much as the computation
            for column in banned:
                logs[:, column] = float("-inf")
            if unkpen:
                logs[:, UNK] -= unkpen
            B, n = len(score), logs.size(1) // BLOCK
            blocks = logs.view(B, k * n, BLOCK)
            most = blocks.amax(-1).view(B, k, n) + score[:, :, None]
            chosen = most.view(B, -1).topk(min(count, k * n))[1]  # B x count blocks
            inside = blocks.gather(1, chosen[:, :, None].expand(-1, -1, BLOCK))
            inside += score.gather(1, chosen // n)[:, :, None]
            value, place = inside.view(B, -1).topk(count)
            block = chosen.gather(1, place // BLOCK)
            parts.append((value, block % n * BLOCK + place % BLOCK, block // n))
        values, tokens, beams = map(torch.cat, zip(*parts)) if len(parts) > 1 else parts[0]
        return values, tokens if output.tokens is None else output.tokens[tokens], beams

    def score_eos(self, x: Tensor, scores: Tensor, output: OutputLayer) -> Tensor:
        """Return the scores of the hypotheses if each ends here, B x k. Arguments as for `topk_candidates`."""
        return scores + torch.log_softmax(output.linear(x).float(), -1)[:, EOS].view_as(scores)

    @torch.inference_mode()
    def attention(self, source: Sequence[int], target: Sequence[int]) -> Tensor:
        """Return the attention of a translation, T x S: the last layer's, averaged over heads.

        fairseq-generate derives its alignments from the same attention. All positions are computed at once.

        Args:
            source: entries of the source dictionary, ending with EOS
            target: entries of the target dictionary, ending with EOS
        """
        T, d, h = len(target), self.config.decoder_embed_dim, self.config.attention_heads
        cache = self.encode(torch.tensor([list(source)], device=self.device))
        x = F.embedding(torch.tensor([EOS, *target[:-1]], device=self.device), self.target_embed)  # T x d
        for i, (q_proj, out_proj, apply_B, apply_C) in enumerate(self.layers):
            A = self.past_A[:T, i, :, :T].transpose(0, 1)  # zero above the diagonal
            mixed = self.mix(A, self.normalize(x)[None])[0]
            x = x + torch.addcmul(self.mixing_bias[:T, i, 0], mixed, self.mixing_scale[i])
            q = q_proj(self.normalize(x)).view(T, h, -1).transpose(0, 1)
            p = torch.bmm(q, cache.keys[i, 0]).softmax(-1)  # h x T x S
            x.add_(out_proj(torch.bmm(p, cache.values[i, 0]).transpose(0, 1).reshape(T, d)))
            x.add_(apply_C(self.activation(apply_B(self.normalize(x)))))
        return p.mean(0)
