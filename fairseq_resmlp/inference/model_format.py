"""The format of exported models: a directory with everything that translation needs, and no executable content.

    config.json                 format version, sizes, languages, dtype, and the SHA-256 of every other file
    weights.safetensors         weights of the inference network, see `NetworkConfig.weight_shapes`
    dict.source.txt             fairseq dictionaries
    dict.target.txt
    sentencepiece.bpe.model     tokenizes text
    shortlist.txt               optional, see `shortlist`

A matrix in 8 bits is stored as two tensors, NAME (int8) and NAME.scale (float32, one per row), see `QuantizedMatrix`.
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fairseq_resmlp.common.atomic_write import atomic_directory
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference.config import SPECIAL_SYMBOLS, NetworkConfig, Weights
from fairseq_resmlp.inference.network import DTYPES
from fairseq_resmlp.inference.quantization import QuantizedMatrix, is_quantized, quantize

VERSION = 4
CONFIG, WEIGHTS, SHORTLIST = "config.json", "weights.safetensors", "shortlist.txt"
SOURCE_DICT, TARGET_DICT, SENTENCEPIECE = "dict.source.txt", "dict.target.txt", "sentencepiece.bpe.model"


@dataclass(frozen=True)
class ExportedModel:
    """Content of an exported model.

    Args:
        config: sizes
        weights: of the inference network; matrices that are stored in int8 as `QuantizedMatrix`
        dtype: int8, float32 or float16, as stored
        languages: source and target, such as en and de
        source, target: entries of the dictionaries in order
        sentencepiece: path of the SentencePiece model
        shortlist: path of the shortlist, or None
    """

    config: NetworkConfig
    weights: Weights
    dtype: str
    languages: list[str]
    source: list[str]
    target: list[str]
    sentencepiece: str
    shortlist: str | None


def save_exported_model(
    path: str,
    config: NetworkConfig,
    weights: dict[str, Tensor],
    dtype: str,
    languages: list[str],
    dictionaries: tuple[str, str],
    sentencepiece: str,
    shortlist: str | None = None,
) -> None:
    """Write an exported model. The directory appears complete or not at all.

    Args:
        path: the directory, which must not exist
        config, weights: from `fairseq_resmlp.model.export.to_inference_weights`
        dtype: type to store the matrices in: int8 (a quarter of the size), float16 or float32
        languages: source and target
        dictionaries: paths of the source and the target fairseq dictionary
        sentencepiece, shortlist: paths of files to copy

    Raises:
        InputError: the directory exists or cannot be written, or the dtype cannot represent the weights
    """
    if os.path.lexists(path):
        raise InputError(f"{path} already exists: choose another directory, or remove it first")
    files = {SOURCE_DICT: dictionaries[0], TARGET_DICT: dictionaries[1], SENTENCEPIECE: sentencepiece}
    if shortlist:
        files[SHORTLIST] = shortlist
    stored = save(_to_stored(weights, dtype))
    with atomic_directory(path, [WEIGHTS, *files, CONFIG]) as temporary:
        with open(temporary[WEIGHTS], "wb") as weights_file:
            weights_file.write(stored)
        for name, source in files.items():
            shutil.copyfile(source, temporary[name])
        content = {
            "version": VERSION,
            "dtype": dtype,
            "languages": languages,
            "sizes": asdict(config),
            "sha256": {name: _sha256(temporary[name]) for name in (WEIGHTS, *files)},
        }
        with open(temporary[CONFIG], "w", encoding="utf-8") as config_file:
            json.dump(content, config_file, indent=1)


def load_exported_model(path: str) -> ExportedModel:
    """Read an exported model. Nothing in it is executed.

    Raises:
        InputError: the directory is not an exported model, has another format version, is damaged, or its parts do not
            fit together
    """
    content = _read_config(path)
    for name, checksum in content["sha256"].items():
        file = os.path.join(path, name)
        if not os.path.isfile(file):
            raise InputError(f"{path} is incomplete: {name} is missing; export the model again")
        if _sha256(file) != checksum:
            raise InputError(f"{file} is damaged: its SHA-256 differs from the one in {CONFIG}; export the model again")
    config = content["sizes"]
    file = os.path.join(path, WEIGHTS)
    try:
        # Copied, because `load_file` maps the file: writing to it would change the weights of a running model.
        stored = {name: value.clone() for name, value in load_file(file).items()}
    except (SafetensorError, ValueError, RuntimeError, TypeError) as error:  # the last: a shape that overflows
        reason = ascii(str(error).split("\n")[0])[1:-1]  # may quote any character of the file
        raise InputError(f"{file} is not a safetensors file: {reason}") from error
    weights = _from_stored(stored, config, content["dtype"], file)
    source, target = (read_dictionary(os.path.join(path, name)) for name in (SOURCE_DICT, TARGET_DICT))
    for entries, count, name in (
        (source, config.encoder_vocab_size, SOURCE_DICT),
        (target, config.decoder_vocab_size, TARGET_DICT),
    ):
        if len(entries) != count:
            raise InputError(f"{path}/{name} has {len(entries):,} entries, but the model has {count:,}")
    shortlist = os.path.join(path, SHORTLIST) if SHORTLIST in content["sha256"] else None
    sentencepiece = os.path.join(path, SENTENCEPIECE)
    return ExportedModel(
        config, weights, content["dtype"], content["languages"], source, target, sentencepiece, shortlist
    )


def read_dictionary(path: str) -> list[str]:
    """Return the entries of a fairseq dictionary, the special symbols first.

    Raises:
        InputError: the file is not a fairseq dictionary
    """
    entries, known = list(SPECIAL_SYMBOLS), set(SPECIAL_SYMBOLS)
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file.read().split("\n"), 1):
                if not line:
                    continue
                # An entry may contain spaces, and characters at which str.splitlines would end a line.
                entry, count, *flag = _dictionary_fields(line)
                if not count.isdigit() or (entry in known and not flag):
                    raise InputError(f"{path}: line {number} is not ENTRY COUNT, or its entry occurs twice")
                entries.append(entry)
                known.add(entry)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a fairseq dictionary: it is not UTF-8") from error
    return entries


def _dictionary_fields(line: str) -> list[str]:
    rest, _, last = line.rstrip().rpartition(" ")
    if last == "#fairseq:overwrite":
        rest, _, count = rest.rpartition(" ")
        return [rest, count, last]
    return [rest, last]


def _read_config(path: str) -> dict[str, Any]:
    name = os.path.join(path, CONFIG)
    if not os.path.isfile(name):
        raise InputError(f"{path} is not an exported model, because it has no {CONFIG}: run fairseq-resmlp export")
    try:
        with open(name, encoding="utf-8") as file:
            content = json.load(file)
        version = content["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{name} is damaged or does not belong to an exported model; export the model again"
        ) from error
    if version != VERSION:
        raise InputError(
            f"{path} has format version {version!r}, but this program reads version {VERSION}: export it again"
        )
    try:
        content["sizes"] = NetworkConfig(**content["sizes"])
        checksums, languages = content["sha256"], content["languages"]
        required = {WEIGHTS, SOURCE_DICT, TARGET_DICT, SENTENCEPIECE}
        valid = (
            type(checksums) is dict
            and required <= set(checksums) <= required | {SHORTLIST}
            and type(languages) is list
            and len(languages) == 2
            and all(type(language) is str for language in languages)
            and content["dtype"] in DTYPES
        )
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except (KeyError, TypeError, AttributeError):
        valid = False
    if not valid:
        raise InputError(f"{name} is damaged: its sizes, files, dtype or languages are invalid; export the model again")
    return dict(content)


def _is_matrix(name: str) -> bool:
    """Return whether the `dtype` of the model applies to a weight. The others are small."""
    return name.endswith((".weight", ".embed"))


def _to_stored(weights: dict[str, Tensor], dtype: str) -> dict[str, Tensor]:
    stored: dict[str, Tensor] = {}
    if weights["decoder.embed"] is weights["encoder.embed"]:
        weights = {name: value for name, value in weights.items() if name != "decoder.embed"}
    for name, value in weights.items():
        if dtype == "int8" and _is_matrix(name):
            matrix = quantize(value)
            stored[name], stored[f"{name}.scale"] = matrix
            valid = is_quantized(matrix)
        else:
            stored[name] = value.half() if dtype == "float16" and _is_matrix(name) else value.clone()
            valid = bool(stored[name].isfinite().all())
        if not valid:
            raise InputError(f"{name} has weights that {dtype} cannot represent: export with another --dtype")
    return {name: value.contiguous() for name, value in stored.items()}


def _from_stored(stored: dict[str, Tensor], config: NetworkConfig, dtype: str, path: str) -> Weights:
    """Return the weights from the content of `path`; InputError if they do not fit `config`."""
    if config.encoder_layers + config.decoder_layers > len(stored):
        raise InputError(f"{path} does not have as many layers as {CONFIG} states")
    matrix_type = {"int8": torch.int8, "float16": torch.float16, "float32": torch.float32}[dtype]
    unread = set(stored)

    def take(name: str, size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        value = stored.get(name)
        if value is None or tuple(value.shape) != size or value.dtype != dtype:
            found = "missing" if value is None else f"{tuple(value.shape)} of {value.dtype}"
            raise InputError(f"{path}: {name} is {found}, expected {size} of {dtype}")
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(f"{path}: {name} has weights that are infinite or NaN")
        unread.discard(name)
        return value

    weights: dict[str, Tensor | QuantizedMatrix] = {}
    for name, size in config.weight_shapes().items():
        if name == "decoder.embed" and name not in stored:
            continue  # tied
        value = take(name, size, matrix_type if _is_matrix(name) else torch.float32)
        if dtype == "int8" and _is_matrix(name):
            matrix = QuantizedMatrix(value, take(f"{name}.scale", size[:1], torch.float32))
            if not is_quantized(matrix):
                raise InputError(f"{path}: {name} is not an int8 matrix of this program: export the model again")
            weights[name] = matrix
        else:
            weights[name] = value
    if unread:
        raise InputError(f"{path} contains {sorted(unread)[0]!r}, which is not a weight of this model")
    if "decoder.embed" not in weights:
        source, target = (config.weight_shapes()[f"{stack}.embed"] for stack in ("encoder", "decoder"))
        if source != target:
            raise InputError(f"{path}: decoder.embed is missing")
        weights["decoder.embed"] = weights["encoder.embed"]
    return weights


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
