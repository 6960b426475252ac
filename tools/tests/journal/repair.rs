//! `catena journal repair`: says what it would do, does it only when told to, keeps what it
//! changes, and leaves what `verify` accepts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use catena_core::ids::JournalId;

use crate::image::{BLOCK_BYTES, Image};
use crate::{BODY_AT, catena, filled, good, verify};

/// Every file below a directory, but those in quarantine.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let is_quarantine = path.to_string_lossy().contains("quarantine-");
        if path.is_dir() && !is_quarantine {
            found.extend(files(&path));
        } else if path.is_file() {
            found.insert(path.clone(), fs::read(&path).expect("a file"));
        }
    }
    found
}

fn repair(image: &Image, more: &[&str]) -> (Option<i32>, String) {
    let args: Vec<&str> = ["repair"].iter().chain(more).copied().collect();
    let output = catena(&args, image.path());
    let text = String::from_utf8(output.stdout).expect("text");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code(), text + &errors)
}

/// Repairs in two steps and expects the bytes of `before` back.
fn assert_restores(image: &Image, before: &BTreeMap<PathBuf, Vec<u8>>) {
    let damaged = files(image.path());
    let (code, text) = repair(image, &[]);
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains("would: "), "{text}");
    assert!(text.contains("--yes"), "{text}");
    assert!(files(image.path()) == damaged, "a list changes nothing");

    let (code, text) = repair(image, &["--yes"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(files(image.path()) == *before, "{text}");
    let (code, text) = verify(image);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = repair(image, &["--yes"]);
    assert_eq!(
        (code, text.as_str()),
        (Some(0), "0 problems left in stored data\n")
    );
}

#[test]
fn a_good_store_needs_nothing() {
    let image = good();
    let before = files(image.path());
    let (code, text) = repair(&image, &["--yes"]);
    assert_eq!(
        (code, text.as_str()),
        (Some(0), "0 problems left in stored data\n")
    );
    assert!(files(image.path()) == before);
}

#[test]
fn one_flipped_bit_in_heads_is_flipped_back() {
    // A block's header, an entry's header, a row, a batch's header; the header of a segment.
    for at in [20, 64 + 10, 64 + 48 + 3, 64 + 48 + 16 + 5] {
        let image = good();
        let before = files(image.path());
        image.flip(2, 2 * BLOCK_BYTES + at);
        assert_restores(&image, &before);
    }
    for at in [3, 45, 900, 4094] {
        let image = good();
        let before = files(image.path());
        image.flip(2, at);
        assert_restores(&image, &before);
    }
}

#[test]
fn what_was_there_before_is_kept() {
    let image = good();
    image.flip(2, 2 * BLOCK_BYTES + 20);
    let segment = fs::read(image.segment_path(2)).expect("the segment");
    let (code, text) = repair(&image, &["--yes"]);
    assert_eq!(code, Some(0), "{text}");
    let mut kept = fs::read_dir(image.path())
        .expect("the store")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.to_string_lossy().contains("quarantine-"));
    let quarantine = kept.next().expect("a quarantine");
    assert!(text.contains(&*quarantine.to_string_lossy()), "{text}");
    let page = quarantine.join("journals_000_0000000002.seg.8192-12288");
    assert_eq!(fs::read(page).expect("the page"), segment[8192..12_288]);
    let manifest = fs::read_to_string(quarantine.join("manifest.json")).expect("a manifest");
    assert!(manifest.contains("\"flip_bit\""), "{manifest}");
}

#[test]
fn a_damaged_body_is_lost_and_can_only_be_accepted() {
    let image = good();
    image.flip(2, 2 * BLOCK_BYTES + BODY_AT);
    let before = files(image.path());
    let (code, text) = repair(&image, &["--yes"]);
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains("cannot be repaired here"), "{text}");
    assert!(files(image.path()) == before, "nothing is cut");

    let (code, text) = repair(&image, &["--accept-loss", "--yes"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = verify(&image);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("  accepted segment 2 [8320, "), "{text}");
    assert!(
        text.contains("lost: topic 7 partition 3 offsets [50, 60)"),
        "{text}"
    );
    for (path, bytes) in &before {
        assert!(
            fs::read(path).is_ok_and(|now| now == *bytes),
            "segments stay"
        );
    }

    // Other damage is not accepted with it.
    image.flip(1, 2 * BLOCK_BYTES + BODY_AT);
    let (code, text) = verify(&image);
    assert_eq!(code, Some(5), "{text}");
    assert_eq!(text.matches("PROBLEM").count(), 1, "{text}");
}

