"""HTTP server of `fairseq-resmlp serve`: the LibreTranslate API and a web page. Needs FastAPI, but not fairseq."""
