#!/bin/bash
# The tests that take root, namespaces and virtual machines, one package after the other. What they leave behind, when they are
# interrupted, is taken down.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

[[ $EUID -eq 0 ]] || step "not root: the tests that need it are skipped, and listed below"

# Labs that were up before are somebody's; of the others, those that tests and the demo make go.
labs() { find /run/godwit -maxdepth 1 \( -name 'lab-t-*' -o -name 'lab-acc*' -o -name lab-demo -o -name lab-lab \) -printf '%f\n' 2>/dev/null || true; }
before=" $(labs | xargs) "
lab_down() {
	local lab
	[[ $EUID -eq 0 && -x bin/godwit ]] || return 0
	for lab in $(labs); do
		[[ $before == *" $lab "* ]] || bin/godwit lab down --name "${lab#lab-}" >/dev/null 2>&1 || true
	done
}
# What single tests make, by its name.
rest_down() {
	[[ $EUID -eq 0 ]] || return 0
	ip netns list 2>/dev/null | awk '/^gwnet[0-9]/ {print $1}' | xargs -rn1 ip netns del || true
	ip -o link show 2>/dev/null | awk -F': ' '$2 ~ /^gwsametest/ {print $2}' | xargs -rn1 ip link del || true
}
trap 'lab_down; rest_down' EXIT
trap 'exit 130' INT TERM

scripts/criu.sh || step "no CRIU for the tests: see the lines above"

# Only the tests of files with that tag: the others have been run by check.sh. Arguments are go test's, and take all that they name.
if [[ $# -eq 0 ]]; then
	mapfile -t files < <(grep -rl --include='*_test.go' '^//go:build lab' ./*/)
	mapfile -t packages < <(printf '%s\n' "${files[@]}" | xargs -n1 dirname | sort -u)
	tests=$(grep -hoE '^func Test[[:alnum:]_]+' "${files[@]}" | sed 's/^func //' | grep -vx TestMain | paste -sd'|')
	set -- -run "^($tests)\$" "${packages[@]}"
fi
step "lab tests"
go test -json -tags lab -p 1 -timeout 20m "$@" | go run ./scripts/testreport
