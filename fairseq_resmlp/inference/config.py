"""Sizes of the inference network, and the shapes of its weights."""

from dataclasses import dataclass, fields

from torch import Tensor

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference.quantization import QuantizedMatrix

BOS, PAD, EOS, UNK = range(4)  # the special symbols of every fairseq dictionary
SPECIAL_SYMBOLS = ("<s>", "<pad>", "</s>", "<unk>")
MAX_MIXING_ENTRIES = 1 << 30  # of all A of a stack together: 4 GiB in float32

Weights = dict[str, Tensor | QuantizedMatrix]


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the inference network. Together with the weights, they define a model completely.

    Raises:
        InputError: a value is out of range, or the values contradict each other
    """

    encoder_vocab_size: int
    encoder_embed_dim: int  # d
    encoder_ffn_dim: int
    encoder_layers: int
    encoder_max_positions: int  # N
    decoder_vocab_size: int
    decoder_embed_dim: int
    decoder_ffn_dim: int
    decoder_layers: int
    decoder_max_positions: int
    attention_heads: int
    mixing_heads: int = 1
    mixing: str = "linear"  # or toeplitz, whose A are stored as one weight per offset
    normalization: str = "affine"  # or layer: x is normalized before every sublayer and after each stack
    activation: str = "gelu"  # or geglu

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type is int and (type(value) is not int or value < 1):
                raise InputError(f"{field.name} is {value!r}, not a positive integer")
        for d, heads in (
            ("decoder_embed_dim", "attention_heads"),
            ("decoder_embed_dim", "mixing_heads"),
            ("encoder_embed_dim", "mixing_heads"),
        ):
            if getattr(self, d) % getattr(self, heads):
                raise InputError(f"{d} {getattr(self, d)} is not a multiple of {heads} {getattr(self, heads)}")
        for name, known in (
            ("mixing", ("linear", "toeplitz")),
            ("normalization", ("affine", "layer")),
            ("activation", ("gelu", "geglu")),
        ):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}, not {' or '.join(known)}")
        for stack in ("encoder", "decoder"):  # few weights per offset expand to large matrices
            entries = getattr(self, f"{stack}_layers") * self.mixing_heads * self.max_positions(stack) ** 2
            if entries > MAX_MIXING_ENTRIES:
                raise InputError(
                    f"the matrices A of the {stack} have {entries:,} entries, more than {MAX_MIXING_ENTRIES:,}: train "
                    f"with a smaller --{stack}-max-positions"
                )

    def max_positions(self, stack: str) -> int:
        """Return N of the "encoder" or "decoder"."""
        return int(getattr(self, f"{stack}_max_positions"))

    def mixing_weight(self, stack: str) -> tuple[str, tuple[int, ...]]:
        """Return the name and the shape of the weight that contains A of all layers of the encoder or decoder."""
        L, N, m = getattr(self, f"{stack}_layers"), self.max_positions(stack), self.mixing_heads
        if self.mixing == "toeplitz":
            return f"{stack}.a", (L, m, N if stack == "decoder" else 2 * N - 1)
        return f"{stack}.A", (L, N, N) if m == 1 else (L, m, N, N)

    def weight_shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of every weight of the network, by name."""
        shapes: dict[str, tuple[int, ...]] = {}
        d, L = self.decoder_embed_dim, self.decoder_layers
        linears = {"decoder.keys_values": (L * 2 * d, self.encoder_embed_dim), "output": (self.decoder_vocab_size, d)}
        for layer in range(L):
            linears[f"decoder.{layer}.q"] = linears[f"decoder.{layer}.out"] = (d, d)
        for stack in ("encoder", "decoder"):
            d, hidden, L = (getattr(self, f"{stack}_{size}") for size in ("embed_dim", "ffn_dim", "layers"))
            shapes[f"{stack}.embed"] = (getattr(self, f"{stack}_vocab_size"), d)
            shapes.update([self.mixing_weight(stack)])
            shapes[f"{stack}.scale"] = (L, d)
            shapes[f"{stack}.bias"] = (L, self.max_positions(stack), d)
            for layer in range(L):
                rows = 2 * hidden if self.activation == "geglu" else hidden
                linears.update({f"{stack}.{layer}.B": (rows, d), f"{stack}.{layer}.C": (d, hidden)})
        shapes["encoder.shift"] = shapes["encoder.scale"]
        for name, (rows, columns) in linears.items():
            shapes.update({f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)})
        return shapes
