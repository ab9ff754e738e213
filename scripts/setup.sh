#!/bin/bash
# Makes a Debian 12 (or newer) machine ready to build and run Godwit, starting from nothing but a checkout. It installs only
# what is missing, and says so; run again, it does nothing. Downloads stay in .cache. With --tests it brings what only some tests and
# measurements need, too: a compiler from C to WebAssembly, and peers to compare with.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

# A program that has to be there, and the Debian package that brings it.
programs() {
	cat <<-'END'
		make make
		git git
		gcc gcc
		xz xz-utils
		ip iproute2
		ping iputils-ping
		sysctl procps
		bird bird2
		qemu-img qemu-utils
		nbdinfo libnbd-bin
		nbdkit nbdkit
		fio fio
	END
	case "$(dpkg --print-architecture)" in
	amd64) echo "qemu-system-x86_64 qemu-system-x86" ;;
	arm64) echo "qemu-system-aarch64 qemu-system-arm" ;;
	esac
}

missing_packages() {
	local program package
	while read -r program package; do
		have "$program" || echo "$package"
	done < <(programs)
	[[ -e /etc/ssl/certs/ca-certificates.crt ]] || echo ca-certificates
	[[ -e /usr/include/stdlib.h ]] || echo libc6-dev # the race detector is linked by gcc
}

# Debian starts a package's service as it installs it. BIRD's would begin to manage this machine's own routes, and the lab wants
# only the program, inside its namespaces: so nothing is started now, and BIRD not at the next boot either.
install_packages() {
	local policy=/usr/sbin/policy-rc.d ours=""
	if [[ ! -e $policy ]]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
		ours=$policy
	fi
	local status=0
	quietly apt-get update -q && DEBIAN_FRONTEND=noninteractive \
		quietly apt-get install -q -y --no-install-recommends "$@" || status=$?
	[[ -z $ours ]] || rm -f "$ours"
	[[ $status -eq 0 ]] || die "apt-get could not install $*: see the lines above"
	if [[ " $* " == *" bird2 "* ]]; then
		quietly update-rc.d bird disable || die "BIRD was installed and would start at the next boot: disable its service"
	fi
}

ensure_packages() {
	local packages
	packages=$(missing_packages | xargs)
	[[ -n $packages ]] || return 0
	[[ $EUID -eq 0 ]] || die "these Debian packages are missing: $packages. Run scripts/setup.sh as root, or install them"
	have apt-get || die "these programs' packages are missing: $packages, and this machine has no apt-get: install them"
	step "installing packages: $packages"
	# shellcheck disable=SC2086 # a list of words
	install_packages $packages
}

# What only some tests and measurements need: without it they say so, and are skipped.
ensure_test_packages() {
	local packages=() program package
	while read -r program package; do
		have "$program" || packages+=("$package")
	done <<-'END'
		clang clang
		wasm-ld lld
		nbdsh python3-libnbd
		rsync rsync
	END
	[[ -e /usr/include/wasm32-wasi ]] || packages+=(wasi-libc)
	try_packages "${packages[@]}"
	# What clang links into every module is in a package that bears its version.
	if have clang && ! compgen -G "/usr/lib/llvm-*/lib/clang/*/lib/wasi/*" >/dev/null; then
		try_packages "libclang-rt-$(clang -dumpversion | cut -d. -f1)-dev-wasm32"
	fi
}

try_packages() {
	[[ $# -gt 0 ]] || return 0
	if [[ $EUID -ne 0 ]] || ! have apt-get; then
		step "missing, so that their tests are skipped: $*"
		return 0
	fi
	step "installing packages for tests: $*"
	(install_packages "$@") || step "their tests are skipped"
}

# The Go that is brought where the machine's own is missing or older than the go.mod files ask for, and the checksums of its
# module zips as the checksum database has them.
readonly go_pinned=1.26.8
readonly go_sum_amd64=h1:ZOmGe1OnfREDMIdb1Qi4G9JSuDPBLGExZMQ4nis1RXM=
readonly go_sum_arm64=h1:sYL/O6MqS68ML0kjsQ36WoYIpJqkw60TxizWUYUKQMc=

ensure_go() {
	local needed found
	needed=$(sed -n 's/^go //p' go.mod tools/go.mod | sort -V | tail -1)
	found=$(go_version)
	[[ -n $found && $(printf '%s\n' "$needed" "$found" | sort -V | head -1) == "$needed" ]] && return 0
	step "bringing Go $go_pinned into .cache/go (needed: $needed, found: ${found:-none})"
	if [[ -z $found ]]; then
		[[ $EUID -eq 0 ]] || die "no Go is installed: run scripts/setup.sh as root, or install Go $needed or newer"
		install_packages golang-go
	fi
	fetch_go "$(dpkg --print-architecture)"
	[[ $(go_version) == "$go_pinned" ]] || die "the Go in .cache/go does not run: remove .cache/go and try again"
}

# Any Go that knows modules can fetch a newer one as a module, from wherever it fetches modules, checked by the checksum database
# and by the sums above. Such a zip is not quite a tree to run: it has no executable bits, and its go.mod files are called _go.mod.
fetch_go() {
	local arch=$1 scratch=.cache/fetch-go answer tree sum
	local -n pinned=go_sum_$arch
	rm -rf .cache/go
	remove_tree "$scratch"
	mkdir -p "$scratch"
	echo "module scratch" >"$scratch/go.mod"
	answer=$(cd "$scratch" && GOMODCACHE=$PWD/modules GOFLAGS=-mod=mod GOTOOLCHAIN=local \
		go mod download -json "golang.org/toolchain@v0.0.1-go$go_pinned.linux-$arch") ||
		die "Go $go_pinned could not be fetched: $answer. Install Go by hand, or let this machine reach a module proxy (GOPROXY)"
	tree=$(json_field Dir "$answer")
	sum=$(json_field Sum "$answer")
	[[ $sum == "$pinned" ]] || die "Go $go_pinned has checksum $sum, and $pinned was expected: it is not used"
	chmod -R u+w "$tree"
	chmod a+x "$tree"/bin/* "$tree"/pkg/tool/*/*
	find "$tree" -name _go.mod -execdir mv {} go.mod \;
	mv "$tree" .cache/go
	remove_tree "$scratch"
}

# The module cache is read-only on purpose.
remove_tree() {
	[[ ! -e $1 ]] || chmod -R u+w "$1"
	rm -rf "$1"
}

json_field() { sed -n "s/^.*\"$1\": \"\(.*\)\".*$/\1/p" <<<"$2"; }

ensure_tun() {
	[[ -c /dev/net/tun || $EUID -ne 0 ]] && return 0
	mkdir -p /dev/net
	mknod /dev/net/tun c 10 200 2>/dev/null || step "there is no /dev/net/tun here: the lab cannot run on this machine"
}

ensure_packages
[[ ${1:-} != --tests ]] || ensure_test_packages
ensure_go
ensure_tun
