# Everything a developer runs. `make run` and `make test` install what they miss (Debian packages, cargo tools) and say so.

FIRMWARE := -p mail -p vault -p ledger -p settings -p session -p intake -p policy -p spool -p delivery -p operator -p postern -p lab -p boot -p boot-agent -p image
CLOUD := -p wire -p postern-cloud

.PHONY: run demo test check bench fuzz keys setup build fmt deny image image-check sbom boot-image boot-test

## the lab in the foreground: software TPM, appliance, cloud service, mail sink; Ctrl-C stops it
run: setup build
	cargo run -q -p lab --bin lab -- run

## a lab of its own, real mails, a table of what happened to each
demo: setup build
	cargo run -q -p lab --bin lab -- demo

## all that a commit must pass; the binaries that the end-to-end tests start are built with the tests of their crates, and
## the image that the boot test starts before all
test: setup check boot-image
	buildroot/image-check.sh
	cargo nextest run --no-fail-fast $(CLOUD)
	cargo nextest run --no-fail-fast $(FIRMWARE) -E 'not package(boot)'
	cargo nextest run --no-fail-fast $(FIRMWARE) -E 'package(boot)'
	cargo test -q --doc $(FIRMWARE)

## formatting, lints, bans, licences and sources; no test is run
check: setup deny
	cargo fmt --all --check
	cargo clippy -q --all-targets $(FIRMWARE) -- -D warnings
	cargo clippy -q --all-targets $(CLOUD) -- -D warnings
	shellcheck -x .ci/run $$(git ls-files '*.sh')

## the surrogate image for the boot tests, in target/boot: Debian's packages in place of Buildroot's, all else as on the appliance
boot-image: setup
	tests/boot/image.sh

## boots the surrogate (or POSTERN_IMAGE=DIR, an assembled image) in QEMU: also the long tests, an hour or so
boot-test: boot-image
	cargo nextest run --no-fail-fast $(FIRMWARE) -E 'package(boot)' --run-ignored all

## tables of speed and memory against Postfix in the same run; figures in target/bench.json
bench: setup
	cargo build -q --release -p postern -p lab
	cargo run -q --release -p lab --bin lab -- bench

## a minute of each fuzz target (nightly Rust)
fuzz: setup
	tests/fuzz/run.sh

## development keys of every purpose, in keys/development; what is there is kept
keys: setup
	keys/make.sh

## the appliance's image by Buildroot, in target/image/BOARD: BOARD=qemu-x86|rack-x86, BUILDROOT_DIR=, KEYS=, RELEASE=1
image:
	buildroot/image.sh

## what can be said about the image in minutes; BUILDROOT_DIR= for all of it
image-check:
	buildroot/image-check.sh

## the image's bill of materials (CycloneDX); BOARD=, BUILDROOT_DIR= as for image
sbom:
	buildroot/sbom.sh

# Firmware and cloud are built apart: one binary must not link the other's SQLite.
build:
	cargo build -q -p postern -p lab
	cargo build -q -p postern-cloud

fmt:
	cargo fmt --all

deny:
	cargo deny --log-level error check bans licenses sources

setup:
	@tests/setup/install.sh
