# Table for scripts/ablate.sh: sequence-level distillation from an ensemble of a Transformer and two ResMLPs.
# Results: docs/ablations.md
baseline=toeplitz-16
. "$(dirname "$table")/peer.bash"
row transformer-1e-3 "${transformer[@]}" --lr 1e-3
row linear resmlp_small_linear
row toeplitz-16 resmlp_small --normalization affine
taught transformer-1e-3,linear,toeplitz-16 taught resmlp_small --normalization affine
