#!/usr/bin/env -S bash -p
# Train the smallest image model on Fashion-MNIST and test it, in a few minutes on a CPU.
#
#   examples/fashion-mnist/demo.sh [--from DIR] [OUT] [-- OPTION...]
#
# DIR contains the four files of the dataset (default: that of Debian's package dataset-fashion-mnist, or else a
# download), OUT is for checkpoints and logs (default: runs/fashion-mnist). OPTIONs of fairseq-train replace those of
# common.sh, for example --max-update 5000.
. "$(dirname -- "$0")/common.sh"
read_options "$@"
train_and_test linear-1 --arch resmlp_image_tiny --seed 1
