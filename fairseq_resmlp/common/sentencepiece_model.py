"""Loading SentencePiece models."""

import re
from collections.abc import Sequence
from itertools import takewhile

import sentencepiece

from fairseq_resmlp.common.errors import InputError
from fairseq_resmlp.common.regular_files import check_regular_file

WORD_BOUNDARY = "\u2581"  # SentencePiece's mark for a space
_NOT_FROM_TEXT = re.compile(r"<s>|<pad>|</s>|<unk>|madeupword\d+")  # entries that fairseq adds to a dictionary


def load_sentencepiece(path: str) -> sentencepiece.SentencePieceProcessor:
    """Load a SentencePiece model.

    Raises:
        InputError: the file is not a SentencePiece model
    """
    check_regular_file(path)
    try:
        return sentencepiece.SentencePieceProcessor(model_file=path)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} is not a SentencePiece model") from error


def check_fits_dictionaries(
    processor: sentencepiece.SentencePieceProcessor, path: str, source: Sequence[str], target: Sequence[str]
) -> None:
    """Check that a SentencePiece model can have tokenized the text that the dictionaries were built from.

    A dictionary may lack pieces of the model, for example those of another language, or those that the training text
    does not contain. But almost all entries of the source dictionary are pieces of the model; the others consist of
    characters that the model does not know. And the missing pieces are spread over the model. If they are its last
    ones, the dictionary is that of a smaller model.

    Args:
        processor: the model
        path: its file, for the error message
        source, target: entries of the dictionaries

    Raises:
        InputError: the model does not fit
    """
    # Like fairseq's dictionary, without unusual spaces within pieces
    pieces = ["".join(processor.id_to_piece(i).split()) for i in range(processor.get_piece_size())]
    produced, known = set(pieces), set("".join(pieces))
    entries = [entry for entry in source if not _NOT_FROM_TEXT.fullmatch(entry)]
    foreign = [entry for entry in entries if entry not in produced and not known.isdisjoint(entry)]
    listed = {*source, *target}
    text_pieces = [piece for i, piece in enumerate(pieces) if not _is_special(processor, i)]
    missing = [piece for piece in text_pieces if piece not in listed]
    merged = [piece for piece in reversed(text_pieces) if len(piece) > 1]  # in BPE, single characters are the last
    tail = sum(1 for _ in takewhile(lambda piece: piece not in listed, merged))
    if len(foreign) > 0.05 * len(entries) or (len(missing) > 0.1 * len(text_pieces) and tail > 0.8 * len(missing)):
        unknown, impossible = len(missing) / max(1, len(text_pieces)), len(foreign) / max(1, len(entries))
        raise InputError(
            f"{path} does not fit the dictionaries: {unknown:.0%} of its pieces are unknown to them, and it cannot "
            f"produce {impossible:.0%} of the source dictionary: use the SentencePiece model that tokenized the "
            "training data"
        )


def _is_special(processor: sentencepiece.SentencePieceProcessor, i: int) -> bool:
    return any(kind(i) for kind in (processor.is_control, processor.is_unknown, processor.is_byte, processor.is_unused))
