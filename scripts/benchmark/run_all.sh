#!/usr/bin/env -S bash -p
# Measure the speed of this machine for docs/performance.md: training, translation, growth, alternatives, threads, and
# cold start.
#
#   scripts/benchmark/run_all.sh [DIR]
#
#   DIR   directory for the JSON files (default: docs/measured)
#
# It takes about 50 minutes on two cores, which should be idle otherwise. The measurements with trained models need the
# model of scripts/reproduce.sh multi30k.en-de in runs/multi30k.en-de, and are skipped without it. They also include, if
# it exists there, each of resmlp_small.int8.shortlist, transformer-pre-norm, transformer.ct2, transformer.ct2.shortlist,
# resmlp_base.int8 and newstest2013.en (docs/performance.md, "Words per second and BLEU").
. "$(dirname -- "$0")/../environment.sh"
if [ $# -gt 1 ] || [[ ${1-} == -* ]]; then fail "usage: $0 [DIR]"; fi
out=$(realpath -m -- "${1:-"$(dirname -- "$0")/../../docs/measured"}")
cd "$(dirname -- "$(realpath -- "$0")")/../.."
mkdir -p "$out/alternatives"
run() {
    local start=$SECONDS
    printf '$ %s\n' "$*"
    "$@"
    printf '(%d s)\n' $((SECONDS - start))
}

here=scripts/benchmark
run python $here/bench.py --pairs 3 --out "$out/speed.json"
run python $here/growth.py --pairs 2 --out "$out/growth.json"
# ONNX Runtime and OpenVINO have threads of their own, which environment.sh does not change.
run env -u GOMP_SPINCOUNT python $here/alternatives.py "$out/alternatives"

runs=runs/multi30k.en-de
if ! compgen -G "$runs/resmlp_small/average*.pt" > /dev/null; then
    echo "No trained model in $runs/resmlp_small: skipping the measurements with trained models"
    exit
fi
for dtype in int8 float32; do
    [ -e $runs/resmlp_small.$dtype ] ||
        run fairseq-resmlp export $runs/resmlp_small $runs/resmlp_small.$dtype --dtype $dtype
done
run python $here/threads.py $runs/resmlp_small.int8 --text $runs/raw/test2016.en --data $runs/data-bin \
    --updates 30 --spins 1000 --repeats 2 --limit 40 --out "$out/threads.json"

cd $runs # tables have the paths as names
exported=(resmlp_small.int8 resmlp_small.float32)
transformer=() all=("${exported[@]}") started=(resmlp_small=resmlp_small.int8)
[ ! -e transformer.ct2 ] || transformer=(--ctranslate2 transformer.ct2)
[ ! -e resmlp_small.int8.shortlist ] || all+=(resmlp_small.int8.shortlist)
all+=("${transformer[@]}")
[ ! -e transformer.ct2.shortlist ] || all+=(--ctranslate2 transformer.ct2.shortlist)
for model in resmlp_small transformer-pre-norm; do [ ! -e $model ] || all+=(--fairseq $model); done
run fairseq-resmlp bench "${all[@]}" --text raw/test2016.en --reference raw/test2016.de --repeats 2 \
    --json "$out/translation-speed.json"
[ ! -e newstest2013.en ] ||
    run fairseq-resmlp bench "${exported[@]}" "${transformer[@]}" --text newstest2013.en --repeats 1 \
        --json "$out/translation-speed-news.json"
[ ! -e resmlp_base.int8 ] || started+=(resmlp_base=resmlp_base.int8)
run python ../../$here/cold_start.py "${started[@]}" --repeats 3 --out "$out/cold-start.json"
