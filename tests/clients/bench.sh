#!/usr/bin/env bash
# The benchmark runs: each of its paths is asked for a moment, every answer must be a success and every write be there
# afterwards. How fast it is says nothing here, as it is not even optimised: what `cargo test` built is used again.
# `cargo bench` measures.
. "$(dirname "$0")/common.bash"
need nginx

why='the benchmark failed'
cargo bench --locked --profile dev -- --quick | tee "$scratch/printed"
why='the benchmark says nothing of a path'
for path in auth-cached auth-read network-stats wrong-key open-auth ingest open-ingest ingest-batches chat-first-byte \
  chat-streams open-chat latest start idle memory-1024; do
  grep -Eq "^$path [0-9.]+[a-zA-Z%]* [<>]=[0-9.]+" "$scratch/printed"
done
passed
