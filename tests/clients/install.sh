#!/usr/bin/env bash
# examples/install.sh in scratch roots of every odd name: it works from start to end, and removes nothing that it did not
# put there. The binary is a stand-in; tests/clients/systemd.sh and service.sh install the real one. Needs nothing else.
. "$(dirname "$0")/common.bash"

script=$PWD/examples/install.sh
cd "$scratch"
cat > stand-in << 'END'
#!/bin/sh
case $1 in --version) echo 'r3mes-edge 0.0.0' ;; completions) echo 'complete -W serve r3mes-edge' ;; esac
END
chmod 755 stand-in
sed 's/0.0.0/0.0.1/' stand-in > newer
chmod 755 newer

# picture FOLDER: all that is below it.
picture() { (cd -- "$1" && find . -printf '%p %y %m %l\n' | sort && find . -type f -exec sha256sum {} + | sort); }
fails() { sed 's/^/  /' "$scratch/out"; fail "$1"; }
run() { "$script" "$@" < /dev/null > "$scratch/out" 2>&1 || fails "install.sh $*"; }
# refused CODE TEXT ARGUMENT…: it says so, and does nothing.
refused() {
  local code=0 wanted=$1 text=$2
  shift 2
  "$script" "$@" < /dev/null > "$scratch/out" 2>&1 || code=$?
  [ "$code" = "$wanted" ] || fails "install.sh $* ended with $code instead of $wanted"
  grep -qF -- "$text" "$scratch/out" || fails "install.sh $* does not say: $text"
}
same() { picture "$scratch/all" | diff "$scratch/$1" - || fail "$2"; }
# The service's data, as a server leaves it.
serve() {
  mkdir -p "$1"
  touch "$1"/r3mes-edge.db{,-wal,-shm,.lock,.admin-key,.20261125T120000.000Z.backup}
}

# names: everything is in one folder, with neighbours whose names are parts of the root's

mkdir all
cd all
mkdir -p 'a b' a b 'a b/x' '*' '[a]' real "it's"
for name in a b 'a b' '*' '[a]' real "it's"; do
  mkdir -p "$name/var/lib/private/r3mes-edge" "$name/etc/systemd/system/r3mes-edge.service.d"
  echo precious > "$name/var/lib/private/r3mes-edge/precious"
  echo mine > "$name/etc/systemd/system/r3mes-edge.service.d/mine.conf"
done
mkdir new
ln -s ../real new/link
picture . > "$scratch/before"
for root in 'a b' "$PWD/a b" 'a b/' './a b///' '*' '[a]' "it's" a/ new/link new/link/ "a b/x/.." '../all/b'; do
  run --root "$root" --yes ../stand-in
  found=$(find . -name r3mes-edge -type f -path '*/local/bin/*' -printf '%h\n')
  [ "$(wc -l <<< "$found")" = 1 ] || fail "$root: $found"
  [ "$(realpath -m "$found/r3mes-edge")" = "$(realpath -m "$root")/usr/local/bin/r3mes-edge" ] || fail "$root: installed in $found"
  run --root "$root" --yes ../newer
  cmp -s ../newer "$root/usr/local/bin/r3mes-edge" || fail "$root: not replaced by the newer one"
  serve "$root/var/lib/private/r3mes-edge"
  run --root "$root" --undo
  grep -q 'Nothing was done' "$scratch/out" || fails "$root: undone without --yes"
  run --root "$root" --undo --purge --yes
  for folder in usr/local/bin usr/local/share/bash-completion/completions usr/local/share/bash-completion usr/local/share \
    usr/local usr etc/systemd/system/multi-user.target.wants; do
    rmdir -- "$root/$folder" 2> /dev/null || :
  done
  same before "$root: something else is gone, or something is left"
done
run --root 'not there/yet' --yes ../stand-in
[ -x 'not there/yet/usr/local/bin/r3mes-edge' ] || fail 'not installed in a root that was not there'
run --root 'not there/yet' --undo --purge --yes
[ -z "$(find 'not there' -type f)" ] || fail "left behind: $(find 'not there' -type f)"
rm -r 'not there'
same before 'a root that was not there'
echo 'ok      roots with spaces and glob characters, relative, linked, and not there yet; their neighbours are whole'

# what is in doubt

