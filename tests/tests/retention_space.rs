//! Retention by bytes: the disk stays bounded however much is produced.

use std::fs;
use std::path::Path;

use catena_client::TopicConfig;
use catena_tests::broker::{Broker, Settings};
use catena_tests::compacting::contents_unless_overtaken;
use catena_tests::filler::{self, VALUE_BYTES};
use catena_tests::{reading, wait};

const MIB: u64 = 1 << 20;
const RETENTION_BYTES: u64 = 8 * MIB;
const SPACE_BYTES: u64 = 64 * MIB;

/// Bytes that files take below a directory.
fn disk_bytes(dir: &Path) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(dir).expect("a directory") {
        // A file may be renamed or removed meanwhile.
        let Ok(entry) = entry else { continue };
        let Ok(found) = entry.metadata() else {
            continue;
        };
        bytes += if found.is_dir() {
            disk_bytes(&entry.path())
        } else {
            found.len()
        };
    }
    bytes
}

fn small_space() -> Settings {
    Settings {
        space: SPACE_BYTES.to_string(),
        ..Settings::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_by_bytes_keeps_the_disk_bounded_through_many_times_its_size() {
    let mut broker = Broker::start_with(small_space());
    let client = broker.client().await;
    let config = TopicConfig {
        retention_bytes: Some(RETENTION_BYTES),
        ..TopicConfig::default()
    };
    client
        .admin()
        .create_topic("kept", 1, config)
        .await
        .expect("a topic");
    // 160 MiB: 20 times the retention, and more than twice the space.
    let mut records = 0;
    for _ in 0..10 {
        filler::produce(&client, "kept", 256).await;
        records += 256;
        let journal = disk_bytes(&broker.data_dir().join("journals/000"));
        assert!(journal <= SPACE_BYTES + 2 * MIB, "{journal} bytes on disk");
    }
    wait::until_async("the log start follows", async || {
        let kept = records - reading::log_start(&client, "kept").await;
        kept * u64::try_from(VALUE_BYTES).expect("64 KiB") <= RETENTION_BYTES + 2 * MIB
    })
    .await;
    let kept = wait::until_some_async("the log start rests", async || {
        contents_unless_overtaken(&client, "kept", 0).await
    });
    let kept = kept.await;
    let bytes: usize = kept
        .iter()
        .filter_map(|record| record.value.as_ref())
        .map(bytes::Bytes::len)
        .sum();
    let bytes = u64::try_from(bytes).expect("usize fits u64");
    assert!(
        bytes >= RETENTION_BYTES - MIB,
        "no more goes than has to: {bytes}"
    );
    assert!(broker.metric("catena_segments_freed_total") > 0);

    let before = reading::ends(&client, "kept").await;
    broker.kill();
    broker.start_again();
    let client = broker.client().await;
    let after = reading::ends(&client, "kept").await;
    assert_eq!(after[&0].1, before[&0].1);
    assert!(
        after[&0].0 >= before[&0].0,
        "the log start does not go back"
    );
    broker.stop();
}
