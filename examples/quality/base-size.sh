# Table for scripts/ablate.sh: base size on real text. One thread of a CPU with AVX512-BF16 makes half an update per
# second: scripts/ablate.sh tatoeba.en-de examples/quality/base-size.sh -- --bf16
row linear resmlp_base --lr 0.05 --warmup-updates 2000
