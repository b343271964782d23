#!/bin/bash
# Runs the integration tests that the async-nats crate ships in its published package against a
# `nats-server` binary, and prints 'N passed, M failed' per suite.
#
#   run-async-nats.sh DIR_WITH_nats-server [full | single-node | core | a nextest filter expression]
#
#   full         all that can pass without the internet or deno (what nats-server 2.15.1 passes)
#   single-node  full, less what needs a cluster, a leafnode or operator JWTs (default)
#   core         single-node, less JetStream, KV, object store
#
#   ASYNC_NATS=0.51.0   version to take from the registry      WORK=$TMPDIR/compliance-async-nats
#   THREADS=2 RETRIES=2 FEATURES=slow_tests,websockets
set -euo pipefail
BIN=$(cd "${1:?directory that holds nats-server}" && pwd); SET=${2:-single-node}
HERE=$(cd "$(dirname "$0")" && pwd)
# Unit tests inside the library are left out (kind(test)): they say nothing about a server.
# Five tests want demo.nats.io, raw.githubusercontent.com or a deno executable.
NET='test(/(^|::)(connect_domain|cross_clients_tests|schemas|custom_tls_client|tls_with_native_certs)$/)'
CLUSTER='test(/(^|::)(create_stream_with_replicas|server_pool_contains_discovered_servers|set_server_pool_marks_all_as_explicit|cross_account_mirrors)$/)'
JWT='binary(jwt_tests) or test(/(^|::)(custom_auth_callback_jwt|multiple_auth_methods)$/)'
JS='binary(/jetstream|kv_tests|object_store|pinned_client|pull_exceeded/)'
case $SET in
  full) FILTER="kind(test) and not ($NET)" ;;
  single-node) FILTER="kind(test) and not ($NET) and not ($CLUSTER) and not ($JWT)" ;;
  core) FILTER="kind(test) and not ($NET) and not ($CLUSTER) and not ($JWT) and not ($JS)" ;;
  *) FILTER=$SET ;;
esac
V=${ASYNC_NATS:-0.51.0}; WORK=${WORK:-${TMPDIR:-/tmp}/compliance-async-nats}; OUT=${OUT:-$WORK/out}
[ -x "$BIN/nats-server" ] || { echo "no executable $BIN/nats-server" >&2; exit 2; }
mkdir -p "$WORK" "$OUT"
SRC=$WORK/async-nats-$V
if [ ! -f "$SRC/.prepared" ]; then
  rm -rf "$SRC" "$WORK/get"; mkdir -p "$WORK/get/src"; echo 'fn main(){}' > "$WORK/get/src/main.rs"
  printf '[package]\nname="get"\nversion="0.0.0"\nedition="2021"\n[dependencies]\nasync-nats="=%s"\n[workspace]\n' "$V" > "$WORK/get/Cargo.toml"
  (cd "$WORK/get" && cargo fetch -q)
  cp -r "$(ls -d "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*/async-nats-"$V" | head -1)" "$SRC"
  chmod -R u+w "$SRC"; rm -rf "$SRC/benches"
  # The published manifest has no benches here and lacks the path-only dev-dependency on the harness.
  python3 - "$SRC/Cargo.toml" "$HERE/nats-server-harness" <<'P'
import re, sys
p, h = sys.argv[1:]
s = open(p).read()
s = re.sub(r'\[\[bench\]\]\n(?:(?!\[).*\n)*', '', s)
s = re.sub(r'\[dev-dependencies\.criterion\]\n(?:(?!\[).*\n)*', '', s)
s += f'\n[dev-dependencies.nats-server]\npath = "{h}"\n\n[workspace]\n'
open(p, 'w').write(s)
P
  mkdir -p "$SRC/.config"
  cat > "$SRC/.config/nextest.toml" <<'T'
[profile.compliance]
fail-fast = false
slow-timeout = { period = "45s", terminate-after = 4 }
status-level = "fail"
final-status-level = "none"
[profile.compliance.junit]
path = "junit.xml"
report-name = "async-nats"
T
  touch "$SRC/.prepared"
fi
cd "$SRC"
export CARGO_TARGET_DIR=$WORK/target CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0
FEATURES=${FEATURES:-slow_tests,websockets}
cargo nextest run --tests --no-run --features "$FEATURES" > "$OUT/build.log" 2>&1 || { tail -40 "$OUT/build.log" >&2; exit 3; }
export PATH=$BIN:$PATH TMPDIR=${TMPDIR:-/tmp}
nats-server --version || true
rm -f "$SRC/target/nextest/compliance/junit.xml"
cargo nextest run --tests --features "$FEATURES" --profile compliance --no-fail-fast \
  --test-threads "${THREADS:-2}" --retries "${RETRIES:-2}" -E "$FILTER" > "$OUT/run.log" 2>&1 || true
cp "$SRC/target/nextest/compliance/junit.xml" "$OUT/junit.xml"
python3 "$HERE/summarise.py" "$OUT/junit.xml" --json "$OUT/summary.json"
