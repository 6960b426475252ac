//! The `catena` program as scripts see it: exit codes, hints, and streams that stay apart.

#![forbid(unsafe_code)]

use std::net::TcpListener;
use std::process::{Command, Output, Stdio};

fn catena(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_catena"))
        .args(args)
        .env_remove("CATENA_BROKER")
        .stdin(Stdio::null())
        .output()
        .expect("the program starts")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// An address where nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").to_string()
}

#[test]
fn help_documents_the_exit_codes() {
    let output = catena(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for code in [
        "0  done",
        "3  not found",
        "4  the broker is unavailable",
        "5  stored data",
    ] {
        assert!(text.contains(code), "{code} is not in:\n{text}");
    }
}

#[test]
fn wrong_usage_is_told_from_failure() {
    let wrong: [&[&str]; 12] = [
        &[],
        &["topic"],
        &["topic", "create", "t", "--partitions", "0"],
        &["topic", "create", "t", "--retention-bytes", "10 gigs"],
        &["topic", "alter", "t"],
        &["consume", "t", "--from", "yesterday"],
        &["produce", "t", "--key-separator", ""],
        &["produce", "t", "--acks", "none", "--acked", "no-dir/acked"],
        &["produce", "t", "--file", "."],
        &["topic", "list", "--timeout", "0s"],
        &["journal", "dump", ".", "--blocks", "--frames"],
        &["journal", "verify", ".", "--broker", "a:1"],
    ];
    for args in wrong {
        let output = catena(args);
        assert_eq!(
            output.status.code(),
            Some(2),
            "{args:?}: {}",
            stderr(&output)
        );
        assert!(output.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn an_option_that_is_wrong_is_named() {
    let output = catena(&["topic", "list", "--timeout", "0s"]);
    assert!(stderr(&output).contains("--timeout"), "{}", stderr(&output));
    assert!(stderr(&output).contains("at least 10ms"));
    let acked = ["--acks", "none", "--acked", "no-dir/acked"];
    let output = catena(&[&["produce", "t"], &acked[..]].concat());
    assert!(stderr(&output).contains("hint: use --acks received"));
}

#[test]
fn only_commands_that_need_a_broker_offer_to_reach_one() {
    let help = |command: &[&str]| {
        let output = catena(&[command, &["--help"]].concat());
        assert_eq!(output.status.code(), Some(0), "{command:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    for command in [&["topic", "list"][..], &["produce"], &["consume"], &[]] {
        let text = help(command);
        assert!(
            text.contains("--broker") && text.contains("--timeout"),
            "{text}"
        );
    }
    for command in ["dump", "verify", "repair"] {
        for text in [help(&["journal"]), help(&["journal", command])] {
            assert!(
                !text.contains("--broker") && !text.contains("--timeout"),
                "{text}"
            );
        }
    }
    // What stands before the command holds for all commands.
    let global = ["--broker", "a:1", "--timeout", "1s"];
    let output = catena(&[&global[..], &["journal", "verify", "no-such-dir"]].concat());
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
}

#[test]
fn an_input_file_that_is_not_there_is_wrong_usage() {
    let output = catena(&["produce", "t", "--file", "no-such-file"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no-such-file"));
}

#[test]
fn an_address_that_is_none_is_wrong_usage() {
    let output = catena(&["--broker", "nonsense", "topic", "list"]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("hint: "));
}

#[test]
fn an_absent_broker_is_unavailable_within_the_timeout() {
    let commands: [&[&str]; 4] = [
        &["topic", "list"],
        &["offsets", "t"],
        &["produce", "t"],
        &["consume", "t"],
    ];
    for command in commands {
        let broker = nobody();
        let output = catena(&[&["--broker", &broker, "--timeout", "300ms"], command].concat());
        assert_eq!(
            output.status.code(),
            Some(4),
            "{command:?}: {}",
            stderr(&output)
        );
        assert!(stderr(&output).contains(&broker), "{}", stderr(&output));
        assert!(
            stderr(&output).contains("hint: is the broker running"),
            "{}",
            stderr(&output)
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn what_is_waited_for_is_said_once() {
    let commands: [&[&str]; 3] = [
        &["topic", "list"],
        &["topic", "create", "t"],
        &["produce", "t"],
    ];
    let running = commands.map(|command| {
        let broker = nobody();
        let child = Command::new(env!("CARGO_BIN_EXE_catena"))
            .args(["--broker", &broker, "--timeout", "4s"])
            .args(command)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        (broker, child)
    });
    for (broker, child) in running {
        let output = child.wait_with_output().expect("the program ends");
        assert_eq!(output.status.code(), Some(4));
        let said = stderr(&output);
        let is_about_waiting = |line: &&str| line.starts_with("waiting for ");
        let waiting: Vec<_> = said.lines().filter(is_about_waiting).collect();
        assert_eq!(waiting.len(), 1, "{said}");
        let expected = format!("waiting for {broker}: Connection refused");
        assert!(waiting[0].starts_with(&expected), "{said}");
        assert!(waiting[0].ends_with("(up to 4s; --timeout)"), "{said}");
        assert!(!said.contains("a change may have been made"), "{said}");
        assert!(!said.contains("sent to"), "{said}");
    }
}

#[test]
fn the_environment_names_the_broker() {
    let broker = nobody();
    let output = Command::new(env!("CARGO_BIN_EXE_catena"))
        .args(["--timeout", "300ms", "topic", "list"])
        .env("CATENA_BROKER", &broker)
        .output()
        .expect("the program starts");
    assert_eq!(output.status.code(), Some(4));
    assert!(stderr(&output).contains(&broker));
}
