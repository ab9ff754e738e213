#!/bin/bash
# The tests that take root, namespaces and virtual machines, one package after the other. What they leave behind, when they are
# interrupted, is taken down.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

[[ $EUID -eq 0 ]] || step "not root: the tests that need it are skipped, and listed below"

lab_down() {
	[[ $EUID -ne 0 || ! -x bin/godwit ]] || bin/godwit lab down >/dev/null 2>&1 || true
}
trap lab_down EXIT
trap 'exit 130' INT TERM

step "lab tests"
go test -json -tags lab -p 1 -timeout 20m "${@:-./...}" | go run ./scripts/testreport
