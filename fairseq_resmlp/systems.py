"""The systems that `fairseq-resmlp bench` compares: this plugin's model and fairseq's Transformer of the same
dimensions, both with random weights, in fairseq's trainer and in its beam search, and CTranslate2."""

import importlib
import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Callable, Dict, Iterator, List

import torch
from fairseq import options, tasks
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks.translation import TranslationTask
from fairseq.trainer import Trainer

from . import checkpoint, fast, linear
from . import search as fast_search
from .errors import InputError
from .shortlist import Shortlist

RESMLP, TRANSFORMER = "resmlp_base", "transformer"
OWN_CRITERION, FAIRSEQ_CRITERION = "fused_label_smoothed_cross_entropy", "label_smoothed_cross_entropy"
BEAM = 4


@dataclass(frozen=True)
class Settings:
    """What all measurements share; the dimensions are those of both models.

    Args:
        pairs: how often the two sides of a row are timed, one after the other
        pause: seconds before each timing
        shortest: seconds that a timing takes at least
        threads: cores that either side may use
        device: cpu or cuda
        data: folder of fairseq-preprocess for the measurement of data loading, or None
        resmlp: more options of ResMLP, as fairseq-train takes them
    """

    pairs: int = 5
    pause: float = 0.5
    shortest: float = 1.0
    threads: int = 1
    device: str = "cpu"
    data: str = ""
    d: int = 512
    hidden: int = 2048
    layers: int = 6
    heads: int = 8
    vocabulary: int = 32_000
    resmlp: str = ""

    def wait(self) -> None:
        """Wait until the device has done what it was given: a GPU works on after the call that started it."""
        if self.device == "cuda":
            torch.cuda.synchronize()


def configure(arch: str, settings: Settings, *more: str):
    """fairseq's command-line options of a training of `arch`: the namespace that fairseq-train would make.

    The optimizer is Adam with a learning rate of 1e-4 for either model.
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
    """w0, w1 and so on after fairseq's special entries, `settings.vocabulary` entries in all."""
    dictionary = Dictionary()
    for i in range(settings.vocabulary - len(dictionary)):
        dictionary.add_symbol(f"w{i}")
    return dictionary


def build(arch: str, settings: Settings, args=None):
    """Options, task and model with random weights, the same ones each time. Shape of `args`: see `configure`."""
    cfg = convert_namespace_to_omegaconf(args or configure(arch, settings))
    dictionary = make_dictionary(settings)
    task = TranslationTask(cfg.task, dictionary, dictionary)
    torch.manual_seed(1)
    return cfg, task, task.build_model(cfg.model)


def draw(count: int, settings: Settings, seed: int) -> torch.Tensor:
    """`count` random words, rare and frequent ones as Zipf's law has them, for shortlists depend on it."""
    special = len(Dictionary())
    frequency = 1 / torch.arange(1.0, settings.vocabulary - special + 1)
    return special + frequency.multinomial(count, replacement=True, generator=torch.Generator().manual_seed(seed))


def sentences(count: int, length: int, settings: Settings, seed: int = 1) -> torch.Tensor:
    """Random sentences without padding, `length` tokens each with the end-of-sentence mark. Shape: count x length."""
    tokens = draw(count * length, settings, seed).view(count, length)
    tokens[:, -1] = Dictionary().eos()
    return tokens


def write_shortlist(path: str, settings: Settings, each: int = 20, always: int = 100) -> None:
    """Write a vocabulary map of CTranslate2: made-up translations of every entry, and the most frequent words for all.

    A line is an entry and a tab and its translations; the line without an entry is for all.
    """
    words = make_dictionary(settings).symbols
    drawn = draw(settings.vocabulary * each, settings, 3).view(settings.vocabulary, each)
    first = len(Dictionary())
    with open(path, "w", encoding="utf-8") as file:
        file.write("\t" + " ".join(words[first : first + always]) + "\n")
        for word, translations in zip(words, drawn.tolist()):
            file.write(f"{word}\t{' '.join(words[i] for i in translations)}\n")


def batch(count: int, length: int, settings: Settings) -> Dict[str, object]:
    """A training sample as fairseq's data sets make it, `length` tokens on either side."""
    source, target = (sentences(count, length, settings, seed) for seed in (1, 2))
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


def trainer(arch: str, settings: Settings, criterion: str, bfloat16: bool = False) -> Trainer:
    """fairseq's own trainer, which does forward, loss, backward, clipping and the optimizer's step.

    `bfloat16` is fairseq's `common.bf16`: model and gradients in bfloat16, the optimizer's copy in float32. On a GPU
    nothing else is measured.
    """
    args = configure(arch, settings, "--criterion", criterion, "--label-smoothing", "0.1")
    cfg, task, model = build(arch, settings, args)
    cfg.common.bf16 = bfloat16 or settings.device == "cuda"
    return Trainer(cfg, task, model, task.build_criterion(cfg.criterion))


