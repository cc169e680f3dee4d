"""The network for translation alone: a trained model with every Aff folded into its neighbours. Needs no fairseq.

"Aff has no cost at inference time, as it can be absorbed in the adjacent linear layer" (arXiv 2105.03404, section 2):

    B (alpha x + beta) + b                       = (B alpha) x + (B beta + b)
    alpha (C x + b) + beta                       = (alpha C) x + (alpha b + beta)
    alpha' (A (alpha x + beta) + b) + beta'      = alpha' alpha * (A x) + [alpha' (rowsum(A) beta + b) + beta']

From a model in memory to translations of lists of pieces' numbers:

    shape, weights = fold(model)                                  # a ResMLPModel
    network = Network(shape, weights, dtype="int8", device="cpu")
    search.translate(network, [[5, 6, 2], ...], search.Options(beam=4))     # [[Hypothesis(tokens, score), ...], ...]

Dimensions, beside those of `resmlp.py`:

    L   layers of the decoder
    k   hypotheses (beams) of each sentence: 1 at the first step, then the beam size
    R   rows, B k: one for each hypothesis, those of one sentence side by side
    h   heads of the cross-attention, each of d / h channels
    m   heads of the mixing: matrices A of a layer, each for d / m channels
    t   the step: how many positions of the target are behind
"""

import copy
import threading
import warnings
from dataclasses import dataclass, fields
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import InputError
from .linear import product

PAD, EOS, UNK = 1, 2, 3  # in every dictionary of fairseq
BLOCK = 128  # columns of the output layer that are looked at together, see `Network.best`
LOGITS = 1 << 22  # logits at a time: above 32 MiB malloc asks the system for fresh pages at every step
WIDE = 4096  # outputs of a layer from which in int8 oneDNN is faster than fbgemm
ENTRIES = 1 << 30  # of all A of a stack: 4 GiB
DTYPES = ("float32", "int8", "float16")
MIXING = {"LinearMixing", "ToeplitzMixing", "ToeplitzLinearMixing", "NoMixing"}  # names, as their module needs fairseq

Weights = Dict[str, Tensor]
Linear = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Shape:
    """The sizes of a model, which with its weights are all there is to know of it."""

    encoder_entries: int  # V of the source
    encoder_d: int
    encoder_hidden: int
    encoder_layers: int
    encoder_N: int
    decoder_entries: int  # V of the target
    decoder_d: int
    decoder_hidden: int
    decoder_layers: int
    decoder_N: int
    heads: int
    mixing_heads: int = 1
    mixing: str = "linear"  # or toeplitz, whose A are stored as one weight an offset
    normalization: str = "affine"  # or layer: x is normalised before every sublayer and after each stack

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int and (type(value) is not int or value < 1):
                raise InputError(f"{field.name} is {value!r}, not a size")
        for d, heads in (("decoder_d", "heads"), ("decoder_d", "mixing_heads"), ("encoder_d", "mixing_heads")):
            if getattr(self, d) % getattr(self, heads):
                raise InputError(f"{d} {getattr(self, d)} is not a multiple of {heads} {getattr(self, heads)}")
        for name, known in (("mixing", ("linear", "toeplitz")), ("normalization", ("affine", "layer"))):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}, neither {' nor '.join(known)}")
        for stack in ("encoder", "decoder"):  # of few weights by offset come large matrices
            entries = getattr(self, f"{stack}_layers") * self.mixing_heads * getattr(self, f"{stack}_N") ** 2
            if entries > ENTRIES:
                raise InputError(
                    f"the matrices A of the {stack} have {entries:,} entries, more than {ENTRIES:,}: train with "
                    f"a smaller --{stack}-max-positions"
                )

    def matrices(self, stack: str) -> Tuple[str, Tuple[int, ...]]:
        """Name and shape of what holds A of all layers of the encoder or decoder."""
        L, N, m = getattr(self, f"{stack}_layers"), getattr(self, f"{stack}_N"), self.mixing_heads
        if self.mixing == "toeplitz":
            return f"{stack}.a", (L, m, N if stack == "decoder" else 2 * N - 1)
        return f"{stack}.A", (L, N, N) if m == 1 else (L, m, N, N)

    def weights(self) -> Dict[str, Tuple[int, ...]]:
        """The shape of every weight of the folded network."""
        shapes: Dict[str, Tuple[int, ...]] = {}
        d, L = self.decoder_d, self.decoder_layers
        linears = {"decoder.keys_values": (L * 2 * d, self.encoder_d), "output": (self.decoder_entries, d)}
        for layer in range(L):
            linears[f"decoder.{layer}.q"] = linears[f"decoder.{layer}.out"] = (d, d)
        for stack in ("encoder", "decoder"):
            d, hidden, L, N = (getattr(self, f"{stack}_{size}") for size in ("d", "hidden", "layers", "N"))
            shapes[f"{stack}.embed"] = (getattr(self, f"{stack}_entries"), d)
            shapes.update([self.matrices(stack), (f"{stack}.scale", (L, d)), (f"{stack}.bias", (L, N, d))])
            for layer in range(L):
                linears.update({f"{stack}.{layer}.B": (hidden, d), f"{stack}.{layer}.C": (d, hidden)})
        shapes["encoder.shift"] = shapes["encoder.scale"]
        for name, (rows, columns) in linears.items():
            shapes.update({f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)})
        return shapes


