"""Exported models: what was written is read back; anything else is refused in one line, and nothing is executed."""

import copy
import io
import json
import math
import os
import pickle
import random
import struct
import zipfile

import pytest
import torch
from fairseq import hub_utils
from fairseq.data import Dictionary
from safetensors.torch import load, save

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference import model_format
from fairseq_resmlp.inference.model_format import CONFIG, WEIGHTS, load_exported_model, read_dictionary
from fairseq_resmlp.inference.quantization import QuantizedMatrix
from fairseq_resmlp.model.export import export_model, to_inference_weights
from support.paths import GOLDEN


@pytest.fixture
def directory(exported_models, tmp_path):
    """A copy of the int8 model, to be damaged."""
    copy = tmp_path / "model"
    copy.mkdir()
    for file in (exported_models / "int8").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


@pytest.mark.parametrize("dtype", ["float32", "int8", "float16"])
def test_a_model_is_read_back_as_it_was_written(dtype, tmp_path):
    export_model(str(GOLDEN), str(tmp_path / "model"), dtype=dtype)
    files = {CONFIG, WEIGHTS, "dict.source.txt", "dict.target.txt", "sentencepiece.bpe.model"}
    assert {file.name for file in (tmp_path / "model").iterdir()} == files
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    found = load_exported_model(str(tmp_path / "model"))
    model = hub_utils.from_pretrained(str(GOLDEN), "model.pt", str(GOLDEN))["models"][0]
    config, weights = to_inference_weights(model)
    assert (found.config, found.dtype, found.languages) == (config, dtype, ["en", "de"])
    assert found.weights.keys() == weights.keys()
    step = {"float32": 0, "int8": 1 / 250, "float16": 1 / 2000}[dtype]
    for name, value in weights.items():
        stored = found.weights[name]
        assert isinstance(stored, QuantizedMatrix) == (dtype == "int8" and name.endswith((".weight", ".embed")))
        assert ((stored.float() - value).abs() <= step * value.abs().max()).all()


def test_permissions_follow_the_umask(tmp_path):
    previous = os.umask(0o027)
    try:
        export_model(str(GOLDEN), str(tmp_path / "model"))
    finally:
        os.umask(previous)
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "model").iterdir()}
    assert set(modes.values()) == {0o640} and WEIGHTS in modes
    assert (tmp_path / "model").stat().st_mode & 0o777 == 0o750


# Damaged, incompatible and hostile directories


def replace_file(name, data):
    return lambda directory: (directory / name).write_bytes(data)


def flip_bit(name):
    def apply(directory):
        data = bytearray((directory / name).read_bytes())
        data[len(data) // 2] ^= 1
        (directory / name).write_bytes(data)

    return apply


def change_config(**changes):
    def apply(directory):
        file = directory / CONFIG
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    return apply


def change_sizes(**changes):
    """Change sizes. A function is called with the old size."""

    def apply(directory):
        sizes = json.loads((directory / CONFIG).read_text())["sizes"]
        sizes.update({name: new(sizes[name]) if callable(new) else new for name, new in changes.items()})
        change_config(sizes=sizes)(directory)

    return apply


def change_checksums(**changes):
    def apply(directory):
        checksums = json.loads((directory / CONFIG).read_text())["sha256"]
        change_config(sha256={**checksums, **{name.replace("__", "."): value for name, value in changes.items()}})(
            directory
        )

    return apply


def forge_weights(change):
    """Replace the weights file by change(its bytes), and correct its checksum, as an attacker would."""

    def apply(directory):
        file = directory / WEIGHTS
        file.write_bytes(change(file.read_bytes()))
        change_checksums(**{WEIGHTS: model_format._sha256(str(file))})(directory)

    return apply


def forge_tensors(change):
    """Apply a function to the dict of tensors, in place."""

    def apply(data):
        tensors = load(data)
        change(tensors)
        return save(tensors)

    return forge_weights(apply)


def split_header(data):
    """Return the parsed header of a safetensors file, and the tensor data."""
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + size]), data[8 + size :]


def join_header(header, data):
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def forge_header(change):
    """Apply a function to the header, in place."""

    def apply(data):
        header, tensors = split_header(data)
        change(header)
        return join_header(header, tensors)

    return forge_weights(apply)


class Hostile:
    def __reduce__(self):
        return print, ("executed",)


