#!/bin/bash
# What needs neither root nor a virtual machine: format, vet, staticcheck, and the fast tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

# Packages whose point is concurrency are tested under the race detector as well.
race_packages() { go list ./agent/... ./controller/... ./cluster/... ./storage/... ./wan/... ./network/... ./server/... 2>/dev/null; }

build_tool() {
	[[ .bin/$1 -nt tools/go.sum ]] || { step "building $1" && go build -C tools -o ../.bin/ "$2"; }
}

build_tool gofumpt mvdan.cc/gofumpt
build_tool staticcheck honnef.co/go/tools/cmd/staticcheck

step "gofumpt"
unformatted=$(find . -path './.*' -prune -o -path ./bin -prune -o -name '*.go' -print0 | xargs -0 gofumpt -l)
[[ -z $unformatted ]] || die "not formatted: $(xargs <<<"$unformatted"). Run .bin/gofumpt -w on them"
step "go vet"
go vet -tags lab ./...
step "staticcheck"
staticcheck -tags lab ./...
step "go test"
go test -json ./... | go run ./scripts/testreport
if have gcc; then
	step "go test -race"
	race_packages | xargs go test -json -race | go run ./scripts/testreport
else
	step "go test -race: skipped, it needs gcc"
fi
