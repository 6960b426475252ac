//! `catena produce` and `catena consume`: what goes in comes out, byte for byte.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::process::Output;

use catena_protocol::limits::BATCH_BYTES_MAX;
use catena_tests::broker::{Broker, Settings};
use catena_tests::command::{catena, run, said};
use catena_tests::seeded::log_file;

const FILE_BYTES: usize = 20 << 20;

fn args<'a>(words: &[&'a str]) -> Vec<&'a OsStr> {
    words.iter().map(|word| OsStr::new(*word)).collect()
}

/// Runs the command with this text as its input file.
fn with_file(broker: &Broker, words: &[&str], text: &[u8]) -> Output {
    let path = broker.dir().join("input.txt");
    fs::write(&path, text).expect("the file can be written");
    let mut command = catena(broker);
    command.args(words).arg("--file").arg(path);
    command.output().expect("catena can be run")
}

/// The broker and what was sent to its topic `logs`.
fn produced(settings: Settings, partitions: &str) -> (Broker, Vec<u8>) {
    let broker = Broker::start_with(settings);
    let file = log_file(1, FILE_BYTES);
    let path = broker.dir().join("service.log");
    fs::write(&path, &file).expect("the file can be written");
    run(
        &broker,
        &args(&["topic", "create", "logs", "--partitions", partitions]),
    );
    let mut produce = args(&["produce", "logs", "--file"]);
    produce.push(path.as_os_str());
    run(&broker, &produce);
    (broker, file)
}

#[test]
fn one_partition_gives_a_file_back_byte_for_byte() {
    let (mut broker, file) = produced(Settings::default(), "1");
    let read = run(&broker, &args(&["consume", "logs"]));
    assert!(read == file, "{} bytes of {}", read.len(), file.len());
    broker.stop();
}

#[test]
fn sixteen_partitions_give_each_line_back_once_and_in_order() {
    let (mut broker, file) = produced(Settings::shards(2), "16");
    let mut missing: BTreeMap<&[u8], usize> = BTreeMap::new();
    for line in file.split_inclusive(|byte| *byte == b'\n') {
        *missing.entry(line).or_default() += 1;
    }
    let mut used = 0;
    for partition in 0..16 {
        let partition = partition.to_string();
        let read = run(
            &broker,
            &args(&["consume", "logs", "--partition", &partition]),
        );
        used += usize::from(!read.is_empty());
        let mut rest = file.split_inclusive(|byte| *byte == b'\n');
        for line in read.split_inclusive(|byte| *byte == b'\n') {
            let left = missing.get_mut(line).expect("a line of the file");
            *left = left.checked_sub(1).expect("as often as in the file");
            assert!(
                rest.any(|sent| sent == line),
                "partition {partition} keeps the order"
            );
        }
    }
    assert!(
        missing.values().all(|left| *left == 0),
        "all lines came back"
    );
    assert!(used > 1, "lines without a key are spread");

    let all = run(&broker, &args(&["consume", "logs"]));
    assert_eq!(
        all.len(),
        file.len(),
        "reading all partitions at once gives as much"
    );
    broker.stop();
}

