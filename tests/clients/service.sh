#!/usr/bin/env bash
# The service under a real systemd, in a machine within this one: installed with examples/install.sh, started, asked, reloaded,
# hung, killed, stopped, refused, behind nginx by a Unix socket, taken back. Nothing of this machine is changed. For root,
# and where namespaces may be had. Installs what it needs.
. "$(dirname "$0")/common.bash"
cannot() {
  echo "NOT SHOWN: the service under a real systemd: $1"
  passed
  exit
}
[ "$(id -u)" = 0 ] || cannot 'only root can start one within this machine'
need curl openssl ps=procps ip=iproute2 nginx python3 systemd-analyze=systemd
build --bin r3mes-edge
wallet=remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm

# the machine

mkdir -p "$scratch/seed"
cp -r examples "$built/r3mes-edge" tests/clients/systemd/probe.py "$scratch/seed"
machine=
# Its first process is deaf to all but this; then all of it is gone, and its control groups are left, empty.
off() {
  local code=$?
  set +e
  [ -z "$machine" ] || kill -KILL "$machine" 2> /dev/null
  wait "${holder:-}" 2> /dev/null
  # shellcheck disable=SC2016
  unshare --mount sh -c 'mount -t cgroup2 cgroup2 "$1" && find "$1$(sed -n s/^0:://p /proc/self/cgroup)/$2" -depth -type d -exec rmdir {} +' - "$scratch/seed" "$(basename "$scratch")" 2> /dev/null
  (exit "$code")
  finish
}
trap off EXIT
setpriv --pdeathsig KILL unshare --mount --pid --ipc --uts --net --fork --kill-child tests/clients/systemd/boot.sh "$scratch" < /dev/null > "$scratch/log" 2>&1 &
holder=$!
# within COMMAND…: runs it in the machine.
within() { timeout -k 1 100 nsenter -t "$machine" --mount --pid --ipc --uts --net --cgroup --root --wd "$@"; }
# until COMMAND…: waits until it goes well.
until_it() {
  for _ in $(seq 150); do
    if "$@" > "$scratch/out" 2>&1; then return 0; fi
    kill -0 "$holder" 2> /dev/null || return 1
    sleep 0.1
  done
  return 1
}
first() { machine=$(ps -o pid= --ppid "$holder" | tr -d ' ') && [ "$(cat "/proc/$machine/comm")" = systemd ]; }
until_it first || cannot "$(cat "$scratch/log" "$scratch/boot.log" 2> /dev/null | xargs)"
until_it within systemctl is-active basic.target || cannot "systemd does not come up: $(xargs < "$scratch/out")"
echo "ok      $(within systemctl --version | head -n 1) is the first process of a machine within this one"

why='a command in the machine failed'
value() { within systemctl show --value -p "$1" "${2:-r3mes-edge}"; }
journal() { within journalctl --no-pager -q -o cat -u "${1:-r3mes-edge}"; }
wrong() { journal | tail -n 30; fail "$1"; }
is() { [ "$1" = "$2" ] || wrong "$3: $1 instead of $2"; }
ask() { within curl -sf --max-time 20 "http://127.0.0.1:8000$1" "${@:2}" > "$scratch/answer" || wrong "$1 failed"; }
edge() { within r3mes-edge --config /etc/r3mes-edge/config.toml "$@" 2> "$scratch/err" || { cat "$scratch/err"; wrong "r3mes-edge $*"; }; }
# dropin NAME: lines from standard input lie over the unit, as with `systemctl edit`.
dropin() {
  within sh -c "mkdir -p /etc/systemd/system/r3mes-edge.service.d && cat > /etc/systemd/system/r3mes-edge.service.d/$1.conf"
  within systemctl daemon-reload
}
# another PID: another process than that serves, as systemd has heard.
another() {
  local now
  now=$(within systemctl show --value -p MainPID,ActiveState r3mes-edge | xargs)
  [[ $now == [1-9]*' active' && $now != "$1 active" ]]
}

# installed, started

