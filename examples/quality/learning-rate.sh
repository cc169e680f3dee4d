# What makes short trainings stable and good: learning rate, warm-up, clipping, the initial A, the optimizer. The first
# 1,600 updates. A table of scripts/ablate.sh; docs/learning-rate.md says what came of it.
against=lr-0.05
first=(--max-update 1600 --save-interval-updates 200)
adam=(--optimizer adam --adam-betas '(0.9,0.98)' --lr-scheduler inverse_sqrt)
row lr-0.025 resmlp_small_linear --lr 0.025 "${first[@]}"
row lr-0.05 resmlp_small_linear "${first[@]}"
row lr-0.1 resmlp_small_linear --lr 0.1 "${first[@]}"
row warmup-100 resmlp_small_linear --warmup-updates 100 "${first[@]}"
row lr-0.1-warmup-1000 resmlp_small_linear --lr 0.1 --warmup-updates 1000 "${first[@]}"
row no-clipping resmlp_small_linear --clip-norm 0 "${first[@]}"
row random-A resmlp_small_linear --mixing-init-std 0.02 "${first[@]}"
row adam-1e-3 resmlp_small_linear "${adam[@]}" --lr 1e-3 "${first[@]}"
row adam-3e-3 resmlp_small_linear "${adam[@]}" --lr 3e-3 "${first[@]}"
row layernorm resmlp_small_linear --normalization layer "${first[@]}"
row layernorm-lr-0.1 resmlp_small_linear --normalization layer --lr 0.1 "${first[@]}"
row layernorm-adam-1e-3 resmlp_small_linear --normalization layer "${adam[@]}" --lr 1e-3 "${first[@]}"
