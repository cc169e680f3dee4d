"""An exported model: a folder with all that translation needs, read only if it is whole and harmless.

    config.json                 the version of this format, sizes, languages, dtype, and a SHA-256 for each other file
    weights.pt                  plain tensors: the folded network's (see `fast`)
    dict.source.txt             fairseq's dictionaries
    dict.target.txt
    sentencepiece.bpe.model     cuts text into pieces
    shortlist.txt               optional, see `shortlist`

A matrix in 8 bits is two tensors, NAME (int8) and NAME.scale (float32, one a row), see `fast.Quantised`.
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from typing import Dict, List, Optional, Union

import torch
from torch import Tensor

from .archive import safe_to_load
from .errors import InputError
from .fast import DTYPES, EOS, PAD, UNK, Quantised, Shape, quantise
from .files import written_whole

VERSION = 3  # 1 knew one matrix A a layer and no other mixing, 2 no normalisation
CONFIG, WEIGHTS, SHORTLIST = "config.json", "weights.pt", "shortlist.txt"
SOURCE, TARGET, PIECES = "dict.source.txt", "dict.target.txt", "sentencepiece.bpe.model"
SPECIAL = {0: "<s>", PAD: "<pad>", EOS: "</s>", UNK: "<unk>"}


@dataclass(frozen=True)
class Exported:
    """What a folder holds.

    Args:
        shape: sizes
        weights: of the folded network, matrices as `Quantised` where they are stored in int8
        dtype: int8, float32 or float16, as stored
        languages: source and target, such as en and de
        source, target: entries of the dictionaries in their order
        pieces: the path of the SentencePiece model
        shortlist: the path of the shortlist, if there is one
    """

    shape: Shape
    weights: Dict[str, Union[Tensor, Quantised]]
    dtype: str
    languages: List[str]
    source: List[str]
    target: List[str]
    pieces: str
    shortlist: Optional[str]


def write(
    path: str,
    shape: Shape,
    weights: Dict[str, Tensor],
    dtype: str,
    languages: List[str],
    dictionaries: Dict[str, str],
    pieces: str,
    shortlist: Optional[str] = None,
) -> None:
    """Write an exported model: the folder is there whole, or not at all.

    Args:
        path: the folder, which must not be there yet
        shape, weights: as `fast.fold` gives them
        dtype: how to store the matrices: int8 (a quarter of the size), float16 or float32
        languages: source and target
        dictionaries: paths of fairseq's dictionaries, by `SOURCE` and `TARGET`
        pieces, shortlist: paths of files to copy

    Raises:
        InputError: the folder is there already
        OSError: it cannot be written
    """
    path = os.path.normpath(path)
    if os.path.lexists(path):
        raise InputError(f"{path} is there already: name another folder, or remove it first")
    files = {**dictionaries, PIECES: pieces, **({SHORTLIST: shortlist} if shortlist else {})}
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    partial = tempfile.mkdtemp(prefix=f"{os.path.basename(path)}.", dir=os.path.dirname(os.path.abspath(path)))
    try:
        os.chmod(partial, 0o777 & ~_umask())
        with written_whole(os.path.join(partial, WEIGHTS)) as file:
            torch.save(_stored(weights, dtype), file)
        for name, source in files.items():
            with written_whole(os.path.join(partial, name)) as file:
                shutil.copyfile(source, file)
        config = {
            "version": VERSION,
            "dtype": dtype,
            "languages": languages,
            "shape": asdict(shape),
            "sha256": {name: _sha256(os.path.join(partial, name)) for name in (WEIGHTS, *files)},
        }
        with written_whole(os.path.join(partial, CONFIG)) as file, open(file, "w", encoding="utf-8") as out:
            json.dump(config, out, indent=1)
        os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _umask() -> int:
    """The permissions that new files are not given, which mkdtemp does not heed."""
    umask = os.umask(0)
    os.umask(umask)
    return umask


def read(path: str) -> Exported:
    """Read an exported model; nothing in it is run.

    Raises:
        InputError: it is no exported model, of another version, damaged, or its parts do not fit each other
    """
    config = _read_config(path)
    for name, checksum in config["sha256"].items():
        file = os.path.join(path, name)
        if not os.path.isfile(file):
            raise InputError(f"{path} is not whole: {name} is missing; export the model again")
        if _sha256(file) != checksum:
            raise InputError(f"{file} is damaged: its SHA-256 is not that in {CONFIG}; export the model again")
    shape = config["shape"]
    with safe_to_load(os.path.join(path, WEIGHTS), "the weights of an exported model"):
        stored = torch.load(os.path.join(path, WEIGHTS), map_location="cpu", weights_only=True)
    weights = _weights(stored, shape, config["dtype"], os.path.join(path, WEIGHTS))
    dictionaries = [read_dictionary(os.path.join(path, name)) for name in (SOURCE, TARGET)]
    for entries, count, name in zip(dictionaries, (shape.encoder_entries, shape.decoder_entries), (SOURCE, TARGET)):
        if len(entries) != count:
            raise InputError(f"{path}/{name} has {len(entries):,} entries, the model has {count:,}")
    pieces, shortlist = os.path.join(path, PIECES), os.path.join(path, SHORTLIST)
    listed = SHORTLIST in config["sha256"]
    return Exported(
        shape, weights, config["dtype"], config["languages"], *dictionaries, pieces, shortlist if listed else None
    )


def read_dictionary(path: str) -> List[str]:
    """The entries of a fairseq dictionary, the four special ones first.

    Raises:
        InputError: it is no dictionary
    """
    entries, known = list(SPECIAL.values()), set(SPECIAL.values())
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file.read().split("\n"), 1):
                if not line:
                    continue
                # An entry may hold a space or any mark that str.splitlines would end a line at.
                entry, count, *flag = _fields(line)
                if not count.isdigit() or (entry in known and not flag):
                    raise InputError(f"{path}: line {number} is not ENTRY COUNT, or its entry is there twice")
                entries.append(entry)
                known.add(entry)
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8, as a fairseq dictionary is") from error
    return entries


def _fields(line: str) -> List[str]:
    rest, _, last = line.rstrip().rpartition(" ")
    if last == "#fairseq:overwrite":
        rest, _, count = rest.rpartition(" ")
        return [rest, count, last]
    return [rest, last]


def _read_config(path: str) -> dict:
    name = os.path.join(path, CONFIG)
    if not os.path.isfile(name):
        raise InputError(f"{path} is not an exported model, it has no {CONFIG}: make one by fairseq-resmlp export")
    try:
        with open(name, encoding="utf-8") as file:
            config = json.load(file)
        version = config["version"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{name} is damaged or of no exported model; export the model again") from error
    if version not in range(1, VERSION + 1):
        raise InputError(
            f"{path} has version {version!r} of the format, this program reads up to {VERSION}: export it again"
        )
    try:
        config["shape"] = Shape(**config["shape"])
        checksums, languages = config["sha256"], config["languages"]
        fits = type(checksums) is dict and type(languages) is list and all(type(name) is str for name in languages)
        needed = {WEIGHTS, SOURCE, TARGET, PIECES}
        fits = fits and needed <= set(checksums) <= needed | {SHORTLIST}
        fits = fits and config["dtype"] in DTYPES and len(languages) == 2
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{name} is damaged: {error}; export the model again") from error
    if not fits:
        raise InputError(f"{name} is damaged: its files, dtype or languages are none; export the model again")
    return config


def _is_matrix(name: str) -> bool:
    """Whether a weight is one of those that `dtype` is about; the others are small."""
    return name.endswith((".weight", ".embed"))


def _stored(weights: Dict[str, Tensor], dtype: str) -> Dict[str, Tensor]:
    stored: Dict[str, Tensor] = {}
    if weights["decoder.embed"] is weights["encoder.embed"]:
        weights = {name: value for name, value in weights.items() if name != "decoder.embed"}
    for name, value in weights.items():
        if dtype == "int8" and _is_matrix(name):
            stored[name], stored[f"{name}.scale"] = quantise(value)
        else:
            stored[name] = value.half() if dtype == "float16" and _is_matrix(name) else value.clone()
            if not stored[name].isfinite().all():
                raise InputError(f"{name} has weights that {dtype} does not hold: export another --dtype")
    return stored


def _weights(stored, shape: Shape, dtype: str, path: str) -> Dict[str, Union[Tensor, Quantised]]:
    """The weights of what was loaded from `path`; InputError if they are not those of `shape`."""
    weights: Dict[str, Union[Tensor, Quantised]] = {}
    if not isinstance(stored, dict) or not all(
        isinstance(name, str) and torch.is_tensor(value) and value.device.type == "cpu"
        for name, value in stored.items()
    ):
        raise InputError(f"{path} holds no weights")
    if shape.encoder_layers + shape.decoder_layers > len(stored):
        raise InputError(f"{path} has not the layers that {CONFIG} says")
    matrices = {"int8": torch.int8, "float16": torch.float16, "float32": torch.float32}[dtype]
    stored, unread = dict(stored), set(stored)

    def take(name: str, size, dtype: torch.dtype) -> Tensor:
        value = stored.get(name)
        if value is None or tuple(value.shape) != size or value.dtype != dtype or value.layout != torch.strided:
            found = "missing" if value is None else f"{tuple(value.shape)} of {value.dtype}"
            raise InputError(f"{path}: {name} is {found}, it should be {size} of {dtype}")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise InputError(f"{path} is refused: {name} is larger than what is stored of it")
        if value.is_floating_point() and not value.isfinite().all():
            raise InputError(f"{path}: {name} has weights that are infinite or not numbers")
        unread.discard(name)
        return value

    for name, size in shape.weights().items():
        if name == "decoder.embed" and name not in stored:
            continue  # tied
        value = take(name, size, matrices if _is_matrix(name) else torch.float32)
        quantised = dtype == "int8" and _is_matrix(name)
        weights[name] = Quantised(value, take(f"{name}.scale", size[:1], torch.float32)) if quantised else value
    if unread:
        raise InputError(f"{path} holds {sorted(unread)[0]}, which no such model has")
    if "decoder.embed" not in weights:
        if (shape.decoder_entries, shape.decoder_d) != (shape.encoder_entries, shape.encoder_d):
            raise InputError(f"{path}: decoder.embed is missing")
        weights["decoder.embed"] = weights["encoder.embed"]
    return weights


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()
