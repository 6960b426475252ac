//! What is true of a broker inside a program and of no other: it leaves the program alone, several
//! run side by side, it ends with its value, and in memory it needs no `io_uring`.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;

use catena_client::embedded::{EmbeddedBroker, EmbeddedError, Listen, Storage};
use catena_client::{Client, Record, TopicConfig};
use catena_tests::home::directory;
use catena_tests::{metrics, reading, wait};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompFilter, SeccompRule, TargetArch, apply_filter,
};

const RECORDS: usize = 500;

async fn start(storage: Storage) -> EmbeddedBroker {
    let started = EmbeddedBroker::builder().storage(storage).start();
    wait::within_limit("a start", started)
        .await
        .expect("the broker starts")
}

fn dir(path: &Path) -> Storage {
    Storage::Dir(path.to_owned())
}

/// Makes a topic and fills it.
async fn produce(client: &Client, topic: &str) {
    let admin = client.admin();
    let created = admin.create_topic(topic, 2, TopicConfig::default());
    created.await.expect("a topic");
    let producer = client.producer().build().await.expect("a producer");
    let mut handles = Vec::new();
    for number in 0..RECORDS {
        let record = Record::to(topic).value(number.to_string().repeat(50));
        handles.push(producer.send(record).await.expect("the record is accepted"));
    }
    for handle in handles {
        handle.await.expect("an ack");
    }
}

async fn count(client: &Client, topic: &str) -> usize {
    let contents = reading::contents(client, topic).await;
    contents.values().map(Vec::len).sum()
}

#[tokio::test]
async fn several_run_in_one_process_and_share_nothing() {
    let (one, two) = (directory(), directory());
    let brokers = [
        start(Storage::Memory).await,
        start(Storage::Memory).await,
        start(dir(one.path())).await,
        start(dir(two.path())).await,
    ];
    let mut clusters = Vec::new();
    for (number, broker) in brokers.iter().enumerate() {
        let client = broker.client().await.expect("a client connects");
        let topic = format!("of-{number}");
        produce(&client, &topic).await;
        let listed = client.admin().list_topics().await.expect("a list");
        let names: Vec<_> = listed.iter().map(|topic| topic.name.as_str()).collect();
        assert_eq!(names, [topic.as_str()]);
        assert_eq!(count(&client, &topic).await, RECORDS);
        clusters.push(client.cluster_id());
    }
    clusters.sort_unstable();
    clusters.dedup();
    assert_eq!(clusters.len(), brokers.len());
    for broker in brokers {
        broker.shutdown().await.expect("a clean stop");
    }
}

#[tokio::test]
async fn a_directory_keeps_what_was_acknowledged_however_its_broker_ends() {
    let place = directory();
    let broker = start(dir(place.path())).await;
    let client = broker.client().await.expect("a client connects");
    produce(&client, "first").await;
    broker.shutdown().await.expect("a clean stop");
    let broker = start(dir(place.path())).await;
    let client = broker.client().await.expect("a client connects");
    assert_eq!(count(&client, "first").await, RECORDS);
    produce(&client, "second").await;
    drop(broker);
    let broker = start(dir(place.path())).await;
    let client = broker.client().await.expect("a client connects");
    assert_eq!(count(&client, "first").await, RECORDS);
    assert_eq!(count(&client, "second").await, RECORDS);
    broker.shutdown().await.expect("a clean stop");
}

