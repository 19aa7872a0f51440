# The archive and the Debian package in the folder $dist: their checksums, contents, what is in them works, and the package is
# installed, upgraded, removed and purged below a root of its own. For root; sourced by static.sh.
need dpkg-deb=dpkg
why='a checksum'
(cd "$dist" && sha256sum --quiet -c ./*.sha256)
archive=$(ls "$dist"/r3mes-edge-*.tar.gz) package=$(ls "$dist"/r3mes-edge_*.deb)
name=$(basename "$archive" .tar.gz)

why='the archive'
tar -tvzf "$archive" > "$scratch/listed"
[ "$(awk '{ print $2 }' "$scratch/listed" | sort -u)" = 0/0 ] || fail 'a file of the archive does not belong to root'
[ "$(awk '{ print $4, $5 }' "$scratch/listed" | sort -u | wc -l)" = 1 ] || fail 'the files of the archive have several times'
mkdir "$scratch/unpacked"
tar -xzf "$archive" -C "$scratch/unpacked"
top=$scratch/unpacked/$name
found=$(cd "$top" && find . -type f -not -path './.github/*' -printf '%P\n' | sort | xargs)
[ "$found" = 'LICENSE README.md completions/_r3mes-edge completions/r3mes-edge.bash completions/r3mes-edge.fish config.toml install.sh r3mes-edge r3mes-edge.service' ] ||
  fail "the archive has $found"
for link in $(grep -oE '\]\([^):#]+' "$top/README.md" | cut -c3- | grep -v '^https' | sort -u); do
  [ -e "$top/$link" ] || fail "the README of the archive links to $link, which is not in it"
done
[[ $("$top/r3mes-edge" --version) == "r3mes-edge "* ]] || fail 'the binary of the archive does not run'
R3MES_EDGE_DISCOVER=false "$top/r3mes-edge" config check --config "$top/config.toml" > "$scratch/out" || fail 'the configuration of the archive'
# completions FILE…: of bash, zsh and fish; each read by its shell where that is here.
completions() {
  local file
  for file; do [ "$(wc -l < "$file")" -gt 50 ] || fail "$file is too short to be a completion script"; done
  bash -n "$1" || fail "bash does not read $1"
  ! command -v zsh > /dev/null || zsh -n "$2" || fail "zsh does not read $2"
  ! command -v fish > /dev/null || fish --no-execute "$3" || fail "fish does not read $3"
}
completions "$top/completions/r3mes-edge.bash" "$top/completions/_r3mes-edge" "$top/completions/r3mes-edge.fish"
"$top/install.sh" --root "$scratch/installed" --yes > "$scratch/out" < /dev/null || { cat "$scratch/out"; fail 'the install.sh of the archive'; }
cmp "$top/r3mes-edge" "$scratch/installed/usr/local/bin/r3mes-edge"
echo "ok      $name.tar.gz: $(stat -c %s "$archive" | awk '{ printf "%.1f MB", $1 / 1e6 }'), installs what is in it"

why='the Debian package'
root=$scratch/debian
mkdir -p "$root/var/lib/dpkg/updates" "$root/var/lib/dpkg/info"
touch "$root/var/lib/dpkg/status"
# Its scripts see that they are below another root, and start nothing.
in_root() {
  PATH=$PATH:/usr/sbin:/sbin dpkg --root="$root" --log="$scratch/dpkg" --force-script-chrootless --force-bad-path "$@" > "$scratch/out" 2>&1 < /dev/null || {
    cat "$scratch/out"
    fail "dpkg $*"
  }
}
files() { (cd "$root" && find . -type f -not -path './var/lib/dpkg/*' -printf '%P\n' | sort | xargs); }
in_root -i "$package"
[ "$(files)" = 'etc/r3mes-edge/config.toml usr/bin/r3mes-edge usr/lib/systemd/system/r3mes-edge.service usr/share/bash-completion/completions/r3mes-edge usr/share/doc/r3mes-edge/README.md usr/share/doc/r3mes-edge/copyright usr/share/fish/vendor_completions.d/r3mes-edge.fish usr/share/zsh/vendor-completions/_r3mes-edge' ] ||
  fail "the package has $(files)"
[[ $("$root/usr/bin/r3mes-edge" --version) == "r3mes-edge $(dpkg-deb -f "$package" Version)" ]] || fail 'the binary of the package does not run, or has another version'
cmp "$top/r3mes-edge" "$root/usr/bin/r3mes-edge"
grep -qx 'ExecStart=/usr/bin/r3mes-edge serve --config /etc/r3mes-edge/config.toml' "$root/usr/lib/systemd/system/r3mes-edge.service" || fail 'the unit of the package starts something else'
R3MES_EDGE_DATABASE=$scratch/checked.db R3MES_EDGE_DISCOVER=false "$root/usr/bin/r3mes-edge" config check --config "$root/etc/r3mes-edge/config.toml" > "$scratch/out" ||
  fail 'the configuration of the package'
grep -qx 'database = "/var/lib/r3mes-edge/r3mes-edge.db"' "$root/etc/r3mes-edge/config.toml" || fail 'the database of the package is elsewhere'
completions "$root/usr/share/bash-completion/completions/r3mes-edge" "$root/usr/share/zsh/vendor-completions/_r3mes-edge" "$root/usr/share/fish/vendor_completions.d/r3mes-edge.fish"
# A changed configuration outlives an upgrade and a removal, the database a purge.
echo '# mine' >> "$root/etc/r3mes-edge/config.toml"
mkdir -p "$root/var/lib/r3mes-edge"
touch "$root/var/lib/r3mes-edge/r3mes-edge.db"
in_root -i "$package"
in_root -r r3mes-edge
[ "$(files)" = 'etc/r3mes-edge/config.toml var/lib/r3mes-edge/r3mes-edge.db' ] || fail "a removal leaves $(files)"
tail -n 1 "$root/etc/r3mes-edge/config.toml" | grep -qx '# mine' || fail 'a changed configuration is overwritten'
in_root -P r3mes-edge
[ "$(files)" = 'var/lib/r3mes-edge/r3mes-edge.db' ] || fail "a purge leaves $(files)"
grep -q 'is left in /var/lib/r3mes-edge' "$scratch/out" || fail 'a purge does not say where the database is'
echo "ok      $(basename "$package"): installed, again over a changed configuration, removed, purged"
why='a command failed'
