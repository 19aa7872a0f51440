#!/usr/bin/env bash
# Packs a binary that runs on this machine, for publishing: an archive and, where dpkg-deb is there, a Debian package, each with
# its SHA-256. .github/release.sh does it with the one it made.
#
#   .github/package.sh BINARY TRIPLE FOLDER
#
# The same binary and sources give the same bytes: files have the time of the commit (or SOURCE_DATE_EPOCH), belong to root and
# are in the order of their names.
set -euo pipefail
umask 022
export LC_ALL=C
[ $# = 3 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
binary=$(realpath "$1") target=$2 to=$(realpath "$3")
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=$("$binary" --version | cut -d' ' -f2)
epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2> /dev/null || echo 315532800)}
export SOURCE_DATE_EPOCH=$epoch
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# put MODE FROM TO
put() { install -D -m "$1" "$2" "$3"; }
# dated FOLDER: the time of its files is that of the commit.
dated() { find "$1" -exec touch -h -d "@$epoch" {} +; }
# published FILE: with its checksum.
published() {
  (cd "$to" && sha256sum "${1##*/}" > "${1##*/}.sha256")
  echo "$1"
}

mkdir "$scratch/completions"
"$binary" completions bash > "$scratch/completions/r3mes-edge.bash"
"$binary" completions zsh > "$scratch/completions/_r3mes-edge"
"$binary" completions fish > "$scratch/completions/r3mes-edge.fish"

name=r3mes-edge-$version-$target
top=$scratch/archive/$name
put 755 "$binary" "$top/r3mes-edge"
put 755 examples/install.sh "$top/install.sh"
for file in LICENSE README.md examples/config.toml examples/r3mes-edge.service "$scratch"/completions/*; do
  case $file in */completions/*) put 644 "$file" "$top/completions/${file##*/}" ;; *) put 644 "$file" "$top/${file##*/}" ;; esac
done
# What the README links to.
for file in .github/*.md .github/*.png .github/*.svg .github/docs/*.md; do put 644 "$file" "$top/$file"; done
dated "$top"
tar --create --format=gnu --sort=name --mtime="@$epoch" --owner=0 --group=0 --numeric-owner --directory="$scratch/archive" "$name" |
  gzip -n -9 > "$to/$name.tar.gz"
published "$to/$name.tar.gz"

case $target in x86_64-*) architecture=amd64 ;; aarch64-*) architecture=arm64 ;; *) exit 0 ;; esac
command -v dpkg-deb > /dev/null || { echo 'no Debian package: dpkg-deb is not here' >&2; exit 0; }
root=$scratch/debian
put 755 "$binary" "$root/usr/bin/r3mes-edge"
put 644 "$scratch/completions/r3mes-edge.bash" "$root/usr/share/bash-completion/completions/r3mes-edge"
put 644 "$scratch/completions/_r3mes-edge" "$root/usr/share/zsh/vendor-completions/_r3mes-edge"
put 644 "$scratch/completions/r3mes-edge.fish" "$root/usr/share/fish/vendor_completions.d/r3mes-edge.fish"
put 644 LICENSE "$root/usr/share/doc/r3mes-edge/copyright"
put 644 README.md "$root/usr/share/doc/r3mes-edge/README.md"
sed 's|/usr/local/bin/|/usr/bin/|; s|^# r3mes-edge as a service.*|# r3mes-edge as a service of systemd (250 or newer).|' examples/r3mes-edge.service > "$scratch/unit"
put 644 "$scratch/unit" "$root/usr/lib/systemd/system/r3mes-edge.service"
sed 's|^database = .*|database = "/var/lib/r3mes-edge/r3mes-edge.db"|' examples/config.toml > "$scratch/config"
put 644 "$scratch/config" "$root/etc/r3mes-edge/config.toml"
mkdir "$root/DEBIAN"
echo /etc/r3mes-edge/config.toml > "$root/DEBIAN/conffiles"
cat > "$root/DEBIAN/control" << END
Package: r3mes-edge
Version: $version
Architecture: $architecture
Maintainer: r3mes-edge contributors <maintainers@r3mes-edge.invalid>
Section: net
Priority: optional
Installed-Size: $(du -sk --apparent-size "$root" | cut -f1)
Description: sell local models for credits, beside a miner
 Wallets, credits, API keys, paid inference with OpenAI's and Anthropic's
 APIs, statistics of a miner and alerts, as one process over one SQLite file.
END
# The unit has a user that exists while it runs, so none is made here. Below another root nothing is started.
cat > "$root/DEBIAN/postinst" << 'END'
#!/bin/sh
set -e
if [ "$1" = configure ] && [ -z "${DPKG_ROOT:-}" ] && command -v systemctl > /dev/null; then
  [ -n "$2" ] || systemctl enable --quiet r3mes-edge.service
  if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
    systemctl restart r3mes-edge.service || echo 'r3mes-edge did not start: systemctl status r3mes-edge' >&2
  fi
fi
END
cat > "$root/DEBIAN/prerm" << 'END'
#!/bin/sh
set -e
if [ "$1" = remove ] && [ -z "${DPKG_ROOT:-}" ] && command -v systemctl > /dev/null; then
  [ ! -d /run/systemd/system ] || systemctl stop r3mes-edge.service
  systemctl disable --quiet r3mes-edge.service
fi
END
cat > "$root/DEBIAN/postrm" << 'END'
#!/bin/sh
set -e
if [ -z "${DPKG_ROOT:-}" ] && [ -d /run/systemd/system ]; then
  systemctl daemon-reload
fi
for folder in /var/lib/private/r3mes-edge /var/lib/r3mes-edge; do
  if [ "$1" = purge ] && [ -f "${DPKG_ROOT:-}$folder/r3mes-edge.db" ]; then
    echo "the database with its accounts and credits is left in $folder; delete it if it is not needed"
    break
  fi
done
END
chmod 755 "$root/DEBIAN/postinst" "$root/DEBIAN/prerm" "$root/DEBIAN/postrm"
dated "$root"
package=$to/r3mes-edge_${version}_$architecture.deb
# A compression whose bytes do not depend on the number of processors.
dpkg-deb --build --root-owner-group -Zgzip "$root" "$package" > "$scratch/said" || { cat "$scratch/said" >&2; exit 1; }
published "$package"
