#!/usr/bin/env bash
# Makes the static binary with its SHA-256, and says how large it is and how soon it answers.
#
# For publishing it is packed with all that goes with it, by .github/package.sh, where this machine runs it.
#
#   .github/release.sh [--target TRIPLE] [--to FOLDER]    x86_64-unknown-linux-musl into target/dist
#   .github/release.sh --twice                            builds it in another folder as well: one hash, or it fails
#
# Builds are reproducible: the same sources and tools give the same bytes in any folder; no path, time or host name gets
# into the binary. Where the musl target cannot be installed, it is linked statically against glibc instead (on request:
# --target x86_64-unknown-linux-gnu), which the file's name shows. Needs Rust, and Debian's musl-tools for the C code in
# SQLite and ring.
set -euo pipefail
# A build that fails inside $(…) ends the script, so that no older binary is reported as its result.
shopt -s inherit_errexit
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source_folder=$PWD
# For `version`, as another folder has no repository.
commit=$(git rev-parse HEAD 2> /dev/null || true)

target=x86_64-unknown-linux-musl to= twice=
while [ $# != 0 ]; do
  case $1 in
    --target) target=$2; shift 2 ;;
    --to) to=$2; shift 2 ;;
    --twice) twice=1; shift ;;
    *) sed -n '2,12s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
  esac
done
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# sets cc, the C compiler for the target.
compiler() {
  case $target in
    x86_64-unknown-linux-musl) cc=musl-gcc package=musl-tools ;;
    aarch64-unknown-linux-musl) cc=aarch64-linux-gnu-gcc package='gcc-aarch64-linux-gnu libc6-dev-arm64-cross' ;;
    *) cc=cc package=gcc ;;
  esac
  command -v "$cc" > /dev/null && return
  local root=
  [ "$(id -u)" = 0 ] || root='sudo -n'
  # shellcheck disable=SC2086
  $root apt-get update -q > /dev/null && DEBIAN_FRONTEND=noninteractive $root apt-get install -q -y --no-install-recommends $package > /dev/null
}
if ! { timeout 300 rustup target add "$target" > "$scratch/rustup" 2>&1 && compiler; }; then
  cat "$scratch/rustup" >&2
  case $target in x86_64-*) ;; *) echo "$target cannot be had here" >&2; exit 1 ;; esac
  echo "$target cannot be had here: built against glibc instead, linked in. It looks names up in /etc/hosts and by name servers; for what else /etc/nsswitch.conf names it wants glibc's libraries, of the same version, at run time." >&2
  target=x86_64-unknown-linux-gnu
  compiler
fi
# glibc linked in does not find its own getrandom() by name at run time, and would want a /dev/urandom instead.
statically=
case $target in *-gnu) statically='-Ctarget-feature=+crt-static'$'\x1f''--cfg=getrandom_backend="linux_getrandom"' ;; esac

# make SOURCES TARGET_FOLDER: prints the path of the binary.
make() {
  local registry=${CARGO_HOME:-$HOME/.cargo} rust flags c_flags name
  rust=$(rustc --print sysroot)
  # Paths of this machine are replaced by fixed names.
  # Inlining less makes the file a twelfth smaller; what it costs is within the noise of the benchmarks.
  flags="-Cllvm-args=-inline-threshold=40"$'\x1f'"--remap-path-prefix=$1=r3mes-edge"$'\x1f'"--remap-path-prefix=$2=target"$'\x1f'"--remap-path-prefix=$registry=cargo"$'\x1f'"--remap-path-prefix=$rust=rust"
  c_flags="-ffile-prefix-map=$1=r3mes-edge -ffile-prefix-map=$2=target -ffile-prefix-map=$registry=cargo"
  # The compiler's headers are glibc's, which have names of their own for the calls on large files, where they are asked for
  # them; on this processor all calls are.
  case $target in aarch64-*) c_flags+=' -DSQLITE_DISABLE_LFS' ;; esac
  [ -z "$statically" ] || flags+=$'\x1f'$statically
  name=$(tr a-z- A-Z_ <<< "$target")
  (
    cd "$1"
    unset RUSTFLAGS CFLAGS
    export CARGO_ENCODED_RUSTFLAGS=$flags SOURCE_DATE_EPOCH=0 LC_ALL=C R3MES_BUILD_COMMIT=$commit
    # Slower to build than the profile of `cargo build --release`, smaller and a little faster when it runs.
    export CARGO_PROFILE_RELEASE_LTO=${CARGO_PROFILE_RELEASE_LTO:-fat} CARGO_PROFILE_RELEASE_CODEGEN_UNITS=${CARGO_PROFILE_RELEASE_CODEGEN_UNITS:-1}
    export CARGO_PROFILE_RELEASE_OPT_LEVEL=${CARGO_PROFILE_RELEASE_OPT_LEVEL:-3}
    export "CC_${target//-/_}=$cc" "CFLAGS_${target//-/_}=$c_flags"
    case $target in
      # Rust's own linker, as the machine's knows one kind of processor only.
      aarch64-*) export "CARGO_TARGET_${name}_LINKER=rust-lld" ;;
    esac
    cargo build --release --locked --target "$target" --target-dir "$2" --bin r3mes-edge >&2
  )
  echo "$2/$target/release/r3mes-edge"
}

