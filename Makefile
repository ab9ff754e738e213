# The work is done by the scripts, which also run by themselves; make only names it.

.PHONY: demo test check build bench clean lab-test setup

demo: setup build
	@bin/godwit demo planned

test: setup check build lab-test

setup:
	@scripts/setup.sh

check:
	@scripts/check.sh

build:
	@scripts/build.sh

lab-test:
	@scripts/lab-test.sh

bench: setup build
	@scripts/bench.sh

# Keeps .cache: what is in there was downloaded.
clean:
	@rm -rf bin .bin
