//! The load generator's files: a workload, and a comparison that starts its brokers itself.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use catena_tests::broker::Broker;
use catena_tests::command::said;
use catena_tests::{programs, wait};
use rustix::process::{Pid, Signal, kill_process};

const WORKLOAD: &str = r#"
name = "a little of everything"
partitions = 4
lines = "lines.txt"
producers = 3
keys = "random-keys"
consumers = 2
catch_up_consumers = 1
phases = [
  { ramp = { from = 500, to = 1500, steps = 2 }, duration = "200ms" },
  { pace = "pause", duration = "100ms" },
  { pace = "max", duration = "200ms" },
  { pace = "replay", duration = "60s" },
]
"#;

fn bench(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(programs::bench())
        .args(arguments)
        .current_dir(dir)
        .output()
        .expect("the load generator can be run")
}

fn json(path: &Path) -> serde_json::Value {
    let text = fs::read_to_string(path).expect("the report was written");
    serde_json::from_str(&text).expect("the report is JSON")
}

/// Every acknowledged record, of every phase, comes to those who tail and to those who replay.
#[test]
fn a_workload_from_a_file_accounts_for_every_record() {
    let mut broker = Broker::start();
    let dir = tempfile::tempdir().expect("a temporary directory");
    fs::write(dir.path().join("workload.toml"), WORKLOAD).expect("a file");
    fs::write(dir.path().join("lines.txt"), "one\ntwo\nthree\n").expect("a file");
    let (json_file, html) = (dir.path().join("r.json"), dir.path().join("r.html"));
    let output = bench(
        dir.path(),
        &[
            "workload",
            "workload.toml",
            "--broker",
            broker.addr(),
            "--json",
            "r.json",
            "--html",
            "r.html",
        ],
    );
    assert!(output.status.success(), "{}", said(&output));
    let report = json(&json_file);
    let phases = report["phases"].as_array().expect("a list");
    assert_eq!(phases.len(), 5);
    let replay = &phases[4];
    for delivery in [&report["delivery"], &replay["delivery"]] {
        assert!(delivery["acknowledged"].as_u64() > Some(300), "{delivery}");
        for wrong in ["missing", "repeated", "out_of_order"] {
            assert_eq!(delivery[wrong], 0, "{wrong} in {delivery}");
        }
    }
    assert_eq!(phases[2]["throughput"]["records"], 0, "it paused");
    assert!(report["knee"].is_object(), "two rates were tried");
    let page = fs::read_to_string(html).expect("the page was written");
    assert!(page.contains("<svg") && page.contains("durable"));
    broker.stop();
}

/// An address of this process alone: a free port would be free for others, too.
fn own_address(port: u16) -> String {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    format!("127.77.{high}.{low}:{port}")
}

/// Two systems: one that is started, one that cannot be.
fn comparison(address: &str, duration: &str) -> String {
    let nobody = own_address(1);
    format!(
        r#"
        runs = 5
        [ceiling]
        bytes = 67_108_864
        seconds = 1
        [[systems]]
        name = "here"
        system = "catena"
        address = "{address}"
        command = ["catena-broker", "--data-dir", "{{dir}}/data", "--listen", "{address}",
                   "--admin", "off", "--cores", "0", "--cache-bytes", "64MiB"]
        [[systems]]
        name = "absent"
        system = "catena"
        address = "{nobody}"
        command = ["no-such-broker"]
        [[workloads]]
        name = "read back"
        verify = true
        phases = [{{ rate = 1000, duration = "{duration}" }}]
        "#
    )
}

/// What cannot be started is left out and named; the rest is compared.
#[test]
fn a_comparison_starts_its_brokers_and_leaves_out_what_does_not_start() {
    // The load generator looks for programs of this project beside itself.
    assert!(programs::broker().is_file());
    let dir = tempfile::tempdir_in(programs::scratch_dir()).expect("a directory on a disk");
    let config = comparison(&own_address(9640), "10s");
    fs::write(dir.path().join("compare.toml"), config).expect("a file");
    let arguments = [
        "compare",
        "--config",
        "compare.toml",
        "--quick",
        "--json",
        "r.json",
    ];
    let output = bench(dir.path(), &arguments);
    assert!(output.status.success(), "{}", said(&output));
    let report = json(&dir.path().join("r.json"));
    assert_eq!(report["left_out"][0]["name"], "absent");
    let runs = &report["workloads"][0]["systems"];
    assert_eq!(runs.as_array().map(Vec::len), Some(1));
    let verification = &runs[0]["runs"][0]["phases"][1]["delivery"];
    assert_eq!(verification["acknowledged"], 1000);
    assert_eq!(verification["missing"], 0);
    let shares = &report["summary"][0]["rows"][0]["shares"];
    assert_eq!(shares[0][0], "the lower ceiling", "{shares}");
    let left: Vec<_> = fs::read_dir(dir.path()).expect("it is there").collect();
    assert_eq!(left.len(), 2, "the brokers' data is removed: {left:?}");
    let named = bench(
        dir.path(),
        &[&arguments[..], &["--systems", "absent"]].concat(),
    );
    assert!(!named.status.success(), "who is named must run");
    let said = said(&named);
    assert!(said.contains("cannot start no-such-broker"), "{said}");
}

/// Nobody has to look for a broker that runs on, or for what it left on the disk.
#[test]
fn an_interrupted_comparison_leaves_nothing_behind() {
    assert!(programs::broker().is_file());
    let dir = tempfile::tempdir_in(programs::scratch_dir()).expect("a directory on a disk");
    let address = own_address(9641);
    fs::write(dir.path().join("compare.toml"), comparison(&address, "1h")).expect("a file");
    let mut child = Command::new(programs::bench())
        .args(["compare", "--config", "compare.toml"])
        .current_dir(dir.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the load generator can be run");
    wait::until("a broker listens", || TcpStream::connect(&address).is_ok());
    let pid = Pid::from_child(&child);
    kill_process(pid, Signal::TERM).expect("it runs");
    assert_eq!(child.wait().expect("it ends").code(), Some(128 + 15));
    wait::until("no broker listens", || {
        TcpStream::connect(&address).is_err()
    });
    let left: Vec<_> = fs::read_dir(dir.path()).expect("it is there").collect();
    assert_eq!(left.len(), 1, "only the file: {left:?}");
}
