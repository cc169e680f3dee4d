#!/usr/bin/env -S bash -p
# Train and test every model of the table in README.md, about an hour on one core. Options as for demo.sh. A second run
# continues an interrupted one. Then: python examples/fashion-mnist/table.py OUT > docs/measured/fashion-mnist.json
. "$(dirname -- "$0")/common.sh"
read_options "$@"
export OMP_NUM_THREADS=1
tiny=(--arch resmlp_image_tiny)
train_and_test linear-1 "${tiny[@]}" --seed 1
train_and_test none-1 "${tiny[@]}" --token-mixing none --seed 1
train_and_test convnet-1 --arch convnet_tiny --seed 1
train_and_test distilled-1 "${tiny[@]}" --seed 1 --criterion label_smoothed_cross_entropy_with_teacher \
    --teacher "$out/convnet-1/checkpoint_best.pt" --distillation hard
train_and_test patch-7-1 "${tiny[@]}" --patch-size 7 --seed 1
train_and_test layernorm-1 "${tiny[@]}" --normalization layer --seed 1
train_and_test mlp-1 "${tiny[@]}" --token-mixing mlp --seed 1
train_and_test patch-14-1 "${tiny[@]}" --patch-size 14 --seed 1
for seed in 2 3; do
    train_and_test linear-$seed "${tiny[@]}" --seed $seed
    train_and_test none-$seed "${tiny[@]}" --token-mixing none --seed $seed
done
train_and_test class-mlp-1 "${tiny[@]}" --pooling class_mlp --seed 1
