//! What the operator meets: a stop under load, refusals to start, the configuration.

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use catena_client::TopicConfig;
use catena_tests::broker::{Broker, Settings, program};
use catena_tests::command::said;
use catena_tests::load::Load;
use catena_tests::{reading, wait};

/// "This takes seconds."
const STOP_MAX: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_takes_seconds_and_the_producer_goes_on_after_it() {
    let mut broker = Broker::start_with(Settings::shards(2));
    let client = broker.client().await;
    let admin = client.admin();
    admin
        .create_topic("orders", 8, TopicConfig::default())
        .await
        .expect("a topic");
    let producer = client.producer().build().await.expect("a producer");
    let load = Load::start(producer, "orders", 8);
    for _ in 0..3 {
        load.until_acknowledged(3_000).await;
        let began = Instant::now();
        broker.terminate();
        assert_eq!(broker.exited().code(), Some(0));
        assert!(began.elapsed() < STOP_MAX, "{:?}", began.elapsed());
        broker.start_again();
    }
    load.until_acknowledged(3_000).await;
    let account = load.finish().await;
    assert!(
        account.failed.is_empty(),
        "{:?}",
        account.failed.iter().next()
    );
    account.check(&reading::contents(&broker.client().await, "orders").await);
    broker.stop();
}

#[test]
fn a_second_broker_on_the_same_data_is_refused_and_the_first_goes_on() {
    let mut broker = Broker::start();
    let output = program()
        .arg("--data-dir")
        .arg(broker.data_dir())
        .args([
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "off",
            "--space-bytes",
            "1GiB",
        ])
        .output()
        .expect("the broker program can be run");
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    let holder = format!("in use by process {}", broker.pid());
    assert!(said(&output).contains(&holder), "{}", said(&output));
    wait::until("the first one is well", || {
        broker.admin_get("/readyz").ends_with("ok\n")
    });
    broker.stop();
}

#[test]
fn a_lock_file_left_behind_by_a_crash_does_not_matter() {
    let mut broker = Broker::start();
    broker.kill();
    assert!(broker.data_dir().join("LOCK").exists());
    broker.start_again();
    broker.stop();
}

#[test]
fn a_port_in_use_is_named_and_leaves_the_data_usable() {
    let mut broker = Broker::start();
    broker.stop();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let addr = taken.local_addr().expect("an address").to_string();
    let output = program()
        .arg("--data-dir")
        .arg(broker.data_dir())
        .args(["--listen", &addr, "--admin", "off", "--space-bytes", "1GiB"])
        .output()
        .expect("the broker program can be run");
    assert_eq!(output.status.code(), Some(1), "{}", said(&output));
    assert!(said(&output).contains(&addr), "{}", said(&output));
    assert!(output.stdout.is_empty(), "it does not say that it is ready");
    broker.start_again();
    broker.stop();
}

#[test]
fn a_config_file_is_checked_key_by_key() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("broker.toml");
    let check = |text: &str| {
        fs::write(&path, text).expect("the file can be written");
        let mut command = program();
        command.arg("--config").arg(&path).arg("--check-config");
        command.output().expect("the broker program can be run")
    };
    let output = check("listen = \"127.0.0.1:7\"\nspace-bytes = \"2GiB\"\ncores = \"0\"\n");
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let effective = String::from_utf8(output.stdout).expect("TOML is text");
    assert!(
        effective.contains("listen = \"127.0.0.1:7\""),
        "{effective}"
    );
    // What it prints is a file that gives the same again.
    let again = check(&effective);
    assert_eq!(
        String::from_utf8_lossy(&again.stdout),
        effective,
        "{}",
        said(&again)
    );

    for (text, named) in [
        ("lissen = \"127.0.0.1:7\"\n", "lissen"),
        ("space-bytes = \"1 MiB\"\n", "space-bytes"),
        ("cores = \"0,0\"\n", "cores"),
        ("listen = \"nowhere\"\n", "listen"),
        ("listen = \n", "broker.toml"),
    ] {
        let output = check(text);
        assert_eq!(output.status.code(), Some(2), "{text:?}: {}", said(&output));
        assert!(said(&output).contains(named), "{text:?}: {}", said(&output));
    }
}
