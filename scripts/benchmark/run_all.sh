#!/usr/bin/env -S bash -p
# Measure every table and picture of docs/performance.md that depends on this machine, on an otherwise idle machine.
#
#   scripts/benchmark/run_all.sh [DIR]
#
#   DIR   directory for the JSON files (default: docs/measured)
#
# The measurements with trained models need runs/multi30k.en-de (scripts/reproduce.sh multi30k.en-de). They are skipped
# without it. `make bench` calls this script and fills the tables.
set -euo pipefail
root=$(cd "$(dirname -- "$0")/../.." && pwd)
cd "$root"
out=${1:-docs/measured}
here=scripts/benchmark
run() {
    echo "\$ $*" >&2
    "$@"
}

run python $here/bench.py --out "$out/speed.json"
run python $here/growth.py --out "$out/growth.json"
run python $here/alternatives.py "$out/alternatives" --only runtimes bandwidth

runs=runs/multi30k.en-de
if ! ls $runs/resmlp_small/average*.pt > /dev/null 2>&1; then
    echo "No trained model in $runs/resmlp_small: the measurements with trained models are skipped" >&2
    exit
fi
for dtype in int8 float32; do
    [ -e $runs/resmlp_small.$dtype ] ||
        run fairseq-resmlp export $runs/resmlp_small $runs/resmlp_small.$dtype --dtype $dtype
done
compared=(--fairseq $runs/resmlp_small)
[ ! -e $runs/transformer.ct2 ] || compared+=(--ctranslate2 $runs/transformer.ct2)
[ ! -e $runs/transformer-pre-norm ] || compared+=(--fairseq $runs/transformer-pre-norm)
run fairseq-resmlp bench $runs/resmlp_small.int8 $runs/resmlp_small.float32 "${compared[@]}" \
    --text $runs/raw/test2016.en --reference $runs/raw/test2016.de --json "$out/translation-speed.json"
run python $here/threads.py $runs/resmlp_small.int8 --text $runs/raw/test2016.en --data $runs/data-bin \
    --spins 1000 --limit 40 --out "$out/threads.json"
run python $here/cold_start.py resmlp_small=$runs/resmlp_small.int8 --repeats 3 --out "$out/cold-start.json"
