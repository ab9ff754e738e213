#!/bin/bash
# The measurements beside the peers; arguments go to the program.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh
go run ./bench "$@"