#[tokio::test]
async fn a_directory_that_is_in_use_or_of_others_is_refused() {
    let place = directory();
    let broker = start(dir(place.path())).await;
    let again = EmbeddedBroker::builder().storage(dir(place.path())).start();
    let refused = again.await.expect_err("one broker at a time");
    assert!(
        matches!(refused, EmbeddedError::DirectoryRefused { .. }),
        "{refused}"
    );
    broker.shutdown().await.expect("a clean stop");
    let foreign = directory();
    let thesis = foreign.path().join("thesis.txt");
    fs::write(&thesis, b"mine").expect("written");
    let started = EmbeddedBroker::builder()
        .storage(dir(foreign.path()))
        .start();
    let refused = started.await.expect_err("it is not empty");
    assert!(
        matches!(refused, EmbeddedError::DirectoryRefused { .. }),
        "{refused}"
    );
    let below = EmbeddedBroker::builder().storage(dir(&thesis.join("data")));
    let refused = below.start().await.expect_err("a file is in the way");
    assert!(
        matches!(refused, EmbeddedError::DirectoryRefused { .. }),
        "{refused}"
    );
    let words = refused.to_string();
    let names_it = words.contains(&thesis.display().to_string());
    assert!(names_it && words.contains("File exists"), "{words}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_an_error_and_not_the_end() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = taken.local_addr().expect("it listens");
    let started = EmbeddedBroker::builder().listen(Listen::Tcp(addr)).start();
    let refused = started.await.expect_err("the port is taken");
    assert!(
        refused.to_string().contains("cannot listen on"),
        "{refused}"
    );
}

#[tokio::test]
async fn clients_of_a_broker_that_has_stopped_are_told() {
    let broker = start(Storage::Memory).await;
    let settings = Client::builder().request_timeout(std::time::Duration::from_secs(3));
    let client = broker.client_with(settings).await.expect("a client");
    broker.shutdown().await.expect("a clean stop");
    let asked = wait::within_limit("an answer", client.admin().list_topics()).await;
    assert!(asked.is_err(), "nobody is there");
}

#[tokio::test]
async fn more_shards_than_one_serve_clients_inside_and_outside() {
    let place = directory();
    for storage in [Storage::Memory, dir(place.path())] {
        let settings = EmbeddedBroker::builder()
            .storage(storage)
            .shards(3)
            .listen(Listen::Tcp("127.0.0.1:0".parse().expect("an address")))
            .admin("127.0.0.1:0".parse().expect("an address"));
        let broker = settings.start().await.expect("the broker starts");
        let inside = broker.client().await.expect("a client connects");
        let addr = broker.local_addr().expect("it listens").to_string();
        let outside = Client::connect(&addr).await.expect("a client connects");
        let admin = inside.admin();
        let created = admin.create_topic("orders", 12, TopicConfig::default());
        created.await.expect("a topic");
        let producer = outside.producer().build().await.expect("a producer");
        for partition in 0..12 {
            let record = Record::to("orders").partition(partition).value("value");
            producer.send_and_wait(record).await.expect("an ack");
        }
        assert_eq!(count(&inside, "orders").await, 12);
        let admin = broker.admin_addr().expect("it was asked for").to_string();
        let is_well = move || metrics::get(&admin, "/healthz").ends_with("ok\n");
        let well = tokio::task::spawn_blocking(|| wait::until("it is well", is_well));
        well.await.expect("it comes to be well");
        assert!(broker.failure().is_none());
        broker.shutdown().await.expect("a clean stop");
    }
}

/// Fails every `io_uring_setup` of the current thread, and of those that it starts, with `EPERM`,
/// as the default seccomp profile of containers does.
fn forbid_io_uring() {
    let arch = TargetArch::try_from(std::env::consts::ARCH).expect("a known architecture");
    let rules: BTreeMap<i64, Vec<SeccompRule>> = [425, 426, 427]
        .into_iter()
        .map(|io_uring_call| (io_uring_call, Vec::new()))
        .collect();
    let refuse = SeccompAction::Errno(1);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refuse, arch);
    let filter: BpfProgram = filter
        .expect("a filter")
        .try_into()
        .expect("it can be compiled");
    apply_filter(&filter).expect("the kernel takes it");
}

#[test]
fn in_memory_it_works_where_io_uring_is_forbidden_and_on_disk_it_says_why_not() {
    let confined = thread::spawn(|| {
        forbid_io_uring();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime").block_on(async {
            let place = directory();
            let started = EmbeddedBroker::builder().storage(dir(place.path())).start();
            let refused = started.await.expect_err("it needs io_uring");
            assert!(
                matches!(refused, EmbeddedError::HostRefused { .. }),
                "{refused}"
            );
            let words = refused.to_string();
            assert!(words.contains("io_uring is forbidden"), "{words}");
            assert!(
                words.ends_with("Storage::Memory does without it"),
                "{words}"
            );
            for listen in [
                Listen::None,
                Listen::Tcp("127.0.0.1:0".parse().expect("one")),
            ] {
                let settings = EmbeddedBroker::builder().listen(listen);
                let broker = settings.start().await.expect("the broker starts");
                let client = match broker.local_addr() {
                    None => broker.client().await,
                    Some(addr) => Client::connect(&addr.to_string()).await,
                };
                let client = client.expect("a client connects");
                assert!(
                    client
                        .admin()
                        .list_topics()
                        .await
                        .expect("a list")
                        .is_empty()
                );
                produce(&client, "orders").await;
                assert_eq!(count(&client, "orders").await, RECORDS);
                let deleted = client.admin().delete_topic("orders").await;
                deleted.expect("the topic is deleted");
                broker.shutdown().await.expect("a clean stop");
            }
        });
    });
    confined.join().expect("see above");
}
