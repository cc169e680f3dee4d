"""From public corpora to training data: download, extraction, SentencePiece, cleaning, shortlists. Needs no fairseq."""