refused 2 'this system itself' --root / --yes ../stand-in
refused 2 'this system itself' --root // --undo --purge --yes
refused 2 'this system itself' --root "${PWD//[^\/]/}/../../../../../../../../.." --undo --purge --yes
refused 2 'needs a folder' --root '' --undo --purge --yes
refused 2 'needs a folder' --root --undo --purge --yes
refused 2 'install.sh' --root
refused 2 'install.sh' --root a --root b --yes ../stand-in
refused 2 'line break' --root $'a\nb' --yes ../stand-in
refused 2 'is no folder' --root ../stand-in --yes ../stand-in
refused 2 '--purge goes with --undo' --root a --purge --yes ../stand-in
refused 2 'install.sh' --root a --yes ../stand-in ../newer
refused 2 'is no file' --root a --yes nowhere
refused 2 'no r3mes-edge' --root a --yes /bin/true
mkdir -p escape/usr
ln -s ../../b escape/usr/local
refused 1 'leads out of' --root escape --yes ../stand-in
refused 1 'leads out of' --root escape --undo --purge --yes
rm -r escape
same before 'what was refused did something'
echo 'ok      what is ambiguous, is this system, or leads out of the root is refused'

# what was there before, or was changed since

run --root a --undo --purge --yes
same before 'an undo without an installation did something'
mkdir -p a/usr/local/bin a/etc/r3mes-edge a/var/lib/r3mes-edge
echo other > a/usr/local/bin/r3mes-edge
echo 'listen = "127.0.0.1:9"' > a/etc/r3mes-edge/config.toml
serve a/var/lib/r3mes-edge
picture . > "$scratch/foreign"
refused 1 'move it away first' --root a --yes ../stand-in
run --root a --undo --purge --yes
same foreign 'a foreign file is gone'
rm a/usr/local/bin/r3mes-edge
run --root a --yes ../stand-in
run --root a --undo --yes
[ "$(cat a/etc/r3mes-edge/config.toml)" = 'listen = "127.0.0.1:9"' ] || fail 'a configuration that was there before is gone'
rm -r a/etc/r3mes-edge a/var/lib/r3mes-edge
run --root a --yes ../stand-in
echo '# mine' >> a/etc/systemd/system/r3mes-edge.service
echo '# mine' >> a/etc/r3mes-edge/config.toml
refused 1 'move it away first' --root a --yes ../newer
run --root a --undo --yes
for file in etc/systemd/system/r3mes-edge.service etc/r3mes-edge/config.toml; do
  tail -n 1 "a/$file" | grep -qx '# mine' || fail "$file was changed, and is gone"
done
rm a/etc/systemd/system/r3mes-edge.service
run --root a --yes ../stand-in
run --root a --undo --purge --yes
[ ! -e a/etc/r3mes-edge ] || fail 'the configuration or its folder outlives --purge'
echo 'ok      what was there before, or was changed since, is neither overwritten nor removed'

# data that is linked to, and a folder with something else in it

run --root b --yes ../stand-in
mkdir elsewhere
serve elsewhere
rm -r b/var/lib/private/r3mes-edge
ln -s ../../../../elsewhere b/var/lib/private/r3mes-edge
ln -s private/r3mes-edge b/var/lib/r3mes-edge
picture elsewhere > "$scratch/elsewhere"
run --root b --undo --purge --yes
picture elsewhere | diff "$scratch/elsewhere" - || fail 'data behind a link that it did not make is gone'
[ -L b/var/lib/private/r3mes-edge ] || fail 'a link that it did not make is gone'
rm b/var/lib/private/r3mes-edge
run --root b --yes ../stand-in
serve b/var/lib/private/r3mes-edge
run --root b --undo --purge --yes
[ -z "$(find b/var -name '*r3mes-edge*')" ] || fail "left behind: $(find b/var -name '*r3mes-edge*')"
echo 'ok      --purge takes the data with the link that systemd made to it, and follows no other link'

# the binary that release.sh made

mkdir -p tree/examples tree/target/dist
cp "${script%/*}"/* tree/examples 2> /dev/null || :
script=$PWD/tree/examples/install.sh
refused 2 'no binary' --root a --yes
other=tree/target/dist/r3mes-edge-other-unknown-linux-musl gnu=tree/target/dist/r3mes-edge-$(uname -m)-unknown-linux-gnu
cp ../newer "$other"
refused 2 'no binary' --root a --yes
cp ../stand-in "$gnu"
echo sum > "$gnu.sha256"
run --root a --yes
cmp -s ../stand-in a/usr/local/bin/r3mes-edge || fail 'the glibc build is not found'
cp ../newer "${gnu%gnu}musl"
run --root a --yes
cmp -s ../newer a/usr/local/bin/r3mes-edge || fail 'the musl build is not taken first'
echo 'ok      the build of this machine is found, musl before glibc'
passed
