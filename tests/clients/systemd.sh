#!/usr/bin/env bash
# The unit, what installs it, and the watchdog. The installation goes into a scratch root and is taken back without a trace;
# systemd's own tools check the unit; strace shows that the server needs no system call that the unit forbids, and makes
# a disk that does not answer, of which the watchdog must not be notified. Installs what it needs.
. "$(dirname "$0")/common.bash"
need curl strace systemd-analyze=systemd
need python3
build --bin r3mes-edge
edge=$built/r3mes-edge
unit=examples/r3mes-edge.service
wallet=remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm

# into a scratch root, and back

root=$scratch/root
mkdir -p "$root"/{usr/local/{bin,share/bash-completion/completions},etc/systemd/system,var/lib}
picture() { (cd "$root" && find . -printf '%p %y %m %l\n' | sort && find . -type f -exec sha256sum {} + | sort); }
install() { examples/install.sh --root "$root" "$@" < /dev/null > "$scratch/out" 2>&1 || { cat "$scratch/out"; fail "install.sh $*"; }; }
picture > "$scratch/empty"
install "$edge"
grep -q 'Nothing was done' "$scratch/out" || fail 'without a terminal and --yes it does not say that nothing was done'
grep -qF "$root/etc/systemd/system/r3mes-edge.service" "$scratch/out" || fail 'it does not say what it would do'
picture | cmp - "$scratch/empty" || fail 'what only was to be shown was done'
install --yes "$edge"
picture > "$scratch/installed"
for path in './usr/local/bin/r3mes-edge f 755' './etc/systemd/system/r3mes-edge.service f 644' './etc/r3mes-edge/config.toml f 644' \
  './etc/systemd/system/multi-user.target.wants/r3mes-edge.service l'; do
  grep -qF -- "$path" "$scratch/installed" || { cat "$scratch/installed"; fail "$path is not there"; }
done
install --yes "$edge"
picture | cmp - "$scratch/installed" || fail 'installed again it is another installation'
# The configuration is one that the installed binary takes, with the database in the state directory.
grep -qx 'database = "/var/lib/r3mes-edge/r3mes-edge.db"' "$root/etc/r3mes-edge/config.toml" || fail 'the database is elsewhere'
"$edge" --config "$root/etc/r3mes-edge/config.toml" ledger verify 2> "$scratch/err" && fail 'there is a database already' || code=$?
[ "$code" = 3 ] || { cat "$scratch/err"; fail "the configuration is not taken: exit code $code"; }
echo 'ok      installed into a scratch root, twice alike'

# A database and a changed configuration outlive the undoing; --purge takes them too.
mkdir "$root/var/lib/r3mes-edge"
touch "$root/var/lib/r3mes-edge/r3mes-edge.db"
echo '# mine' >> "$root/etc/r3mes-edge/config.toml"
install --undo --yes
left=$(cd "$root" && find . -type f | sort | xargs)
[ "$left" = './etc/r3mes-edge/config.toml ./var/lib/r3mes-edge/r3mes-edge.db' ] || fail "left behind: $left"
install --undo --purge --yes
picture | diff - "$scratch/empty" || fail 'something is left'
install --yes "$edge"
install --undo --yes
picture | diff - "$scratch/empty" || fail 'something is left'
echo 'ok      taken back: nothing is left but the database and a changed configuration, and with --purge nothing at all'

# what systemd says of the unit

# As if it were installed: verify looks for the program.
sed "s|/usr/local/bin/r3mes-edge|$edge|" "$unit" > "$scratch/r3mes-edge.service"
systemd-analyze verify --man=no "$scratch/r3mes-edge.service" 2> "$scratch/err" || { cat "$scratch/err"; fail 'systemd-analyze verify'; }
[ ! -s "$scratch/err" ] || { cat "$scratch/err"; fail 'systemd-analyze verify complains'; }
# The threshold is in tenths.
systemd-analyze security --no-pager --offline=yes --threshold=15 "$unit" > "$scratch/out" || { cat "$scratch/out"; fail 'the unit is exposed more than it was'; }
echo "ok      $(grep -o 'Overall.*' "$scratch/out" | tr -cd '[:print:]')"

# what the server asks of the kernel

watched=$scratch/watched
start() {
  "$@" "$edge" --listen 127.0.0.1:0 --database "$watched/edge.db" > "$scratch/printed" 2> "$scratch/log" &
  server=$!
  running+=("$server")
  await "$watched/edge.db.lock" "$server"
  EDGE=$(cat "$watched/edge.db.lock")
  ADMIN=$(cat "$watched/edge.db.admin-key")
}
ask() { curl -sf --max-time 30 -o "$scratch/answer" "$EDGE$1" -H "X-API-Key: $ADMIN" "${@:2}" || { cat "$scratch/log"; fail "$1 failed"; }; }
# Root's SQLite gives files to their owner, which a service has no need of.
server_user=()
mkdir "$watched"
if [ "$(id -u)" = 0 ]; then
  chmod 711 "$scratch"
  cp "$edge" "$scratch/r3mes-edge"
  edge=$scratch/r3mes-edge
  chown 61184:61184 "$watched"
  server_user=(setpriv --reuid 61184 --regid 61184 --clear-groups)
