#!/bin/sh
# Makes r3mes-edge a service of systemd, or takes that back: what it put there, and nothing else.
#
#   examples/install.sh [BINARY]          shows what it would do, then asks; without a terminal it only shows
#   examples/install.sh --yes [BINARY]    does it; run again with a newer binary it puts that in its place
#   examples/install.sh --undo [--yes]    takes all of it back, but not the database, nor what you changed
#   examples/install.sh --undo --purge    the configuration and the database too: accounts, credits and keys are gone then
#   --root DIR                            works below DIR and starts nothing, to inspect the result
#
# BINARY is the one beside this script, as in an archive, else target/dist/r3mes-edge-*, as .github/release.sh makes it for this
# machine, or any other build.
set -eu
here=$(cd -- "$(dirname -- "$0")" && pwd)

usage() {
  sed -n '2,11s/^# \{0,1\}//p' "$0"
  exit "$1"
}
# stop CODE TEXT: before anything was done.
stop() {
  echo "$2" >&2
  exit "$1"
}

yes='' undo='' purge='' root='' below='' binary=''
while [ $# != 0 ]; do
  case $1 in
    --yes) yes=1 ;;
    --undo) undo=1 ;;
    --purge) purge=1 ;;
    --root)
      [ $# != 1 ] && [ -z "$below" ] || usage 2 >&2
      below=1 root=$2
      shift
      ;;
    -h | --help) usage 0 ;;
    -*) usage 2 >&2 ;;
    *)
      [ -n "$1" ] && [ -z "$binary" ] || usage 2 >&2
      binary=$1
      ;;
  esac
  shift
done
if [ -n "$below" ]; then
  case $root in '' | -*) stop 2 '--root needs a folder; one that begins with - is written ./-…' ;; esac
  root=$(realpath -m -- "$root" && echo .)
  root=${root%??}
  case $root in *'
'*) stop 2 '--root: the name of the folder must not hold a line break' ;; esac
  [ "$root" != / ] || stop 2 '--root / is this system itself: leave it out'
  [ -d "$root" ] || [ ! -e "$root" ] || stop 2 "$root is no folder"
fi

[ -z "$purge" ] || [ -n "$undo" ] || stop 2 '--purge goes with --undo'
if [ -n "$undo" ]; then
  [ -z "$binary" ] || stop 2 '--undo takes no binary'