#[test]
fn keys_and_values_come_back_as_they_were_split() {
    let mut broker = Broker::start();
    let path = broker.dir().join("keyed.txt");
    fs::write(&path, "a:1\nb:2\na::3\n").expect("the file can be written");
    run(
        &broker,
        &args(&["topic", "create", "keyed", "--partitions", "4"]),
    );
    let mut produce = args(&["produce", "keyed", "--key-separator", ":", "--file"]);
    produce.push(path.as_os_str());
    run(&broker, &produce);
    let json = run(&broker, &args(&["consume", "keyed", "--format", "json"]));
    let json = String::from_utf8(json).expect("JSON is text");
    let of_a: Vec<&str> = json
        .lines()
        .filter(|line| line.contains(r#""a""#))
        .collect();
    assert_eq!(json.lines().count(), 3, "{json}");
    assert_eq!(of_a.len(), 2, "{json}");
    assert!(
        of_a[0].contains(r#""1""#) && of_a[1].contains(r#"":3""#),
        "{json}"
    );
    broker.stop();
}

#[test]
fn a_line_that_is_too_long_is_named_and_those_before_it_are_sent() {
    let mut broker = Broker::start();
    run(&broker, &args(&["topic", "create", "lines"]));
    // Longer than what is read at once; too long by a few bytes, without and with a key.
    let barely = BATCH_BYTES_MAX - 8;
    let (plain, keyed): (&[&str], &[&str]) = (&[], &["--key-separator", ":"]);
    for (bytes, more) in [(2 << 20, plain), (barely, plain), (barely, keyed)] {
        let long = vec![b':'; bytes];
        let text = [&b"a:1\n"[..], &long, b"\nb:2\n"].concat();
        let output = with_file(&broker, &[&["produce", "lines"], more].concat(), &text);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("1 of 1 message sent to lines"), "{said}");
        assert!(said.contains("error: line 2"), "{said}");
        assert!(said.contains("hint: split the line"), "{said}");
    }
    let read = run(&broker, &args(&["consume", "lines"]));
    assert_eq!(read, b"a:1\na:1\n1\n");
    let text = vec![b'x'; 2 << 20];
    let said = said(&with_file(&broker, &["produce", "lines"], &text));
    assert!(said.starts_with("error: line 1"), "{said}");
    broker.stop();
}

#[test]
fn what_a_topic_refuses_is_an_error_in_every_class() {
    let mut broker = Broker::start();
    run(
        &broker,
        &args(&["topic", "create", "state", "--cleanup", "compact"]),
    );
    run(
        &broker,
        &args(&["topic", "create", "strict", "--min-durability", "durable"]),
    );
    for (topic, acks, hint) in [
        ("state", "durable", "hint: use --key-separator"),
        ("state", "received", "hint: use --key-separator"),
        ("state", "none", "hint: use --key-separator"),
        ("strict", "received", "hint: use stronger --acks"),
        ("strict", "none", "hint: use stronger --acks"),
    ] {
        let words = ["produce", topic, "--acks", acks];
        let output = with_file(&broker, &words, b"without a key\n");
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {said}");
        assert!(said.contains("; not written"), "{words:?}: {said}");
        assert!(said.contains(hint), "{words:?}: {said}");
        assert!(!said.contains("flushed to stable storage"), "{said}");
        let is_unsent = acks == "none";
        assert_eq!(said.contains("sent to"), !is_unsent, "{words:?}: {said}");
        assert!(run(&broker, &args(&["consume", topic])).is_empty());
    }
    broker.stop();
}

#[test]
fn an_offset_that_is_not_there_ends_with_those_that_are() {
    let mut broker = Broker::start();
    run(&broker, &args(&["topic", "create", "logs"]));
    let sent = with_file(&broker, &["produce", "logs"], b"one\ntwo\n");
    assert!(sent.status.success(), "{}", said(&sent));
    let mut command = catena(&broker);
    command.args(["consume", "logs", "--from", "offset:9"]);
    let output = command.output().expect("catena can be run");
    let said = said(&output);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("has no offset 9: it holds 0 to 1"), "{said}");
    assert!(said.contains("--from earliest"), "{said}");
    assert!(said.contains("with N from 0 to 2"), "{said}");
    broker.stop();
}

#[test]
fn what_is_not_there_ends_with_3_and_a_plain_message() {
    let mut broker = Broker::start();
    for words in [
        &["consume", "nothing"][..],
        &["offsets", "nothing"],
        &["topic", "describe", "nothing"],
        &["topic", "delete", "nothing"],
    ] {
        let output = catena(&broker)
            .args(words)
            .output()
            .expect("catena can be run");
        assert_eq!(
            output.status.code(),
            Some(3),
            "{words:?}: {}",
            said(&output)
        );
        assert!(
            said(&output).contains("nothing"),
            "{words:?}: {}",
            said(&output)
        );
    }
    broker.stop();
}

#[test]
fn no_broker_ends_with_4_within_the_timeout() {
    let mut broker = Broker::start();
    broker.stop();
    let mut command = catena(&broker);
    command.args(["--timeout", "500ms", "topic", "list"]);
    let output = command.output().expect("catena can be run");
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
}
