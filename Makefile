# The work is done by the scripts, which also run by themselves; make only names it.

.PHONY: demo test check check-race build bench clean lab-test setup

demo: setup build
	@bin/godwit demo planned

test: setup check-race build lab-test

setup:
	@scripts/setup.sh

check:
	@scripts/check.sh

check-race:
	@scripts/check.sh --race

build:
	@scripts/build.sh

lab-test:
	@scripts/lab-test.sh

bench: setup build
	@scripts/bench.sh

# Keeps .cache: what is in there was downloaded.
clean:
	@rm -rf bin .bin
