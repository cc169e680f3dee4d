"""The models of the server, chosen by language pair."""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.inference.batching import BatchQueue
from fairseq_resmlp.inference.translation import Translation, TranslationOptions
from fairseq_resmlp.inference.translator import Translator
from fairseq_resmlp.server.languages import language_name
from fairseq_resmlp.server.maps import MixingMaps

# A translation that the model does not end ends here. One character can be a sentence, so a request of 5,000 characters
# would otherwise cost 5,000 times the default of 200 tokens.
MAX_LEN_A, MAX_LEN_B = 2.0, 30

_NAME = re.compile(r"[\w.-]{1,64}")


class ServedModel:
    """A model, and the queue of the texts that it is to translate.

    Args:
        name: name in requests; None: its languages, such as en-de
        translator: the model
        beam: beam size
        max_waiting: see `BatchQueue`

    Raises:
        InputError: the name contains characters other than letters, digits, "_", "." and "-"
    """

    def __init__(self, name: str | None, translator: Translator, beam: int, max_waiting: int):
        self.source, self.target = translator.languages
        self.name = f"{self.source}-{self.target}" if name is None else name
        if not _NAME.fullmatch(self.name):
            raise InputError(
                f"{self.name!r} cannot be the name of a model: specify NAME=MODEL with a name of up to 64 letters, "
                "digits, _, . and -"
            )
        self.translator, self.beam = translator, beam
        self.queue = BatchQueue(translator, max_waiting)
        self.maps = MixingMaps(translator.network)

    def submit(
        self,
        texts: Sequence[str],
        n_best: int = 1,
        alignments: bool = False,
        on_step: Callable[[list[str]], None] | None = None,
    ) -> "Future[list[Translation]]":
        """Add texts to the queue, each split into its sentences.

        Args:
            texts: any texts
            n_best: translations per text, at most the beam size
            alignments: whether to align words
            on_step: called in another thread with the best translations so far

        Raises:
            QueueFull: too many requests wait
        """
        options = TranslationOptions(
            beam=self.beam,
            max_len_a=MAX_LEN_A,
            max_len_b=MAX_LEN_B,
            n_best=n_best,
            alignments=alignments,
            split_sentences=True,
        )
        return self.queue.submit(texts, options, on_step=on_step)

    def description(self) -> dict[str, Any]:
        """Return name, languages and sizes, in the types of JSON."""
        network, config = self.translator.network, self.translator.network.config
        shapes = config.weight_shapes()
        if network.target_embed is network.source_embed:
            del shapes["decoder.embed"]
        return {
            "name": self.name,
            "source": self.source,
            "target": self.target,
            "parameters": sum(map(math.prod, shapes.values())),
            "dtype": network.dtype,
            "d": config.encoder_embed_dim,
            "layers": {"encoder": config.encoder_layers, "decoder": config.decoder_layers},
            "N": {"encoder": config.encoder_max_positions, "decoder": config.decoder_max_positions},
            "beam": self.beam,
        }


class Models:
    """All models of the server.

    Args:
        models: at least one

    Raises:
        InputError: two models have the same name
    """

    def __init__(self, models: Iterable[ServedModel]):
        self.models = list(models)
        for name, count in Counter(model.name for model in self.models).items():
            if count > 1:
                raise InputError(
                    f"{count} models are named {name}: distinguish them with NAME=MODEL, for example "
                    f"small={name} and big={name}"
                )
        self.pairs = {(model.source, model.target): model for model in reversed(self.models)}  # the first wins
        self.sources = list(dict.fromkeys(model.source for model in self.models))
        self.targets = list(dict.fromkeys(model.target for model in self.models))

    def named(self, name: str) -> ServedModel | None:
        """Return the model with this name, or None."""
        return next((model for model in self.models if model.name == name), None)

    def choose(self, source: str, target: str, name: str | None = None) -> ServedModel:
        """Return the model for a request.

        Args:
            source, target: language codes
            name: name of the model; None: the first one that translates this pair

        Raises:
            InputError: no model translates this pair, or the named one does not
        """
        model = self.pairs.get((source, target)) if name is None else self.named(name)
        if model is None or (model.source, model.target) != (source, target):
            pairs = ", ".join(f"{source} to {target}" for source, target in sorted(self.pairs))
            subject = "no model" if name is None else f"no model named {name!r:.40}"
            raise InputError(f"{subject} translates from {source!r:.40} to {target!r:.40}: available are {pairs}")
        return model

    def languages(self) -> list[dict[str, Any]]:
        """Return the languages in LibreTranslate's format."""
        return [
            {
                "code": code,
                "name": language_name(code),
                "targets": [target for target in self.targets if (code, target) in self.pairs],
            }
            for code in dict.fromkeys([*self.sources, *self.targets])
        ]

    def close(self) -> None:
        """Stop all queues. Waiting and running requests are cancelled."""
        for model in self.models:
            model.queue.close()
