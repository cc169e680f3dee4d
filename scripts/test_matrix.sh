#!/usr/bin/env bash
# scripts/test_matrix.sh [PYTEST OPTION...]
#
# Runs the tests that every version must pass on each Python that the README names and this machine has: that old
# checkpoints translate as they did, that hostile ones are refused, the mends, the model. The environments are made in
# .matrix/VERSION, or used if they are there.
set -uo pipefail
[[ ${1-} == --help ]] && { sed -n '2,/^set/{/^set/d;s/^# \?//p}' "$0"; exit; }
cd "$(dirname "$0")/.."
tests=(tests/test_model.py tests/test_resmlp.py tests/test_mends.py tests/test_average.py tests/test_checkpoints.py
    tests/test_lines.py tests/test_linear.py tests/test_criterion.py
    tests/test_distillation.py tests/test_fast.py)

# What the README says of each Python: constraints.txt holds for 3.11 and later.
install() {
    local pip=("$1/bin/python" -m pip install -q --disable-pip-version-check)
    if [[ $2 == 3.8 ]]; then
        "${pip[@]}" "pip<24.1" torch==2.4.1 "numpy<2" wheel "setuptools<70"
        "${pip[@]}" --no-build-isolation -e '.[test]'
    else
        "${pip[@]}" -c constraints.txt torch numpy cython setuptools wheel ninja
        env -u CUDA_HOME "${pip[@]}" -c constraints.txt --no-build-isolation -e '.[test]'
    fi
}

failed=0
results=()
for version in 3.8 3.11 3.12; do
    env=.matrix/$version
    if [[ ! -e $env/installed ]]; then
        if ! "python$version" -c '' 2> /dev/null; then
            results+=("Python $version: not on this machine")
            continue
        fi
        "python$version" -m venv "$env" && install "$env" "$version" && touch "$env/installed"
    fi
    if [[ ! -e $env/installed ]]; then
        results+=("Python $version: could not be installed")
        failed=1
        continue
    fi
    torch=$("$env/bin/python" -c 'import torch; print(torch.__version__)')
    summary=$("$env/bin/python" -m pytest -q -p no:cacheprovider "${tests[@]}" "$@" 2>&1 | tee /dev/stderr | tail -1) || failed=1
    results+=("Python $version, torch $torch: $summary")
done
printf '%s\n' "${results[@]}"
exit $failed
