#!/bin/bash
# Puts a CRIU that works here where the tests look for it: .cache/criu/criu. The machine's own is taken if it passes its own check; Debian
# 12's does not on newer kernels, so there the next suite's is unpacked, with its libraries, from this machine's own package sources with the
# suite's name changed. Nothing is installed. What cannot be had is said, and is no failure: the tests that need it are skipped then.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/lib.sh

readonly suite=bookworm next=trixie to=.cache/criu
works() { "$1" check >/dev/null 2>&1; }

sorry() {
	step "no CRIU for the tests: $*"
	exit 0
}

[[ $EUID -eq 0 ]] || sorry "it takes root"
if [[ -x $to/criu ]]; then
	works "$to/criu" || sorry "$to/criu does not pass its own check on this kernel"
	exit 0
fi
if have criu && works criu; then
	mkdir -p "$to"
	ln -s "$(command -v criu)" "$to/criu"
	exit 0
fi
have apt-get && [[ $(. /etc/os-release && echo "${VERSION_CODENAME:-}") == "$suite" ]] || sorry "install one that passes 'criu check'"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
mkdir -p "$scratch"/{sources,state/lists/partial,cache/archives/partial,root}
touch "$scratch/status"
next_apt() {
	timeout 120 apt-get -q -y -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$scratch/sources" -o Dir::State="$scratch/state" \
		-o Dir::State::status="$scratch/status" -o Dir::Cache="$scratch/cache" -o APT::Sandbox::User=root -o Acquire::Retries=0 -o Acquire::http::Timeout=10 \
		-o Acquire::Languages=none -o APT::Install-Recommends=false "$@"
}

apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
	sed -n "s/^\([^ ]*\) $suite main$/deb \1 $next main/p" | head -1 >"$scratch/sources/next.list"
[[ -s $scratch/sources/next.list ]] || sorry "this machine has no package source for $suite"
step "bringing CRIU of $next into $to"
next_apt update >"$scratch/log" 2>&1 || sorry "the package source has no $next, or cannot be reached: $(tail -1 "$scratch/log")"
next_apt --download-only install criu >"$scratch/log" 2>&1 || sorry "it could not be fetched: $(tail -1 "$scratch/log")"
for package in "$scratch"/cache/archives/*.deb; do
	case $(basename "$package") in
	criu_* | lib[a-z]*) dpkg-deb -x "$package" "$scratch/root" ;;
	esac
done

# Everything in one folder: the program, its libraries, the loader that goes with them, and a script that puts them together.
rm -rf "$to.new"
mkdir -p "$to.new/lib"
find "$scratch/root" -name '*.so*' -not -type d -not -path '*/gconv/*' -exec cp -L {} "$to.new/lib/" \;
cp "$(find "$scratch/root" -path '*bin/criu' -type f | head -1)" "$to.new/criu.bin"
cat >"$to.new/criu" <<'END'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
exec "$here"/lib/ld-linux-*.so.* --library-path "$here/lib" "$here/criu.bin" "$@"
END
chmod 755 "$to.new/criu"
mv "$to.new" "$to"
works "$to/criu" || sorry "that of $next does not pass its own check on this kernel either: $("$to/criu" check 2>&1 | tail -1)"
