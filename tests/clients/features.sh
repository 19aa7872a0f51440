#!/usr/bin/env bash
# The library with each set of its features, without a warning; the examples that need none; how many crates an embedder
# gets.
. "$(dirname "$0")/common.bash"

why='a set of features does not build'
for features in '' page tls toml page,tls page,toml tls,toml page,tls,toml; do
  RUSTFLAGS='-D warnings' cargo check --quiet --locked --lib --no-default-features --features "$features"
done

why='cargo tree'
crates() { cargo tree --locked --edges normal --prefix none "$@" | sed 's/ (\*)$//' | sort -u | wc -l; }
all=$(crates)
none=$(crates --no-default-features)
echo "crates: $all with everything, $none without any feature"
[ "$none" -lt "$all" ] || fail 'the features leave nothing out'
for crate in clap env_logger rustls toml; do
  ! cargo tree --locked --edges normal --prefix none --no-default-features | grep -q "^$crate v" \
    || fail "without any feature there still is $crate"
done
passed
