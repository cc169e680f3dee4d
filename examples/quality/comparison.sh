# Seq2seq ResMLP and fairseq's Transformer of the same dimensions. A table of scripts/ablate.sh; docs/quality.md says
# what came of it.
against=transformer
. "$(dirname "$table")/peer.bash"
row transformer "${transformer[@]}" --lr 2e-3
row linear resmlp_small_linear
row linear-layernorm resmlp_small_linear --normalization layer
row resmlp_small resmlp_small
