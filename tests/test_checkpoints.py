"""Checkpoints that are damaged, hostile or of something else: refused in one line, and nothing in them runs."""

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
import threading
import zipfile

import numpy as np
import pytest
import torch
from conftest import PLUGIN, make_dictionary, make_model, make_task, run, train_options
from fairseq import checkpoint_utils

from fairseq_resmlp import ResMLPModel, archive, checkpoint
from fairseq_resmlp.average import average_checkpoints
from fairseq_resmlp.errors import InputError


def same(one, other):
    """Whether two loaded checkpoints hold the same, bit for bit."""
    if torch.is_tensor(one):
        return torch.is_tensor(other) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.fixture(scope="module")
def whole(trained):
    """A checkpoint of fairseq-train, with weights, Adagrad's sums and options: its bytes and what it holds."""
    path = trained / "checkpoints" / "checkpoint_last.pt"
    return path.read_bytes(), checkpoint.read(str(path))


# --- damaged


def test_a_truncated_checkpoint_is_refused(whole, tmp_path, record_promise):
    data, path = whole[0], tmp_path / "cut.pt"
    points = {0, 1, 3, 4, 100, len(data) - 1, len(data) - 22, *random.Random(0).sample(range(200, len(data)), 43)}
    for length in points:
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match=r"cut\.pt is (empty|cut off or damaged|not a checkpoint)"):
            checkpoint.read(str(path))
    record_promise("A checkpoint that was cut off is refused", f"{len(points)} of {len(points)} lengths refused")


def refusals_of_flipped_bits(data, content, places, path):
    """How many flips are refused; the others must change nothing."""
    refused = 0
    for place in places:
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            state = checkpoint.read(str(path))
        except InputError as error:
            refused += 1
            assert "\n" not in str(error) and "flipped.pt" in str(error)
        else:  # a bit that means nothing, such as in the padding between records
            assert same(state, content), place
    return refused


def test_no_flipped_bit_changes_what_is_loaded(whole, tmp_path, record_promise):
    data, content = whole
    generator = random.Random(1)
    places = [generator.randrange(8 * len(data)) for _ in range(200)]
    refused = refusals_of_flipped_bits(data, content, places, tmp_path / "flipped.pt")
    figure = f"{refused} of {len(places)} random ones refused; the others, in bytes that nothing reads, change nothing"
    record_promise("A flipped bit is noticed or harmless", figure)
    assert refused >= 150