def torch_file(content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def zip_file(data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(WEIGHTS, data)
    return buffer.getvalue()


def replace_tensor(name, change):
    return forge_tensors(lambda tensors: tensors.update({name: change(tensors[name])}))


NOT_SAFETENSORS = "weights.safetensors is not a safetensors file"
ONE_VALUE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
DAMAGES = {
    "config missing": (
        lambda directory: (directory / CONFIG).unlink(),
        "has no config.json: run fairseq-resmlp export",
    ),
    "config truncated": (
        lambda directory: (directory / CONFIG).write_text((directory / CONFIG).read_text()[:40]),
        "config.json is damaged",
    ),
    "config deeply nested": (replace_file(CONFIG, b"[" * 100_000), "config.json is damaged"),
    "config not UTF-8": (replace_file(CONFIG, b'{"version": "\xff"}'), "config.json is damaged"),
    "config not an object": (replace_file(CONFIG, b'["version"]'), "config.json is damaged"),
    "newer version": (change_config(version=99), "has format version 99, .* reads version 4: export it again"),
    "version as text": (change_config(version="4"), "has format version '4', .*: export it again"),
    "sizes missing": (change_config(sizes={}), "is damaged"),
    "sizes not an object": (change_config(sizes=[1]), "is damaged"),
    "unknown size": (change_sizes(depth=1), "is damaged"),
    "another size": (
        change_sizes(decoder_ffn_dim=lambda size: size + 1),
        r"is \(\d+, \d+\) of torch.int8, expected \(\d+, \d+\)",
    ),
    "huge mixing matrices": (change_sizes(encoder_max_positions=1 << 20), "entries, more than"),
    "more layers than tensors": (
        change_sizes(encoder_layers=1 << 30, encoder_max_positions=1),
        "does not have as many layers as config.json states",
    ),
    "unknown mixing": (change_sizes(mixing="conv"), "not linear or toeplitz"),
    "another dtype": (change_config(dtype="float32"), "expected .* of torch.float32"),
    "unknown dtype": (change_config(dtype="int4"), "its sizes, files, dtype or languages are invalid"),
    "dtype not text": (change_config(dtype=["int8"]), "its sizes, files, dtype or languages are invalid"),
    "languages not a list": (change_config(languages="ab"), "its sizes, files, dtype or languages are invalid"),
    "languages not text": (change_config(languages=[1, 2]), "its sizes, files, dtype or languages are invalid"),
    "three languages": (
        change_config(languages=["en", "de", "fr"]),
        "its sizes, files, dtype or languages are invalid",
    ),
    "checksums not an object": (change_config(sha256=[WEIGHTS]), "is damaged"),
    "a checksum not text": (change_checksums(**{WEIGHTS: None}), "weights.safetensors is damaged"),
    "no file of the format": (change_config(sha256={"../model": ""}), "is damaged"),
    "a file outside the directory": (
        change_checksums(**{"../secret": ""}),
        "its sizes, files, dtype or languages are invalid",
    ),
    "an absolute path": (change_checksums(**{"/etc/passwd": ""}), "its sizes, files, dtype or languages are invalid"),
    "weights missing": (lambda directory: (directory / WEIGHTS).unlink(), "weights.safetensors is missing"),
    "weights a directory": (
        lambda directory: ((directory / WEIGHTS).unlink(), (directory / WEIGHTS).mkdir()),
        "weights.safetensors is missing",
    ),
    "listed shortlist missing": (change_checksums(**{"shortlist.txt": ""}), "shortlist.txt is missing"),
    **{
        f"bit flipped in {name}": (flip_bit(name), f"{name} is damaged")
        for name in (WEIGHTS, "dict.source.txt", "dict.target.txt", "sentencepiece.bpe.model")
    },
    "another dictionary": (
        lambda directory: (
            (directory / "dict.target.txt").write_text("a 1\n"),
            change_checksums(**{"dict.target.txt": model_format._sha256(str(directory / "dict.target.txt"))})(
                directory
            ),
        ),
        "dict.target.txt has 5 entries, but the model has",
    ),
    # From here on, the checksum is right.
    "empty": (forge_weights(lambda data: b""), NOT_SAFETENSORS),
    "shorter than a header": (forge_weights(lambda data: data[:7]), NOT_SAFETENSORS),
    "truncated": (forge_weights(lambda data: data[: len(data) // 2]), NOT_SAFETENSORS),
    "trailing data": (forge_weights(lambda data: data + b"\0"), NOT_SAFETENSORS),
    "hostile pickle": (forge_weights(lambda data: pickle.dumps(Hostile())), NOT_SAFETENSORS),
    "hostile torch checkpoint": (forge_weights(lambda data: torch_file({"a": Hostile()})), NOT_SAFETENSORS),
    "weights.pt of an older version": (forge_weights(lambda data: torch_file(load(data))), NOT_SAFETENSORS),
    "zip archive": (forge_weights(zip_file), NOT_SAFETENSORS),
    "huge header": (forge_weights(lambda data: struct.pack("<Q", 1 << 62) + data[8:]), NOT_SAFETENSORS),
    "deeply nested header": (forge_weights(lambda data: join_header(b"[" * 100_000, b"")), NOT_SAFETENSORS),
    "header not UTF-8": (forge_weights(lambda data: join_header(b'{"\xff": 1}', b"")), NOT_SAFETENSORS),
    "line feed in the header": (
        forge_header(lambda header: header["output.bias"].update(dtype="F\n\x1b[2J32")),
        NOT_SAFETENSORS,
    ),
    "overlapping tensors": (
        forge_header(lambda header: header["encoder.scale"].update(header["decoder.scale"])),
        NOT_SAFETENSORS,
    ),
    "tensor larger than its data": (
        forge_header(lambda header: header["output.bias"].update(shape=[1 << 40])),
        NOT_SAFETENSORS,
    ),
    "negative shape": (forge_header(lambda header: header["output.bias"].update(shape=[-1])), NOT_SAFETENSORS),
    "shape that overflows": (
        forge_weights(
            lambda data: join_header({"a": {"dtype": "F32", "shape": [0, 1 << 63], "data_offsets": [0, 0]}}, b"")
        ),
        NOT_SAFETENSORS,
    ),
    "type unknown to torch": (
        forge_weights(
            lambda data: join_header({"a": {"dtype": "F6_E2M3", "shape": [32], "data_offsets": [0, 24]}}, b"\0" * 24)
        ),
        NOT_SAFETENSORS,
    ),
    "no tensors": (forge_weights(lambda data: join_header({}, b"")), "does not have as many layers"),
    "one tensor": (
        forge_weights(lambda data: join_header({"a": ONE_VALUE}, b"\0" * 4)),
        "does not have as many layers",
    ),
    "a tensor missing": (forge_tensors(lambda tensors: tensors.pop("encoder.scale")), "encoder.scale is missing"),
    "an embedding missing": (forge_tensors(lambda tensors: tensors.pop("encoder.embed")), "encoder.embed is missing"),
    "a scale missing": (
        forge_tensors(lambda tensors: tensors.pop("output.weight.scale")),
        "output.weight.scale is missing",
    ),
    "an extra tensor": (
        forge_tensors(lambda tensors: tensors.update({"x\ny": torch.ones(1)})),
        r"contains 'x\\ny', which is not a weight of this model",
    ),
    "another shape": (
        replace_tensor("output.bias", lambda value: value[:-1].clone()),
        r"output.bias is \(\d+,\) of torch.float32, expected \(\d+,\) of torch.float32",
    ),
    "transposed": (
        replace_tensor("encoder.0.B.weight", lambda value: value.t().contiguous()),
        r"encoder.0.B.weight is \(16, 32\) of torch.int8, expected \(32, 16\)",
    ),
    "one more dimension": (replace_tensor("output.bias", lambda value: value[None]), r"output.bias is \(1, \d+\)"),
    "float64": (replace_tensor("output.bias", torch.Tensor.double), "output.bias is .* of torch.float64"),
    "bfloat16": (replace_tensor("output.bias", torch.Tensor.bfloat16), "output.bias is .* of torch.bfloat16"),
    "unsigned": (
        replace_tensor("output.weight", lambda value: value.to(torch.uint8)),
        "output.weight is .* of torch.uint8, expected .* of torch.int8",
    ),
    **{
        f"an int8 matrix with {what}": (
            replace_tensor(name, lambda tensor, value=value: tensor.index_fill(0, torch.tensor([3]), value)),
            "output.weight is not an int8 matrix of this program",
        )
        for what, name, value in (
            ("a scale of zero", "output.weight.scale", 0.0),
            ("a negative scale", "output.weight.scale", -1.0),
            ("a scale that overflows", "output.weight.scale", 3e38),
            ("an entry of -128", "output.weight", -128),
        )
    },
    **{
        f"{name} {value}": (
            replace_tensor(name, lambda tensor, value=value: tensor.index_fill(0, torch.tensor([3]), value)),
            f"{name} has weights that are infinite or NaN",
        )
        for name in ("output.bias", "output.weight.scale")
        for value in (math.nan, math.inf, -math.inf)
    },
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_and_hostile_models_are_refused_in_one_line(damage, directory, capfd):
    apply, message = DAMAGES[damage]
    (directory.parent / "secret").write_text("secret")
    apply(directory)
    with pytest.raises(InputError, match=message) as error:
        load_exported_model(str(directory))
    assert str(error.value).isprintable()
    assert "executed" not in "".join(capfd.readouterr())


@pytest.mark.parametrize("version", [1, 2, 3])
def test_models_of_older_versions_are_refused_with_the_remedy(version, directory):
    """They have weights.pt instead of weights.safetensors, and other names of the sizes."""
    config = json.loads((directory / CONFIG).read_text())
    (directory / WEIGHTS).unlink()
    (directory / "weights.pt").write_bytes(torch_file({"encoder.embed": Hostile()}))
    old = {"version": version, "shape": {"encoder_N": 40}, **{key: config[key] for key in ("dtype", "languages")}}
    (directory / CONFIG).write_text(json.dumps({**old, "sha256": {"weights.pt": ""}}))
    expected = f"{directory} has format version {version}, but this program reads version 4: export it again"
    with pytest.raises(InputError) as error:
        load_exported_model(str(directory))
    assert str(error.value) == expected


def weights_equal(one, other):
    def tensors(weights):
        values = ((name, value if isinstance(value, QuantizedMatrix) else (value,)) for name, value in weights.items())
        return {f"{name}.{i}": part for name, value in values for i, part in enumerate(value)}

    one, other = tensors(one), tensors(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_random_damage_is_refused(directory):
    """One to three random bytes of one file are changed: the checksums detect it."""
    rng = random.Random(1)
    files = [file for file in sorted(directory.iterdir()) if file.name != CONFIG]
    for _ in range(100):
        file = rng.choice(files)
        original = file.read_bytes()
        data = bytearray(original)
        for place in rng.sample(range(len(data)), rng.randint(1, 3)):
            data[place] ^= rng.randrange(1, 256)
        file.write_bytes(data)
        with pytest.raises(InputError, match=f"{file.name} is damaged"):
            load_exported_model(str(directory))
        file.write_bytes(original)
    load_exported_model(str(directory))


def test_a_randomly_damaged_config_is_refused_or_changes_no_weights(directory):
    """The config has no checksum of its own. Only what nothing else depends on, such as a language, can change."""
    rng = random.Random(2)
    expected, original = load_exported_model(str(directory)), (directory / CONFIG).read_bytes()
    refused = 0
    for _ in range(300):
        data = bytearray(original)
        data[rng.randrange(len(data))] = rng.randrange(256)
        (directory / CONFIG).write_bytes(data)
        try:
            found = load_exported_model(str(directory))
        except InputError as error:
            refused += 1
            assert str(error).isprintable()
        else:
            assert found.dtype == expected.dtype and weights_equal(found.weights, expected.weights)
    assert refused > 200


def test_a_forged_header_is_refused_or_harmless(directory):
    """Random bytes of the header are changed, and the checksum is corrected."""
    rng = random.Random(3)
    original = {file: file.read_bytes() for file in (directory / CONFIG, directory / WEIGHTS)}
    shapes = load_exported_model(str(directory)).config.weight_shapes()
    header_size = 8 + struct.unpack("<Q", original[directory / WEIGHTS][:8])[0]
    refused = 0
    for _ in range(300):
        for file, data in original.items():
            file.write_bytes(data)
        data = bytearray(original[directory / WEIGHTS])
        data[rng.randrange(header_size)] ^= 1 << rng.randrange(8)
        forge_weights(lambda old, data=data: bytes(data))(directory)
        try:
            found = load_exported_model(str(directory))
        except InputError as error:
            refused += 1
            assert str(error).isprintable()
        else:
            assert {name: tuple(value.float().shape) for name, value in found.weights.items()} == {
                name: shapes[name] for name in found.weights
            }
    assert refused > 200


def test_a_loaded_model_is_independent_of_its_files(directory):
    found, expected = (load_exported_model(str(directory)) for _ in range(2))
    expected = {name: copy.deepcopy(value) for name, value in expected.weights.items()}
    with open(directory / WEIGHTS, "r+b") as file:  # in place, as cp does
        file.write(b"\0" * (directory / WEIGHTS).stat().st_size)
    assert weights_equal(found.weights, expected)


def test_the_weights_file_is_read_only_through_safetensors(directory, monkeypatch):
    """No unpickler is involved, whatever the file contains."""

    def refuse(*args, **kwargs):
        raise AssertionError("a pickle was loaded")

    for module, name in ((torch, "load"), (pickle, "load"), (pickle, "loads"), (pickle, "Unpickler")):
        monkeypatch.setattr(module, name, refuse)
    load_exported_model(str(directory))


# Dictionaries


def test_a_dictionary_is_read_as_fairseq_reads_it(tmp_path):
    (tmp_path / "dict.txt").write_text("a 3\n\u2028 2\nb c 1\n\xa0 5\na 1 #fairseq:overwrite\nmadeupword0000 0\n")
    assert read_dictionary(str(tmp_path / "dict.txt")) == Dictionary.load(str(tmp_path / "dict.txt")).symbols
    for text in ("a 3\na 2\n", "a 3\nb\n", "a 3\nb x\n", "a 3\n<s> 1\n"):
        (tmp_path / "dict.txt").write_text(text)
        with pytest.raises(InputError, match="line 2 is not ENTRY COUNT, or its entry occurs twice"):
            read_dictionary(str(tmp_path / "dict.txt"))
    (tmp_path / "dict.txt").write_bytes(b"a\xff 3\n")
    with pytest.raises(InputError, match="is not a fairseq dictionary"):
        read_dictionary(str(tmp_path / "dict.txt"))
