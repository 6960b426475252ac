//! `docs/PROTOCOL.md` names every error code with its number, and the samples it shows are true.

use catena_protocol::batch::{BatchBuilder, BatchOptions};
use catena_protocol::error::ErrorCode;
use catena_protocol::limits;
use catena_protocol::record::Record;

const DOCUMENT: &str = include_str!("../../../docs/PROTOCOL.md");

/// The first two cells of a table's row.
fn cells(row: &str) -> impl Iterator<Item = &str> {
    row.split('|').map(str::trim).skip(1).take(2)
}

#[test]
fn every_error_code_has_its_row() {
    let is_code = |row: &&str| {
        let mut cells = cells(row);
        let number = cells.next().is_some_and(|cell| cell.parse::<u16>().is_ok());
        number && cells.next().is_some_and(|cell| cell.starts_with('`'))
    };
    let mut documented: Vec<_> = DOCUMENT
        .lines()
        .filter(is_code)
        .map(|row| cells(row).collect::<Vec<_>>().join(" "))
        .collect();
    documented.sort();
    let mut expected: Vec<_> = ErrorCode::ALL
        .iter()
        .map(|code| format!("{} `{}`", code.to_wire(), code.name()))
        .collect();
    expected.sort();
    assert_eq!(documented, expected);
}

#[test]
fn the_record_shown_is_what_the_builder_writes() {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder.push(&Record::from_value(b"hi!")).expect("it fits");
    let batch = builder.finish().expect("no codec can fail");
    let shown = "    00 05 00 00 68 69 21 ";
    assert!(DOCUMENT.contains(shown));
    let bytes: Vec<_> = batch[64..71]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(bytes.join(" "), shown.trim());
}

#[test]
fn the_limit_of_a_batch_is_the_one_shown() {
    assert_eq!(limits::BATCH_BYTES_MAX, 1_032_192);
    assert!(DOCUMENT.contains("| 1,032,192 bytes = 1 MiB - 16 KiB"));
}
