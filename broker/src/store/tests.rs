//! Opening, locking and refusing data directories.

use super::*;

fn directory() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary directory")
}

fn open(dir: &Path) -> Store {
    Store::open(dir).expect("the directory can be opened")
}

fn refusal(dir: &Path) -> StoreError {
    Store::open(dir).expect_err("the directory has to be refused")
}

#[test]
fn identity_is_made_once_and_kept() {
    let dir = directory();
    let path = dir.path().join("new/data");
    let first = open(&path);
    let (uuid, cluster_id) = (first.uuid, first.cluster_id);
    assert_ne!(uuid, cluster_id);
    assert_eq!(first.node, NodeId::new(1));
    drop(first);
    let second = open(&path);
    assert_eq!((second.uuid, second.cluster_id), (uuid, cluster_id));
    assert_ne!(open(&dir.path().join("other")).uuid, uuid);
}

#[test]
fn a_second_broker_is_told_who_holds_the_directory() {
    let dir = directory();
    let _store = open(dir.path());
    let error = refusal(dir.path());
    let is_own = matches!(error, StoreError::Locked { holder, .. } if holder == Holder::Own);
    assert!(is_own, "{error}");
    assert!(
        error
            .to_string()
            .contains("in use by another broker in this process;"),
        "{error}"
    );
}

#[test]
fn a_pid_is_taken_back_at_a_stop_and_believed_only_of_a_living_broker() {
    let dir = directory();
    drop(open(dir.path()));
    let path = dir.path().join(LOCK_FILE);
    assert_eq!(fs::read(&path).expect("the file can be read"), b"");

    // Locked as the command line tool does it, which writes no pid.
    let lock = File::open(&path).expect("the file is there");
    lock.lock_shared().expect("nobody has it");
    // Nobody; a process that is no broker; no process.
    for left in ["", "1\n", "99999999\n", "a broker"] {
        fs::write(&path, left).expect("the file can be written");
        let message = refusal(dir.path()).to_string();
        let words = "is in use by another process (a broker, or `catena journal verify` or \
                     `repair`); stop it, or choose another directory";
        assert!(message.ends_with(words), "{left:?}: {message}");
    }
}

#[test]
fn a_lock_file_left_by_a_killed_broker_does_not_matter() {
    let dir = directory();
    drop(open(dir.path()));
    fs::write(dir.path().join(LOCK_FILE), "99999999\n").expect("the file can be written");
    let _store = open(dir.path());
    let text = fs::read_to_string(dir.path().join(LOCK_FILE)).expect("the file can be read");
    assert_eq!(text, format!("{}\n", std::process::id()));
}

#[test]
fn a_foreign_directory_is_refused_and_left_as_it_is() {
    let dir = directory();
    fs::write(dir.path().join("thesis.tex"), "x").expect("the file can be written");
    let error = refusal(dir.path());
    assert!(matches!(&error, StoreError::NotEmpty { found, .. } if found == "thesis.tex"));
    assert!(!dir.path().join(LOCK_FILE).exists());
}

#[test]
fn a_fresh_file_system_and_an_interrupted_format_can_be_formatted() {
    let dir = directory();
    fs::create_dir(dir.path().join("lost+found")).expect("a directory can be made");
    fs::write(dir.path().join(LOCK_FILE), "").expect("the file can be written");
    fs::write(dir.path().join(IDENTITY_TEMPORARY_FILE), "form").expect("the file can be written");
    let _store = open(dir.path());
    assert!(!dir.path().join(IDENTITY_TEMPORARY_FILE).exists());
}

#[test]
fn a_newer_format_is_refused_with_the_version_it_needs() {
    let dir = directory();
    let text = "format = 2\nneeds_version = \"0.7.0\"\nsomething_new = [1, 2]\n";
    fs::write(dir.path().join(IDENTITY_FILE), text).expect("the file can be written");
    let error = refusal(dir.path());
    assert!(matches!(error, StoreError::UnknownFormat { found: 2, .. }));
    let message = error.to_string();
    assert!(
        message.contains("store format 2, which needs Catena 0.7.0 or newer"),
        "{message}"
    );
}

#[test]
fn a_damaged_identity_is_never_replaced() {
    for text in [
        "",
        "format = \"x\"",
        "format = 1\n",
        "format = 1\nstore_uuid = \"y\"\n",
    ] {
        let dir = directory();
        let path = dir.path().join(IDENTITY_FILE);
        fs::write(&path, text).expect("the file can be written");
        let error = refusal(dir.path());
        assert!(
            matches!(error, StoreError::Damaged { .. }),
            "{text:?}: {error}"
        );
        assert_eq!(
            fs::read_to_string(&path).expect("the file is still there"),
            text
        );
    }
}

#[test]
fn a_file_in_place_of_the_directory_is_named() {
    let dir = directory();
    let path = dir.path().join("data");
    fs::write(&path, "").expect("the file can be written");
    let name = path.display();
    let fix = format!("{name} is a file, choose another directory");
    assert_eq!(
        told(&path),
        format!("cannot create the data directory {name}: File exists (os error 17); {fix}")
    );
    let below = path.join("below");
    let message = told(&below);
    assert_eq!(message.matches("File exists").count(), 1, "{message}");
    assert!(message.ends_with(&format!("; {fix}")), "{message}");
}

/// What an operator reads of a refusal, with all of its causes.
fn told(dir: &Path) -> String {
    format!("{:#}", anyhow::Error::from(refusal(dir)))
}

#[test]
fn who_may_not_use_a_directory_is_told_what_to_do() {
    let dir = directory();
    let there = dir.path().join("there");
    fs::create_dir(&there).expect("a directory can be made");
    let refused = || io::Error::from(io::ErrorKind::PermissionDenied);
    let name = there.display();
    let lock = there.join(LOCK_FILE);
    for (path, action) in [(&there, "list the data directory"), (&lock, "lock")] {
        assert_eq!(
            io_error(action, path)(refused()).to_string(),
            format!(
                "cannot {action} {}: permission denied; run as the owner of {name}, or chown it",
                path.display()
            )
        );
    }
    let new = dir.path().join("new");
    let message = io_error("create the data directory", &new)(refused()).to_string();
    let fix = format!(
        "; make {} and chown it to the user that the broker runs as",
        new.display()
    );
    assert!(message.ends_with(&fix), "{message}");
}

#[test]
fn a_flipped_bit_of_the_identity_is_refused() {
    let dir = directory();
    drop(open(dir.path()));
    let path = dir.path().join(IDENTITY_FILE);
    let good = fs::read(&path).expect("the file is there");
    let uuid = open(dir.path()).uuid;
    for at in 0..good.len() {
        let mut damaged = good.clone();
        damaged[at] ^= 1 << (at % 8);
        fs::write(&path, damaged).expect("the file can be written");
        let error = refusal(dir.path());
        assert!(matches!(error, StoreError::Damaged { .. }), "{at}: {error}");
    }
    fs::write(&path, good).expect("the file can be written");
    assert_eq!(open(dir.path()).uuid, uuid);
}
