"""Damaged, malicious and unsuitable checkpoints are rejected in one line, and no code in them runs."""

import argparse
import importlib
import io
import os
import pickle
import random
import shutil
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils

from fairseq_resmlp import ResMLPModel
from fairseq_resmlp.checkpoints.averaging import average_checkpoints
from fairseq_resmlp.checkpoints.checkpoint_file import read_checkpoint
from fairseq_resmlp.checkpoints.dictionary_hash import KEY
from fairseq_resmlp.checkpoints.safe_loading import weights_only_load
from fairseq_resmlp.common.errors import InputError
from support.commands import run, train_options
from support.comparison import identical
from support.models import make_dictionary, make_model, make_task
from support.paths import PLUGIN


@pytest.fixture(scope="module")
def checkpoint(trained):
    """A checkpoint of fairseq-train with weights, Adagrad's accumulators and options: its bytes and its content."""
    path = trained / "checkpoints" / "checkpoint_last.pt"
    return path.read_bytes(), read_checkpoint(str(path))


def copy_dictionaries(trained, directory):
    for language in ("src", "tgt"):
        shutil.copy(trained / "data-bin" / f"dict.{language}.txt", directory)


# --- Damaged checkpoints


def test_a_truncated_checkpoint_is_rejected(checkpoint, tmp_path, record_promise):
    data, path = checkpoint[0], tmp_path / "cut.pt"
    points = {0, 1, 3, 4, 100, len(data) - 1, len(data) - 22, *random.Random(0).sample(range(200, len(data)), 43)}
    for length in points:
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"cut\.pt is (empty|truncated or damaged|not a checkpoint)"):
            read_checkpoint(str(path))
    record_promise("A truncated checkpoint is rejected", f"{len(points)} of {len(points)} truncation lengths rejected")


def count_rejected_flips(data, content, places, path):
    """Flip each bit in `places` separately and return how many flips are rejected. The others must change nothing."""
    rejected = 0
    for place in places:
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            state = read_checkpoint(str(path))
        except InputError as error:
            rejected += 1
            assert "\n" not in str(error) and "flipped.pt" in str(error)
        else:  # a bit without meaning, for example in the padding between records
            assert identical(state, content), place
    return rejected


def test_no_flipped_bit_changes_what_is_loaded(checkpoint, tmp_path, record_promise):
    data, content = checkpoint
    generator = random.Random(1)
    places = [generator.randrange(8 * len(data)) for _ in range(200)]
    rejected = count_rejected_flips(data, content, places, tmp_path / "flipped.pt")
    record_promise(
        "A flipped bit is detected or harmless",
        f"{rejected} of {len(places)} random flips rejected; the others are in bytes that are never read and change "
        "nothing",
    )
    assert rejected >= 150


