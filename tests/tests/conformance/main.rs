//! One set of promises, kept in every home of the broker: the same tests run against a server and
//! against embedded brokers, on disk and in memory, with a port and without.
//!
//! A case is named `conformance::HOME::CASE`. What only a process of its own can show (kills,
//! signals, metrics) is tested elsewhere.

mod clients;
mod compaction;
mod fetch;
mod idempotence;
mod limits;
mod offsets;
mod produce;
mod retention;
mod topics;

use catena_tests::home::{Home, Target};

/// Runs a case against a broker of its own.
fn run(target: Target, case: impl AsyncFnOnce(&mut Home)) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let mut home = Home::start(target).await;
        case(&mut home).await;
        home.stop().await;
    });
}

macro_rules! cases {
    ($target:expr; $($area:ident: $($case:ident),+;)+) => {$($(
        #[test]
        fn $case() {
            crate::run($target, crate::$area::$case);
        }
    )+)+};
}

/// The whole suite in each of these homes.
macro_rules! conformance {
    ($($home:ident: $target:ident,)+) => {$(
        mod $home {
            use catena_tests::home::Target;

            cases! {
                Target::$target;
                produce:
                    durable_is_acknowledged_with_its_offset_and_readable,
                    received_is_acknowledged_without_an_offset_and_readable_once_committed,
                    none_gets_no_reply_and_is_written,
                    a_topic_refuses_classes_below_its_minimum,
                    one_producer_can_name_a_class_per_record,
                    every_codec_gives_back_what_went_in_also_after_a_restart;
                idempotence:
                    a_request_sent_again_gets_the_same_offset_and_no_second_copy,
                    a_request_sent_twice_at_once_is_written_once,
                    a_very_old_request_sent_again_is_not_written_again,
                    a_gap_is_refused_with_the_expected_sequence,
                    every_batch_of_a_large_request_is_answered_also_if_all_are_refused,
                    an_older_epoch_is_fenced_also_after_a_restart,
                    a_producer_that_is_not_known_has_to_begin_at_0,
                    a_producer_id_is_given_once_also_across_restarts;
                fetch:
                    a_waiting_fetch_is_answered_when_data_comes,
                    a_fetch_that_finds_nothing_is_answered_empty_at_its_time,
                    a_fetch_waits_for_its_least_bytes_and_takes_less_at_its_time,
                    a_waiting_fetch_delays_no_other_request_of_its_connection;
                offsets:
                    offsets_are_found_by_time_also_after_a_restart,
                    an_empty_topic_has_offset_0_for_everything,
                    a_consumer_begins_where_it_was_told_to;
                retention:
                    retention_by_age_moves_the_log_start,
                    readers_below_the_log_start_follow_their_reset_policy;
                compaction:
                    of_each_key_the_newest_record_stays_also_after_a_restart,
                    offsets_stay_where_records_are_gone,
                    a_record_without_a_key_is_refused_where_keys_count;
                topics:
                    what_was_changed_of_a_topic_stays_changed,
                    a_topic_made_again_under_the_same_name_is_empty,
                    what_a_topic_may_not_be_is_refused_by_name,
                    requests_after_the_deletion_of_a_topic_are_refused,
                    a_fetch_that_waits_at_the_end_of_a_topic_is_answered_when_it_is_deleted,
                    users_of_a_deleted_topic_are_told;
                limits:
                    a_full_store_refuses_producers_serves_readers_and_survives_a_restart,
                    the_largest_batch_is_taken_and_a_larger_one_refused,
                    a_record_above_the_limit_is_refused_by_the_client;
                clients:
                    many_producers_keep_their_order_in_every_partition,
                    consumers_that_were_there_first_get_everything_as_it_comes;
            }
        }
    )+};
}

conformance! {
    server: Server,
    embedded_dir: EmbeddedDir,
    embedded_dir_tcp: EmbeddedDirTcp,
    embedded_memory: EmbeddedMemory,
    embedded_memory_tcp: EmbeddedMemoryTcp,
}
