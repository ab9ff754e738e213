#!/bin/bash
# The measurements beside the peers, written into docs/benchmarks.md; arguments go to the program (-h lists them). It measures
# bin/godwit, which scripts/build.sh makes. Without arguments the DVS is measured beside its peers as well; -dvs as the first one measures that
# alone (scripts/bench.sh -dvs -h lists what may follow).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh
mkdir -p .bin
# The DVS beside gRPC, NATS, net/rpc and sockets is a program of a module of its own, which needs no root and no lab.
peers() {
  go build -C bench/peers -o ../../.bin/peers .
  .bin/peers -doc docs/benchmarks.md "$@"
}
if [[ ${1:-} == -dvs ]]; then
  shift
  peers "$@"
  exit
fi
[[ $EUID -eq 0 || " $* " == *" -disks "* ]] || die "the measurements need root, because they build a lab; run them with sudo"
# Built, not run by go, which would keep a SIGTERM to itself: the program takes its lab down when it is told to end.
go build -o .bin/bench ./bench
[[ $# -eq 0 ]] || exec .bin/bench "$@"
peers
exec .bin/bench