def test_no_bit_of_a_small_checkpoint_can_be_flipped_unseen(tmp_path, record_promise):
    """In the archive's directory one bit makes a record a folder, of which torch reads nothing without a word."""
    path = tmp_path / "flipped.pt"
    torch.save({"model": {"weight": torch.arange(6.0)}}, path)
    data, places = path.read_bytes(), range(8 * path.stat().st_size)
    refused = refusals_of_flipped_bits(data, checkpoint.read(str(path)), places, path)
    assert refused > len(places) / 3
    record_promise(
        "No bit of a small checkpoint can be flipped unseen",
        f"{refused:,} of all {len(places):,} refused; the others, in bytes that nothing reads, change nothing",
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused_by_name(whole, tmp_path, value):
    state = pickle.loads(pickle.dumps(whole[1]))
    state["model"]["decoder.layers.1.mixing.A"][2, 1] = value
    torch.save(state, tmp_path / "nan.pt")
    with pytest.raises(InputError, match=r"nan\.pt: decoder\.layers\.1\.mixing\.A has weights that are infinite"):
        checkpoint.read(str(tmp_path / "nan.pt"))


# --- of something else


def test_another_dictionary_of_the_same_size_is_refused():
    trained_with = make_model().state_dict()
    renamed = make_dictionary()
    renamed.symbols[10], renamed.symbols[11] = renamed.symbols[11], renamed.symbols[10]
    task = make_task()
    own, task.src_dict = task.src_dict, renamed
    with pytest.raises(InputError, match="the source dictionary is not the one that this checkpoint was trained with"):
        make_model(task).load_state_dict(trained_with)
    task.src_dict, task.tgt_dict = own, renamed
    with pytest.raises(InputError, match="the target dictionary is not the one"):
        make_model(task).load_state_dict(trained_with)
    make_model().load_state_dict(trained_with)


def test_a_checkpoint_from_before_dictionaries_were_stored_still_loads():
    state = make_model(seed=1, randomise=False).state_dict()
    old = {name: value for name, value in state.items() if not name.endswith("dictionary_version")}
    assert len(old) == len(state) - 2
    model = make_model(seed=2)
    model.load_state_dict(old)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_another_models_checkpoint_is_refused_by_its_first_difference(trained, monkeypatch, tmp_path):
    wider = make_model(encoder_ffn_embed_dim=64).state_dict()
    with pytest.raises(InputError, match=r"of another model: size mismatch for encoder\.layers\.0\.ffn\.B\.weight"):
        make_model().load_state_dict(wider)
    shutil.copy(trained / "checkpoints" / "checkpoint_last.pt", tmp_path)
    options = [*train_options(trained / "data-bin", tmp_path), "--encoder-ffn-embed-dim=64"]
    message = command(monkeypatch, "train", *options)
    assert message.startswith(f"{tmp_path}/checkpoint_last.pt: the checkpoint is of another model: size mismatch")


@pytest.fixture(scope="module")
def transformer(trained, tmp_path_factory):
    """A folder with the checkpoint of fairseq's Transformer."""
    folder = tmp_path_factory.mktemp("transformer")
    sizes = [f"--{side}-{size}" for side in ("encoder", "decoder") for size in ("embed-dim=16", "layers=1")]
    run(
        *("fairseq-train", trained / "data-bin", "--user-dir", PLUGIN, "--arch", "transformer_iwslt_de_en", *sizes),
        *("--optimizer", "adam", "--lr", "0.001", "--max-tokens", "400", "--max-update", "1", "--save-dir", folder),
        *("--cpu", "--disable-validation", "--num-workers", "0"),
    )
    (folder / "checkpoint_last.pt").rename(folder / "model.pt")
    for language in ("src", "tgt"):
        shutil.copy(trained / "data-bin" / f"dict.{language}.txt", folder)
    return folder


def test_another_architecture_is_refused_by_the_hub(transformer):
    with pytest.raises(InputError, match=r"model\.pt is a checkpoint of another model than resmlp"):
        ResMLPModel.from_pretrained(transformer)


def test_what_is_no_fairseq_checkpoint_is_named(tmp_path):
    path = tmp_path / "other.pt"
    for content in ({"weight": torch.ones(2)}, {"model": {"weight": "text"}}, [1], torch.ones(2)):
        torch.save(content, path)
        with pytest.raises(InputError, match=r"other\.pt is not a fairseq checkpoint: it holds no model"):
            checkpoint.read(str(path))


# --- hostile


class Calls:
    """Pickled, a call of `function`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def bomb(path, state):
    """A compressed archive, such as unpacks to any size."""
    torch.save(state, path)
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, record in records.items():
            archive.writestr(name, record)


def inside_a_tar(path, state):
    torch.save(state, f"{path}.inner")
    with tarfile.open(path, "w") as archive:
        archive.add(f"{path}.inner", "storages")


def inside_a_zip(path, state):
    torch.save(state, f"{path}.inner")
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(f"{path}.inner", "archive/data.pkl")


def before_a_zip(path, state):
    """A pickle in front of an archive, which zip tools open as the archive."""
    torch.save({"model": {}}, f"{path}.inner")
    with open(path, "wb") as out, open(f"{path}.inner", "rb") as archive:
        pickle.dump(state, out)
        out.write(archive.read())


def script(path, state):
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), path)


def plain_pickle(path, state):
    with open(path, "wb") as out:
        pickle.dump(state, out)


def legacy(path, state):
    torch.save(state, path, _use_new_zipfile_serialization=False)


def objects(*content):
    array = np.empty(len(content), dtype=object)
    array[:] = content
    return array


def hostile(evidence):
    """{name: (what is in the checkpoint, how it is written)}; whatever runs touches `evidence`."""
    touch = f"open({evidence!r}, 'w')"
    shell = Calls(os.system, f"touch {evidence}")
    return {
        "os.system": (shell, torch.save),
        "eval": (Calls(eval, touch), torch.save),
        "exec": (Calls(exec, touch), torch.save),
        "subprocess": (Calls(subprocess.check_call, ["touch", evidence]), torch.save),
        "open": (Calls(open, evidence, "w"), torch.save),
        "getattr of a module": (Calls(getattr, Calls(importlib.import_module, "os"), "system"), torch.save),
        "unpickling inside": (Calls(pickle.loads, pickle.dumps(shell)), torch.save),
        "torch.load inside": (Calls(torch.load, evidence), torch.save),
        "inside a Namespace": (argparse.Namespace(arch="resmlp_base", task=shell), torch.save),
        "NumPy array of objects": (objects(shell), torch.save),
        "legacy format": (shell, legacy),
        "plain pickle": (shell, plain_pickle),
        "archive in a tar": (shell, inside_a_tar),
        "archive in an archive": (shell, inside_a_zip),
        "pickle before an archive": (shell, before_a_zip),
        "compressed archive": (shell, bomb),
        "TorchScript": (None, script),
    }


HOSTILE = sorted(hostile(""))


def command(monkeypatch, name, *options):
    """What fairseq-NAME says when it refuses its input; run in this process, since starting one takes seconds."""
    monkeypatch.setattr(sys, "argv", [f"fairseq-{name}", *map(str, options)])
    with pytest.raises(InputError) as refused:
        importlib.import_module(f"fairseq_cli.{name}").cli_main()
    return str(refused.value)


@pytest.mark.parametrize("attack", HOSTILE)
def test_hostile_checkpoints_are_refused_everywhere_and_nothing_runs(
    attack, whole, trained, tmp_path, monkeypatch, record_promise
):
    evidence, path = tmp_path / "evidence", tmp_path / "checkpoint_last.pt"
    content, save = hostile(str(evidence))[attack]
    state = {**whole[1], "extra_state": content}
    save(path, state) if save is not torch.save else torch.save(state, path)
    for language in ("src", "tgt"):
        shutil.copy(trained / "data-bin" / f"dict.{language}.txt", tmp_path)
    plugin = ("--user-dir", PLUGIN, "--cpu")
    pair = ("-s", "src", "-t", "tgt")
    said = [
        command(monkeypatch, "train", *train_options(trained / "data-bin", tmp_path), "--max-update", "99"),
        command(monkeypatch, "generate", trained / "data-bin", *plugin, "--path", path),
        command(monkeypatch, "interactive", trained / "data-bin", *plugin, *pair, "--path", path),
    ]
    for load in (lambda: average_checkpoints([str(path)]), lambda: ResMLPModel.from_pretrained(tmp_path, path.name)):
        with pytest.raises(InputError) as refused:
            load()
        said.append(str(refused.value))
    assert not evidence.exists()
    assert all("checkpoint_last.pt is " in message and "\n" not in message for message in said), said
    assert not any("weights_only" in message or "safe_globals" in message for message in said), said
    record_promise(
        "Hostile checkpoints are refused by train, generate, interactive, average and the hub, and nothing runs",
        f"{len(HOSTILE)} of {len(HOSTILE)}: {', '.join(HOSTILE)}",
    )


@pytest.mark.parametrize("attack", ["evaluated", "loaded", "interpolated"])
def test_options_in_a_checkpoint_run_and_read_nothing(attack, transformer, trained, tmp_path, monkeypatch):
    """fairseq gives a Transformer's adaptive_softmax_cutoff to eval, and loads what some models name without care;
    OmegaConf would fill in ${oc.env:...}."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    shutil.copytree(transformer, tmp_path / "model")
    path, evidence = tmp_path / "model" / "model.pt", tmp_path / "evidence"
    state = checkpoint.read(str(path))
    if attack == "evaluated":
        state["cfg"]["model"].adaptive_softmax_cutoff = f"open({str(evidence)!r}, 'w').close()"
        expected = "is no plain value: it is not evaluated"
    elif attack == "loaded":
        torch.save(Calls(os.system, f"touch {evidence}"), tmp_path / "second.pt")
        state["cfg"]["model"] = {"_name": "xm_transformer", "load_pretrained_decoder_from": str(tmp_path / "second.pt")}
        expected = "a file that a checkpoint's options name is refused: it asks for posix.system"
    else:
        monkeypatch.setenv("SECRET", "of mine")
        state["cfg"]["bpe"] = {"_name": "gpt2", "gpt2_encoder_json": "http://127.0.0.1:9/${oc.env:SECRET}"}
        expected = "its options refer to other values"
    torch.save(state, path)
    with pytest.raises(InputError, match=expected):
        checkpoint_utils.load_model_ensemble([str(path)], task=make_task())
    assert not evidence.exists()
    with pytest.raises(InputError, match="another model than resmlp|its options refer"):
        ResMLPModel.from_pretrained(tmp_path / "model")


@pytest.mark.parametrize("kind", [dict, argparse.Namespace, "gpt2"])
@pytest.mark.parametrize("part", ["bpe", "tokenizer"])
def test_a_checkpoint_cannot_choose_pieces_that_are_fetched_from_an_address(whole, trained, tmp_path, kind, part):
    wanted = kind if kind == "gpt2" else kind(_name="gpt2", bpe="gpt2", gpt2_encoder_json="http://127.0.0.1:9/")
    torch.save({**whole[1], "cfg": {**whole[1]["cfg"], part: wanted}}, tmp_path / "model.pt")
    for language in ("src", "tgt"):
        shutil.copy(trained / "data-bin" / f"dict.{language}.txt", tmp_path)
    with pytest.raises(InputError, match=rf"model\.pt wants {part}=.*gpt2.*: name it, if you trust that checkpoint"):
        ResMLPModel.from_pretrained(tmp_path)


def test_options_of_the_old_kind_are_not_preferred_to_those_that_were_checked(whole, trained, tmp_path):
    """fairseq takes args, where there are some, in place of cfg."""
    old = argparse.Namespace(arch="resmlp_tiny", bpe="gpt2", gpt2_encoder_json="http://127.0.0.1:9/")
    torch.save({**whole[1], "args": old}, tmp_path / "model.pt")
    with pytest.raises(InputError, match="another model than resmlp"):
        ResMLPModel.from_pretrained(tmp_path)


def test_what_fairseq_reads_is_what_is_checked(whole, trained, tmp_path):
    """fairseq reads model-shard0.pt in place of model.pt where it is there."""
    torch.save(whole[1], tmp_path / "model.pt")
    torch.save({**whole[1], "cfg": {**whole[1]["cfg"], "bpe": "gpt2"}}, tmp_path / "model-shard0.pt")
    for language in ("src", "tgt"):
        shutil.copy(trained / "data-bin" / f"dict.{language}.txt", tmp_path)
    with pytest.raises(InputError, match=r"model-shard0\.pt wants bpe='gpt2'"):
        ResMLPModel.from_pretrained(tmp_path)


def test_a_checkpoint_cannot_name_a_plugin_to_import(whole, trained, tmp_path):
    (tmp_path / "evil_plugin").mkdir()
    (tmp_path / "evil_plugin" / "__init__.py").write_text(f"open({str(tmp_path / 'evidence')!r}, 'w')")
    common = {**whole[1]["cfg"]["common"], "user_dir": str(tmp_path / "evil_plugin")}
    torch.save({**whole[1], "cfg": {**whole[1]["cfg"], "common": common}}, tmp_path / "model.pt")
    for language in ("src", "tgt"):
        shutil.copy(trained / "data-bin" / f"dict.{language}.txt", tmp_path)
    assert len(ResMLPModel.from_pretrained(tmp_path).translate(["w1"])) == 1
    assert not (tmp_path / "evidence").exists()


class Script(torch.nn.Module):
    """What runs when TorchScript is loaded: it writes a file."""

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


def test_a_script_is_refused_before_it_runs(tmp_path):
    evidence, written = tmp_path / "evidence", io.BytesIO()
    torch.jit.save(torch.jit.script(Script(str(evidence))), written)
    with zipfile.ZipFile(written) as script, zipfile.ZipFile(tmp_path / "script.pt", "w") as plain:
        for record in script.namelist():  # as torch.save writes an archive: neither compressed nor with attributes
            info = zipfile.ZipInfo(record)
            plain.writestr(info, script.read(record))
            info.external_attr = 0
    for load in (checkpoint.read, checkpoint_utils.load_checkpoint_to_cpu):
        with pytest.raises(InputError, match=r"script\.pt is "):
            load(str(tmp_path / "script.pt"))
    with archive.weights_only(), pytest.raises((pickle.UnpicklingError, RuntimeError)):
        torch.load(tmp_path / "script.pt")
    assert not evidence.exists()


def test_two_threads_load_weights_only(tmp_path):
    """Both change the environment of the process."""
    inside, leave = threading.Event(), threading.Event()

    def first():
        with archive.weights_only():
            inside.set()
            leave.wait(0.5)

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait()
    with archive.weights_only():
        thread.join()
        assert os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"
    assert "TORCH_FORCE_WEIGHTS_ONLY_LOAD" not in os.environ


def test_what_others_allow_is_theirs_outside_and_nobodys_inside(tmp_path):
    before = set(torch.serialization.get_safe_globals())  # torch's own
    reconstruct = np.ones(1).__reduce__()[0]
    torch.save({"model": {}, "numbers": np.ones(3, "f4")}, tmp_path / "numbers.pt")
    try:
        torch.serialization.add_safe_globals([np.ndarray, np.dtype, type(np.dtype("f4")), reconstruct])
        for _ in range(2):
            assert torch.load(tmp_path / "numbers.pt", weights_only=True)["numbers"].dtype == np.dtype("f4")
            with pytest.raises(InputError, match="more than plain data: NumPy data of type 'f4'"):
                checkpoint.read(str(tmp_path / "numbers.pt"))
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(before))
    with archive.weights_only(checkpoint.ALLOWED):
        torch.serialization.add_safe_globals([Script])  # as a module may when it is imported
    try:
        assert set(torch.serialization.get_safe_globals()) == before | {Script}
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(list(before))