built=$(make "$source_folder" "$source_folder/target/static")
to=${to:-$source_folder/target/dist}
mkdir -p "$to"
name=r3mes-edge-$target
install -m 755 "$built" "$to/$name"
(cd "$to" && sha256sum "$name" > "$name.sha256")
binary=$to/$name

echo "$binary"
echo "sha256   $(cut -d' ' -f1 < "$binary.sha256")"
echo "size     $(stat -c %s "$binary" | awk '{ printf "%.2f MB", $1 / 1e6 }')"
echo "ldd      $(ldd "$binary" 2>&1 | head -n 1 | xargs)"
! command -v file > /dev/null || echo "file     $(file -b "$binary" | cut -c -150)"
# Nothing of where it was built is in it.
for place in "$source_folder" "${CARGO_HOME:-$HOME/.cargo}" "$(rustc --print sysroot)"; do
  ! grep -qF "$place" "$binary" || { echo "$place stands in the binary" >&2; exit 1; }
done

# answers_after: milliseconds from the start to the first answer, on a database that is there.
answers_after() {
  local server began port=$1
  began=$(date +%s%N)
  R3MES_EDGE_DISCOVER=false "$binary" --listen "127.0.0.1:$port" --database "$scratch/edge.db" > /dev/null 2> "$scratch/log" &
  server=$!
  until (exec 3<> "/dev/tcp/127.0.0.1/$port" && printf 'GET /livez HTTP/1.0\r\n\r\n' >&3 && read -r -t 5 line <&3 && [[ $line == *' 200 '* ]]) 2> /dev/null; do
    kill -0 "$server" 2> /dev/null || { cat "$scratch/log" >&2; return 1; }
  done
  echo $((($(date +%s%N) - began) / 1000000))
  kill "$server"
  wait "$server"
}
if "$binary" --version > /dev/null 2>&1; then
  port=$((20000 + $$ % 10000))
  answers_after "$port" > /dev/null
  times=$(for _ in 1 2 3 4 5; do answers_after "$port"; done | sort -n | xargs)
  echo "start    first answer after $(cut -d' ' -f3 <<< "$times") ms (of five: $times)"
  rm -f "$to"/r3mes-edge-*-"$target".tar.gz* "$to"/r3mes-edge_*.deb*
  packed=$(.github/package.sh "$binary" "$target" "$to")
  sed 's/^/packed   /' <<< "$packed"
else
  echo 'start    not measured: this machine does not run it'
fi

if [ -n "$twice" ]; then
  mkdir -p "$scratch/another/folder"
  git ls-files -z | xargs -0 cp --parents -t "$scratch/another/folder"
  other=$(make "$scratch/another/folder" "$scratch/build")
  cmp "$other" "$binary" || { echo 'built in another folder it is another file' >&2; exit 1; }
  echo 'twice    built in another folder: the same bytes'
  if [ -n "${packed:-}" ]; then
    mkdir "$scratch/packed"
    .github/package.sh "$binary" "$target" "$scratch/packed" > /dev/null
    for file in "$scratch"/packed/*; do cmp "$file" "$to/${file##*/}"; done
    echo 'twice    packed again: the same bytes'
  fi
fi
