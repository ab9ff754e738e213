#!/bin/bash
# build.sh OUTPUT leaves a disk image (raw, one ext4, no boot loader) of a small Debian with PostgreSQL and pgbench's tables in it.
# The lab's guest boots it with godwit.run=/sbin/serve. It takes root, mmdebstrap and Debian's archive, and about a minute.
set -euo pipefail
[[ $# -eq 1 ]] || { echo "usage: build.sh OUTPUT" >&2; exit 2; }
output=$1
work=$(mktemp -d "$output.XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/root

# Left out is what nobody reads here: the database compiles no queries (jit), for which it would have LLVM.
unread='usr/lib/*/libLLVM* usr/lib/*/libz3* usr/lib/postgresql/*/lib/bitcode usr/lib/*/perl usr/share/perl usr/share/doc usr/share/man
	usr/share/locale usr/share/i18n usr/share/info var/lib/apt/lists var/cache'
mmdebstrap --quiet --variant=minbase --aptopt='Apt::Install-Recommends "false"' \
	--setup-hook='mkdir -p "$1/etc/postgresql-common"; echo "create_main_cluster = false" >"$1/etc/postgresql-common/createcluster.conf"' \
	--include=postgresql --customize-hook="cd \"\$1\" && rm -rf ${unread//[[:space:]]/ }" \
	"$(. /etc/os-release && echo "$VERSION_CODENAME")" "$root"

install -m 755 "$(dirname "${BASH_SOURCE[0]}")/serve.sh" "$root/sbin/serve"
install -m 755 "$(dirname "${BASH_SOURCE[0]}")/fill.sh" "$root/fill"
# A mount namespace of its own, so that nothing stays mounted.
unshare --mount --fork --pid --kill-child chroot "$root" /bin/sh -c 'mount -t proc proc /proc && mount -t devtmpfs devtmpfs /dev && /fill'
rm "$root/fill"

size=$(du --summarize --block-size=1M "$root" | cut -f1)
truncate --size="$((size * 5 / 4 + 96))M" "$work/disk"
mke2fs -q -F -t ext4 -E lazy_itable_init=0,lazy_journal_init=0 -d "$root" "$work/disk"
mv "$work/disk" "$output"
