//! Imports run one way: which crates must not appear below which, asked of `cargo tree`.

use std::process::Command;

use crate::files::root;
use crate::finding::Finding;

/// Crate, and what its normal dependencies must never contain.
const ABSENT: [(&str, &str); 9] = [
    ("catena-protocol", "tokio"),
    ("catena-protocol", "io-uring"),
    ("catena-core", "io-uring"),
    ("catena-core", "tokio"),
    ("catena-core", "catena-client"),
    ("catena-client", "io-uring"),
    ("catena-client", "catena-broker"),
    ("catena-broker", "catena-client"),
    ("catena-tools", "io-uring"),
];

/// Crate, and what must be there: shows that the question is asked the right way.
const PRESENT: [(&str, &str); 3] = [
    ("catena-broker", "catena-core"),
    ("catena-client", "catena-protocol"),
    ("catena-client", "tokio"),
];

/// The names of the crates in a crate's tree of normal dependencies, itself included.
pub(crate) type Ask<'a> = dyn Fn(&str) -> Vec<String> + 'a;

pub(crate) fn violations(tree_of: &Ask<'_>) -> Vec<Finding> {
    let has = |&(krate, other): &(&str, &str)| tree_of(krate).iter().any(|name| name == other);
    let wrong = ABSENT.iter().filter(|pair| has(pair));
    let gone = PRESENT.iter().filter(|pair| !has(pair));
    wrong
        .map(|(krate, other)| Finding::new(krate, 0, format!("must not depend on {other}")))
        .chain(gone.map(|(krate, other)| {
            Finding::new(
                krate,
                0,
                format!("{other} not found below it: is the check blind?"),
            )
        }))
        .collect()
}

/// Asks cargo, which fetches what only other platforms build, if it is not here yet. Build and dev
/// dependencies do not end in the product and are left out.
pub(crate) fn cargo_tree(krate: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "-e", "normal", "--prefix", "none"])
        .args(["--target", "all", "--format", "{p}", "-p", krate])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo tree -p {krate}: {errors}");
    let listing = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
    let name = |line: &str| line.split_whitespace().next().map(str::to_owned);
    listing.lines().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(krate: &str) -> Vec<String> {
        let below = PRESENT.iter().filter(|(upper, _)| *upper == krate);
        below.map(|(_, lower)| (*lower).to_owned()).collect()
    }

    #[test]
    fn a_forbidden_import_is_found() {
        assert!(violations(&clean).is_empty());
        for (upper, lower) in ABSENT {
            let tainted = |krate: &str| {
                let mut names = clean(krate);
                if krate == upper {
                    names.push(lower.to_owned());
                }
                names
            };
            let found = violations(&tainted);
            assert_eq!(
                found,
                [Finding::new(
                    upper,
                    0,
                    format!("must not depend on {lower}")
                )]
            );
        }
    }

    #[test]
    fn a_blind_check_is_found() {
        assert_eq!(violations(&|_: &str| Vec::new()).len(), PRESENT.len());
    }
}