def fold(model) -> Tuple[Shape, Weights]:
    """Fold a trained model.

    Args:
        model (~fairseq_resmlp.ResMLPModel): in any state; it is not changed

    Returns:
        its sizes, and the weights that `Shape.weights` names, float32, computed in float64

    Raises:
        InputError: a variant of the model that `Network` does not know
    """
    _refuse_what_is_not_here(model)
    model = copy.deepcopy(model).double().cpu()
    model.make_generation_fast_()  # what fairseq-generate folds
    encoder, decoder = model.encoder, model.decoder
    folded: Weights = {}
    linears: Dict[str, Tuple[Tensor, Tensor]] = {}
    first = encoder.layers[0].mixing
    toeplitz = type(first).__name__ == "ToeplitzMixing"
    for name, stack in (("encoder", encoder), ("decoder", decoder)):
        folded[f"{name}.embed"] = stack.embed_tokens.weight
        mixing = [_fold_mixing(layer, stack.N) for layer in stack.layers]
        for part, values in zip(("a" if toeplitz else "A", "scale", "bias", "shift"), zip(*mixing)):
            folded[f"{name}.{part}"] = torch.stack(values)
        for i, layer in enumerate(stack.layers):
            linears[f"{name}.{i}.B"], linears[f"{name}.{i}.C"] = _parameters(layer.ffn.B), _parameters(layer.ffn.C)
    del folded["decoder.shift"]  # zero: it is in the bias
    heads, keys_values = decoder.layers[0].attention.num_heads, []
    for i, layer in enumerate(decoder.layers):
        attention = layer.attention
        weight, bias = _parameters(attention.q_proj)
        linears[f"decoder.{i}.q"] = (weight * attention.scaling, bias * attention.scaling)
        linears[f"decoder.{i}.out"] = _parameters(attention.out_proj)
        for projection in (attention.k_proj, attention.v_proj):
            encoder.final.fold_into_next(projection)
            keys_values.append(_parameters(projection))
    linears["decoder.keys_values"] = tuple(map(torch.cat, zip(*keys_values)))
    linears["output"] = _parameters(decoder.output_projection)
    for name, (weight, bias) in linears.items():
        folded.update({f"{name}.weight": weight, f"{name}.bias": bias})
    shape = Shape(
        heads=heads,
        mixing_heads=getattr(first, "heads", 1),
        mixing="toeplitz" if toeplitz else "linear",
        normalization="layer" if type(encoder.final).__name__ == "LayerNorm" else "affine",
        **{
            f"{stack}_{size}": value
            for stack, N in (("encoder", encoder.N), ("decoder", decoder.N))
            for size, value in {
                **dict(zip(("entries", "d"), folded[f"{stack}.embed"].shape)),
                "hidden": len(folded[f"{stack}.0.B.weight"]),
                "layers": len(folded[f"{stack}.scale"]),
                "N": N,
            }.items()
        },
    )
    weights = {name: value.detach().float() for name, value in folded.items()}
    if encoder.embed_tokens is decoder.embed_tokens:
        weights["decoder.embed"] = weights["encoder.embed"]
    return shape, weights


