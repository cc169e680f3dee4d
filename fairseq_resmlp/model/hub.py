"""Loading trained models, following fairseq's hub conventions."""

import copy
import functools
import logging
import os
from typing import Any

from fairseq import hub_utils, utils
from fairseq.data import LanguagePairDataset
from fairseq.models import ARCH_MODEL_NAME_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.sequence_scorer import SequenceScorer
from omegaconf import open_dict
from torch import nn

from fairseq_resmlp.checkpoints.checkpoint_file import extra_check
from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.sentencepiece_model import check_fits_dictionaries, load_sentencepiece
from fairseq_resmlp.common.text import replace_surrogates
from fairseq_resmlp.fairseq_patches.generation import raise_max_tokens_to_max_positions
from fairseq_resmlp.fairseq_patches.option_checks import check_generation_options, check_values
from fairseq_resmlp.model.pruning import mixing_weights, prune

logger = logging.getLogger(__name__)

# Arguments of fairseq's `generate` that are no options of fairseq-generate
_ARGUMENTS = ("skip_invalid_size_inputs", "inference_step_args", "prefix_allowed_tokens_fn")


class HubTranslator(hub_utils.GeneratorHubInterface):
    """fairseq's interface to a trained model, for any list of strings.

    A line longer than the model's N is truncated, with a warning. Unpaired surrogates, which are not valid text, are
    read as the replacement character.

    Raises:
        InputError: the SentencePiece model is invalid, or does not fit the dictionaries
    """

    def __init__(self, cfg, task, models):
        if getattr(cfg.bpe, "_name", None) == "sentencepiece":
            path, source, target = cfg.bpe.sentencepiece_model, task.source_dictionary, task.target_dictionary
            check_fits_dictionaries(load_sentencepiece(path), path, source.symbols, target.symbols)
        super().__init__(cfg, task, models)
        raise_max_tokens_to_max_positions(cfg, self.max_positions)

    def encode(self, sentence: str):
        """Encode a string as a LongTensor of subword tokens that ends with the end-of-sentence token."""
        return super().encode(replace_surrogates(sentence))

    def sample(self, sentences, beam: int = 1, verbose: bool = False, **kwargs):
        """Translate one string or several. Memory of the search is freed after every thousand sentences."""
        if isinstance(sentences, str):
            return self.sample([sentences], beam, verbose, **kwargs)[0]
        sentences, found = list(sentences), []
        for start in range(0, len(sentences), 1000):
            found += super().sample(sentences[start : start + 1000], beam, verbose, **kwargs)
        return found

    def generate(self, tokenized_sentences, beam: int = 5, verbose: bool = False, print_alignment=None, **kwargs):
        """Translate encoded sentences. Returns a list of hypotheses for each: dicts of `tokens`, `score`, ...

        Args:
            tokenized_sentences: a LongTensor from `encode`, or a list of them
            beam, verbose, kwargs: beam size, whether to log the hypotheses, and options of fairseq-generate
            print_alignment (str): adds an `alignment` to each hypothesis: "hard" (or True) gives pairs of a source and
                a target word, "soft" the attention of each target token; None uses the value that was given to
                `from_pretrained`, and False gives none

        Raises:
            InputError: another value of `print_alignment`, or "soft" with `verbose`; an option does not exist
        """
        check_generation_options({"beam": beam, **{name: kwargs[name] for name in kwargs if name not in _ARGUMENTS}})
        check_values({"beam": beam, **kwargs})
        if print_alignment is None:
            return super().generate(tokenized_sentences, beam, verbose, **kwargs)
        requested = {True: "hard", False: None}.get(print_alignment, print_alignment)
        if requested not in (None, "hard", "soft") or (requested == "soft" and verbose):
            raise InputError(
                f"print_alignment={print_alignment!r} is not supported{' with verbose' * verbose}: use 'hard'"
                + (" or 'soft'" if not verbose else "")
            )
        hub = self._with_attention() if requested else self
        return super(HubTranslator, hub).generate(
            tokenized_sentences, beam, verbose, print_alignment=requested, **kwargs
        )

    def score(self, sentences, translations=None, print_alignment: bool = False):
        """Score given translations with teacher forcing.

        Args:
            sentences (str or list of str): source text
            translations (str or list of str): the translation of each sentence
            print_alignment: add an `alignment`, pairs of a source and a target word

        Returns:
            a dict per sentence: `tokens` of the translation, the log-probability of each as `positional_scores`, and
            their mean, including that of the end-of-sentence token, as `score`

        Raises:
            InputError: translations are missing, or a sentence exceeds N
        """
        if isinstance(sentences, str) and isinstance(translations, str):
            return self.score([sentences], [translations], print_alignment)[0]
        if translations is None or isinstance(sentences, str) or isinstance(translations, str):
            raise InputError("score needs a translation for each sentence: use score(sentences, translations)")
        sources = [self.encode(sentence) for sentence in sentences]
        targets = [self._encode_target(translation) for translation in translations]
        if len(sources) != len(targets):
            raise InputError(f"{len(sources)} sentences have {len(targets)} translations: pass one for each")
        dataset = LanguagePairDataset(
            *(sources, [len(source) for source in sources], self.src_dict),
            *(targets, [len(target) for target in targets], self.tgt_dict),
            shuffle=False,
        )
        batches = self.task.get_batch_iterator(
            dataset,
            max_tokens=max(self.cfg.dataset.max_tokens or 0, *self.max_positions),
            max_sentences=self.cfg.dataset.batch_size,
            max_positions=self.max_positions,
            disable_iterator_cache=True,
        ).next_epoch_itr(shuffle=False)
        scorer = SequenceScorer(self.tgt_dict, compute_alignment=print_alignment)
        models = (self._with_attention() if print_alignment else self).models
        scores: dict[int, Any] = {}
        for batch in batches:
            batch = utils.apply_to_sample(lambda t: t.to(self.device), batch)
            scores.update(zip(batch["id"].tolist(), scorer.generate(models, batch)))
        return [scores[i][0] for i in range(len(sources))]

    def _encode_target(self, sentence: str):
        pieces = self.apply_bpe(self.tokenize(replace_surrogates(sentence)))
        return self.tgt_dict.encode_line(pieces, add_if_not_exist=False).long()

    def _with_attention(self) -> "HubTranslator":
        """Return a copy whose models return their attention. Other threads may use the models at the same time."""

        def replace(module, **children):
            module = copy.copy(module)
            module._modules = {**module._modules, **children}
            return module

        models = [replace(model, decoder=copy.copy(model.decoder)) for model in self.models]
        for model in models:
            model.decoder.need_attn = True
        return replace(self, models=nn.ModuleList(models))