def test_a_weight_is_not_larger_than_what_is_stored_of_it(tmp_path):
    for weight in (torch.zeros(1).expand(10**11), torch.eye(3).to_sparse()):
        torch.save({"model": {"weight": weight}}, tmp_path / "large.pt")
        with pytest.raises(InputError, match=r"large\.pt is refused: weight is larger than what is stored of it"):
            checkpoint.read(str(tmp_path / "large.pt"))


def test_a_compressed_archive_is_refused_whatever_is_in_it(tmp_path):
    bomb(tmp_path / "compressed.pt", {"model": {"weight": torch.zeros(1_000_000)}})
    with pytest.raises(InputError, match=r"^\S+compressed\.pt is refused: it is a compressed archive"):
        checkpoint.read(str(tmp_path / "compressed.pt"))


def test_nobody_can_ask_for_unsafe_loading_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    evidence, path = tmp_path / "evidence", tmp_path / "hostile.pt"
    torch.save({"model": {}, "args": Calls(os.system, f"touch {evidence}")}, path)
    for load in (checkpoint.read, checkpoint_utils.load_checkpoint_to_cpu):
        with pytest.raises(InputError, match="more than plain data"):
            load(str(path))
    assert not evidence.exists()
    assert os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] == "1"


def test_options_and_counts_of_eval_bleu_come_back_as_they_were_and_can_be_saved_again(tmp_path):
    options = argparse.Namespace(arch="transformer")
    content = {"counts": np.array([[1, 2], [3, 4]]), "bleu": np.float64(0.5), "mean": np.array([0.25, -1e300])}
    path = str(tmp_path / "bleu.pt")
    torch.save({"model": {}, "args": options, **content}, path)
    for _ in range(2):
        state = checkpoint.read(path)
        assert state["args"] == options
        for name, value in content.items():
            assert np.array_equal(state[name], value) and state[name].dtype == value.dtype
        torch.save(state, path)


