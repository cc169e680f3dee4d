# Your own text. Copy this directory to any location, put your files into the copy, and edit this file. Then run
#
#   scripts/reproduce.sh path/to/copy
#
# docs/data.md explains the settings.

# Language codes. They name the output, and the columns of .csv and the languages of .tmx and .xlf that are read.
source=en target=de

# Nothing to download: the text is already there.
files=()

# Split, source, target. Splits other than train and valid are test sets. $corpus_dir is the directory of this file.
# Several texts of one split are concatenated. The formats can be mixed:
#
#   train $corpus_dir/train.{en,de}               two text files, one sentence per line; also .txt, .gz, .bz2 and .xz
#   train $corpus_dir/train.tsv:{1,2}             a table without a header: columns 1 and 2
#   train $corpus_dir/train.csv:{english,german}  a table with a header: columns by name
#   train $corpus_dir/memory.tmx:{en,de}          a translation memory
#   train $corpus_dir/messages.xlf:{en,de}        the translated texts of an XLIFF document
#
# valid and test can be your own files, too. Here, 1,000 pairs are held out of the training text for each.
texts=(
    train "$corpus_dir"/train.tsv:{1,2}
    valid held-out 1000
    test held-out 1000
)

# Number of subwords. If the text is too small for it, prepare.sh says which number works.
vocab_size=8000

# Share of the training pairs to join to lines of 2 to 4 pairs, so that the model learns to translate lines of several
# sentences. Without it, a model that was trained on single sentences often drops the second one.
# join_share=0.2

# The settings of Multi30k, for tens of thousands of pairs on a CPU. docs/training.md explains how to choose others.
default_arch=resmlp_small
dropout=0.2
lr=0.05
warmup_updates=500
batch_tokens=1000
device_tokens=1000
updates=6000
save_updates=400

average=5
beam=4
lenpen=1.0