within /opt/examples/install.sh --yes /opt/r3mes-edge < /dev/null > "$scratch/out" 2>&1 || {
  cat "$scratch/out"
  # What ends with these has not come to be the server: systemd may not give it what the unit wants.
  status=$(value ExecMainStatus)
  [ "$status" -lt 200 ] || cannot "its place cannot be made here (status $status of systemd.exec): $(journal | tail -n 3 | xargs)"
  wrong 'install.sh'
}
# It has only come back from the start if systemd was notified that the server serves: so there is no waiting for it here.
ask /readyz
is "$(value ActiveState)/$(value SubState)/$(value NRestarts)" active/running/0 'after install.sh'
is "$(value UnitFileState)" enabled 'at the next start of the machine'
[[ $(value StatusText) == r3mes-edge* ]] || wrong "its status is: $(value StatusText)"
KEY=$(edge keys create --wallet $wallet --scopes chat,read,miner)
edge credits grant $wallet 100 --reason welcome > "$scratch/out"
ask /miner/stats -H "X-API-Key: $KEY" -d '{"hashrate":42.5}'
credits() { ask /auth/me -H "X-API-Key: $KEY"; grep -qF '"credits":100' "$scratch/answer" || { cat "$scratch/answer"; wrong "$1: the credits are not what they were"; }; }
credits 'at first'
echo "ok      installed and serving when install.sh came back: $(value StatusText)"

# what the sandbox allows

within touch /tmp/of-the-machine
sed -e 's/^Type=.*/Type=oneshot\nUser=r3mes-edge/' -e '/^Restart\|^Watchdog\|^NotifyAccess\|^ExecReload/d' \
  -e 's#^ExecStart=.*#ExecStart=/usr/bin/python3 -I /opt/probe.py#' examples/r3mes-edge.service |
  within sh -c 'cat > /run/systemd/system/probe.service && systemctl daemon-reload'
within systemctl start probe.service > "$scratch/out" 2>&1 || { journal probe; fail 'the sandbox is not what it should be'; }
is "$(within ps -o ni= -p "$(value MainPID)" | xargs)" -5 'its place among others'
echo "ok      the unit's sandbox: $(journal probe | grep -c '^held') things that it must refuse or allow, tried from within"
if group=$(value ControlGroup) && within test -e "/sys/fs/cgroup$group/memory.max"; then
  is "$(within cat "/sys/fs/cgroup$group/memory.max" "/sys/fs/cgroup$group/pids.max" | xargs)" '536870912 256' 'its limits'
  echo 'ok      its limits on memory and tasks are in force'
else
  echo "NOT SHOWN: MemoryMax and TasksMax: this machine's control groups do not give them to one within it"
fi

# reloaded

pid=$(value MainPID)
within sed -i 's/^level = "info"/level = "debug"/' /etc/r3mes-edge/config.toml
within systemctl reload r3mes-edge
heard() { journal | grep -q 'log.level'; }
until_it heard || wrong 'it does not say what the reload changed'
is "$(value MainPID)" "$pid" 'the process after a reload'
credits 'reloaded'
echo 'ok      reloaded, by the same process'

# hung, and killed

# The unit's own watchdog is given 60 s: a test has not.
echo -e '[Service]\nWatchdogSec=2s' | dropin watchdog
within systemctl restart r3mes-edge
pid=$(value MainPID) restarts=$(value NRestarts) began=$(date +%s%N)
within kill -STOP "$pid"
until_it another "$pid" || wrong 'a hung server is not started again'
journal | grep -q 'Watchdog timeout' || wrong 'it was not the watchdog'
credits 'hung'
echo "ok      hung: the watchdog starts another within $((($(date +%s%N) - began) / 1000000)) ms (WatchdogSec=2s)"
pid=$(value MainPID) began=$(date +%s%N)
within kill -KILL "$pid"
until_it another "$pid" || wrong 'a killed server is not started again'
credits 'killed'
is "$(value NRestarts)" $((restarts + 2)) 'restarts'
echo "ok      killed: another serves within $((($(date +%s%N) - began) / 1000000)) ms"

# a secret for an upstream, as the unit's comment says

sed -n 's/^# LoadCredential=/[Service]\nLoadCredential=/p' examples/r3mes-edge.service | dropin credential
within sh -c 'umask 077; echo of-the-node > /etc/r3mes-edge/node.key; cp -p /etc/r3mes-edge/config.toml /opt; cat >> /etc/r3mes-edge/config.toml' << TOML
[[inference]]
name = "node"
kind = "openai"
url = "http://127.0.0.1:9"
api_key_file = "$(sed -n 's/.*api_key_file = "\(.*\)"$/\1/p' examples/r3mes-edge.service)"
TOML
within systemctl restart r3mes-edge > "$scratch/out" 2>&1 || wrong 'it does not start with a secret for an upstream'
credits 'with a secret for an upstream'
edge config print > "$scratch/out"
grep -q '/run/credentials/' "$scratch/out" || wrong 'the secret is not in its settings'
within mv /opt/config.toml /etc/r3mes-edge/config.toml
within rm /etc/r3mes-edge/node.key /etc/systemd/system/r3mes-edge.service.d/credential.conf
within systemctl daemon-reload
echo 'ok      a secret that root alone can read is handed to it'

