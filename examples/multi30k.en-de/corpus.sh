# Multi30k, English-German: 29,000 captions of images, about 12 words each, at the dataset's commit a3d2e0d2.
# docs/data.md explains the settings.
source=en target=de

# Address and checksum of each file.
address=https://raw.githubusercontent.com/multi30k/dataset/a3d2e0d26b56f3846f66a952536ffed4e401d05a/data/task1/raw
files=(
    $address/train.en.gz sha256:d79cfa999dd4c51d2cb42499b6796d5a882c3a8a961923c25a898c90f8bbd56f
    $address/train.de.gz sha256:726e39b2fa9eb9ffb6dc763fb35a179f80fae06ffc5d28b6ace5faa883de28a6
    $address/val.en.gz sha256:14f7d25ddd868909a9213e361768460edcacdd6ab9d1e77b92560dc10c10dc28
    $address/val.de.gz sha256:f0cba2f995189cf5770f29a8a9a537a3ad3f51657ad873405082ff6863a5e75a
    $address/test_2016_flickr.en.gz sha256:611d361c6334bc7246101d48097c13cf5c4413c5befc793cc629934359d532d9
    $address/test_2016_flickr.de.gz sha256:9204244e408ccb38d2a55cfcd344df15005fc42a07a6e55ca6c52b6ababb8cc8
)

# Split, source, target. Splits other than train and valid are test sets.
texts=(
    train train.{en,de}.gz
    valid val.{en,de}.gz
    test2016 test_2016_flickr.{en,de}.gz
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
