#!/usr/bin/env bash
# Checks everything; changes no file that git tracks.
#
#   ./check.sh              all steps, in this order
#   ./check.sh STEP...      only these: fmt lint test doctest doc tidy fuzz tour evidence
#
# `tidy` (repository rules and layering) is also part of `test`. `evidence` needs root, `/dev/fuse`
# and more for some of its parts; it says which of them it leaves out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

step_fmt() { cargo fmt --all --check; }
# The fuzz targets have a lock file of their own, which must not be found to be out of date at last.
step_lint() {
  cargo metadata --locked --format-version 1 --manifest-path fuzz/Cargo.toml >/dev/null
  cargo clippy --locked --workspace --all-targets --features catena-bench/peers -- -D warnings
}
# The programs that tests run come first, so that no test waits for a build. All for the workspace,
# or their dependencies would be built anew with the features that one package asks for.
step_test() {
  local planted=catena-broker/planted-bugs
  cargo build --locked --workspace --bins
  cargo build --locked --workspace --features $planted --bin catena-broker-planted
  cargo build --locked --workspace --features $planted,catena-broker/simulation --bin catena-simulate
  cargo nextest run --locked --workspace
}
step_doctest() { cargo test --locked --workspace --doc; }
step_doc() { RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items; }
step_tidy() { cargo nextest run --locked --package catena-tools --test tidy; }
# Each fuzz target over its seeds and a bounded number of mutations of them.
step_fuzz() { cargo test --locked --manifest-path fuzz/Cargo.toml --target-dir target/fuzz; }
step_evidence() {
  cargo build --locked --workspace --bins
  "${CARGO_TARGET_DIR:-target}/debug/catena-tests" evidence --quick
}
step_tour() {
  tools/tour.sh
}

if [ $# -gt 0 ]; then steps=("$@"); else steps=(fmt lint test doctest doc fuzz tour evidence); fi

for step in "${steps[@]}"; do
  if ! declare -F "step_$step" >/dev/null; then
    echo "check.sh: no step '$step'; there are: fmt lint test doctest doc tidy fuzz tour evidence" >&2
    exit 2
  fi
done

for step in "${steps[@]}"; do
  printf '\n== %s\n' "$step"
  # Not in an `if` or `||`: that would switch `set -e` off inside the step.
  "step_$step"
done
printf '\n== all passed: %s\n' "${steps[*]}"