# behind nginx by a Unix socket, as examples/nginx.conf says

advice() { sed -n '/^upstream/q; s/^#   //p' examples/nginx.conf; }
advice | sed -n 's/^\([a-z_]* = \)\([^#]*[^# ]\).*/s#^\1.*#\1\2#/p' > "$scratch/advised"
is "$(wc -l < "$scratch/advised")" 4 'settings in the advice'
within sed -i -f - /etc/r3mes-edge/config.toml < "$scratch/advised"
within systemctl restart r3mes-edge
why='no certificate'
within openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=edge.example \
  -addext subjectAltName=DNS:edge.example -keyout /etc/ssl/private/edge.example.key -out /etc/ssl/edge.example.pem 2> "$scratch/out"
why='nginx does not start'
within sh -c 'rm -f /etc/nginx/sites-enabled/* /etc/nginx/conf.d/*; mkdir -p /var/log/nginx; cp /opt/examples/nginx.conf /etc/nginx/conf.d/edge.conf; exec nginx' > "$scratch/out" 2>&1 || { cat "$scratch/out"; fail "$why"; }
why='a command in the machine failed'
through() {
  within curl -s --cacert /etc/ssl/edge.example.pem --resolve edge.example:443:127.0.0.1 --max-time 20 -w ' %{http_code} %{http_version}' "https://edge.example$1" "${@:2}"
}
[[ $(through /livez) == *' 502 2' ]] || wrong "a user of no such group uses the socket: $(through /livez)"
advice | sed -n '/^\[Service\]/,$p' | dropin group
within systemctl restart r3mes-edge
answer=$(through /auth/me -H "X-API-Key: $KEY")
[[ $answer == *'"credits":100'*' 200 2' ]] || wrong "through nginx: $answer"
is "$(within stat -c '%a %G' /run/r3mes-edge/edge.sock)" '660 www-data' 'the socket'
is "$(within find /var/lib/private/r3mes-edge -type f -perm /077 | xargs)" '' 'files that the group may read'
echo "ok      nginx with its unchanged file answers once the service has its group, and 502 before"

# wrong configuration, stopped, taken back

began=$(date +%s%N)
within systemctl stop r3mes-edge
is "$(value Result)/$(value ExecMainStatus)" success/0 'stopped'
echo "ok      stopped cleanly within $((($(date +%s%N) - began) / 1000000)) ms"
within sh -c 'echo "prize = 1" >> /etc/r3mes-edge/config.toml'
! within systemctl start r3mes-edge > "$scratch/out" 2>&1 || wrong 'it starts with a wrong configuration'
is "$(value ActiveState)/$(value ExecMainStatus)" failed/2 'wrong configuration'
journal | grep -q 'prize: unknown key' || wrong 'the error is not in the log'
echo 'ok      an error in the configuration is named, and it is not restarted again and again'
within sed -i '$d' /etc/r3mes-edge/config.toml
within systemctl start r3mes-edge > "$scratch/out" 2>&1 || { cat "$scratch/out"; wrong "it does not start"; }
credits 'right again'
within /opt/examples/install.sh --undo --yes < /dev/null > "$scratch/out" 2>&1 || { cat "$scratch/out"; wrong 'install.sh --undo'; }
is "$(value LoadState)/$(value ActiveState)" not-found/inactive 'taken back'
within test -f /var/lib/private/r3mes-edge/r3mes-edge.db || wrong 'the database is gone'
within /opt/examples/install.sh --yes /opt/r3mes-edge < /dev/null > "$scratch/out" 2>&1 || { cat "$scratch/out"; wrong 'install.sh again'; }
credits 'installed again'
within /opt/examples/install.sh --undo --purge --yes < /dev/null > "$scratch/out" 2>&1 || { cat "$scratch/out"; wrong 'install.sh --undo --purge'; }
within test -f /etc/systemd/system/r3mes-edge.service.d/group.conf || fail 'what systemctl edit wrote is gone'
within rm -r /etc/systemd/system/r3mes-edge.service.d
left=$(within find /usr/local /etc /var /run -name '*r3mes-edge*' | xargs)
[ -z "$left" ] || fail "left behind: $left"
echo 'ok      taken back and installed again with all accounts, then taken back with everything but what systemctl edit wrote'
passed