#[test]
fn a_segment_of_which_nothing_is_left_can_be_accepted() {
    let image = good();
    image.flip(2, 17);
    image.flip(2, 30);
    let (code, text) = repair(&image, &["--yes"]);
    assert_eq!(code, Some(5), "{text}");
    let (code, text) = repair(&image, &["--accept-loss", "--yes"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = verify(&image);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("  accepted segment 2: "), "{text}");
    assert!(!image.segment_path(2).exists(), "it went to the quarantine");
}

#[test]
fn a_torn_tail_is_cut() {
    let image = good();
    fs::remove_file(image.path().join("journals/000/ledger")).expect("the ledger was there");
    image.flip(3, 4 * BLOCK_BYTES + BODY_AT);
    let (_, text) = repair(&image, &[]);
    assert!(text.contains("cut an unfinished write"), "{text}");
    let (code, text) = repair(&image, &["--yes"]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = verify(&image);
    assert_eq!(code, Some(0), "{text}");
    assert!(!text.contains("torn"), "{text}");
    assert!(text.contains("ends at 3:16384"), "{text}");
}

#[test]
fn the_ledger_is_written_anew_from_what_can_be_read() {
    let image = good();
    let path = image.path().join("journals/000/ledger");
    let good_pages = fs::read(&path).expect("the ledger");
    // One page is noted; the other counts.
    let mut bytes = good_pages.clone();
    bytes[5000] = 1;
    fs::write(&path, &bytes).expect("the ledger");
    let (code, text) = verify(&image);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("note: page 1 of the flush ledger"), "{text}");
    let (code, text) = repair(&image, &["--yes"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(fs::read(&path).expect("the ledger"), good_pages);

    // None counts.
    bytes[30] ^= 1;
    fs::write(&path, &bytes).expect("the ledger");
    let (code, text) = verify(&image);
    assert_eq!(code, Some(5), "{text}");
    let (code, text) = repair(&image, &["--yes"]);
    assert_eq!(code, Some(0), "{text}");
    // What is at the end is known to be flushed again.
    image.flip(3, 4 * BLOCK_BYTES + BODY_AT);
    let (code, text) = verify(&image);
    assert_eq!(code, Some(5), "{text}");
    assert!(!text.contains("torn"), "{text}");
}

#[test]
fn a_bad_checkpoint_is_removed_if_something_else_holds_what_it_held() {
    let image = good();
    let old = image.checkpoint(7, 1);
    let newest = image.checkpoint(8, 2);
    let damage = |path: &Path| {
        let mut bytes = fs::read(path).expect("the checkpoint");
        bytes[40] ^= 1;
        fs::write(path, bytes).expect("the checkpoint");
    };
    damage(&newest);
    let (code, text) = repair(&image, &["--yes"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(old.exists() && !newest.exists());

    // The last one goes only as long as the journal is there from its beginning.
    damage(&old);
    fs::remove_file(image.segment_path(1)).expect("the segment was there");
    let (code, text) = repair(&image, &["--yes"]);
    assert_eq!(code, Some(5), "{text}");
    assert!(
        text.contains("checkpoint 7 of journal 0: nothing else says"),
        "{text}"
    );
    assert!(old.exists());
}

#[test]
fn a_bad_snapshot_of_metadata_goes_with_its_checkpoint() {
    let image = good();
    image.name_topic("orders");
    let dir = image.path().join("journals/999");
    let snapshot = dir.join("metadata-0000000001");
    let mut bytes = fs::read(&snapshot).expect("the snapshot");
    bytes[30] ^= 1;
    fs::write(&snapshot, bytes).expect("the snapshot");
    let (code, text) = repair(&image, &["--yes"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(!snapshot.exists() && !dir.join("checkpoint-0000000001").exists());
}

#[test]
fn a_flipped_bit_of_the_identity_is_flipped_back() {
    let image = good();
    let path = image.path().join("store.toml");
    let text = catena_core::sealed_text::seal("format = 1\nnode = 1\n");
    fs::write(&path, &text).expect("the identity");
    let before = files(image.path());
    let damaged = text.replace("node = 1", "node = 3");
    fs::write(&path, damaged).expect("the identity");
    let (code, found) = verify(&image);
    assert_eq!(code, Some(5), "{found}");
    assert!(
        found.contains("store.toml: its checksum does not fit"),
        "{found}"
    );
    assert_restores(&image, &before);
}

/// The hint of `verify`.
fn advice(image: &Image) -> String {
    let output = catena(&["verify"], image.path());
    assert_eq!(output.status.code(), Some(5));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn metadata_that_no_broker_starts_without_is_to_be_restored() {
    let image = filled(Image::of(JournalId::METADATA));
    image.flip(2, 2 * BLOCK_BYTES + BODY_AT);
    let before = files(image.path());
    let dir = image.path().join("journals/999");
    let words = format!(
        "the broker does not start without its metadata: restore {} from a copy",
        dir.display()
    );
    let tries: [&[&str]; 3] = [&[], &["--yes"], &["--accept-loss", "--yes"]];
    for args in tries {
        let (code, text) = repair(&image, args);
        assert_eq!(code, Some(5), "{text}");
        let hint = format!("hint: {words}; --accept-loss does not apply\n");
        assert!(text.ends_with(&hint), "{text}");
    }
    assert!(files(image.path()) == before, "it is no use noting it");
    let hint = advice(&image);
    assert!(hint.ends_with(&format!("; {words}\n")), "{hint}");

    // The head of a block of segment 3 can be mended, and that is said, too.
    image.flip(3, 2 * BLOCK_BYTES + 20);
    let (_, text) = repair(&image, &[]);
    let hint = format!("hint: run it again with --yes; what it cannot mend: {words}");
    assert!(text.contains(&hint), "{text}");
}

#[test]
fn metadata_that_a_newer_snapshot_holds_needs_no_restoring() {
    let image = filled(Image::of(JournalId::METADATA));
    image.checkpoint(8, 3);
    image.snapshot(8);
    image.flip(2, 2 * BLOCK_BYTES + BODY_AT);
    let (code, text) = repair(&image, &["--yes"]);
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains("; a snapshot of metadata holds"), "{text}");
    assert!(!text.contains("restore"), "{text}");
    assert!(!advice(&image).contains("restore"));
    let (code, text) = repair(&image, &["--accept-loss", "--yes"]);
    assert_eq!(code, Some(0), "{text}");

    // Without the snapshot its checkpoint is worth nothing.
    fs::remove_file(image.path().join("journals/999/metadata-0000000008")).expect("it was there");
    image.flip(1, 2 * BLOCK_BYTES + BODY_AT);
    assert!(advice(&image).contains("restore"));
}

#[test]
fn a_store_whose_identity_is_gone_is_to_be_restored() {
    let image = good();
    let path = image.path().join("store.toml");
    let text = catena_core::sealed_text::seal("format = 1\nnode = 1\n");
    fs::write(&path, text.replace("node = 1", "node = 8")).expect("the identity");
    let words = format!(
        "the broker does not start without its metadata: restore {} from a copy",
        path.display()
    );
    let (code, text) = repair(&image, &["--accept-loss", "--yes"]);
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains(&words), "{text}");
    assert!(advice(&image).contains(&words));
}

#[test]
fn a_store_in_use_is_left_alone() {
    let image = good();
    image.flip(2, 2 * BLOCK_BYTES + 20);
    let before = files(image.path());
    let lock = File::open(image.path().join("LOCK")).expect("the lock file is there");
    lock.lock_shared().expect("nobody else has it");
    let (code, text) = repair(&image, &["--yes"]);
    assert_eq!(code, Some(4), "{text}");
    assert!(files(image.path()) == before);
}

#[test]
fn the_json_names_every_action() {
    let image = good();
    image.flip(2, 2 * BLOCK_BYTES + 20);
    let output = catena(&["repair", "--json"], image.path());
    assert_eq!(output.status.code(), Some(5));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(json["done"], false);
    assert_eq!(json["actions"][0]["action"], "flip_bit");
    assert_eq!(json["actions"][0]["at"], 2 * BLOCK_BYTES + 20);
    assert_eq!(json["problems_left"], 1);
}
