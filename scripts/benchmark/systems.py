"""The compared systems: ResMLP and fairseq's Transformer of the same dimensions, and CTranslate2.

All models have random weights. The first two run in fairseq's trainer and in its beam search. ResMLP also runs in the
inference engine.
"""

import importlib
import os
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from fairseq import options, tasks
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks.translation import TranslationTask
from fairseq.trainer import Trainer

import fairseq_resmlp
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference.beam_search import SearchOptions, beam_search
from fairseq_resmlp.inference.network import Network
from fairseq_resmlp.inference.shortlist import Shortlist
from fairseq_resmlp.model.export import to_inference_weights
from fairseq_resmlp.modules import linear

RESMLP, TRANSFORMER = "resmlp_base", "transformer"
OWN_CRITERION, FAIRSEQ_CRITERION = "fused_label_smoothed_cross_entropy", "label_smoothed_cross_entropy"
BEAM = 4


@dataclass(frozen=True)
class Settings:
    """Settings of all measurements. The dimensions are those of both models.

    Args:
        pairs: number of timings per side
        pause: seconds before each timing
        shortest: minimum duration of a timing in seconds
        threads: number of CPU threads per side
        device: cpu or cuda
        neighbours: number of busy processes beside the measurements
        data: directory of fairseq-preprocess for the loading part
        d: embedding dimension
        hidden: hidden size of the feed-forward layers
        layers: number of layers in each of encoder and decoder
        heads: number of attention heads
        vocabulary: size of the joint dictionary
        resmlp: further options of ResMLP for fairseq-train
    """

    pairs: int = 5
    pause: float = 0.25
    shortest: float = 1.0
    threads: int = 1
    device: str = "cpu"
    neighbours: int = 0
    data: str = ""
    d: int = 512
    hidden: int = 2048
    layers: int = 6
    heads: int = 8
    vocabulary: int = 32_000
    resmlp: str = ""

    def wait(self) -> None:
        """Wait until the device is idle: a GPU works asynchronously."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def training_args(arch: str, settings: Settings, *more: str):
    """Return the namespace that fairseq-train makes of its options, for a model of `arch` and the options `more`.

    The optimizer is Adam with a learning rate of 1e-4 for both models.
    """
    words = ["-", "--arch", arch, "--source-lang", "src", "--target-lang", "tgt", "--share-all-embeddings"]
    for side in ("encoder", "decoder"):
        for name, value in (
            ("embed-dim", settings.d),
            ("ffn-embed-dim", settings.hidden),
            ("layers", settings.layers),
            ("attention-heads", settings.heads),
        ):
            if (side, name) != ("encoder", "attention-heads") or arch == TRANSFORMER:
                words += [f"--{side}-{name}", str(value)]
    words += ["--dropout", "0.1", "--optimizer", "adam", "--lr", "1e-4", "--clip-norm", "1.0", "--seed", "1"]
    if arch == RESMLP:
        words += settings.resmlp.split()
    if settings.device == "cpu":
        words.append("--cpu")
    return options.parse_args_and_arch(options.get_training_parser(), [*words, *more])


def make_dictionary(settings: Settings) -> Dictionary:
    """Return a dictionary of `settings.vocabulary` entries: fairseq's special ones, then w0, w1 and so on."""
    dictionary = Dictionary()
    for i in range(settings.vocabulary - len(dictionary)):
        dictionary.add_symbol(f"w{i}")
    return dictionary


def make_model(arch: str, settings: Settings, args=None):
    """Return configuration, task and model. The random weights are the same in every call.

    Args:
        arch: `RESMLP` or `TRANSFORMER`
        settings: settings of all measurements
        args: namespace of `training_args`, by default without further options
    """
    cfg = convert_namespace_to_omegaconf(args or training_args(arch, settings))
    dictionary = make_dictionary(settings)
    task = TranslationTask(cfg.task, dictionary, dictionary)
    torch.manual_seed(1)
    return cfg, task, task.build_model(cfg.model)


def draw_words(count: int, settings: Settings, seed: int) -> torch.Tensor:
    """Draw `count` words with frequencies of Zipf's law, on which the size of a batch's shortlist depends."""
    special = len(Dictionary())
    frequency = 1 / torch.arange(1.0, settings.vocabulary - special + 1)
    return special + frequency.multinomial(count, replacement=True, generator=torch.Generator().manual_seed(seed))


def make_sentences(count: int, length: int, settings: Settings, seed: int = 1) -> torch.Tensor:
    """Return random sentences of `length` tokens, including the end-of-sentence token. Shape: count x length."""
    tokens = draw_words(count * length, settings, seed).view(count, length)
    tokens[:, -1] = Dictionary().eos()
    return tokens


