#!/usr/bin/env bash
# Checks everything; changes no file that git tracks.
#
#   ./check.sh              all steps, in this order
#   ./check.sh STEP...      only these: fmt lint test doctest doc tidy tour
#
# `tidy` (repository rules and layering) is also part of `test`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

step_fmt() { cargo fmt --all --check; }
step_lint() { cargo clippy --locked --workspace --all-targets -- -D warnings; }
step_test() { cargo nextest run --locked --workspace; }
step_doctest() { cargo test --locked --workspace --doc; }
step_doc() { RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --no-deps --document-private-items; }
step_tidy() { cargo nextest run --locked --package catena-tools --test tidy; }
step_tour() {
  tools/tour.sh
}

if [ $# -gt 0 ]; then steps=("$@"); else steps=(fmt lint test doctest doc tour); fi

for step in "${steps[@]}"; do
  if ! declare -F "step_$step" >/dev/null; then
    echo "check.sh: no step '$step'; there are: fmt lint test doctest doc tidy tour" >&2
    exit 2
  fi
done

for step in "${steps[@]}"; do
  printf '\n== %s\n' "$step"
  # Not in an `if` or `||`: that would switch `set -e` off inside the step.
  "step_$step"
done
printf '\n== all passed: %s\n' "${steps[*]}"