def _parameters(layer) -> Tuple[Tensor, Tensor]:
    return layer.weight, layer.bias


def _refuse_what_is_not_here(model) -> None:
    """Raise InputError if the model has parts that `Network` does not compute, naming the option."""
    layers = [*model.encoder.layers, *model.decoder.layers]
    mixing = type(layers[0].mixing).__name__
    options = {
        "a --token-mixing other than linear, toeplitz, toeplitz_linear and none": mixing not in MIXING,
        "--positional-embeddings": model.encoder.positions.P is not None,
        "--activation-fn": any(layer.ffn.activation is not F.gelu for layer in layers),
    }
    for option, there in options.items():
        if there:
            raise InputError(f"a model with {option} cannot be exported: translate with fairseq-generate")


def _fold_mixing(layer, N: int) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """A, scale, bias (N x d) and shift of a layer: what it adds to x is scale * (A x) + bias + rowsum(A) shift.

    Of a Toeplitz A its weights by offset.
    """
    pre, mixing, post = layer.mixing_pre, layer.mixing, layer.mixing_post
    if not hasattr(mixing, "matrix"):
        return post.alpha.new_zeros(N, N), post.alpha, post.beta.expand(N, -1), torch.zeros_like(post.beta)
    A = mixing.a if type(mixing).__name__ == "ToeplitzMixing" else mixing.matrix(N).squeeze(0)
    if mixing.causal:  # folded: there is a bias for each position, and nothing is left behind the mixing
        return A, pre.alpha, mixing.b, torch.zeros_like(pre.beta)
    return A, post.alpha * pre.alpha, torch.outer(mixing.b, post.alpha) + post.beta, post.alpha * pre.beta


class Quantised(NamedTuple):
    """A matrix in 8 bits: row i is scale[i] times the whole numbers of -127 to 127 in `rows`."""

    rows: Tensor  # int8, o x i
    scale: Tensor  # float32, o

    def float(self) -> Tensor:
        """The matrix that they stand for."""
        return self.rows * self.scale[:, None]


def quantise(matrix: Tensor) -> Quantised:
    """Round a matrix to 8 bits, a scale for each row, so that one large entry costs the others of its row alone."""
    scale = matrix.abs().amax(1).clamp_min(torch.finfo(torch.float32).tiny) / 127
    return Quantised((matrix / scale[:, None]).round().to(torch.int8), scale)


def _has_vnni() -> bool:
    try:
        with open("/proc/cpuinfo") as file:
            return "avx512_vnni" in file.read()
    except OSError:
        return False


# fbgemm adds products of 8 bits up in 16 before it widens them, which overflows where both factors are large, unless
# the CPU has an instruction that adds up in 32 (AVX512-VNNI; fbgemm does not use AVX-VNNI, its short form). Without
# it, activations are rounded to 7 bits.
REDUCE_RANGE = not _has_vnni()


def linear_layer(weight: Tensor, bias: Tensor, dtype: str) -> Linear:
    """A function that gives x weight^T + bias, for a weight that is float32 or `Quantised`.

    In int8, x is rounded to 8 bits on the way, by its least and greatest number, so that what else is in a batch
    changes the last digits.
    """
    if dtype == "int8":
        rows, scale = weight if isinstance(weight, Quantised) else quantise(weight)
        engine = torch.backends.quantized.engine
        try:
            if len(rows) >= WIDE and "onednn" in torch.backends.quantized.supported_engines:
                torch.backends.quantized.engine = "onednn"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # tensors that hold their scale are deprecated, these products are not
                zeros = torch.zeros(len(rows), dtype=torch.long)
                held = torch._make_per_channel_quantized_tensor(rows, scale, zeros, 0)
                packed = torch.ops.quantized.linear_prepack(held, bias)
        finally:
            torch.backends.quantized.engine = engine
        run, reduce_range = torch.ops.quantized.linear_dynamic.default, REDUCE_RANGE
        return lambda x: run(x, packed, reduce_range)
    if weight.dtype == torch.float32 and weight.device.type == "cpu" and torch.backends.mkldnn.is_available():
        return lambda x: product(x, weight, bias)
    return lambda x: F.linear(x, weight, bias)


