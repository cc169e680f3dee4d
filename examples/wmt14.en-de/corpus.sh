# WMT14 English-German: the training data and test set of the paper's Table 5, prepared as Ott et al. (2018), arXiv
# 1806.00187. docs/data.md explains the settings.
source=en target=de

# Address and checksum of each file. For the test sets only md5 was published (in sacreBLEU).
files=(
    http://www.statmt.org/wmt13/training-parallel-europarl-v7.tgz
    sha256:0224c7c710c8a063dfd893b0cc0830202d61f4c75c17eb8e31836103d27d96e7
    http://www.statmt.org/wmt13/training-parallel-commoncrawl.tgz
    sha256:c7a74e2ea01ac6c920123108627e35278d4ccb5701e15428ffa34de86fa3a9e5
    http://www.statmt.org/wmt14/training-parallel-nc-v9.tgz
    sha256:cb8953f292298e6877ae433c98912b927cb0766b303f4540512ddd286c748485
    http://data.statmt.org/wmt19/translation-task/dev.tgz
    sha256:7a7deccf82ebb05ba508dba5eb21356492224e8f630ec4f992132b029b4b25e7
    http://www.statmt.org/wmt14/test-full.tgz
    md5:a8cd784e006feb32ac6f3d9ec7eb389a
    http://www.statmt.org/wmt14/test-filtered.tgz
    md5:84c597844c1542e29c2aff23aaee4310
)

# Split, source, target. Splits other than train and valid are test sets. In sacreBLEU, the first test set is named
# wmt14/full (3,003 lines), the second wmt14 (2,737 lines).
texts=(
    train training-parallel-europarl-v7.tgz:training/europarl-v7.de-en.{en,de}
    train training-parallel-commoncrawl.tgz:commoncrawl.de-en.{en,de}
    train training-parallel-nc-v9.tgz:training/news-commentary-v9.de-en.{en,de}
    valid dev.tgz:dev/newstest2013.{en,de}
    newstest2014-full test-full.tgz:test-full/newstest2014-deen-{src.en,ref.de}.sgm
    newstest2014-filtered test-filtered.tgz:test/newstest2014-deen-{src.en,ref.de}.sgm
)
vocab_size=32000

default_arch=resmlp_wmt_en_de
dropout=0.15
lr=0.2
warmup_updates=32000
batch_tokens=28672  # 8 GPUs with 3,584 tokens each, as in Ott et al.
device_tokens=3584
updates=100000
save_updates=2000

average=10
beam=4
lenpen=0.6
