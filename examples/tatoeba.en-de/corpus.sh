# Tatoeba, English-German: short everyday sentences, OPUS release v2023-04-12. docs/data.md explains the settings.
source=en target=de

# No checksum was published.
files=(https://object.pouta.csc.fi/OPUS-Tatoeba/v2023-04-12/moses/de-en.txt.zip -)

# Split, source, target. Splits other than train and valid are test sets. The corpus has no validation or test set.
texts=(
    train de-en.txt.zip:Tatoeba.de-en.{en,de}
    valid held-out 2000
    test held-out 2000
)
vocab_size=8000

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