def by_position(A: Tensor, shape: Shape, N: int) -> Tensor:
    """The matrices of all layers of a stack, L x m x N x N, from what `Shape.matrices` names."""
    if shape.mixing == "linear":
        return A.view(-1, shape.mixing_heads, N, N)
    i = torch.arange(N, device=A.device)
    offset = i[:, None] - i
    return A[:, :, offset.clamp(min=0)].tril() if A.size(2) == N else A[:, :, offset + N - 1]


class Memory(NamedTuple):
    """What the decoder reads of a batch of sources: cross-attention's keys and values, once for each sentence."""

    keys: Tensor  # L x B x h x d/h x S
    values: Tensor  # L x B x h x S x d/h
    mask: Optional[Tensor]  # B x h x 1 x S, 0 at tokens and -inf at padding; None where nothing is padded

    def move(self, to: List[int], of: List[int], count: int) -> "Memory":
        """Put sentences `of` in the places `to`, and forget all places from `count` on."""
        if to:
            for tensor in (self.keys, self.values):
                tensor[:, to] = tensor[:, of]
            if self.mask is not None:
                self.mask[to] = self.mask[of]
        mask = None if self.mask is None else self.mask[:count]
        return Memory(self.keys[:, :count], self.values[:, :count], mask)


class OutputLayer(NamedTuple):
    """Logits of all entries of the dictionary, or of those allowed."""

    linear: Linear
    tokens: Optional[Tensor]  # the entry of each column; None: column i is entry i


