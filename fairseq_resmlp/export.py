"""From a trained model, which fairseq loads, to an exported one, which does without it."""

import os
from typing import List, Optional

from . import folder
from .errors import InputError
from .fast import fold
from .model import ResMLPModel
from .shortlist import Shortlist
from .translate import read_pieces


def export(
    model: str,
    out: str,
    data: Optional[str] = None,
    pieces: Optional[str] = None,
    dtype: str = "int8",
    shortlist: Optional[str] = None,
    prune_mixing: float = 0.0,
) -> List[str]:
    """Write the folder `out` (see `folder`) of a trained model.

    Args:
        model: a checkpoint, or a folder with model.pt
        data: folder of the dictionaries, by default that of the checkpoint
        pieces: SentencePiece model, by default sentencepiece.bpe.model beside the checkpoint
        dtype: how to store the matrices, see `folder.write`
        shortlist: see `shortlist`
        prune_mixing: zero the entries of each A smaller than this share of its largest

    Returns:
        source and target language

    Raises:
        InputError: a file is missing, not to be trusted, or of another model; `out` is there already
    """
    home, file = (model, "model.pt") if os.path.isdir(model) else os.path.split(model)
    home = home or "."
    data = os.path.abspath(data or home)
    pieces = pieces or os.path.join(home, folder.PIECES)
    for path, option in ((os.path.join(home, file), "MODEL"), (pieces, "--spm")):
        if not os.path.isfile(path):
            raise InputError(f"there is no {path}: name it as {option}")
    loaded = ResMLPModel.from_pretrained(
        home, file, data, prune_mixing, bpe="sentencepiece", sentencepiece_model=pieces
    )
    languages = [loaded.task.cfg.source_lang, loaded.task.cfg.target_lang]
    dictionaries = {
        name: os.path.join(data, f"dict.{language}.txt")
        for name, language in zip((folder.SOURCE, folder.TARGET), languages)
    }
    read_pieces(pieces)
    if shortlist is not None:
        entries = [folder.read_dictionary(file) for file in dictionaries.values()]
        found = Shortlist.read(shortlist, *entries)
        if not found.of and len(found.always) == len(folder.SPECIAL):
            raise InputError(f"{shortlist} has no piece of this model's dictionary: it is of other pieces")
    folder.write(out, *fold(loaded.models[0]), dtype, languages, dictionaries, pieces, shortlist)
    return languages