def write_shortlist(path: str, settings: Settings, best: int = 20, first: int = 100) -> None:
    """Write a vocabulary map of CTranslate2 with random translations.

    A line contains a source word, a tab and its translations. The line with an empty source word lists the target
    words that are always allowed.

    Args:
        path: file to write
        settings: settings of all measurements
        best: number of translations per source word
        first: number of frequent target words that are always allowed
    """
    words = make_dictionary(settings).symbols
    drawn = draw_words(settings.vocabulary * best, settings, 3).view(settings.vocabulary, best)
    special = len(Dictionary())
    with open(path, "w", encoding="utf-8") as file:
        file.write("\t" + " ".join(words[special : special + first]) + "\n")
        for word, translations in zip(words, drawn.tolist(), strict=True):
            file.write(f"{word}\t{' '.join(words[i] for i in translations)}\n")


def make_batch(count: int, length: int, settings: Settings) -> dict[str, object]:
    """Return a training sample like those of fairseq's datasets, with `length` tokens on both sides."""
    source, target = (make_sentences(count, length, settings, seed) for seed in (1, 2))
    return {
        "id": torch.arange(count),
        "nsentences": count,
        "ntokens": target.numel(),
        "net_input": {
            "src_tokens": source,
            "src_lengths": torch.full((count,), length),
            "prev_output_tokens": target.roll(1, 1),
        },
        "target": target,
    }


def make_trainer(
    arch: str, settings: Settings, criterion: str, precision: str | None = None, options: Sequence[str] = ()
) -> Trainer:
    """Return fairseq's trainer, which computes forward, loss, backward, gradient clipping and the optimizer step.

    Args:
        arch: `RESMLP` or `TRANSFORMER`
        settings: settings of all measurements
        criterion: name of the criterion
        precision: fp32; amp; or bf16, with model and gradients in bfloat16, and a float32 copy of the parameters in the
            optimizer. By default, bf16 on a GPU and fp32 on a CPU.
        options: more options of fairseq-train
    """
    args = training_args(arch, settings, "--criterion", criterion, "--label-smoothing", "0.1", *options)
    cfg, task, model = make_model(arch, settings, args)
    precision = precision or ("bf16" if settings.device == "cuda" else "fp32")
    cfg.common.bf16, cfg.common.amp = precision == "bf16", precision == "amp"
    return Trainer(cfg, task, model, task.build_criterion(cfg.criterion))


def fairseq_search(arch: str, settings: Settings, source: torch.Tensor, length: int) -> Callable[[], int]:
    """Prepare the beam search of fairseq-generate, with hypotheses of exactly `length` tokens.

    Args:
        arch: `RESMLP` or `TRANSFORMER`
        settings: settings of all measurements
        source: sentences, count x S
        length: tokens of a hypothesis, including the end-of-sentence token; also the number of steps of the search

    Returns:
        a function that translates the batch once and returns the number of tokens of the best hypotheses
    """
    cfg, task, model = make_model(arch, settings)
    generation = cfg.generation
    generation.beam = BEAM
    generation.max_len_a, generation.max_len_b, generation.min_len = 0, length - 1, length - 1
    if settings.device == "cuda":
        model = model.half().cuda()  # like fairseq-generate --fp16
        source = source.cuda()
    model.prepare_for_inference_(cfg)
    model.eval()
    generator = task.build_generator([model], generation)
    lengths = torch.full((len(source),), source.size(1), device=source.device)
    sample = {"net_input": {"src_tokens": source, "src_lengths": lengths}}

    def translate() -> int:
        return sum(len(hypotheses[0]["tokens"]) for hypotheses in task.inference_step(generator, [model], sample))

    return translate


@contextmanager
def torch_linear_only() -> Iterator[None]:
    """Make ResMLP use `torch.nn.functional.linear`, like the Transformer, so that only the architectures differ."""
    before, linear.use_onednn = linear.use_onednn, lambda x: False
    try:
        yield
    finally:
        linear.use_onednn = before


def import_ctranslate2():
    """Return the module ctranslate2, or raise InputError if it is not installed."""
    try:
        return importlib.import_module("ctranslate2")
    except ImportError as error:
        raise InputError(
            "the CTranslate2 rows need the package: pip install -e '.[bench]' (make bench does this), or skip them "
            "with --without-ctranslate2"
        ) from error


