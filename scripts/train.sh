#!/usr/bin/env -S bash -p
# Train a model with the paper's recipe and the settings of the corpus.
#
#   scripts/train.sh CORPUS [ARCH] [--name NAME] [--out DIR] [--data DIR] [--processes N] [-- OPTION...]
#
#   ARCH            architecture of the plugin or of fairseq (default: default_arch of the corpus)
#   --name NAME     write to DIR/NAME, with DIR from --out (default: ARCH)
#   --out DIR       output directory of prepare.sh (default: runs/CORPUS)
#   --data DIR      train on the output of distill.sh in this directory instead of the data in --out
#   --processes N   number of processes on this machine (default: one per GPU, or one on a CPU)
#   OPTION...       more options for fairseq-train, such as -- --lr 0.1. The precision is --amp (default on GPUs),
#                   --bf16 or --fp32 (default on CPUs).
#
# The number of tokens per update does not depend on the number of processes. For several machines, start this script
# with torchrun on each of them, on a shared file system: see examples/wmt14.en-de/slurm.sh.
#
# Run the same command again to resume from the last checkpoint, also with another number of processes.
accepts='ARCH --name --out --data --processes --'
arguments=("$@")
. "$(dirname -- "$0")/common.sh"
if [ -z "$data" ]; then
    [ -e "$out/data-bin" ] || fail "$out/data-bin not found: run scripts/prepare.sh $corpus first"
else
    [ -e "$data/data-bin" ] ||
        fail "--data: $data/data-bin not found: run scripts/distill.sh $corpus --into $data first"
fi
text=${data:-$out}

# One precision: fairseq would combine --amp with --bf16, and sum up Adagrad's squares in bfloat16.
precision='' others=()
for option in "${options[@]}"; do
    case $option in
        --amp | --bf16 | --fp32)
            [ -z "$precision" ] || [ "$precision" = "$option" ] || fail "$precision and $option: specify one of them"
            precision=$option
            ;;
        --fp16 | --memory-efficient-*) fail "$option rounds Adagrad's sums of squares: use --amp, --bf16 or --fp32" ;;
        *) others+=("$option") ;;
    esac
done
options=("${others[@]}")

# Number of GPUs, and the memory of the smallest in GiB
read -r gpus memory <<< "$(python -c 'import torch
memory = [torch.cuda.get_device_properties(i).total_memory for i in range(torch.cuda.device_count())]
print(len(memory), min(memory, default=0) / 2**30)')"
[ "$gpus" != 0 ] || [ "$precision" != --amp ] || fail "--amp needs a GPU: use --bf16 or --fp32"

if [ -n "${WORLD_SIZE:-}" ]; then
    [[ $WORLD_SIZE =~ ^[1-9][0-9]*$ && ${RANK-} =~ ^[0-9]+$ && ${LOCAL_RANK-} =~ ^[0-9]+$ ]] ||
        fail "WORLD_SIZE is $WORLD_SIZE, but RANK and LOCAL_RANK are not set as by torchrun: unset WORLD_SIZE, or" \
            "start this script with torchrun"
    [ -z "$processes" ] || [ "$processes" = "${LOCAL_WORLD_SIZE:-}" ] ||
        fail "--processes has no effect under torchrun: use --nproc-per-node of torchrun"
    devices=$WORLD_SIZE
else
    [ "${SLURM_STEP_NUM_TASKS:-1}" = 1 ] || fail "srun has started $SLURM_STEP_NUM_TASKS tasks: start one per machine," \
        "with torchrun, as in examples/wmt14.en-de/slurm.sh"
    devices=${processes:-$((gpus > 0 ? gpus : 1))}
    [[ $devices =~ ^[1-9][0-9]*$ ]] || fail "--processes $devices is not a positive integer"
    [ "$gpus" = 0 ] || [ "$devices" -le "$gpus" ] ||
        fail "--processes $devices: this machine has $gpus GPU(s), and a process needs one of its own"
fi

# An update consists of `batches` batches of `max_tokens` tokens, divided among the devices. They stay the same if
# training resumes with another number of devices: each update then sees the same sentences.
settings_file=$model/settings
if [ -f "$settings_file" ] && grep -q '^declare -- batches=' "$settings_file"; then
    batches=$(sed -n 's/^declare -- batches="\([0-9]*\)"$/\1/p' "$settings_file")
    [ $((batches % devices)) = 0 ] || fail "$model divides an update into $batches batch(es), which $devices" \
        "processes cannot share equally: continue with a number of processes that divides $batches (--processes)"
else
    # The estimate of device_tokens is for GPUs with 8 GiB.
    [ "$gpus" = 0 ] || device_tokens=$(awk "BEGIN { print int($device_tokens * $memory / 8) }")
    [ "$device_tokens" -lt "$batch_tokens" ] || device_tokens=$batch_tokens
    batches=$(((batch_tokens + devices * device_tokens - 1) / (devices * device_tokens) * devices))
