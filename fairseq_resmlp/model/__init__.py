"""The registered model: options, architectures, loading, variants, pruning and export."""
