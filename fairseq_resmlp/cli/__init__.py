"""The command `fairseq-resmlp`. Modules here define options and print results; they load other modules when called."""
