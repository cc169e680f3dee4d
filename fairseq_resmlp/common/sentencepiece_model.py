"""Loading SentencePiece models."""

import sentencepiece

from fairseq_resmlp.common.errors import InputError

WORD_BOUNDARY = "\u2581"  # SentencePiece's mark for a space


def load_sentencepiece(path: str) -> sentencepiece.SentencePieceProcessor:
    """Load a SentencePiece model.

    Raises:
        InputError: the file is not a SentencePiece model
    """
    try:
        return sentencepiece.SentencePieceProcessor(model_file=path)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} is not a SentencePiece model") from error
