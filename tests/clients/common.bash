# What every script here begins with. It is sourced, not run.
#
# Sets `scratch`, a folder that goes at the end. What is started is noted in `running`, and ended at the end. The last line
# says how it went.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
# A proxy is for the world outside; the servers are on this machine.
export no_proxy=127.0.0.0/8,localhost
# What the caller has set is not the subject.
unset RUST_LOG
for name in $(compgen -e R3MES_EDGE_ || true); do unset "$name"; done

scratch=$(mktemp -d)
running=()
why='a command failed'
finish() {
  local code=$? script
  script=tests/clients/$(basename "$0")
  if [ ${#running[@]} != 0 ]; then
    { kill "${running[@]}" || true; wait "${running[@]}" || true; } 2> /dev/null
  fi
  rm -rf "$scratch"
  # Only a script that reached its end has passed.
  if [ "$code" = 0 ] && [ -z "$why" ]; then
    echo "$script: passed"
  else
    echo "$script: FAILED: $why"
  fi
}
trap finish EXIT
fail() {
  why=$1
  exit 1
}
passed() { why=; }

# over PID: it has ended.
over() {
  local pid left=()
  for pid in "${running[@]}"; do
    [ "$pid" = "$1" ] || left+=("$pid")
  done
  running=(${left[@]+"${left[@]}"})
}
# end PID: asks it to end, which must go well.
end() {
  local code=0
  kill "$1"
  wait "$1" || code=$?
  over "$1"
  [ "$code" = 0 ] || fail "what should end ended with $code"
}
# need TOOL…: installs what is missing, from Debian's packages of the same names, or TOOL=PACKAGE.
need() {
  local tool
  for tool; do
    command -v "${tool%%=*}" > /dev/null || debian "${tool#*=}"
  done
}
# need_venv: what `python3 -m venv` needs, which Debian has in a package of its own.
need_venv() { python3 -c 'import ensurepip, venv' 2> /dev/null || debian python3-venv; }
# debian PACKAGE: installs it.
debian() {
  local root=
  [ "$(id -u)" = 0 ] || root='sudo -n'
  why="$1 is needed"
  $root apt-get update -q
  DEBIAN_FRONTEND=noninteractive $root apt-get install -q -y --no-install-recommends ca-certificates "$1"
  why='a command failed'
}
# build OPTION…: sets built, the folder of what cargo made.
build() {
  why='the build failed'
  cargo build --release --locked "$@"
  built=$(cargo metadata --format-version 1 --no-deps --locked | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release
  why='a command failed'
}
# await FILE PID: waits until there is something in the file, by which a server says that it serves. $scratch/log has its log.
await() {
  for _ in $(seq 100); do
    [ ! -s "$1" ] || return 0
    kill -0 "$2" 2> /dev/null || break
    sleep 0.1
  done
  cat "$scratch/log"
  fail 'the server does not serve'
}
