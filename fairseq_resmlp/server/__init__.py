"""Web page for translation (`fairseq-resmlp serve`). Needs Gradio, but not fairseq."""
