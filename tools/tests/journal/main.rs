//! `catena journal` against data directories with known faults: what it finds, what it calls it,
//! and how it exits.

#![forbid(unsafe_code)]

mod image;
mod repair;

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output};

use image::{BLOCK_BYTES, Image, RECORDS};

/// Where the body of a block's only batch lies: behind block, entry and batch headers and a row.
const BODY_AT: u32 = 64 + 48 + 16 + 64 + 4;

fn catena(args: &[&str], dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_catena"));
    command
        .arg("journal")
        .args(args)
        .arg(dir)
        .output()
        .expect("the program starts")
}

fn verify(image: &Image) -> (Option<i32>, String) {
    let output = catena(&["verify"], image.path());
    (
        output.status.code(),
        String::from_utf8(output.stdout).expect("text"),
    )
}

/// Three segments of four blocks, the last not sealed; all of it flushed.
fn good() -> Image {
    filled(Image::new())
}

fn filled(mut image: Image) -> Image {
    for segment in 1..=3 {
        (0..4).for_each(|_| image.block());
        if segment < 3 {
            image.roll();
        }
    }
    image.write_segment();
    image.ledger();
    image
}

#[test]
fn a_good_journal_has_no_problems() {
    let (code, text) = verify(&good());
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("12 blocks, 12 frames, 0 records, 12 batches with 120 messages"),
        "{text}"
    );
    assert!(text.contains("ends at 3:20480"), "{text}");
}

#[test]
fn one_journal_can_be_verified_alone() {
    let image = good();
    let output = catena(&["verify"], &image.path().join("journals/000"));
    assert_eq!(output.status.code(), Some(0));
}

#[test]
fn damage_in_a_sealed_segment_is_named_with_what_it_hit() {
    // A batch's body, then the entry's header, then the block's header.
    for (at, place) in [
        (BODY_AT, "[8320, "),
        (64 + 10, "[8192, 12288)"),
        (20, "[8192, 12288)"),
    ] {
        let image = good();
        let block = 2 * BLOCK_BYTES;
        image.flip(2, block + at);
        let (code, text) = verify(&image);
        assert_eq!(code, Some(5), "{text}");
        assert!(text.contains(&format!("segment 2 {place}")), "{text}");
        // The second block of the second segment is the sixth of all.
        let lost = format!("offsets [{}, {})", 5 * RECORDS, 6 * RECORDS);
        assert!(
            text.contains(&format!("topic 7 partition 3 {lost}")),
            "{text}"
        );
        assert_eq!(text.matches("PROBLEM").count(), 1, "{text}");
    }
}

#[test]
fn damage_below_the_ledger_is_corrupt_also_at_the_very_end() {
    let image = good();
    image.flip(3, 4 * BLOCK_BYTES + BODY_AT);
    let (code, text) = verify(&image);
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains("segment 3 [16512, "), "{text}");
    assert!(
        text.contains(&format!("offsets [{}, {})", 11 * RECORDS, 12 * RECORDS)),
        "{text}"
    );
}

#[test]
fn damage_at_the_end_without_a_ledger_is_a_torn_tail() {
    let image = good();
    fs::remove_file(image.path().join("journals/000/ledger")).expect("the ledger was there");
    image.flip(3, 4 * BLOCK_BYTES + BODY_AT);
    let (code, text) = verify(&image);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("torn tail"), "{text}");
    assert!(text.contains("at 3:16384"), "{text}");
}

#[test]
fn a_missing_segment_is_named_with_what_it_held() {
    let image = good();
    fs::remove_file(image.segment_path(2)).expect("the segment was there");
    let (code, text) = verify(&image);
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains("8 blocks"), "{text}");
    assert!(text.contains("up to segment 2"), "{text}");
    assert!(
        text.contains(&format!("offsets [{}, {})", 4 * RECORDS, 8 * RECORDS)),
        "{text}"
    );

    fs::remove_file(image.segment_path(1)).expect("the segment was there");
    let (code, text) = verify(&image);
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains("up to segment 2"), "{text}");
}

#[test]
fn segments_below_the_newest_checkpoint_may_be_gone() {
    let image = good();
    fs::remove_file(image.segment_path(2)).expect("the segment was there");
    let newest = image.checkpoint(8, 3);
    image.checkpoint(7, 2);
    let (code, text) = verify(&image);
    assert_eq!(code, Some(0), "{text}");

    let mut bytes = fs::read(&newest).expect("the checkpoint is there");
    bytes[40] ^= 1;
    fs::write(&newest, bytes).expect("the checkpoint");
    let (code, text) = verify(&image);
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains("checkpoint-0000000008: "), "{text}");
    assert!(text.contains("up to segment 2"), "{text}");
}