class Network:
    """The folded network on a device.

    Args:
        shape: sizes
        weights: as `fold` gives them, or with matrices `Quantised`; float ones are rounded for dtype int8
        dtype (str): of the matrices: float32; int8 on a CPU; float16 on a GPU
        device (str): as torch names it, such as cpu or cuda:0

    Raises:
        InputError: a dtype that the device does not have
    """

    def __init__(self, shape: Shape, weights: Dict[str, object], dtype: str = "float32", device: str = "cpu"):
        kind = torch.device(device).type
        if dtype not in DTYPES:
            raise InputError(f"dtype {dtype} is none of {', '.join(DTYPES)}")
        if (dtype == "int8" and kind != "cpu") or (dtype == "float16" and kind == "cpu"):
            raise InputError(f"{dtype} is not for the device {device}: int8 is for a CPU, float16 for a GPU")
        self.shape, self.dtype, self.device = shape, dtype, torch.device(device)
        self.float = torch.float16 if dtype == "float16" else torch.float32

        def get(name: str) -> Tensor:
            value = weights[name]
            value = value.float() if isinstance(value, Quantised) else value
            return value.to(self.device, self.float).contiguous()

        def linear(name: str) -> Linear:
            weight = weights[f"{name}.weight"]
            held = weight if dtype == "int8" else get(f"{name}.weight")
            return linear_layer(held, get(f"{name}.bias"), dtype)

        self.source_embed = get("encoder.embed")
        tied = weights["decoder.embed"] is weights["encoder.embed"]
        self.target_embed = self.source_embed if tied else get("decoder.embed")
        self.A = by_position(get(shape.matrices("encoder")[0]), shape, shape.encoder_N)  # L x m x N x N
        self.scale, self.shift, self.bias = (get(f"encoder.{name}") for name in ("scale", "shift", "bias"))
        self.ffn = [(linear(f"encoder.{i}.B"), linear(f"encoder.{i}.C")) for i in range(shape.encoder_layers)]
        self.keys_values = linear("decoder.keys_values")
        A = by_position(get(shape.matrices("decoder")[0]), shape, shape.decoder_N)
        self.past_A = A.permute(2, 0, 1, 3).contiguous()  # N x L x m x N: row t of every matrix
        self.mixing_scale = get("decoder.scale")[:, None]  # L x 1 x d
        self.mixing_bias = get("decoder.bias").transpose(0, 1)[:, :, None].contiguous()  # N x L x 1 x d
        # x + scale * (A[t, t] x + ...): what is multiplied with x itself, N x L x d. Where the x in brackets is
        # normalised, the first one is added on its own.
        self.normalised = shape.normalization == "layer"
        diagonal = A.diagonal(dim1=2, dim2=3).permute(2, 0, 1)  # N x L x m
        self.gate = self.mixing_scale[:, 0] * self.spread(diagonal, shape.decoder_d) + (not self.normalised)
        self.layers = [
            tuple(linear(f"decoder.{i}.{name}") for name in ("q", "out", "B", "C")) for i in range(shape.decoder_layers)
        ]
        self.layer_numbers = torch.arange(shape.decoder_layers, device=self.device)[:, None, None]
        self.head_numbers = torch.arange(shape.mixing_heads, device=self.device)[:, None]
        output = weights["output.weight"]
        if dtype == "int8" and not isinstance(output, Quantised):
            output = quantise(output)
        elif dtype != "int8":
            output = get("output.weight")
        self.output_weight, self.output_bias = output, get("output.bias")
        self.output = self.output_layer()
        self.lock = threading.Lock()  # one search at a time: they share what follows
        self._store = torch.empty(0, dtype=self.float, device=self.device)

    def normalise(self, x: Tensor) -> Tensor:
        """What a sublayer is given of x: LayerNorm without its scale and shift, or x as it is."""
        return F.layer_norm(x, x.shape[-1:]) if self.normalised else x

    @staticmethod
    def spread(x: Tensor, d: int) -> Tensor:
        """What each matrix A has, for each of its channels: ... x m to ... x d, or as it is where there is one A."""
        m = x.size(-1)
        return x if m == 1 else x.repeat_interleave(d // m, -1)

    @staticmethod
    def mix(A: Tensor, x: Tensor) -> Tensor:
        """A x with A of m x T x T, each for its channels of x. Shape: B x T x d to B x T x d."""
        m, (B, T, d) = len(A), x.shape
        if m == 1:
            return torch.matmul(A[0], x)
        return torch.matmul(A, x.view(B, T, m, d // m).transpose(1, 2)).transpose(1, 2).reshape(B, T, d)

    def output_layer(self, allowed: Optional[Tensor] = None) -> OutputLayer:
        """The output layer for some entries of the dictionary.

        Args:
            allowed (LongTensor): entries in rising order, the first four of the dictionary among them; None: all
        """
        weight, bias = self.output_weight, self.output_bias
        padding = -len(bias if allowed is None else allowed) % BLOCK  # with logits of minus infinity

        def rows(matrix: Tensor, value: float = 0) -> Tensor:
            if allowed is not None:
                matrix = matrix.index_select(0, allowed)
            return torch.cat([matrix, matrix.new_full((padding, *matrix.shape[1:]), value)]) if padding else matrix

        weight = Quantised(rows(weight.rows), rows(weight.scale, 1)) if isinstance(weight, Quantised) else rows(weight)
        tokens = None if allowed is None else torch.cat([allowed, allowed.new_full((padding,), PAD)])
        return OutputLayer(linear_layer(weight, rows(bias, float("-inf")), self.dtype), tokens)

    def store(self, positions: int, rows: int) -> Tensor:
        """Room for what every layer mixes, at every position of every row: positions x rows x L x d."""
        sizes = (positions, rows, self.shape.decoder_layers, self.shape.decoder_d)
        count = positions * rows * sizes[2] * sizes[3]
        if self._store.numel() < count:  # kept for the next batch, as fresh pages cost time
            self._store = torch.empty(count, dtype=self.float, device=self.device)
        return self._store[:count].view(sizes)

    def encode(self, source: Tensor) -> Memory:
        """Encode a batch. Only tokens go through the linear layers, padding does not.

        Args:
            source (LongTensor): B x S, padded on the right
        """
        B, S = source.shape
        L, h = self.shape.decoder_layers, self.shape.heads
        keep = source.ne(PAD)
        real = None if bool(keep.all()) else keep.view(-1).nonzero()[:, 0]

        def pad(x: Tensor) -> Tensor:  # tokens x d to B x S x d, zero at padding
            return (x if real is None else x.new_zeros(B * S, x.size(1)).index_copy_(0, real, x)).view(B, S, -1)

        def pack(x: Tensor) -> Tensor:  # B x S x d to tokens x d
            x = x.reshape(B * S, -1)
            return x if real is None else x.index_select(0, real)

        x = pack(F.embedding(source, self.source_embed))
        lengths = keep.to(self.float).t()  # S x B
        for layer, (B_of, C_of) in enumerate(self.ffn):
            A = self.A[layer, :, :S, :S]
            sums = self.spread(torch.matmul(A, lengths).permute(2, 1, 0), x.size(1))  # of the rows of A, B x S x 1 or d
            bias = torch.addcmul(self.bias[layer, :S], sums, self.shift[layer])
            x = x + pack(torch.addcmul(bias, self.mix(A, pad(self.normalise(x))), self.scale[layer]))
            x.add_(C_of(F.gelu(B_of(self.normalise(x)))))
        both = pad(self.keys_values(self.normalise(x))).view(B, S, L, 2, h, -1)
        keys = both[:, :, :, 0].permute(2, 0, 3, 4, 1).contiguous()
        values = both[:, :, :, 1].permute(2, 0, 3, 1, 4).contiguous()
        if real is None:
            return Memory(keys, values, None)
        mask = torch.zeros_like(keep, dtype=self.float).masked_fill_(~keep, float("-inf"))
        return Memory(keys, values, mask[:, None, None].repeat(1, h, 1, 1))

    def step(self, tokens: Tensor, t: int, ancestors: Tensor, store: Tensor, memory: Memory) -> Tensor:
        """The decoder at position t, up to the output layer.

        Hypotheses that part and end leave the store as it is: their past is found by their ancestors. What of the
        past is mixed into every layer is one product, since it is known before the step begins.

        Args:
            tokens (LongTensor): R, the previous ones
            t (int): the position
            ancestors (LongTensor): R x t, where in `store` (seen as positions * rows) are the earlier positions
            store: as `store` gives it, filled up to t; this step's x are added

        Returns:
            R x d
        """
        L, B, h, _, S = memory.keys.shape
        R, d, m = len(tokens), self.shape.decoder_d, self.shape.mixing_heads
        k = R // B
        bias = self.mixing_bias[t]
        if t:
            places = ancestors * L + self.layer_numbers  # L x R x t
            if m > 1:  # a row of the store is m rows of d / m channels
                places = places[:, :, None] * m + self.head_numbers
            A = self.past_A[t, :, None, :, :t].expand(L, R, m, t).reshape(L * R * m, t)
            table = store.view(-1, d // m)
            past = F.embedding_bag(places.view(L * R * m, t), table, per_sample_weights=A, mode="sum")
            bias = torch.addcmul(bias, past.view(L, R, d), self.mixing_scale)
        mask = None if memory.mask is None else memory.mask.flatten(0, 1)
        x = F.embedding(tokens, self.target_embed)
        inputs = []
        for (q_of, out_of, B_of, C_of), mixed, gate, keys, values in zip(
            self.layers, bias, self.gate[t], memory.keys.flatten(1, 2), memory.values.flatten(1, 2)
        ):
            inputs.append(self.normalise(x))
            mixed = torch.addcmul(mixed, inputs[-1], gate)
            x = x + mixed if self.normalised else mixed
            q = q_of(self.normalise(x)).view(B, k, h, -1).transpose(1, 2).reshape(B * h, k, -1)
            p = torch.bmm(q, keys) if mask is None else torch.baddbmm(mask, q, keys)
            attended = torch.bmm(p.softmax(-1), values).view(B, h, k, -1).transpose(1, 2).reshape(R, d)
            x.add_(out_of(attended))
            x.add_(C_of(F.gelu(B_of(self.normalise(x)))))
        torch.stack(inputs, 1, out=store[t, :R])
        return self.normalise(x)

    def best(
        self, x: Tensor, scores: Tensor, count: int, banned: Sequence[int], unkpen: float, output: OutputLayer
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """The best ways to go on of each sentence, exactly.

        Among the `count` best entries of all hypotheses of a sentence none is outside of the `count` blocks with the
        largest maxima, so that only those are sorted.

        Args:
            x: R x d, what `step` returned
            scores: B x k, log-probabilities of the hypotheses so far
            count (int): how many
            banned: columns never to choose
            unkpen (float): taken off the log-probability of the unknown word
            output: the output layer

        Returns:
            scores, entries of the dictionary and hypotheses they continue, B x count each, best first
        """
        k = scores.size(1)
        parts = []
        each = max(1, LOGITS // ((self.shape.decoder_entries if output.tokens is None else len(output.tokens)) * k))
        for rows, score in zip(x.split(each * k), scores.split(each)):
            logs = output.linear(rows).float()
            torch.log_softmax(logs, -1, out=logs)  # where the logits are: fresh memory costs as much as the work
            for column in banned:
                logs[:, column] = float("-inf")
            if unkpen:
                logs[:, UNK] -= unkpen
            B, n = len(score), logs.size(1) // BLOCK
            blocks = logs.view(B, k * n, BLOCK)
            most = blocks.amax(-1).view(B, k, n) + score[:, :, None]
            chosen = most.view(B, -1).topk(min(count, k * n))[1]  # blocks of each sentence
            inside = blocks.gather(1, chosen[:, :, None].expand(-1, -1, BLOCK))
            inside += score.gather(1, chosen // n)[:, :, None]
            value, place = inside.view(B, -1).topk(count)
            block = chosen.gather(1, place // BLOCK)
            parts.append((value, block % n * BLOCK + place % BLOCK, block // n))
        values, tokens, beams = map(torch.cat, zip(*parts)) if len(parts) > 1 else parts[0]
        return values, tokens if output.tokens is None else output.tokens[tokens], beams

    def end(self, x: Tensor, scores: Tensor, output: OutputLayer) -> Tensor:
        """The scores of the hypotheses, each ended here; arguments as `best`, B x k."""
        return scores + torch.log_softmax(output.linear(x).float(), -1)[:, EOS].view_as(scores)

    @torch.inference_mode()
    def attention(self, source: Sequence[int], target: Sequence[int]) -> Tensor:
        """Which source tokens each target token is read from: T x S, the last layer's attention averaged over heads.

        It is what fairseq-generate prints alignments of. All positions are computed at once, outside of any search.

        Args:
            source: entries of the source dictionary, EOS at the end
            target: entries of the target dictionary, EOS at the end
        """
        T, d, h = len(target), self.shape.decoder_d, self.shape.heads
        memory = self.encode(torch.tensor([list(source)], device=self.device))
        x = F.embedding(torch.tensor([EOS, *target[:-1]], device=self.device), self.target_embed)  # T x d
        for i, (q_of, out_of, B_of, C_of) in enumerate(self.layers):
            A = self.past_A[:T, i, :, :T].transpose(0, 1)  # zero above the diagonal
            mixed = self.mix(A, self.normalise(x)[None])[0]
            x = x + torch.addcmul(self.mixing_bias[:T, i, 0], mixed, self.mixing_scale[i])
            q = q_of(self.normalise(x)).view(T, h, -1).transpose(0, 1)
            p = torch.bmm(q, memory.keys[i, 0]).softmax(-1)  # h x T x S
            x.add_(out_of(torch.bmm(p, memory.values[i, 0]).transpose(0, 1).reshape(T, d)))
            x.add_(C_of(F.gelu(B_of(self.normalise(x)))))
        return p.mean(0)
