# WMT14 English-French: the training data and test set of the paper's Table 5, prepared as Ott et al. (2018), arXiv
# 1806.00187. docs/data.md explains the settings.
source=en target=fr

# Address and checksum of each file. For the test set only md5 was published (in sacreBLEU).
files=(
    http://www.statmt.org/wmt13/training-parallel-europarl-v7.tgz
    sha256:0224c7c710c8a063dfd893b0cc0830202d61f4c75c17eb8e31836103d27d96e7
    http://www.statmt.org/wmt13/training-parallel-commoncrawl.tgz
    sha256:c7a74e2ea01ac6c920123108627e35278d4ccb5701e15428ffa34de86fa3a9e5
    http://www.statmt.org/wmt13/training-parallel-un.tgz
    sha256:29141b5c1eba149a94f7a59d3b1a834b2e47fe0f8758d68dcd77a3d3f497ee47
    http://www.statmt.org/wmt14/training-parallel-nc-v9.tgz
    sha256:cb8953f292298e6877ae433c98912b927cb0766b303f4540512ddd286c748485
    http://www.statmt.org/wmt10/training-giga-fren.tar
    sha256:3ff8319f6919393520559bfbc7ad6a747ec81b3abc7be9993b338d4b017b4d9a
    http://data.statmt.org/wmt19/translation-task/dev.tgz
    sha256:7a7deccf82ebb05ba508dba5eb21356492224e8f630ec4f992132b029b4b25e7
    http://www.statmt.org/wmt14/test-full.tgz
    md5:a8cd784e006feb32ac6f3d9ec7eb389a
)

# Split, source, target. Splits other than train and valid are test sets. For English-French, both of sacreBLEU's
# versions, wmt14 and wmt14/full, have all 3,003 lines.
texts=(
    train training-parallel-europarl-v7.tgz:training/europarl-v7.fr-en.{en,fr}
    train training-parallel-commoncrawl.tgz:commoncrawl.fr-en.{en,fr}
    train training-parallel-un.tgz:un/undoc.2000.fr-en.{en,fr}
    train training-parallel-nc-v9.tgz:training/news-commentary-v9.fr-en.{en,fr}
    train training-giga-fren.tar:giga-fren.release2.fixed.{en,fr}.gz
    valid dev.tgz:dev/newstest2012.{en,fr}
    valid dev.tgz:dev/newstest2013.{en,fr}
    newstest2014-full test-full.tgz:test-full/newstest2014-fren-{src.en,ref.fr}.sgm
)
vocab_size=40000

default_arch=resmlp_wmt_en_fr
dropout=0.1
lr=0.2
warmup_updates=32000
batch_tokens=28672  # 8 GPUs with 3,584 tokens each, as in Ott et al.
device_tokens=3584
updates=100000
save_updates=2000

average=10
beam=4
lenpen=0.6