class ForgedArray:
    """Pickled, one number of a type that says that its bytes are a pointer to an object."""

    def __reduce__(self):
        reconstruct = np.array([1]).__reduce__()[0]
        return reconstruct, (np.ndarray, (0,), b"b"), (1, (1,), ForgedType(), False, b"pointer!")


class ForgedType:
    def __reduce__(self):
        has_objects = 1
        return np.dtype, ("i8", False, True), (3, "<", None, None, None, -1, -1, has_objects)


def test_numpy_is_not_told_that_numbers_are_pointers(tmp_path):
    torch.save({"model": {}, "value": ForgedArray()}, tmp_path / "forged.pt")
    value = checkpoint.read(str(tmp_path / "forged.pt"))["value"]
    assert value.dtype.flags == np.dtype("i8").flags == 0
    assert value.tobytes() == b"pointer!"


@pytest.mark.parametrize("arguments", [((1,), "O", b"pointer!"), ((4,), "f4"), ((1,), "f8", b"12345678")])
def test_numpys_arrays_are_not_made_by_calling_them(tmp_path, arguments):
    torch.save({"model": {}, "value": Calls(np.ndarray, *arguments)}, tmp_path / "called.pt")
    with pytest.raises(InputError, match=r"called\.pt is refused, .*: NumPy data that is not made as NumPy does"):
        checkpoint.read(str(tmp_path / "called.pt"))


