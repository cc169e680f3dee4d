#!/usr/bin/env bash
# Run the tests that must pass on every supported version, on each supported Python of this machine: the unit tests
# (among them: stored checkpoints translate as before), untrusted checkpoints, and unusual text.
#
#   scripts/test_matrix.sh [PYTEST OPTION...]
#
# Environments are created in .matrix/VERSION and reused.
set -uo pipefail
[[ ${1-} == --help ]] && { sed -n '2,/^set/{/^set/d;s/^# \?//p}' "$0"; exit; }
unset -v CDPATH
cd -- "$(dirname -- "$0")/.."
tests=(tests/unit tests/robustness/test_untrusted_checkpoints.py tests/robustness/test_text_robustness.py)

failed=0
results=()
for version in 3.11 3.12 3.13; do
    env=.matrix/$version
    if ! "python$version" -c '' 2> /dev/null; then
        results+=("Python $version: not found")
        continue
    fi
    if ! "python$version" scripts/install.py --venv "$env" --extras test; then
        results+=("Python $version: installation failed")
        failed=1
        continue
    fi
    torch=$("$env/bin/python" -c 'import torch; print(torch.__version__)')
    summary=$(
        "$env/bin/python" -m pytest -q -p no:cacheprovider "${tests[@]}" "$@" 2>&1 | tee /dev/stderr | tail -1
    ) || failed=1
    results+=("Python $version, torch $torch: $summary")
done
printf '%s\n' "${results[@]}"
exit $failed