else
  if [ -z "$binary" ]; then
    for place in "$here/r3mes-edge" "$here/../target/dist/r3mes-edge-$(uname -m)-unknown-linux"-musl "$here/../target/dist/r3mes-edge-$(uname -m)-unknown-linux"-gnu; do
      binary=$place
      [ ! -f "$binary" ] || break
    done
    [ -f "$binary" ] || stop 2 'no binary: name one, or make it with .github/release.sh'
  fi
  # A name without a folder is a file here, and not a program of the PATH.
  case $binary in /*) ;; *) binary=./$binary ;; esac
  [ -f "$binary" ] || stop 2 "$binary is no file"
  case $("$binary" --version 2> /dev/null || :) in
    r3mes-edge\ *) ;;
    *) stop 2 "$binary does not run here, or is no r3mes-edge" ;;
  esac
fi
if [ -z "$root" ] && ! command -v systemctl > /dev/null; then
  stop 1 'systemctl is not here, so there is nothing to be a service of'
fi

bin=$root/usr/local/bin/r3mes-edge
unit=$root/etc/systemd/system/r3mes-edge.service
folder=$root/etc/r3mes-edge
config=$folder/config.toml
words=$root/usr/local/share/bash-completion/completions/r3mes-edge
# What this script put there: a line for each, the SHA-256 and which it is.
list=$folder/.installed
# In the configuration, by which it is known when the list is gone.
mark='# Put here by install.sh; it may be changed.'
# The service's data: where it has a user that exists while it runs, and where not.
private=$root/var/lib/private/r3mes-edge
public=$root/var/lib/r3mes-edge

for file in "$bin" "$unit" "$config" "$words" "$private" "$public"; do
  case $(realpath -m -- "${file%/*}")/ in
    "$root"/*) ;;
    *) stop 1 "${file%/*} leads out of $root: nothing was done" ;;
  esac
done

scratch=$(mktemp -d)
trap 'rm -rf -- "$scratch"' EXIT
{
  echo "$mark"
  sed 's|^database = .*|database = "/var/lib/r3mes-edge/r3mes-edge.db"|' "$here/config.toml"
} > "$scratch/config"
# Completions, where this version makes them.
[ -n "$undo" ] || "$binary" completions bash > "$scratch/words" 2> /dev/null || : > "$scratch/words"

# run COMMAND…: does it, or shows it as a shell would take it.
run() {
  if [ -n "$act" ]; then
    "$@"
    return
  fi
  shown=' '
  for word; do
    case $word in
      '' | *[!A-Za-z0-9_./:=-]*) shown="$shown '$(printf '%s\n' "$word" | sed "s/'/'\\\\''/g")'" ;;
      *) shown="$shown $word" ;;
    esac
  done
  printf '%s\n' "$shown"
}
say() { [ -n "$act" ] || printf '  (%s)\n' "$1"; }
there() { [ -e "$1" ] || [ -L "$1" ]; }
hash_of() { sha256sum < "$1" | cut -d' ' -f1; }
# noted NAME: this script put it there.
noted() { grep -q " $1\$" "$list" 2> /dev/null; }
# unchanged NAME FILE: it is as this script put it there.
unchanged() { [ -f "$2" ] && [ ! -L "$2" ] && grep -qxF "$(hash_of "$2") $1" "$list" 2> /dev/null; }

# put NAME MODE FROM TO: nothing where it is there already.
put() {
  if cmp -s -- "$3" "$4"; then
    say "$4 is there already"
    return
  fi
  # Noted first: what is not noted is never taken back.
  [ -z "$act" ] || echo "$(hash_of "$3") $1" >> "$list"
  run install -D -m "$2" "$3" "$4"
  changed=1
}
service() {
  if [ -z "$root" ]; then
    run systemctl "$@"
  elif [ "$1" = enable ] || [ "$1" = disable ]; then
    if command -v systemctl > /dev/null; then
      run systemctl --root="$root" --quiet "$1" r3mes-edge.service
    else
      say "systemctl is not here to $1 it"
    fi
  fi
}

# What is there and is not this script's must not be overwritten.
check_places() {
  while [ $# != 0 ]; do
    if there "$3" && ! cmp -s -- "$2" "$3" && ! unchanged "$1" "$3"; then
      stop 1 "$3 was not put there by this script, or was changed since: move it away first"
    fi
    shift 3
  done
}
put_all() {
  made=''
  if [ ! -d "$folder" ]; then
    run mkdir -p "$folder"
    made=1
  elif [ ! -f "$list" ] && grep -qxF "$mark" "$config" 2> /dev/null; then
    # An undo left it, for a configuration that was changed.
    made=1
  fi
  [ -z "$act" ] || [ -z "$made" ] || echo '- folder' >> "$list"
  put bin 755 "$binary" "$bin"
  put unit 644 "$here/r3mes-edge.service" "$unit"
  if there "$config"; then
    say "$config stays as it is"
  else
    put config 644 "$scratch/config" "$config"
  fi
  [ ! -s "$scratch/words" ] || put words 644 "$scratch/words" "$words"
  service daemon-reload
  service enable r3mes-edge.service
  if [ -n "$changed" ]; then
    service restart r3mes-edge.service
  fi
}

# take NAME FILE
take() {
  if unchanged "$1" "$2"; then
    run rm -- "$2"
  elif there "$2"; then
    say "kept, as this script did not put it there, or it was changed since: $2"
  fi
}
# The files of a server in its folder, each by its name: all other files are foreign.
take_data() {
  for file in "$1"/r3mes-edge.db "$1"/r3mes-edge.db-wal "$1"/r3mes-edge.db-shm "$1"/r3mes-edge.db-journal \
    "$1"/r3mes-edge.db.lock "$1"/r3mes-edge.db.admin-key "$1"/r3mes-edge.db.admin-key.new \
    "$1"/r3mes-edge.db.restoring* "$1"/r3mes-edge.db.[0-9]*T[0-9]*Z.*; do
    if [ -f "$file" ] && [ ! -L "$file" ]; then run rm -- "$file"; fi
  done
  if [ -n "$act" ]; then
    rmdir -- "$1" 2> /dev/null || echo "  (kept, as there is something else in it: $1)"
  fi
}
take_back() {
  ours=''
  if [ -f "$list" ] || grep -qxF "$mark" "$config" 2> /dev/null; then ours=1; fi
  if noted unit; then
    service stop r3mes-edge.service
    service disable r3mes-edge.service
  fi
  take bin "$bin"
  take unit "$unit"
  take words "$words"
  if [ -n "$purge" ] && [ -f "$config" ] && [ ! -L "$config" ] && { noted config || grep -qxF "$mark" "$config"; }; then
    run rm -- "$config"
  else
    take config "$config"
  fi
  ! there "$unit.d" || say "kept, as it is yours: $unit.d"
  for place in "$private" "$public"; do
    if [ -L "$place" ]; then
      # Of systemd, and of no use any more once that is gone.
      if [ -n "$purge" ] && [ -n "$ours" ] && [ "$(readlink "$place")" = private/r3mes-edge ] &&
        { [ -z "$act" ] || [ ! -e "$place" ]; }; then
        run rm -- "$place"
      else
        say "kept, as it is a link: $place"
      fi
    elif [ -d "$place" ] && [ -n "$purge" ] && [ -n "$ours" ]; then
      take_data "$place"
    elif [ -d "$place" ] && [ -n "$purge" ]; then
      say "kept, as nothing shows that it is of an installation by this script: $place"
    elif there "$place"; then
      say "kept, with the accounts, credits and keys in it: $place"
    fi
  done
  if [ -f "$list" ]; then
    folder_is_ours=''
    ! noted folder || folder_is_ours=1
    run rm -- "$list"
  else
    folder_is_ours=$ours
  fi
  if [ -n "$act" ] && [ -n "$folder_is_ours" ]; then
    rmdir -- "$folder" 2> /dev/null || :
  fi
  service daemon-reload
}

work=put_all changed=''
if [ -n "$undo" ]; then
  work=take_back
else
  check_places bin "$binary" "$bin" unit "$here/r3mes-edge.service" "$unit"
  [ ! -s "$scratch/words" ] || check_places words "$scratch/words" "$words"
fi
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
  stop 1 'This needs root: run it with sudo.'
fi
echo 'Done:'
act=1 changed='' && $work
if [ -n "$undo" ]; then
  echo '  all of it taken back'
else
  echo '  installed. Next: systemctl status r3mes-edge; sudo r3mes-edge keys create --wallet WALLET'
fi