class Search(Protocol):
    """A prepared beam search."""

    def __call__(self, source: torch.Tensor, length: int, use_shortlist: bool = False, beam: int = BEAM) -> int:
        """Translate a batch, and return the number of tokens of the best hypotheses.

        Args:
            source: sentences, count x S
            length: tokens of a hypothesis, including the end-of-sentence token; also the number of steps of the search
            use_shortlist: choose from a shortlist of target words
            beam: beam size
        """


def ctranslate2_search(settings: Settings, dtype: str) -> Search:
    """Prepare CTranslate2's beam search with the weights of fairseq's Transformer.

    Args:
        settings: settings of all measurements
        dtype: float32 or int8

    Raises:
        InputError: ctranslate2 is not installed
    """
    ctranslate2 = import_ctranslate2()
    args = training_args(TRANSFORMER, settings)
    _, task, model = make_model(TRANSFORMER, settings, args)
    words = task.source_dictionary.symbols
    with tempfile.TemporaryDirectory() as directory:
        for language in ("src", "tgt"):
            task.source_dictionary.save(os.path.join(directory, f"dict.{language}.txt"))
        file, vmap, converted = (os.path.join(directory, name) for name in ("model.pt", "vmap.txt", "converted"))
        torch.save({"args": args, "cfg": None, "model": model.state_dict()}, file)
        write_shortlist(vmap, settings)
        with torch.serialization.safe_globals([Namespace]):  # for the converter, which calls torch.load
            ctranslate2.converters.FairseqConverter(file, directory).convert(converted, vmap=vmap)
        translator = ctranslate2.Translator(
            converted, compute_type=dtype, inter_threads=1, intra_threads=settings.threads
        )

    def translate(source: torch.Tensor, length: int, use_shortlist: bool = False, beam: int = BEAM) -> int:
        results = translator.translate_batch(
            [[words[i] for i in row[:-1]] for row in source.tolist()],  # CTranslate2 adds the end-of-sentence token
            beam_size=beam,
            min_decoding_length=length,
            max_decoding_length=length,
            use_vmap=use_shortlist,
            max_batch_size=0,
        )
        return sum(len(result.hypotheses[0]) for result in results)

    return translate


def resmlp_search(settings: Settings, dtype: str, cuda_graphs: bool = False) -> Search:
    """Prepare the inference engine, like `ctranslate2_search`."""
    _, _, model = make_model(RESMLP, settings)
    network = Network(*to_inference_weights(model), dtype, settings.device, cuda_graphs)
    words = make_dictionary(settings).symbols
    with tempfile.TemporaryDirectory() as directory:
        vmap = os.path.join(directory, "vmap.txt")
        write_shortlist(vmap, settings)
        shortlist = Shortlist.read(vmap, words, words)

    def translate(source: torch.Tensor, length: int, use_shortlist: bool = False, beam: int = BEAM) -> int:
        search_options = SearchOptions(beam=beam, min_len=length - 1, max_len_a=0, max_len_b=length - 1)
        sources = source.tolist()
        allowed = shortlist.allowed(sources) if use_shortlist else None
        found = beam_search(network, sources, search_options, allowed)
        return sum(len(hypotheses[0].tokens) for hypotheses in found)

    return translate


def loading_options(data: str, settings: Settings, updates: int, log_interval: int) -> list[str]:
    """Return options of fairseq-train for a short training run of `resmlp_small_linear` on `data`."""
    words = [data, "--user-dir", os.path.dirname(fairseq_resmlp.__file__), "--arch", "resmlp_small_linear"]
    words += ["--share-all-embeddings", "--optimizer", "adagrad", "--lr", "0.05", "--lr-scheduler", "fixed"]
    criterion = OWN_CRITERION if settings.device == "cpu" else FAIRSEQ_CRITERION  # like scripts/train.sh
    words += ["--warmup-updates", "500", "--clip-norm", "1.0", "--criterion", criterion]
    words += ["--label-smoothing", "0.1", "--max-tokens", "1000", "--seed", "1", "--max-update", str(updates)]
    words += ["--log-format", "json", "--log-interval", str(log_interval), "--disable-validation", "--no-save"]
    return [*words, "--cpu" if settings.device == "cpu" else "--amp"]


def trainer_from_options(words: list[str]) -> Trainer:
    """Return the trainer that fairseq-train makes of its options."""
    args = options.parse_args_and_arch(options.get_training_parser(), words)
    cfg = convert_namespace_to_omegaconf(args)
    task = tasks.setup_task(cfg.task)
    torch.manual_seed(cfg.common.seed)
    model = task.build_model(cfg.model)
    return Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
