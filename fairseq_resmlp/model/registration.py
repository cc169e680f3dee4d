"""The registered model `resmlp` and its architectures."""

import logging
import os

import torch
from fairseq.models import FairseqEncoderDecoderModel, register_model
from fairseq.models.transformer import Embedding
from fairseq.tasks import FairseqTask
from torch import Tensor

from fairseq_resmlp.checkpoints.dictionary_hash import KEY, check_hashes, dictionary_hashes, pop_hashes
from fairseq_resmlp.common.errors import explain_other_model
from fairseq_resmlp.common.sentencepiece_model import check_fits_dictionaries, load_sentencepiece
from fairseq_resmlp.fairseq_patches.data import explain_long_sentences, truncate_long_lines
from fairseq_resmlp.fairseq_patches.divergence import DivergenceDetector
from fairseq_resmlp.model import hub
from fairseq_resmlp.model.architectures import describe_defaults, register_architectures
from fairseq_resmlp.model.compilation import compile_in_training
from fairseq_resmlp.model.config import ARCHITECTURES, ResMLPConfig, check_criterion, validate
from fairseq_resmlp.model.folding import fold_model_
from fairseq_resmlp.resmlp import ResMLPDecoder, ResMLPEncoder

logger = logging.getLogger(__name__)


@register_model("resmlp", dataclass=ResMLPConfig)
class ResMLPModel(FairseqEncoderDecoderModel):
    """Sequence-to-sequence ResMLP, arXiv 2105.03404 section 3.6.

    Use it with `fairseq-train --user-dir fairseq_resmlp --arch resmlp_base`, or load a trained model in Python:

        >>> model = ResMLPModel.from_pretrained("model")  # doctest: +SKIP
        >>> model.translate(["Hello"])  # doctest: +SKIP
    """

    @classmethod
    def add_args(cls, parser) -> None:
        """Add the options to --help, each with its default in every architecture that changes it."""
        super().add_args(parser)
        describe_defaults(parser, ResMLPConfig, ARCHITECTURES)

    @classmethod
    def build_model(cls, cfg: ResMLPConfig, task) -> "ResMLPModel":
        """Build the model for a translation task.

        Raises:
            InputError: options that contradict each other or the task's dictionaries
        """
        validate(cfg, task)
        adapt_task(task, cfg.encoder_max_positions)
        if cfg.compile:
            compile_in_training(task)
        decoder_embed = Embedding(len(task.target_dictionary), cfg.decoder_embed_dim, task.target_dictionary.pad())
        if cfg.share_all_embeddings:
            cfg.share_decoder_input_output_embed = True
            encoder_embed = decoder_embed
        else:
            source = task.source_dictionary
            encoder_embed = Embedding(len(source), cfg.encoder_embed_dim, source.pad())
        encoder = ResMLPEncoder(cfg, task.source_dictionary, encoder_embed)
        decoder = ResMLPDecoder(cfg, task.target_dictionary, decoder_embed)
        return cls(encoder, decoder)

    # Like the base class's forward, but without **kwargs, which TorchScript does not support.
    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor | None,
        prev_output_tokens: Tensor,
        features_only: bool = False,
    ):
        """Compute the logits of every target position given the earlier ones (teacher forcing).

        Args:
            src_tokens (LongTensor): B x S, padded on either side
            src_lengths (LongTensor): B
            prev_output_tokens (LongTensor): B x T, the target shifted right, padded on the right
            features_only (bool): stop before the output layer

        Returns:
            (B x T x V logits, dict with the attention), like `ResMLPDecoder.forward`

        Raises:
            InputError: S or T is larger than N
        """
        encoder_out = self.encoder(src_tokens, src_lengths)
        return self.decoder(prev_output_tokens, encoder_out, features_only=features_only)

    def make_generation_fast_(self, **kwargs) -> None:
        """Absorb the Affs into adjacent layers. Called by fairseq-generate."""
        if not self._is_generation_fast:
            fold_model_(self)
        super().make_generation_fast_(**kwargs)

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Warn if N differs and the mixing resizes its A.

        Raises:
            InputError: the parameters contain the hash of another dictionary, as earlier versions stored it
        """
        check_hashes(pop_hashes(state_dict), dictionary_hashes(self.encoder.dictionary, self.decoder.dictionary))
        for side, stack in (("encoder", self.encoder), ("decoder", self.decoder)):
            N = next((x.mixing.stored_length(state_dict, f"{side}.layers.0.mixing") for x in stack.layers), None)
            if N is None and f"{side}.positions.P" in state_dict:
                N = len(state_dict[f"{side}.positions.P"])
            if N not in (None, stack.N):
                logger.warning(
                    f"the {side} of this checkpoint has N = {N} and was resized to --{side}-max-positions {stack.N}; "
                    "to continue its training, pass --reset-optimizer, because the optimizer state has the old size"
                )
        super().upgrade_state_dict_named(state_dict, name)

    def load_state_dict(self, state_dict: dict[str, Tensor], *args, **kwargs):
        """Load the parameters of a checkpoint.

        Raises:
            InputError: they belong to another model
        """
        with explain_other_model("dictionaries"):
            return super().load_state_dict(state_dict, *args, **kwargs)

    # The base class's method calls super(), which TorchScript does not support.
    @torch.jit.export
    def get_normalized_probs(
        self,
        net_output: tuple[Tensor, dict[str, list[Tensor | None]] | None],
        log_probs: bool,
        sample: dict[str, Tensor] | None = None,
    ):
        """Return the (log-)probabilities over the dictionary for the output of `forward`."""
        return self.get_normalized_probs_scriptable(net_output, log_probs, sample)

    @classmethod
    def from_pretrained(
        cls, model_name_or_path, checkpoint_file="model.pt", data_name_or_path=".", prune_mixing=0.0, **kwargs
    ) -> hub.HubTranslator:
        """Load a model directory for translation in Python. See `fairseq_resmlp.model.hub.from_pretrained`."""
        return hub.from_pretrained(model_name_or_path, checkpoint_file, data_name_or_path, prune_mixing, **kwargs)

    @classmethod
    def load(cls, directory, checkpoint_file="model.pt", data=".", **kwargs):
        """Load a model directory without preparing the model for generation. See `fairseq_resmlp.model.hub.load`."""
        return hub.load(directory, checkpoint_file, data, **kwargs)


def adapt_task(task: FairseqTask, N: int) -> None:
    """Adapt a translation task to this model.

    Sentences longer than N are reported with the option to raise, input lines longer than N are truncated with a
    warning, diverging training stops, and checkpoints store the hashes of the dictionaries. The task of a model of
    fairseq's own stays unchanged.

    A criterion or a SentencePiece model that does not fit is refused.

    Raises:
        InputError: the state of the task comes from a checkpoint that was trained with another dictionary
    """
    own = dictionary_hashes(task.source_dictionary, task.target_dictionary)
    stored = task.state.state_dict.get(KEY)
    task.state.merge_state_dict({KEY: own})
    check_hashes(stored, own)
    explain_long_sentences(task)
    truncate_long_lines(task, N)
    _check_parts(task)
    task.divergence_detector = DivergenceDetector(len(task.target_dictionary))


def _check_parts(task: FairseqTask) -> None:
    """Check the criterion of a training run and the SentencePiece model of a translation when they are built."""
    build_criterion, build_bpe = task.build_criterion, task.build_bpe

    def build_suitable_criterion(cfg, *args, **kwargs):
        check_criterion(getattr(cfg, "_name", None) or getattr(cfg, "criterion", ""))
        return build_criterion(cfg, *args, **kwargs)

    def build_suitable_bpe(cfg):
        path = getattr(cfg, "sentencepiece_model", None)
        if getattr(cfg, "_name", None) == "sentencepiece" and path is not None and os.path.exists(path):
            entries = (task.source_dictionary.symbols, task.target_dictionary.symbols)
            check_fits_dictionaries(load_sentencepiece(path), path, *entries)
        return build_bpe(cfg)

    task.build_criterion, task.build_bpe = build_suitable_criterion, build_suitable_bpe


register_architectures("resmlp", ResMLPConfig, ARCHITECTURES)
