# Sourced by the scripts beside it, from the top of the checkout.

export PATH="$PWD/.cache/go/bin:$PWD/.bin:$PATH:/usr/local/sbin:/usr/sbin:/sbin"
export GOTOOLCHAIN=local        # the Go that setup.sh has seen, not one that go fetches on its own
export GOFLAGS=-buildvcs=false  # a checkout that belongs to somebody else must build too
export HOME="${HOME:-$PWD/.cache/home}"

have() { command -v "$1" >/dev/null; }

# step says in one line what happens now.
step() { printf '==> %s\n' "$*"; }

die() {
	printf 'error: %s\n' "$*" >&2
	exit 1
}

# quietly shows a command's output only when it fails.
quietly() {
	local output status=0
	output=$("$@" 2>&1) || status=$?
	[[ $status -eq 0 ]] || printf '%s\n' "$output" >&2
	return $status
}

# go_version prints the version of the Go in use, or nothing. (Outside the checkout: an old Go stumbles over our go.mod.)
go_version() { (cd / && go version 2>/dev/null || true) | sed -n 's/^go version go\([0-9.]*\).*/\1/p'; }
