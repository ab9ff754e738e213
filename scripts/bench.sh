#!/bin/bash
# The measurements beside the peers, written into docs/benchmarks.md; arguments go to the program (-h lists them). It measures
# bin/godwit, which scripts/build.sh makes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh
[[ $EUID -eq 0 || " $* " == *" -disks "* ]] || die "the measurements need root, because they build a lab; run them with sudo"
# Built, not run by go, which would keep a SIGTERM to itself: the program takes its lab down when it is told to end.
mkdir -p .bin
go build -o .bin/bench ./bench
exec .bin/bench "$@"
