#!/bin/bash
# Leaves bin/godwit, bin/kv.wasm, the process of its demo, and bin/guest/vmlinuz and initrd.gz, the lab's guest.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

export CGO_ENABLED=0

# The kernel that Debian's cloud images run, unpacked and never installed. A newer one is taken when .cache/kernel is removed.
fetch_kernel() {
	local cache=.cache/kernel package
	[[ ! -e $cache/complete ]] || return 0
	step "fetching the guest's kernel"
	rm -rf "$cache"
	mkdir -p "$cache"
	[[ -n $(kernel_package) || $EUID -ne 0 ]] || quietly apt-get update -q
	package=$(kernel_package)
	[[ -n $package ]] || die "apt knows no linux-image-cloud package: run apt-get update"
	(cd "$cache" && quietly apt-get download -q -o APT::Sandbox::User=root "$package") || die "could not download $package"
	dpkg -x "$cache"/*.deb "$cache/root"
	rm "$cache"/*.deb
	touch "$cache/complete"
}

kernel_package() {
	apt-cache depends "linux-image-cloud-$(dpkg --print-architecture)" 2>/dev/null |
		sed -n 's/^ *Depends: \(linux-image-[^ ]*\)$/\1/p' | head -1
}

build_guest() {
	local kernel=.cache/kernel/root
	mkdir -p bin/guest
	quietly go build -trimpath -ldflags '-s -w' -o bin/guest/init ./lab/guest
	quietly go run ./lab/guest/cmd/mkinitrd -modules "$(echo $kernel/lib/modules/*)" -program bin/guest/init -output bin/guest/initrd.gz
	cmp -s $kernel/boot/vmlinuz-* bin/guest/vmlinuz || install -m 644 $kernel/boot/vmlinuz-* bin/guest/vmlinuz
}

fetch_kernel
step "building bin/guest"
build_guest
step "building bin/godwit"
quietly go build -trimpath -o bin/godwit ./cmd/godwit
step "building bin/kv.wasm"
GOOS=wasip1 GOARCH=wasm quietly go build -trimpath -buildmode=c-shared -o bin/kv.wasm ./examples/kv
