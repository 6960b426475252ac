//! Admission against a plain model, and the two promises it makes under overload.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Operation {
    Push { source: u64, cost_bytes: usize },
    PushControl { cost_bytes: usize },
    Pop,
    Remove { source: u64 },
}

fn operation() -> impl Strategy<Value = Operation> {
    let cost = prop_oneof![0usize..2000, 0usize..1 << 20];
    prop_oneof![
        4 => (0u64..5, cost.clone())
            .prop_map(|(source, cost_bytes)| Operation::Push { source, cost_bytes }),
        1 => cost.prop_map(|cost_bytes| Operation::PushControl { cost_bytes }),
        4 => Just(Operation::Pop),
        1 => (0u64..5).prop_map(|source| Operation::Remove { source }),
    ]
}

/// What must hold of any fair queue: each source's items in order, nothing lost, sums right.
#[derive(Default)]
struct Model {
    waiting: BTreeMap<u64, VecDeque<(usize, u32)>>,
}

impl Model {
    fn bytes(&self) -> usize {
        self.waiting
            .values()
            .flatten()
            .map(|(cost_bytes, _)| cost_bytes)
            .sum()
    }

    fn len(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_or_reordered(
        operations in proptest::collection::vec(operation(), 0..300),
    ) {
        let mut admission = Admission::new();
        let mut model = Model::default();
        for (number, operation) in (0u32..).zip(operations) {
            match operation {
                Operation::Push { source, cost_bytes } => {
                    admission.push(source, cost_bytes, number);
                    model.waiting.entry(source).or_default().push_back((cost_bytes, number));
                }
                Operation::PushControl { cost_bytes } => {
                    admission.push_control(cost_bytes, number);
                    let queue = model.waiting.entry(CONTROL_SOURCE).or_default();
                    queue.push_back((cost_bytes, number));
                }
                Operation::Pop => {
                    let cost_bytes = admission.next_cost_bytes();
                    let popped = admission.pop();
                    prop_assert_eq!(popped.is_none(), model.len() == 0);
                    if let Some((source, value)) = popped {
                        let queue = model.waiting.entry(source).or_default();
                        prop_assert_eq!(queue.pop_front(), cost_bytes.map(|cost| (cost, value)));
                    }
                }
                Operation::Remove { source } => {
                    let expected = model.waiting.remove(&source).unwrap_or_default();
                    let expected: Vec<u32> = expected.into_iter().map(|(_, value)| value).collect();
                    prop_assert_eq!(admission.remove_source(source), expected);
                }
            }
            prop_assert_eq!(admission.len(), model.len());
            prop_assert_eq!(admission.bytes(), model.bytes());
            prop_assert_eq!(admission.is_empty(), model.len() == 0);
        }
    }

    #[test]
    fn sources_that_always_wait_are_served_alike(
        costs_max in proptest::collection::vec(1usize..1 << 20, 2..6),
        seed in proptest::collection::vec(any::<u32>(), 64),
    ) {
        let mut admission = Admission::new();
        let mut served = vec![0; costs_max.len()];
        let mut draws = seed.iter().cycle().map(|&draw| draw as usize);
        let mut refill = |admission: &mut Admission<usize>, index: usize| {
            let cost_bytes = draws.next().expect("the seed repeats") % costs_max[index] + 1;
            admission.push(index as u64, cost_bytes, cost_bytes);
        };
        for index in 0..costs_max.len() {
            refill(&mut admission, index);
            refill(&mut admission, index);
        }
        let apart_max = 2 * ADMISSION_QUANTUM_BYTES + (1 << 20);
        for _ in 0..2_000 {
            let (source, cost_bytes) = admission.pop().expect("every source waits");
            let index = usize::try_from(source).expect("sources are indexes here");
            served[index] += cost_bytes;
            refill(&mut admission, index);
            let most = served.iter().max().expect("there are sources");
            let least = served.iter().min().expect("there are sources");
            prop_assert!(most - least <= apart_max, "{served:?}");
        }
    }

    #[test]
    fn under_overload_control_and_data_both_have_their_share(
        control_cost in 1usize..200_000,
        data_cost in 1usize..1 << 20,
    ) {
        let mut admission = Admission::new();
        let (mut control, mut data) = (0, 0);
        for _ in 0..2 {
            admission.push_control(control_cost, ());
            admission.push(7, data_cost, ());
        }
        for _ in 0..5_000 {
            let (source, ()) = admission.pop().expect("both wait");
            if source == CONTROL_SOURCE {
                control += control_cost;
                admission.push_control(control_cost, ());
            } else {
                data += data_cost;
                admission.push(7, data_cost, ());
            }
            let share = data / CONTROL_DATA_RATIO;
            prop_assert!(control <= CONTROL_AHEAD_BYTES_MAX + share + control_cost);
        }
        // Rounding takes less than one byte of each data item from control's share.
        let earned = data / data_cost * (data_cost / CONTROL_DATA_RATIO);
        prop_assert!(control + data_cost >= earned);
    }
}

#[test]
fn control_comes_first_until_its_lead_is_used() {
    let mut admission = Admission::new();
    admission.push(1, 1000, "data");
    admission.push_control(CONTROL_AHEAD_BYTES_MAX, "promise");
    admission.push_control(10, "late");
    assert_eq!(admission.pop(), Some((CONTROL_SOURCE, "promise")));
    assert_eq!(admission.pop(), Some((1, "data")));
    assert_eq!(admission.pop(), Some((CONTROL_SOURCE, "late")));
    assert_eq!(admission.pop(), None);
}

#[test]
fn a_source_that_comes_back_has_one_turn_per_round() {
    let mut admission = Admission::new();
    admission.push(1, 10, 'a');
    assert_eq!(admission.remove_source(1), ['a']);
    admission.push(1, ADMISSION_QUANTUM_BYTES, 'b');
    admission.push(1, ADMISSION_QUANTUM_BYTES, 'c');
    admission.push(2, ADMISSION_QUANTUM_BYTES, 'd');
    let order: Vec<char> = std::iter::from_fn(|| admission.pop())
        .map(|(_, value)| value)
        .collect();
    assert_eq!(order, ['b', 'd', 'c']);
}
