"""Lines of raw text, whatever is in them: one translation for each, in their order."""

import functools
import logging

from fairseq.hub_utils import GeneratorHubInterface
from fairseq.tasks import FairseqTask
from omegaconf import open_dict

logger = logging.getLogger(__name__)


class Translator(GeneratorHubInterface):
    """fairseq's interface to a model folder, for any list of strings.

    A line that is longer than the model's N is cut, with a warning (see `cut_long_lines`); half a surrogate pair,
    which is no text, is read as the replacement character.
    """

    def __init__(self, cfg, task, models):
        super().__init__(cfg, task, models)
        allow_one_line_of_any_length(cfg, self.max_positions)

    def encode(self, sentence: str):
        """str to a LongTensor of pieces that ends with the end-of-sentence mark."""
        return super().encode(sentence.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))

    def sample(self, sentences, beam: int = 1, verbose: bool = False, **kwargs):
        """Translate one string or many; what the search keeps of a sentence is let go after each thousand."""
        if isinstance(sentences, str):
            return self.sample([sentences], beam, verbose, **kwargs)[0]
        sentences, found = list(sentences), []
        for start in range(0, len(sentences), 1000):
            found += super().sample(sentences[start : start + 1000], beam, verbose, **kwargs)
        return found


def allow_one_line_of_any_length(cfg, max_positions) -> None:
    """Let a line of N pieces be a batch, which fairseq ends with where --max-tokens is smaller."""
    if cfg.dataset.max_tokens is not None:
        with open_dict(cfg):
            cfg.dataset.max_tokens = max(cfg.dataset.max_tokens, max_positions[0])


def cut_long_lines(task: FairseqTask, N: int) -> None:
    """Translate the first N - 1 pieces of a line that is longer, and say so.

    For fairseq-interactive and `Translator.translate`, where the lines are somebody's text: fairseq would end, or drop
    the line and number the others anew. In fairseq-generate, whose sets are scored, `mends.name_long_sentences`
    refuses them.
    """
    original = task.build_dataset_for_inference

    @functools.wraps(original)
    def build_dataset_for_inference(src_tokens, src_lengths, **kwargs):
        limit = min(N, task.max_positions()[0])
        lines = list(src_tokens)
        for i, line in enumerate(lines):
            if len(line) > limit:
                start = task.source_dictionary.string(line[:8])
                logger.warning(
                    f"a line of {len(line) - 1:,} pieces is cut to its first {limit - 1}, which is what "
                    f"{'N' if limit == N else '--max-source-positions'} = {limit} holds with the end-of-sentence mark: "
                    f"{start} ..."
                )
                lines[i] = line[:limit].clone()
                lines[i][-1] = line[-1]  # the end-of-sentence mark
        return original(lines, [len(line) for line in lines], **kwargs)

    task.build_dataset_for_inference = build_dataset_for_inference
