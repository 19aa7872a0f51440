#!/usr/bin/env bash
# The benchmark runs: each of its paths is asked for a moment, every answer must be a success and every write be there
# afterwards. How fast it is says nothing here, as it is not even optimised: what `cargo test` built is used again.
# `cargo bench` measures.
. "$(dirname "$0")/common.bash"
need nginx

why='the benchmark failed'
cargo bench --locked --profile dev -- --quick | tee "$scratch/printed"
why='the benchmark says nothing of a path'
for path in auth-cached auth-read network-stats wrong-key open-auth ingest open-ingest ingest-batches chat-first-byte chat-one-word \
  chat-streams chat-long open-chat latest start idle memory-1024; do
  grep -Eq "^$path -?[0-9.]+[a-zA-Z%]* [<>]=[0-9.]+" "$scratch/printed"
done
why='the benchmark of growth or of the footprint failed'
plot=$scratch/growth.svg
cargo bench --locked --profile dev -- growth --quick --plot "$plot" | tee "$scratch/growth"
for axis in samples connections streams keys; do
  grep -q "^growth-$axis " "$scratch/growth" || fail "growth says nothing of $axis"
done
python3 -c 'import sys, xml.dom.minidom as xml; xml.parse(sys.argv[1])' "$plot" || fail 'the picture of growth is none'
cargo bench --locked --profile dev -- footprint --quick | tee "$scratch/footprint"
for path in footprint-idle footprint-load; do
  grep -q "^$path " "$scratch/footprint" || fail "the footprint says nothing of $path"
done
passed
