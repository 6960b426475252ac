//! Everything that comes and goes in a long run, once: power cuts, kills, stops, connections,
//! topics, slow flushes, no space. Without root or FUSE this test says so and passes.

use std::time::Duration;

use catena_tests::churn::schedule::Event;
use catena_tests::churn::{Counts, Plan, run};
use catena_tests::machine::Layout;

#[test]
fn a_round_of_everything_and_a_calm_one_break_no_promise() {
    let layout = Layout::Direct;
    if let Err(reason) = layout.check_supported() {
        eprintln!("left out: churn: {reason}");
        return;
    }
    let plan = Plan {
        acknowledged: 40,
        connections: 60,
        ..Plan::new(Duration::ZERO, 1, layout)
    };
    let findings = run(&plan).expect("the host can do this");
    // Stalls and growth are for long runs on a host that does nothing else.
    let found: Vec<_> = findings.anomalies.iter().map(ToString::to_string).collect();
    assert!(found.is_empty(), "{}", found.join("\n"));
    let rounds: Vec<_> = findings
        .rows
        .iter()
        .map(|row| (row.round.is_calm, row.round.events.len()))
        .collect();
    assert_eq!(rounds, [(false, Event::ALL.len()), (true, 2)]);
    let expected = Counts {
        cuts: 2,
        kills: 1,
        // The event, the ends of both rounds, the end of the run.
        stops: 4,
        waves: 2,
        topics: 2,
        slow_spells: 1,
        full_spells: 1,
        connections: findings.counts.connections,
        refusals: findings.counts.refusals,
    };
    assert_eq!(findings.counts, expected);
    assert!(findings.counts.connections > 60, "{:?}", findings.counts);
    assert!(findings.turned_over_bytes > 0);
    assert!(
        findings
            .rows
            .iter()
            .all(|row| row.acknowledged > 0 && row.polled > 0)
    );
}