#[test]
fn a_segment_that_was_never_started_is_no_problem() {
    let image = good();
    fs::write(image.segment_path(4), vec![0; 1 << 16]).expect("a file");
    let (code, text) = verify(&image);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn a_segment_with_a_bad_header_is_named() {
    let image = good();
    image.flip(1, 17);
    let (code, text) = verify(&image);
    assert_eq!(code, Some(5), "{text}");
    assert!(
        text.contains("one bit of the segment's header is flipped"),
        "{text}"
    );
    // Its blocks can be checked all the same.
    assert!(text.contains("12 blocks"), "{text}");
    assert_eq!(text.matches("PROBLEM").count(), 1, "{text}");

    image.flip(1, 30);
    let (code, text) = verify(&image);
    assert_eq!(code, Some(5), "{text}");
    assert!(text.contains("segment header crc"), "{text}");
    assert!(text.contains("8 blocks"), "{text}");
}

#[test]
fn verify_refuses_data_in_use_and_dump_warns() {
    let image = good();
    let lock = File::open(image.path().join("LOCK")).expect("the lock file is there");
    lock.lock().expect("nobody else has it");
    let output = catena(&["verify"], image.path());
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("hint: stop the broker"));
    let output = catena(&["dump"], image.path());
    assert_eq!(output.status.code(), Some(0));
    assert!(String::from_utf8_lossy(&output.stderr).contains("warning: a broker"));
}

#[test]
fn a_directory_without_journals_is_not_found() {
    let empty = tempfile::tempdir().expect("a temporary directory");
    for dir in [empty.path(), &empty.path().join("none")] {
        let output = catena(&["verify"], dir);
        assert_eq!(output.status.code(), Some(3));
        assert!(String::from_utf8_lossy(&output.stderr).contains("hint:"));
    }
}

#[test]
fn a_dump_goes_as_deep_as_asked_and_every_json_line_parses() {
    let image = good();
    for (depth, lines) in [
        ("--json", 4),
        ("--blocks", 16),
        ("--frames", 28),
        ("--batches", 40),
    ] {
        let output = catena(&["dump", depth], image.path());
        let text = String::from_utf8(output.stdout).expect("text");
        assert_eq!(text.lines().count(), lines, "{depth}: {text}");
    }
    let output = catena(&["dump", "--batches", "--json"], image.path());
    let text = String::from_utf8(output.stdout).expect("text");
    let offsets: Vec<u64> = text
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .filter(|line| line["kind"] == "batch")
        .map(|line| line["base_offset"].as_u64().expect("an offset"))
        .collect();
    assert_eq!(
        offsets,
        (0..12).map(|batch| batch * RECORDS).collect::<Vec<_>>()
    );
}

#[test]
fn lost_messages_carry_the_name_of_their_topic() {
    let image = good();
    image.name_topic("orders");
    image.flip(2, 2 * BLOCK_BYTES + BODY_AT);
    let (code, text) = verify(&image);
    assert_eq!(code, Some(5), "{text}");
    assert!(
        text.contains("lost: topic 7 (orders) partition 3"),
        "{text}"
    );

    let snapshot = image.path().join("journals/999/metadata-0000000001");
    fs::write(snapshot, "not a snapshot").expect("the snapshot");
    let (_, text) = verify(&image);
    assert!(text.contains("lost: topic 7 partition 3"), "{text}");
    assert_eq!(text.matches("PROBLEM").count(), 2, "{text}");
}

#[test]
fn verify_in_json_names_the_same_damage() {
    let image = good();
    image.flip(2, 2 * BLOCK_BYTES + BODY_AT);
    let output = catena(&["verify", "--json"], image.path());
    assert_eq!(output.status.code(), Some(5));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["problems"], 1);
    let problem = &report["journals"][0]["problems"][0];
    assert_eq!(
        (&problem["segment"], &problem["start"]),
        (&2.into(), &8320.into())
    );
    let lost = serde_json::json!([{"topic": 7, "partition": 3, "from": 50, "to": 60}]);
    assert_eq!(problem["lost"], lost);
}