@pytest.mark.parametrize("value", [np.array(["text"]), np.float32(1), np.array([1.0], ">f8"), np.array([None])])
def test_other_numpy_data_is_refused(tmp_path, value):
    torch.save({"model": {}, "value": value}, tmp_path / "numpy.pt")
    with pytest.raises(InputError, match=r"numpy\.pt is refused, .*: NumPy data of"):
        checkpoint.read(str(tmp_path / "numpy.pt"))


# --- not writable


@pytest.fixture
def limited():
    """The command that runs another one with files of at most that many kilobytes."""
    return lambda kilobytes: ("bash", "-c", f'ulimit -f {kilobytes}; exec "$@"', "bash")


def test_where_no_checkpoint_fits_the_last_good_one_stays(trained, tmp_path, limited):
    """A limit on the size of files stands for a full disk."""
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


def test_an_average_that_does_not_fit_leaves_the_old_one(whole, trained, tmp_path, limited):
    (tmp_path / "average.pt").write_bytes(whole[0])
    checkpoints = [trained / "checkpoints" / f"checkpoint{epoch}.pt" for epoch in (2, 3)]
    average = ("fairseq-resmlp", "average", *checkpoints, "--output", tmp_path / "average.pt")
    done = run(*limited(8), *average, check=False, env={})
    assert done.returncode != 0
    assert done.stderr.startswith(f"Error: cannot write {tmp_path}/average.pt, which is as it was before: ")
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "average.pt").read_bytes() == whole[0]
    assert [path.name for path in tmp_path.iterdir()] == ["average.pt"]


def test_a_read_only_folder_is_named_before_training_begins(toy, tmp_path):
    folder = tmp_path / "checkpoints"
    folder.mkdir(mode=0o555)
    # root could write there
    powerless = () if os.geteuid() else ("setpriv", "--bounding-set", "-dac_override,-dac_read_search")
    done = run(*powerless, "fairseq-train", *train_options(toy / "data-bin", folder), check=False, env={})
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and "Permission denied" in last and str(folder) in last
    assert "Traceback" not in done.stderr
