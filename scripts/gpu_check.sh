#!/usr/bin/env -S bash -p
# Check that training and translation on the GPU of this machine give the results of the CPU, and measure their speed.
#
#   scripts/gpu_check.sh [--out FILE] [--device cpu] [--quick]
#
#   --out FILE    JSON file for the results (default: docs/measured/gpu.json, from which `make tables` fills
#                 docs/performance.md)
#   --device cpu  check the check itself on a machine without a GPU
#   --quick       tiny models, for tests
#
# It takes about ten minutes. Each check is printed as it ends. The exit status is 1 if one fails.
. "$(dirname -- "$0")/environment.sh"
root=$(dirname -- "$(dirname -- "$(realpath -- "$0")")")
exec python "$root/scripts/benchmark/gpu_check.py" "$@"
