#!/usr/bin/env -S bash -p
# Train an image model on ImageNet-1k with the GPUs of this machine. NOT RUN: no accuracy is claimed (docs/vision.md).
#
#   scripts/imagenet.sh IMAGENET [ARCH] [OPTION...]
#
# IMAGENET contains train/CLASS/*.JPEG and val/CLASS/*.JPEG. ARCH is resmlp_s12 (the default), resmlp_s24, resmlp_s36,
# resmlp_b24 or resmlp_b24_8. OPTIONs of fairseq-train replace those below, for example --batch-size 128 --update-freq 2
# for half the memory, or for distillation from a teacher:
#
#   --criterion label_smoothed_cross_entropy_with_teacher --teacher CHECKPOINT --distillation hard
#
# LAMB, the cosine schedule and the augmentation are those of the paper and of DeiT, on which it builds. Check the
# numbers against the appendix of the paper before you compare with its results.
. "$(dirname -- "$0")/environment.sh"
[[ ${1:-} != -* && -n ${1:-} ]] || { sed -n '2,/^[^#]/ { s/^# \{0,1\}//p }' "$0"; exit 2; }
data=$1
shift
arch=resmlp_s12
if [[ ${1:-} == resmlp_* ]]; then
    arch=$1
    shift
fi
[ -d "$data/train" ] || fail "$data/train not found: put the training images into $data/train/CLASS"
check_path IMAGENET "$data"

gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
[ "$gpus" -gt 0 ] || fail "no GPU found: this training takes days on several"
# 2,048 images per update; an epoch of 1.28 million images has 626 updates
batch=$((2048 / gpus))
epochs=400
updates=$((626 * epochs))
fairseq-train "$data" --user-dir "$(dirname -- "$0")/../fairseq_resmlp" --task image_classification --arch "$arch" \
    --center-crop 0.9 --skip-bad-images \
    --min-crop 0.08 --flip --rand-augment 27 --random-erasing 0.25 --mixup 0.8 --cutmix 1.0 --repeated-augmentation 3 \
    --stochastic-depth 0.05 \
    --optimizer torch_lamb --lr 0.005 --weight-decay 0.2 --lr-scheduler cosine --warmup-updates $((626 * 5)) \
    --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --report-accuracy \
    --batch-size "$batch" --max-update "$updates" --amp --num-workers 8 \
    --best-checkpoint-metric accuracy --maximize-best-checkpoint-metric --no-epoch-checkpoints \
    --save-dir "runs/imagenet/$arch" --log-format simple --log-interval 100 "$@"
