#!/bin/bash
# What needs neither root nor a virtual machine: format, vet, staticcheck, and the fast tests. With --race the packages whose point is
# concurrency are tested under the race detector, which takes three times as long.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

race=
[[ ${1:-} != --race ]] || race=-race
[[ -z $race ]] || have gcc || { step "no gcc, which links the race detector: the tests run without it" && race=; }
concurrent='^(agent|cluster|controller|dvs|lab/link|network|server|storage|unixsocket|wan)(/|$)'
test_packages() {
	local module
	module=$(go list -m)
	go list ./... | sed "s|^$module/||; s|^$module$|.|" | grep -E "$1" "$concurrent" | sed 's|^\([^.]\)|./\1|'
}

build_tool() {
	[[ .bin/$1 -nt tools/go.sum ]] || { step "building $1" && quietly go build -C tools -o ../.bin/ "$2"; }
}

build_tool gofumpt mvdan.cc/gofumpt
build_tool staticcheck honnef.co/go/tools/cmd/staticcheck

step "gofumpt"
unformatted=$(gofumpt -l ./*.go ./*/) # directories, so that generated files pass; those with a dot are not ours
[[ -z $unformatted ]] || die "not formatted: $(xargs <<<"$unformatted"). Run .bin/gofumpt -w on them"
step "go vet"
go vet -tags lab ./...
step "staticcheck"
staticcheck -tags lab ./...
step "go test"
if [[ -z $race ]]; then
	go test -json ./... | go run ./scripts/testreport
	exit
fi
test_packages -v | xargs go test -json | go run ./scripts/testreport
step "go test -race"
test_packages -e | xargs go test -json -race | go run ./scripts/testreport