fi
start ${server_user[@]+"${server_user[@]}"} strace -D -f -q -c -U name -o "$watched/calls"
ask /users/$wallet/credits -d '{"amount":100,"reason":"test"}'
ask /miner/stats -d "{\"wallet_address\":\"$wallet\",\"hashrate\":1}"
ask /admin/backup -X POST
ask /admin/ledger/verify
ask /metrics
ask /health
end "$server"
for _ in $(seq 100); do [ ! -s "$watched/calls" ] || break; sleep 0.1; done
systemd-analyze --no-pager syscall-filter | python3 tests/clients/systemd/allowed.py "$unit" "$watched/calls" || fail 'the unit would refuse what the server needs'

# a service that has a user of its own, and root who commands it

if [ "$(id -u)" = 0 ]; then
  state=$scratch/state
  mkdir "$state"
  chown 61184:61184 "$state"
  as_root() { "$edge" --database "$state/edge.db" "$@" 2> "$scratch/err" || { cat "$scratch/err"; fail "root: $*"; }; }
  serve() {
    "${server_user[@]}" "$edge" --listen 127.0.0.1:0 --database "$state/edge.db" > "$scratch/printed" 2> "$scratch/log" &
    server=$!
    running+=("$server")
    for _ in $(seq 100); do
      EDGE=$(cat "$state/edge.db.lock" 2> /dev/null || true)
      if [ -n "$EDGE" ] && curl -sf -o "$scratch/answer" "$EDGE/readyz"; then return 0; fi
      kill -0 "$server" 2> /dev/null || break
      sleep 0.1
    done
    cat "$scratch/log"
    fail 'it does not serve as a user of its own'
  }
  opens() { curl -sf --max-time 30 -o "$scratch/answer" "$EDGE/auth/me" -H "X-API-Key: $1" || fail "$2"; }
  export R3MES_EDGE_DISCOVER=false
  serve
  beside=$(as_root keys create --wallet $wallet)
  opens "$beside" 'a key that root makes beside the server opens nothing'
  as_root backup create --to "$scratch/copy.db"
  end "$server"
  alone=$(as_root keys create --wallet $wallet)
  serve
  opens "$alone" 'a key that root makes without the server opens nothing'
  end "$server"
  as_root restore "$scratch/copy.db"
  serve
  opens "$beside" 'a key of the copy opens nothing'
  ! curl -sf -o "$scratch/answer" "$EDGE/auth/me" -H "X-API-Key: $alone" || fail 'what is newer than the copy is still there'
  end "$server"
  echo 'ok      root commands a service with a user of its own: beside it, without it, and restores for it'
else
  echo 'skipped: what root does beside a service with a user of its own'
fi

# the watchdog, and a disk that does not answer

python3 tests/clients/systemd/manager.py "$scratch/notify" > "$scratch/heard" &
manager=$!
running+=("$manager")
await "$scratch/heard" "$manager"
rm "$watched/edge.db.lock"
start env NOTIFY_SOCKET="$scratch/notify" WATCHDOG_USEC=1000000
# hears TEXT: waits until systemd receives it from now on.
hears() {
  local from
  from=$(wc -l < "$scratch/heard")
  for _ in $(seq 200); do
    if tail -n +$((from + 1)) "$scratch/heard" | grep -q "$1"; then return 0; fi
    sleep 0.1
  done
  cat "$scratch/heard"
  fail "not received: $1"
}
hears '^WATCHDOG=1 STATUS=r3mes-edge '
strace -q -f -p "$server" -e trace=fsync,fdatasync -e inject=fsync,fdatasync:delay_enter=6000000 -o "$scratch/delayed" &
slow=$!
running+=("$slow")
for _ in $(seq 100); do
  if grep -q '^TracerPid:[[:space:]]*[1-9]' "/proc/$server/status"; then break; fi
  sleep 0.1
done
curl -s --max-time 30 -o "$scratch/answer" "$EDGE/users/$wallet/credits" -H "X-API-Key: $ADMIN" -d '{"amount":1,"reason":"slow"}' &
client=$!
running+=("$client")
hears '^STATUS=stuck: a write takes '
stuck=$(wc -l < "$scratch/heard")
hears '^STATUS=stuck: a write takes '
! tail -n +"$stuck" "$scratch/heard" | grep WATCHDOG=1 || fail 'the watchdog was notified while a write was stuck'
# It continues by itself unless it was ended.
wait "$client" || fail 'the write was not answered'
over "$client"
kill "$slow"
wait "$slow" || true
over "$slow"
hears '^WATCHDOG=1 STATUS=r3mes-edge '
end "$server"
grep -q '^STOPPING=1 ' "$scratch/heard" || fail 'the end was not announced'
echo 'ok      the watchdog is not notified while a write is stuck, and again after it'
passed
