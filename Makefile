# The work is done by the scripts, which also run by themselves; make only names it.

.PHONY: demo test check check-race build bench clean lab-test setup setup-tests

demo: setup build
	@bin/godwit demo planned

test: setup-tests check-race build lab-test

setup:
	@scripts/setup.sh

setup-tests:
	@scripts/setup.sh --tests

check:
	@scripts/check.sh

check-race:
	@scripts/check.sh --race

build:
	@scripts/build.sh

lab-test:
	@scripts/lab-test.sh

bench: setup-tests build
	@scripts/bench.sh

# Keeps .cache: what is in there was downloaded.
clean:
	@rm -rf bin .bin
