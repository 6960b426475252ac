//! Finds the programs under test, and builds them if what lies in the target directory is missing
//! or older than its sources.
//!
//! `./check.sh test` has built them already. Asking cargo all the same would cost each
//! test process a wait for its lock, and may replace a program that another test is starting.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;
use std::{env, fs};

/// The broker program.
pub fn broker() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| find("catena-broker", ""))
}

/// The broker with a bug that `CATENA_PLANTED_BUG` names.
pub fn planted_broker() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| find("catena-broker-planted", "catena-broker/planted-bugs"))
}

/// The simulator, if this workspace has it.
pub fn simulator() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../broker/Cargo.toml");
        let manifest = fs::read_to_string(manifest).unwrap_or_default();
        let features = "catena-broker/simulation,catena-broker/planted-bugs";
        let known = manifest.contains("\"catena-simulate\"");
        known.then(|| find("catena-simulate", features))
    });
    found.as_deref()
}

/// The command line program.
pub fn catena() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| find("catena", ""))
}

/// The load generator.
pub fn bench() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| find("catena-bench", ""))
}

/// A directory on the disk that holds the build: unlike a memory file system it takes direct I/O.
pub fn scratch_dir() -> PathBuf {
    let profile_dir = profile_dir();
    let target = profile_dir.parent().expect("a profile is below a target");
    let dir = target.join("tmp");
    fs::create_dir_all(&dir).expect("the target directory can be written");
    dir
}

fn find(program: &str, features: &str) -> PathBuf {
    if let Some(dir) = env::var_os("CATENA_TESTS_PROGRAMS") {
        return PathBuf::from(dir).join(program);
    }
    let path = profile_dir().join(program);
    if !is_current(&path) {
        build(program, features);
    }
    assert!(path.is_file(), "cargo built no {}", path.display());
    path
}

/// Whether a program is newer than every source that cargo noted beside it.
fn is_current(program: &Path) -> bool {
    let Some(built) = modified(program) else {
        return false;
    };
    let Ok(noted) = fs::read_to_string(program.with_extension("d")) else {
        return false;
    };
    let sources = noted.split_once(": ").map_or("", |(_, sources)| sources);
    // Cargo writes a space inside a path as `\ `.
    let sources = sources.replace("\\ ", "\0");
    let mut sources = sources.split_whitespace().peekable();
    sources.peek().is_some()
        && sources.all(|source| {
            let source = source.replace('\0', " ");
            modified(Path::new(&source)).is_some_and(|changed| changed <= built)
        })
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|found| found.modified()).ok()
}

/// With the dependencies as the whole workspace has them, which are mostly built already.
fn build(program: &str, features: &str) {
    let profile_dir = profile_dir();
    let profile = profile_dir.file_name().and_then(|name| name.to_str());
    let profile = match profile {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let target = profile_dir.parent().expect("a profile is below a target");
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "--workspace", "--bin", program])
        .args(["--features", features, "--profile", profile, "--target-dir"])
        .arg(target)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "cargo could not build {program}");
}

/// `target/debug`, from `target/debug/deps/this_test-0123` or `target/debug/this-program`.
fn profile_dir() -> PathBuf {
    let program = env::current_exe().expect("a program knows its own path");
    let dir = program.parent().expect("a program lies in a directory");
    let dir = match dir.file_name() {
        Some(name) if name == "deps" => dir.parent().expect("`deps` lies in a directory"),
        _ => dir,
    };
    dir.to_path_buf()
}