def test_every_bit_flip_in_a_small_checkpoint_is_detected_or_harmless(tmp_path, record_promise):
    """One bit in the archive's directory marks a record as a directory, which torch silently reads as empty."""
    path = tmp_path / "flipped.pt"
    torch.save({"model": {"weight": torch.arange(6.0)}}, path)
    data, places = path.read_bytes(), range(8 * path.stat().st_size)
    rejected = count_rejected_flips(data, read_checkpoint(str(path)), places, path)
    assert rejected > len(places) / 3
    record_promise(
        "Every possible bit flip in a small checkpoint is detected or harmless",
        f"{rejected:,} of all {len(places):,} flips rejected; the others are in bytes that are never read and change "
        "nothing",
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nonfinite_weights_are_rejected_by_name(checkpoint, tmp_path, value):
    state = pickle.loads(pickle.dumps(checkpoint[1]))
    state["model"]["decoder.layers.1.mixing.A"][2, 1] = value
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(InputError, match=r"nan\.pt: decoder\.layers\.1\.mixing\.A has weights that are infinite"):
        read_checkpoint(str(tmp_path / "nan.pt"))


# --- Checkpoints of other models


def with_hashes_among_weights(state):
    """Return a checkpoint as earlier versions wrote it: the dictionaries' hashes are uint8 buffers of the model."""
    task_state = dict(state["task_state"])
    hashes = task_state.pop(KEY)
    names = {"encoder": hashes["source"], "decoder": hashes["target"]}
    buffers = {
        f"{name}.dictionary_version": torch.tensor(list(bytes.fromhex(digits)), dtype=torch.uint8)
        for name, digits in names.items()
    }
    return {**state, "model": {**state["model"], **buffers}, "task_state": task_state}


def averaged_by_fairseq(states):
    """Average as fairseq's scripts/average_checkpoints.py does, integers included."""
    sums = {name: value.clone() for name, value in states[0]["model"].items()}
    for state in states[1:]:
        for name, value in state["model"].items():
            sums[name] += value
    for value in sums.values():
        value.div_(len(states)) if value.is_floating_point() else value.floor_divide_(len(states))
    return {**states[0], "model": sums}


FORMATS = {
    "of today": lambda state: state,
    "with hashes among the weights": with_hashes_among_weights,
    "average of 3": lambda state: averaged_by_fairseq([state] * 3),
    **{
        f"average of {n} with hashes among the weights": lambda state, n=n: averaged_by_fairseq(
            [with_hashes_among_weights(state)] * n
        )
        for n in (2, 3, 5, 10)
    },
    "without hashes": lambda state: {**state, "task_state": {}},
}


@pytest.mark.parametrize("kind", FORMATS)
def test_a_checkpoint_of_another_dictionary_is_rejected(kind, checkpoint, trained, tmp_path, monkeypatch):
    """Two words of the dictionary change places, so that every size fits."""
    directory = tmp_path / "model"
    shutil.copytree(trained / "data-bin", directory)
    torch.save(FORMATS[kind](checkpoint[1]), directory / "model.pt")
    assert len(ResMLPModel.from_pretrained(directory).translate(["w1 w2"])) == 1
    data = (directory / "dict.src.txt").read_text().splitlines()
    for language, side in (("src", "source"), ("tgt", "target")):
        file = directory / f"dict.{language}.txt"
        file.write_text("\n".join([data[1], data[0], *data[2:]]) + "\n")
        if kind == "without hashes":
            ResMLPModel.load(directory, share_all_embeddings=False)
        else:
            message = f"the {side} dictionary differs from the one this checkpoint was trained with"
            with pytest.raises(InputError, match=message):
                ResMLPModel.load(directory, share_all_embeddings=False)
        file.write_text("\n".join(data) + "\n")
    if kind == "without hashes":
        return
    for language in ("src", "tgt"):  # training with a joined dictionary
        (directory / f"dict.{language}.txt").write_text("\n".join([data[1], data[0], *data[2:]]) + "\n")
    (directory / "model.pt").rename(directory / "checkpoint_last.pt")
    message = rejection(monkeypatch, "train", *train_options(directory, directory), "--max-update", "99")
    assert message.startswith(f"{directory}/checkpoint_last.pt: the source dictionary differs from")


def test_hashes_of_dictionaries_are_not_among_the_weights(checkpoint):
    assert checkpoint[1]["task_state"][KEY].keys() == {"source", "target"}
    assert all(value.is_floating_point() for value in checkpoint[1]["model"].values())


def test_weights_with_hashes_of_another_dictionary_are_rejected():
    model, task = make_model(), make_task()
    weights = with_hashes_among_weights({"model": model.state_dict(), "task_state": task_state(task)})["model"]
    make_model().load_state_dict(dict(weights))
    renamed = make_dictionary()
    renamed.symbols[10], renamed.symbols[11] = renamed.symbols[11], renamed.symbols[10]
    task.tgt_dict = renamed
    with pytest.raises(InputError, match="the target dictionary differs"):
        make_model(task).load_state_dict(dict(weights))


def task_state(task):
    make_model(task)
    return task.state_dict()


def test_a_task_that_refused_a_checkpoint_accepts_the_next_one(checkpoint, trained, tmp_path):
    """fairseq loads the state of a checkpoint into the task before it builds the model."""
    task = make_task()
    torch.save(checkpoint[1], tmp_path / "foreign.pt")
    with pytest.raises(InputError, match="dictionary differs"):
        checkpoint_utils.load_model_ensemble([str(tmp_path / "foreign.pt")], task=task)
    make_model(task)


def test_a_checkpoint_of_another_model_is_rejected_with_its_first_difference(trained, monkeypatch, tmp_path):
    wider = make_model(encoder_ffn_embed_dim=64).state_dict()
    with pytest.raises(
        InputError, match=r"belongs to another model: size mismatch for encoder\.layers\.0\.ffn\.B\.weight"
    ):
        make_model().load_state_dict(wider)
    shutil.copy(trained / "checkpoints" / "checkpoint_last.pt", tmp_path)
    options = [*train_options(trained / "data-bin", tmp_path), "--encoder-ffn-embed-dim=64"]
    message = rejection(monkeypatch, "train", *options)
    assert message.startswith(f"{tmp_path}/checkpoint_last.pt: the checkpoint belongs to another model: size mismatch")


@pytest.fixture(scope="module")
def transformer(trained, tmp_path_factory):
    """Model directory with a checkpoint of fairseq's Transformer."""
    directory = tmp_path_factory.mktemp("transformer")
    sizes = [f"--{side}-{size}" for side in ("encoder", "decoder") for size in ("embed-dim=16", "layers=1")]
    run(
        *("fairseq-train", trained / "data-bin", "--user-dir", PLUGIN, "--arch", "transformer_iwslt_de_en", *sizes),
        *("--optimizer", "adam", "--lr", "0.001", "--max-tokens", "400", "--max-update", "1", "--save-dir", directory),
        *("--cpu", "--disable-validation", "--num-workers", "0"),
    )
    (directory / "checkpoint_last.pt").rename(directory / "model.pt")
    copy_dictionaries(trained, directory)
    return directory


def test_another_architecture_is_rejected_by_the_hub(transformer):
    with pytest.raises(InputError, match=r"model\.pt is a checkpoint of another model, not resmlp"):
        ResMLPModel.from_pretrained(transformer)


def test_a_file_that_is_not_a_fairseq_checkpoint_is_reported(tmp_path):
    path = tmp_path / "other.pt"
    for content in ({"weight": torch.ones(2)}, {"model": {"weight": "text"}}, [1], torch.ones(2)):
        torch.save(content, path)
        with pytest.raises(InputError, match=r"other\.pt is not a fairseq checkpoint: it contains no model"):
            read_checkpoint(str(path))


# --- Malicious checkpoints


class Calls:
    """Unpickles as the result of calling `function`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def bomb(path, state):
    """Write a compressed archive, which could expand to any size."""
    torch.save(state, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, record in records.items():
            archive.writestr(name, record)


def inside_a_tar(path, state):
    """Write a tar archive that contains an archive."""
    torch.save(state, f"{path}.inner")
    with tarfile.open(path, "w") as archive:
        archive.add(f"{path}.inner", "storages")


def inside_a_zip(path, state):
    """Write an archive that contains an archive in place of a pickle."""
    torch.save(state, f"{path}.inner")
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(f"{path}.inner", "archive/data.pkl")


def before_a_zip(path, state):
    """Write a pickle followed by an archive, which zip tools open as the archive."""
    torch.save({"model": {}}, f"{path}.inner")
    with open(path, "wb") as out, open(f"{path}.inner", "rb") as archive:
        pickle.dump(state, out)
        out.write(archive.read())


def script(path, state):
    """Write a TorchScript module."""
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)


def plain_pickle(path, state):
    with open(path, "wb") as out:
        pickle.dump(state, out)


def legacy(path, state):
    """Write the format of torch before 1.6."""
    torch.save(state, path, _use_new_zipfile_serialization=False)


def objects(*content):
    """Return a NumPy array of Python objects."""
    array = np.empty(len(content), dtype=object)
    array[:] = content
    return array


def hostile(evidence):
    """Return {name: (content of the checkpoint, function that writes it)}. Any code that runs creates `evidence`."""
    touch = f"open({evidence!r}, 'w')"
    shell = Calls(os.system, f"touch {evidence}")
    return {
        "os.system": (shell, torch.save),
        "eval": (Calls(eval, touch), torch.save),
        "exec": (Calls(exec, touch), torch.save),
        "subprocess": (Calls(subprocess.check_call, ["touch", evidence]), torch.save),
        "open": (Calls(open, evidence, "w"), torch.save),
        "getattr on a module": (Calls(getattr, Calls(importlib.import_module, "os"), "system"), torch.save),
        "nested unpickling": (Calls(pickle.loads, pickle.dumps(shell)), torch.save),
        "nested torch.load": (Calls(torch.load, evidence), torch.save),
        "call inside a Namespace": (argparse.Namespace(arch="resmlp_base", task=shell), torch.save),
        "NumPy object array": (objects(shell), torch.save),
        "legacy format": (shell, legacy),
        "plain pickle": (shell, plain_pickle),
        "archive inside a tar": (shell, inside_a_tar),
        "archive inside an archive": (shell, inside_a_zip),
        "pickle before an archive": (shell, before_a_zip),
        "compressed archive": (shell, bomb),
        "TorchScript": (None, script),
    }


HOSTILE = sorted(hostile(""))


def rejection(monkeypatch, name, *options):
    """Run fairseq-NAME in this process, because starting one takes seconds, and return its error message."""
    monkeypatch.setattr(sys, "argv", [f"fairseq-{name}", *map(str, options)])
    with pytest.raises(InputError) as error:
        importlib.import_module(f"fairseq_cli.{name}").cli_main()
    return str(error.value)


@pytest.mark.parametrize("attack", HOSTILE)
def test_malicious_checkpoints_are_rejected_everywhere_and_nothing_runs(
    attack, checkpoint, trained, tmp_path, monkeypatch, record_promise
):
    evidence, path = tmp_path / "evidence", tmp_path / "checkpoint_last.pt"
    content, save = hostile(str(evidence))[attack]
    state = {**checkpoint[1], "extra_state": content}
    save(path, state) if save is not torch.save else torch.save(state, path)
    copy_dictionaries(trained, tmp_path)
    plugin = ("--user-dir", PLUGIN, "--cpu")
    pair = ("-s", "src", "-t", "tgt")
    messages = [
        rejection(monkeypatch, "train", *train_options(trained / "data-bin", tmp_path), "--max-update", "99"),
        rejection(monkeypatch, "generate", trained / "data-bin", *plugin, "--path", path),
        rejection(monkeypatch, "interactive", trained / "data-bin", *plugin, *pair, "--path", path),
    ]
    for load in (lambda: average_checkpoints([str(path)]), lambda: ResMLPModel.from_pretrained(tmp_path, path.name)):
        with pytest.raises(InputError) as error:
            load()
        messages.append(str(error.value))
    assert not evidence.exists()
    assert all("checkpoint_last.pt is " in message and "\n" not in message for message in messages), messages
    assert not any("weights_only" in message or "safe_globals" in message for message in messages), messages
    record_promise(
        "Malicious checkpoints are rejected by train, generate, interactive, average and the hub, and no code in them "
        "runs",
        f"{len(HOSTILE)} of {len(HOSTILE)} rejected: {', '.join(HOSTILE)}",
    )


@pytest.mark.parametrize("attack", ["evaluated", "loaded", "interpolated"])
def test_options_in_a_checkpoint_run_no_code_and_read_nothing(attack, transformer, trained, tmp_path, monkeypatch):
    """fairseq passes a Transformer's adaptive_softmax_cutoff to eval and loads files that some models' options name.

    OmegaConf would replace ${oc.env:...} with the value of an environment variable.
    """
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    shutil.copytree(transformer, tmp_path / "model")
    path, evidence = tmp_path / "model" / "model.pt", tmp_path / "evidence"
    state = read_checkpoint(str(path))
    if attack == "evaluated":
        state["cfg"]["model"].adaptive_softmax_cutoff = f"open({str(evidence)!r}, 'w').close()"
        expected = "is not a literal and was not evaluated"
    elif attack == "loaded":
        torch.save(Calls(os.system, f"touch {evidence}"), tmp_path / "second.pt")
        state["cfg"]["model"] = {"_name": "xm_transformer", "load_pretrained_decoder_from": str(tmp_path / "second.pt")}
        expected = "a file named in a checkpoint's options is not safe to load: it requests posix.system"
    else:
        monkeypatch.setenv("SECRET", "a secret")
        state["cfg"]["bpe"] = {"_name": "gpt2", "gpt2_encoder_json": "http://127.0.0.1:9/${oc.env:SECRET}"}
        expected = "its options refer to other values"
    torch.save(state, path)
    with pytest.raises(InputError, match=expected):
        checkpoint_utils.load_model_ensemble([str(path)], task=make_task())
    assert not evidence.exists()
    with pytest.raises(InputError, match="another model, not resmlp|its options refer"):
        ResMLPModel.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("kind", [dict, argparse.Namespace, "gpt2"])
@pytest.mark.parametrize("part", ["bpe", "tokenizer"])
def test_a_checkpoint_cannot_select_a_tokenizer_that_is_downloaded(checkpoint, trained, tmp_path, kind, part):
    requested = kind if kind == "gpt2" else kind(_name="gpt2", bpe="gpt2", gpt2_encoder_json="http://127.0.0.1:9/")
    torch.save({**checkpoint[1], "cfg": {**checkpoint[1]["cfg"], part: requested}}, tmp_path / "model.pt")
    copy_dictionaries(trained, tmp_path)
    with pytest.raises(InputError, match=rf"model\.pt requests {part}=.*gpt2.*: pass it explicitly if you trust"):
        ResMLPModel.from_pretrained(tmp_path)


def test_options_in_the_old_format_are_also_checked(checkpoint, trained, tmp_path):
    """If a checkpoint contains `args`, fairseq uses them instead of `cfg`."""
    old = argparse.Namespace(arch="resmlp_tiny", bpe="gpt2", gpt2_encoder_json="http://127.0.0.1:9/")
    torch.save({**checkpoint[1], "args": old}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="another model, not resmlp"):
        ResMLPModel.from_pretrained(tmp_path)


def test_the_file_that_fairseq_reads_is_the_one_checked(checkpoint, trained, tmp_path):
    """If model-shard0.pt exists, fairseq reads it instead of model.pt."""
    torch.save(checkpoint[1], tmp_path / "model.pt")
    torch.save({**checkpoint[1], "cfg": {**checkpoint[1]["cfg"], "bpe": "gpt2"}}, tmp_path / "model-shard0.pt")
    copy_dictionaries(trained, tmp_path)
    with pytest.raises(InputError, match=r"model-shard0\.pt requests bpe='gpt2'"):
        ResMLPModel.from_pretrained(tmp_path)


def test_a_checkpoint_cannot_select_a_plugin_to_import(checkpoint, trained, tmp_path):
    (tmp_path / "evil_plugin").mkdir()
    (tmp_path / "evil_plugin" / "__init__.py").write_text(f"open({str(tmp_path / 'evidence')!r}, 'w')")
    common = {**checkpoint[1]["cfg"]["common"], "user_dir": str(tmp_path / "evil_plugin")}
    torch.save({**checkpoint[1], "cfg": {**checkpoint[1]["cfg"], "common": common}}, tmp_path / "model.pt")
    copy_dictionaries(trained, tmp_path)
    assert len(ResMLPModel.from_pretrained(tmp_path).translate(["w1"])) == 1
    assert not (tmp_path / "evidence").exists()


class Script(torch.nn.Module):
    """TorchScript module that writes a file when it is loaded."""

    def __init__(self, path: str):
        super().__init__()
        self.path = path

    @torch.jit.export
    def __getstate__(self) -> str:
        return self.path

    @torch.jit.export
    def __setstate__(self, state: str) -> None:
        self.path = state
        torch.save(torch.ones(1), state)

    def forward(self, x):
        return x


def test_torchscript_is_rejected_before_it_runs(tmp_path):
    evidence, written = tmp_path / "evidence", io.BytesIO()
    torch.jit.save(torch.jit.script(Script(str(evidence))), written)
    with zipfile.ZipFile(written) as script, zipfile.ZipFile(tmp_path / "script.pt", "w") as plain:
        for record in script.namelist():  # uncompressed and without attributes, like the archives of torch.save
            info = zipfile.ZipInfo(record)
            plain.writestr(info, script.read(record))
            info.external_attr = 0
    for load in (read_checkpoint, checkpoint_utils.load_checkpoint_to_cpu):
        with pytest.raises(InputError, match=r"script\.pt is "):
            load(str(tmp_path / "script.pt"))
    with pytest.raises((pickle.UnpicklingError, RuntimeError)):
        weights_only_load()(tmp_path / "script.pt")
    assert not evidence.exists()


def test_globals_allowed_by_others_are_not_used(tmp_path):
    before = set(torch.serialization.get_safe_globals())  # torch's own
    reconstruct = np.ones(1).__reduce__()[0]
    torch.save({"model": {}, "numbers": np.ones(3, "f4")}, tmp_path / "numbers.pt")
    try:
        torch.serialization.add_safe_globals([np.ndarray, np.dtype, type(np.dtype("f4")), reconstruct])
        for _ in range(2):
            assert torch.load(tmp_path / "numbers.pt", weights_only=True)["numbers"].dtype == np.dtype("f4")
            with pytest.raises(InputError, match="more than plain data: NumPy data of type 'f4'"):
                read_checkpoint(str(tmp_path / "numbers.pt"))
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(before))


def test_a_weight_larger_than_its_stored_data_is_rejected(tmp_path):
    for weight in (torch.zeros(1).expand(10**11), torch.eye(3).to_sparse()):
        torch.save({"model": {"weight": weight}}, tmp_path / "large.pt")
        with pytest.raises(InputError, match=r"large\.pt is not safe to load: weight is larger than its stored data"):
            read_checkpoint(str(tmp_path / "large.pt"))


def test_a_compressed_archive_is_rejected_whatever_it_contains(tmp_path):
    bomb(tmp_path / "compressed.pt", {"model": {"weight": torch.zeros(1_000_000)}})
    with pytest.raises(InputError, match=r"^\S+compressed\.pt is not safe to load: it is a compressed archive"):
        read_checkpoint(str(tmp_path / "compressed.pt"))


def test_environment_variables_cannot_request_unsafe_loading(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    evidence, path = tmp_path / "evidence", tmp_path / "hostile.pt"
    torch.save({"model": {}, "args": Calls(os.system, f"touch {evidence}")}, path)
    for load in (read_checkpoint, checkpoint_utils.load_checkpoint_to_cpu):
        with pytest.raises(InputError, match="more than plain data"):
            load(str(path))
    assert not evidence.exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"


def test_options_and_counts_of_eval_bleu_survive_loading_and_saving(tmp_path):
    options = argparse.Namespace(arch="transformer")
    content = {"counts": np.array([[1, 2], [3, 4]]), "bleu": np.float64(0.5), "mean": np.array([0.25, -1e300])}
    path = str(tmp_path / "bleu.pt")
    torch.save({"model": {}, "args": options, **content}, path)
    for _ in range(2):
        state = read_checkpoint(path)
        assert state["args"] == options
        for name, value in content.items():
            assert np.array_equal(state[name], value) and state[name].dtype == value.dtype
        torch.save(state, path)


class ForgedArray:
    """Unpickles as one number of a type that declares its bytes to be a pointer to an object."""

    def __reduce__(self):
        reconstruct = np.array([1]).__reduce__()[0]
        return reconstruct, (np.ndarray, (0,), b"b"), (1, (1,), ForgedType(), False, b"pointer!")


class ForgedType:
    def __reduce__(self):
        has_objects = 1
        return np.dtype, ("i8", False, True), (3, "<", None, None, None, -1, -1, has_objects)


def test_forged_numpy_types_do_not_turn_numbers_into_pointers(tmp_path):
    torch.save({"model": {}, "value": ForgedArray()}, tmp_path / "forged.pt")
    value = read_checkpoint(str(tmp_path / "forged.pt"))["value"]
    assert value.dtype.flags == np.dtype("i8").flags == 0
    assert value.tobytes() == b"pointer!"


@pytest.mark.parametrize("arguments", [((1,), "O", b"pointer!"), ((4,), "f4"), ((1,), "f8", b"12345678")])
def test_the_constructor_of_numpy_arrays_cannot_be_called(tmp_path, arguments):
    torch.save({"model": {}, "value": Calls(np.ndarray, *arguments)}, tmp_path / "called.pt")
    with pytest.raises(InputError, match=r"called\.pt is not safe to load, .*: NumPy data that NumPy did not write"):
        read_checkpoint(str(tmp_path / "called.pt"))


@pytest.mark.parametrize("value", [np.array(["text"]), np.float32(1), np.array([1.0], ">f8"), np.array([None])])
def test_other_numpy_data_is_rejected(tmp_path, value):
    torch.save({"model": {}, "value": value}, tmp_path / "numpy.pt")
    with pytest.raises(InputError, match=r"numpy\.pt is not safe to load, .*: NumPy data of"):
        read_checkpoint(str(tmp_path / "numpy.pt"))


# --- Checkpoints that cannot be written


@pytest.fixture
def limited():
    """Function that returns the prefix of a command whose files are limited to so many kilobytes."""
    return lambda kilobytes: ("bash", "-c", f'ulimit -f {kilobytes}; exec "$@"', "bash")


def test_the_last_good_checkpoint_is_kept_if_the_disk_is_full(trained, tmp_path, limited):
    """A file size limit stands in for a full disk."""
    options = train_options(trained / "data-bin", tmp_path / "checkpoints")
    run("fairseq-train", *options, "--max-update", "1")
    before = (tmp_path / "checkpoints" / "checkpoint_last.pt").read_bytes()
    done = run(*limited(len(before) // 2048), "fairseq-train", *options, "--max-update", "2", check=False, env={})
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(f"error: cannot write {tmp_path}/checkpoints/checkpoint_") and "File too large" in last
    assert "Traceback" not in done.stderr
    assert (tmp_path / "checkpoints" / "checkpoint_last.pt").read_bytes() == before
    assert not list(tmp_path.rglob("*.part"))


def test_the_old_average_is_kept_if_the_disk_is_full(checkpoint, trained, tmp_path, limited):
    (tmp_path / "average.pt").write_bytes(checkpoint[0])
    checkpoints = [trained / "checkpoints" / f"checkpoint{epoch}.pt" for epoch in (2, 3)]
    average = ("fairseq-resmlp", "average", *checkpoints, "--output", tmp_path / "average.pt")
    done = run(*limited(8), *average, check=False, env={})
    assert done.returncode != 0
    assert done.stderr.startswith(f"Error: cannot write {tmp_path}/average.pt, which is unchanged: ")
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "average.pt").read_bytes() == checkpoint[0]
    assert [path.name for path in tmp_path.iterdir()] == ["average.pt"]


def test_a_read_only_directory_is_reported_before_training_begins(toy, tmp_path):
    directory = tmp_path / "checkpoints"
    directory.mkdir(mode=0o555)
    # Without these capabilities, root cannot write there either.
    unprivileged = () if os.geteuid() else ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
    done = run(*unprivileged, "fairseq-train", *train_options(toy / "data-bin", directory), check=False, env={})
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "Permission denied" in last and str(directory) in last
    assert "Traceback" not in done.stderr