fi
max_tokens=$((batch_tokens / batches)) update_freq=$((batches / devices))

[ "$max_tokens" -gt 250 ] || fail "$batch_tokens tokens per update on $devices devices are $max_tokens tokens per" \
    "device, fewer than the longest sentence has: use fewer processes (--processes, CUDA_VISIBLE_DEVICES), or increase" \
    "batch_tokens in $corpus_dir/corpus.sh"
updates=$(option --max-update "$updates") save_updates=$(option --save-interval-updates "$save_updates")
[[ $updates =~ ^[1-9][0-9]*$ && $save_updates =~ ^[1-9][0-9]*$ ]] || fail "--max-update $updates and" \
    "--save-interval-updates $save_updates must be positive integers"
[ $((updates % save_updates)) = 0 ] || fail "--max-update $updates is not a multiple of --save-interval-updates" \
    "$save_updates: the last updates would not be in the average"

device_options=(--cpu)
criterion=fused_label_smoothed_cross_entropy # the same loss, faster and with less memory
if [ "$gpus" != 0 ]; then
    # --fp16 rounds the parameters, --amp only the products. Aff does not normalize activations.
    device_options=()
    precision=${precision:---amp}
    criterion=label_smoothed_cross_entropy # the fused one computes two products in float32 for float16 features
fi
precision=${precision:---fp32}
[ "$precision" = --fp32 ] || device_options+=("$precision")
if [ "$devices" -gt 1 ]; then
    # Without this option, the other ranks reject the checkpoint state that rank 0 sends them.
    device_options+=(--load-checkpoint-on-all-dp-ranks)
fi
if [ -n "${WORLD_SIZE:-}" ]; then
    device_options+=(--distributed-world-size "$WORLD_SIZE" --distributed-rank "$RANK" --distributed-no-spawn
        --distributed-init-method env:// --device-id "$LOCAL_RANK")
    [ "$gpus" != 0 ] || device_options+=(--distributed-backend gloo --ddp-backend legacy_ddp)
fi

share_cores "$devices"
if [ "$devices" -gt 1 ] && [ -z "${WORLD_SIZE:-}" ]; then
    # fairseq would start the processes itself, and each would print the traceback of a mistake in the options.
    exec python "$root/scripts/launch.py" "$devices" "$0" "${arguments[@]}"
fi

mkdir -p "$model"
log=/dev/null
if [ "${RANK:-0}" = 0 ]; then
    log=$model/train.log
    lock_directory "$model"
    # A model is never trained with two recipes. It can be trained for longer, and saved and logged more often.
    settings=$(
        remove_options --save-interval-updates --log-interval
        # Other schedules depend on the number of updates.
        [[ ! $(option --lr-scheduler fixed) =~ ^(fixed|inverse_sqrt)$ ]] || remove_options --max-update
        declare -p arch dropout lr warmup_updates criterion precision batches max_tokens options
    )
    [ -z "$data" ] || settings+=" data: $(sha256sum < "$data/data-bin/train.$source-$target.$target.bin")"
    teacher=$(option --teacher '')
    if [ -n "$teacher" ]; then
        teacher_sha256=$(sha256_of "$teacher") ||
            fail "--teacher $teacher: specify existing checkpoints, joined by colons"
        settings+=" teacher: $teacher_sha256"
    fi
    require_same_settings "$settings_file" "$settings"
    cp "$text/pieces/train.json" "$model" # for evaluate.sh: describes the training data
    device=$([ "$gpus" = 0 ] && echo CPU || echo GPU)
    step "$corpus, ${name:-$arch}: $updates updates of $batch_tokens tokens, on $devices $device process(es) with" \
        "$max_tokens tokens and --update-freq $update_freq, in ${precision#--}"
fi
run fairseq-train "$text/data-bin" --user-dir "$plugin" --arch "$arch" --share-all-embeddings --dropout "$dropout" \
    --optimizer adagrad --lr "$lr" --lr-scheduler fixed --warmup-updates "$warmup_updates" --clip-norm 1.0 \
    --criterion "$criterion" --label-smoothing 0.1 \
    --max-tokens "$max_tokens" --update-freq "$update_freq" --max-update "$updates" --seed 1 \
    --save-interval-updates "$save_updates" --keep-interval-updates "$average" \
    --no-epoch-checkpoints --save-interval 1000000 --validate-interval 1000000 \
    --save-dir "$model/checkpoints" --tensorboard-logdir "$model/tensorboard" \
    --log-format simple --log-interval 100 "${device_options[@]}" "${options[@]}" 2>&1 | tee -a "$log" || {
    status=$?
    # torchrun ends all processes after the first failure. If all fail for the same reason, the first one reports it.
    [ "${RANK:-0}" = 0 ] || sleep 3
    exit $status
}