def search(arch: str, settings: Settings, source: torch.Tensor, length: int) -> Callable[[], int]:
    """fairseq-generate's beam search for the best of `BEAM`, each hypothesis of exactly `length` tokens.

    Args:
        source: sentences, count x S
        length: tokens of a hypothesis with its end-of-sentence mark, which are the steps of the search

    Returns:
        a function that translates once and gives the number of tokens of the best hypotheses
    """
    cfg, task, model = build(arch, settings)
    generation = cfg.generation
    generation.beam = BEAM
    generation.max_len_a, generation.max_len_b, generation.min_len = 0, length - 1, length - 1
    if settings.device == "cuda":
        model = model.half().cuda()  # fairseq-generate --fp16
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
def torchs_own_products() -> Iterator[None]:
    """Give this plugin's model the matrix products that torch chooses and the Transformer has: what is left is the
    architecture's."""
    before, linear.pays = linear.pays, lambda x: False
    try:
        yield
    finally:
        linear.pays = before


def need_ctranslate2():
    """The module; InputError if it is not installed."""
    try:
        return importlib.import_module("ctranslate2")
    except ImportError as error:
        raise InputError(
            "the rows against CTranslate2 need it: pip install -e '.[bench]' (make bench does), or leave them out with "
            "--without-ctranslate2"
        ) from error


# Called with sources, count x S, and whether to choose from a shortlist; gives the tokens of the best hypotheses.
Search = Callable[[torch.Tensor, bool], int]


def ctranslate2_search(settings: Settings, length: int, kind: str) -> Search:
    """CTranslate2's beam search with the weights of fairseq's Transformer.

    Args:
        length: tokens of a hypothesis, which are the steps of the search
        kind: float32 or int8

    Raises:
        InputError: ctranslate2 is not installed
    """
    ctranslate2 = need_ctranslate2()
    args = configure(TRANSFORMER, settings)
    _, task, model = build(TRANSFORMER, settings, args)
    words = task.source_dictionary.symbols
    with tempfile.TemporaryDirectory() as folder:
        for language in ("src", "tgt"):
            task.source_dictionary.save(os.path.join(folder, f"dict.{language}.txt"))
        file, vmap, converted = (os.path.join(folder, name) for name in ("model.pt", "vmap.txt", "converted"))
        torch.save({"args": args, "cfg": None, "model": model.state_dict()}, file)
        write_shortlist(vmap, settings)
        with checkpoint.safe_to_load(file):  # which the converter loads by itself
            ctranslate2.converters.FairseqConverter(file, folder).convert(converted, vmap=vmap)
        translator = ctranslate2.Translator(
            converted, compute_type=kind, inter_threads=1, intra_threads=settings.threads
        )

    def translate(source: torch.Tensor, use_shortlist: bool) -> int:
        results = translator.translate_batch(
            [[words[i] for i in row[:-1]] for row in source.tolist()],  # it adds the mark of the end
            beam_size=BEAM,
            min_decoding_length=length,
            max_decoding_length=length,
            use_vmap=use_shortlist,
            max_batch_size=0,
        )
        return sum(len(result.hypotheses[0]) for result in results)

    return translate


def resmlp_search(settings: Settings, length: int, kind: str) -> Search:
    """This plugin's own network for translation alone, as `ctranslate2_search`; the mark of the end counts."""
    _, _, model = build(RESMLP, settings)
    network = fast.Network(*fast.fold(model), kind)
    options = fast_search.Options(beam=BEAM, min_len=length - 1, max_len_a=0, max_len_b=length - 1)
    words = make_dictionary(settings).symbols
    with tempfile.TemporaryDirectory() as folder:
        vmap = os.path.join(folder, "vmap.txt")
        write_shortlist(vmap, settings)
        shortlist = Shortlist.read(vmap, words, words)

    def translate(source: torch.Tensor, use_shortlist: bool) -> int:
        sources = source.tolist()
        allowed = shortlist.allowed(sources) if use_shortlist else None
        found = fast_search.translate(network, sources, options, allowed)
        return sum(len(hypotheses[0].tokens) for hypotheses in found)

    return translate


def real_training(data: str, settings: Settings, updates: int, log_interval: int) -> List[str]:
    """Options of a short training on `data` of `resmlp_small_linear`, for fairseq-train."""
    words = [data, "--user-dir", os.path.dirname(os.path.abspath(__file__)), "--arch", "resmlp_small_linear"]
    words += ["--share-all-embeddings", "--optimizer", "adagrad", "--lr", "0.05", "--lr-scheduler", "fixed"]
    criterion = OWN_CRITERION if settings.device == "cpu" else FAIRSEQ_CRITERION  # as scripts/train.sh
    words += ["--warmup-updates", "500", "--clip-norm", "1.0", "--criterion", criterion]
    words += ["--label-smoothing", "0.1", "--max-tokens", "1000", "--seed", "1", "--max-update", str(updates)]
    words += ["--log-format", "json", "--log-interval", str(log_interval), "--disable-validation", "--no-save"]
    return words + ["--cpu" if settings.device == "cpu" else "--amp"]


def real_trainer(words: List[str]) -> Trainer:
    """The trainer that fairseq-train makes of its options."""
    args = options.parse_args_and_arch(options.get_training_parser(), words)
    cfg = convert_namespace_to_omegaconf(args)
    task = tasks.setup_task(cfg.task)
    torch.manual_seed(cfg.common.seed)
    model = task.build_model(cfg.model)
    return Trainer(cfg, task, model, task.build_criterion(cfg.criterion))
