#!/bin/sh
# Makes r3mes-edge a service of systemd, or takes that back.
#
#   examples/install.sh [BINARY]          shows what it would do, then asks; without a terminal it only shows
#   examples/install.sh --yes [BINARY]    does it; run again with a newer binary it puts that in its place
#   examples/install.sh --undo [--yes]    takes all of it back, but not the database, nor what you changed of its settings
#   examples/install.sh --undo --purge    those too: accounts, credits and keys are gone then
#   --root DIR                            works below DIR and starts nothing, to look at what comes of it
#
# BINARY is target/dist/r3mes-edge-*-musl, as .github/release.sh makes it, or any other build.
set -eu
here=$(cd "$(dirname "$0")" && pwd)

yes='' undo='' purge='' root='' binary=''
usage() {
  sed -n '2,10s/^# \{0,1\}//p' "$0"
  exit "$1"
}
while [ $# != 0 ]; do
  case $1 in
    --yes) yes=1 ;;
    --undo) undo=1 ;;
    --purge) purge=1 ;;
    --root) [ $# != 1 ] || usage 2; root=${2%/} && shift ;;
    -h | --help) usage 0 ;;
    -*) usage 2 >&2 ;;
    *) binary=$1 ;;
  esac
  shift
done
if [ -z "$binary" ] && [ -z "$undo" ]; then
  for binary in "$here"/../target/dist/r3mes-edge-*-musl; do :; done
  [ -f "$binary" ] || { echo 'no binary: name one, or make it with .github/release.sh' >&2; exit 2; }
fi
[ -n "$undo" ] || "$binary" --version > /dev/null || { echo "$binary does not run here" >&2; exit 2; }

bin=$root/usr/local/bin/r3mes-edge
unit=$root/etc/systemd/system/r3mes-edge.service
folder=$root/etc/r3mes-edge
config=$folder/config.toml
words=$root/usr/local/share/bash-completion/completions/r3mes-edge
# What is not of the installation: the data, and what `systemctl edit` wrote.
kept="$root/var/lib/private/r3mes-edge $root/var/lib/r3mes-edge $unit.d"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
sed 's|^database = .*|database = "/var/lib/r3mes-edge/r3mes-edge.db"|' "$here/config.toml" > "$scratch/config"
# Completions, where this version makes them.
[ -n "$undo" ] || "$binary" completions bash > "$scratch/words" 2> /dev/null || : > "$scratch/words"

# run COMMAND…: does it, or shows it.
run() {
  if [ -n "$act" ]; then "$@"; else echo "  $*"; fi
}
# put MODE FROM TO WHAT: nothing where it is there already.
put() {
  if cmp -s "$2" "$3"; then
    [ -n "$act" ] || echo "  ($3 is there already)"
  elif [ -n "$act" ]; then
    install -D -m "$1" "$2" "$3"
    changed=1
  else
    echo "  install -D -m $1 $4 $3"
  fi
}
service() {
  if [ -z "$root" ]; then
    run systemctl "$@"
  elif [ "$1" = enable ] || [ "$1" = disable ]; then
    run systemctl --root="$root" --quiet "$1" r3mes-edge.service
  fi
}

put_all() {
  put 755 "$binary" "$bin" "$binary"
  put 644 "$here/r3mes-edge.service" "$unit" "$here/r3mes-edge.service"
  if [ -e "$config" ]; then
    [ -n "$act" ] || echo "  ($config stays as it is)"
  else
    put 644 "$scratch/config" "$config" "$here/config.toml with its database in /var/lib/r3mes-edge:"
  fi
  [ ! -s "$scratch/words" ] || put 644 "$scratch/words" "$words" 'the completions for bash:'
  service daemon-reload
  service enable r3mes-edge.service
  if [ -z "$act" ] || [ -n "$changed" ]; then
    service restart r3mes-edge.service
  fi
}

take_back() {
  if [ -e "$unit" ]; then
    service stop r3mes-edge.service
    service disable r3mes-edge.service
  fi
  for file in "$bin" "$unit" "$words"; do
    [ ! -e "$file" ] || run rm "$file"
  done
  if [ -e "$config" ]; then
    if [ -n "$purge" ] || cmp -s "$scratch/config" "$config"; then
      run rm "$config"
    else
      echo "  (kept, as it was changed: $config)"
    fi
  fi
  if [ -n "$act" ]; then
    rmdir "$folder" 2> /dev/null || :
  fi
  for place in $kept; do
    if [ -e "$place" ] || [ -L "$place" ]; then
      if [ -n "$purge" ]; then
        run rm -r "$place"
      elif [ "$place" = "$unit.d" ]; then
        echo "  (kept, as it is yours: $place)"
      else
        echo "  (kept, with the accounts, credits and keys in it: $place)"
      fi
    fi
  done
  service daemon-reload
}

work=put_all changed=''
[ -z "$undo" ] || work=take_back
echo 'What is to be done:'
act='' && $work
if [ -z "$yes" ]; then
  if [ ! -t 0 ]; then
    echo 'Nothing was done; --yes does it.'
    exit 0
  fi
  printf 'Do it? [y/N] '
  read -r answer
  case $answer in y | Y | yes) ;; *) echo 'Nothing was done.'; exit 0 ;; esac
fi
if [ -z "$root" ] && [ "$(id -u)" != 0 ]; then
  echo 'This needs root: run it with sudo.' >&2
  exit 1
fi
echo 'Done:'
act=1 && $work
if [ -n "$undo" ]; then
  echo '  all of it taken back'
else
  echo '  installed. Next: systemctl status r3mes-edge; sudo r3mes-edge keys create --wallet WALLET'
fi
