"""The model as fairseq sees it: options, registration, loading, variants, pruning and export."""
