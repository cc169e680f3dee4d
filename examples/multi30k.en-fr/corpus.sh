# Multi30k, English-French: 29,000 captions of images, about 12 words each, at the dataset's commit a3d2e0d2.
# docs/data.md explains the settings.
source=en target=fr

# Address and checksum of each file. For the French files only md5 was published (in torchtext).
address=https://raw.githubusercontent.com/multi30k/dataset/a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw
files=(
    $address/train.en.gz sha256:d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f
    $address/train.fr.gz md5:6cb767741dcad3931f966fefbc05203f
    $address/val.en.gz sha256:14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28
    $address/val.fr.gz md5:93fc564584b7e5ba410c761ea5a1c682
    $address/test_2016_flickr.en.gz sha256:611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9
    $address/test_2016_flickr.fr.gz md5:08dc7cd4a662f31718412de95ca9bfe3
)

# Split, source, target. Splits other than train and valid are test sets.
texts=(
    train train.{en,fr}.gz
    valid val.{en,fr}.gz
    test2016 test_2016_flickr.{en,fr}.gz
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
