# Shared by demo.sh and table.sh: options, data, training and testing on Fashion-MNIST. This file is sourced, not run.
. "$(dirname -- "${BASH_SOURCE[0]}")/../../scripts/environment.sh"
here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd)
plugin=$(cd -- "$here/../../fairseq_resmlp" && pwd)

# The package dataset-fashion-mnist of Debian installs the images here.
debian=/usr/share/datasets/fashion-mnist
# The address and the checksums that the authors give
address=http://fashion-mnist.s3-website.eu-central-1.amazonaws.com
files=(
    $address/train-images-idx3-ubyte.gz md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d
    $address/train-labels-idx1-ubyte.gz md5:25c81989df183df01b3e8a0aad5dffbe
    $address/t10k-images-idx3-ubyte.gz md5:bef4ecab320f06d8554ea6380940ec79
    $address/t10k-labels-idx1-ubyte.gz md5:bb300cfdad3c16e7a12a480ee83cd310
)

# 5,000 of the training images choose the checkpoint; the test images are used once.
recipe=(
    --task image_classification --held-out 5000
    --criterion label_smoothed_cross_entropy --label-smoothing 0.1 --report-accuracy
    --optimizer adam --lr 0.008 --lr-scheduler cosine --warmup-updates 100 --clip-norm 1.0
    --batch-size 64 --max-update 600
    --best-checkpoint-metric accuracy --maximize-best-checkpoint-metric --no-epoch-checkpoints
    --cpu --num-workers 1 --log-format simple --log-interval 100
)

# read_options [--from DIR] [OUT] [-- OPTION...]: set `data`, `out` and `more`. Downloads the images if they are nowhere
# else.
read_options() {
    data=
    out=runs/fashion-mnist
    more=()
    while [ $# -gt 0 ]; do
        case $1 in
            --from) [ $# -gt 1 ] || fail "--from requires a directory"; data=$2; shift ;;
            --) shift; more=("$@"); break ;;
            -*) fail "$1 is not an option: use [--from DIR] [OUT] [-- OPTION...]" ;;
            *) out=$1 ;;
        esac
        shift
    done
    check_path OUT "$out"
    share_cores 1
    mkdir -p "$out"
    if [ -z "$data" ] && [ -d "$debian" ]; then
        data=$debian
    elif [ -z "$data" ]; then
        data=$out/data
        fairseq-resmlp download --to "$data" "${files[@]}"
    fi
    check_path --from "$data"
}

# train_and_test NAME OPTION...: train a model in $out/NAME, unless that exists, and write its accuracy to test.log.
train_and_test() {
    local dir=$out/$1
    shift
    if [ -e "$dir/test.log" ]; then
        echo "$dir exists, skipped"
        return
    fi
    mkdir -p "$dir"
    echo "$dir: fairseq-train ${*}"
    printf '%s\n' "$* ${more[*]}" > "$dir/options"
    # CPU seconds of training and its data loader, user and system
    TIMEFORMAT='%U %S'
    { time fairseq-train "$data" --user-dir "$plugin" "${recipe[@]}" "$@" "${more[@]}" --save-dir "$dir" \
        --log-file "$dir/train.log" > "$dir/output.log" 2>&1; } 2> "$dir/seconds" ||
        { tail -n 1 "$dir/output.log" >&2; fail "training failed, see $dir/output.log"; }
    fairseq-validate "$data" --user-dir "$plugin" --task image_classification --path "$dir/checkpoint_best.pt" \
        --valid-subset test --batch-size 500 --cpu --num-workers 1 --log-format simple > "$dir/test.part" 2>&1 ||
        { tail -n 1 "$dir/test.part" >&2; fail "testing failed, see $dir/test.part"; }
    mv "$dir/test.part" "$dir/test.log"
    echo "$dir: test accuracy $(grep -o 'accuracy [0-9.]*' "$dir/test.log" | tail -n 1 | cut -d' ' -f2)%"
}