def from_pretrained(
    directory, checkpoint_file="model.pt", data=".", prune_mixing: float = 0.0, **kwargs
) -> HubTranslator:
    """Load a model directory for translation in Python.

    The directory follows fairseq's hub conventions: `model.pt`, `dict.SRC.txt`, `dict.TGT.txt` and, for raw text,
    `sentencepiece.bpe.model`.

    Args:
        directory (str): the model directory
        checkpoint_file (str): file in it; several joined by ":" form an ensemble
        data (str): directory of the dictionaries, relative to `directory` if it starts with "."
        prune_mixing (float): zero the entries of each A smaller than this fraction of its largest
        kwargs: overrides of the training options, such as `encoder_max_positions=512`

    Returns:
        HubTranslator: with `.translate(["Hello"], beam=4)`

    Raises:
        InputError: a file is missing, or the checkpoint is not safe to load (see `fairseq_resmlp.checkpoints`) or
            belongs to another model
    """
    cfg, task, models = load(directory, checkpoint_file, data, **kwargs)
    if prune_mixing:  # before the Affs are folded, which uses the row sums of A
        for model in models:
            prune(mixing_weights(model), prune_mixing)
    return HubTranslator(cfg, task, models)


def load(directory, checkpoint_file="model.pt", data=".", **kwargs):
    """Load a model directory without preparing the model for generation. Arguments and errors as for `from_pretrained`.

    Returns:
        (options, task, list of models)
    """
    directory = str(directory)
    if os.path.isfile(directory):
        raise InputError(f"{directory} is a file: pass its directory, and the file name as checkpoint_file=")
    for file in checkpoint_file.split(os.pathsep):
        if not os.path.isfile(os.path.join(directory, file)):
            raise InputError(f"checkpoint {file} not found in {directory}: specify another with checkpoint_file=")
    dictionaries = os.path.join(directory, data) if data.startswith(".") else data
    if not os.path.isdir(dictionaries):
        raise InputError(f"directory {dictionaries} not found: {_SPECIFY_DATA}")
    if "sentencepiece_model" in kwargs or os.path.isfile(os.path.join(directory, "sentencepiece.bpe.model")):
        kwargs.setdefault("bpe", "sentencepiece")
    elif "bpe" not in kwargs:
        logger.warning(
            f"sentencepiece.bpe.model not found in {directory}: input and output are subword tokens separated by spaces"
        )
    for part in ("bpe", "tokenizer"):
        known = REGISTRIES[part]["registry"]
        if kwargs.get(part) is not None and kwargs[part] not in known:
            raise InputError(f"{part}={kwargs[part]!r} not found: use one of {', '.join(known)}")
    before = extra_check.set(functools.partial(_check_options, kwargs))
    try:
        loaded = hub_utils.from_pretrained(directory, checkpoint_file, data, **kwargs)
    except FileNotFoundError as error:
        raise InputError(f"{error.filename} not found: {_SPECIFY_DATA}") from error
    finally:
        extra_check.reset(before)
    cfg = loaded["args"]
    if "sentencepiece_model" in kwargs and kwargs["bpe"] == "sentencepiece":  # fairseq prefers a file in the directory
        with open_dict(cfg):
            cfg.bpe.sentencepiece_model = kwargs["sentencepiece_model"]
    return cfg, loaded["task"], loaded["models"]


_SPECIFY_DATA = (
    "specify the directory of dict.*.txt, such as data-bin, as data_name_or_path=, or in a command as --data"
)


def _check_options(requested: dict[str, Any], state: dict[str, Any], file: str) -> None:
    """Raise InputError if a checkpoint is not a ResMLP, or selects a tokenization that was not requested.

    fairseq builds whatever model the options in a checkpoint specify, and downloads the files of its tokenization from
    the addresses in them.
    """
    options = {} if state.get("args") is not None else state.get("cfg") or {}  # fairseq prefers args; ours have none
    names = {part: getattr(options.get(part), "_name", options.get(part)) for part in ("model", "bpe", "tokenizer")}
    arch = names.pop("model")
    if not isinstance(arch, str) or ARCH_MODEL_NAME_REGISTRY.get(arch) != "resmlp":
        raise InputError(f"{file} is a checkpoint of another model, not resmlp")
    for part, name in names.items():
        if name is not None and name != requested.get(part):
            raise InputError(f"{file} requests {part}={name!r}: pass it explicitly if you trust this checkpoint")
