//! A budget bounds what is held, and everyone gets done.

use super::*;
use crate::runtime::executor::{Queue, spawn, yield_now};
use crate::runtime::testing::run;

#[test]
fn what_exceeds_the_limit_is_not_charged_at_once() {
    let budget = Budget::new(100);
    let first = budget.try_charge(60).expect("there is room");
    assert!(budget.try_charge(41).is_none());
    drop(first);
    assert_eq!(budget.used_bytes(), 0);
    assert!(budget.try_charge(100).is_some());
}

#[test]
fn tasks_that_hold_bytes_and_need_more_all_get_done() {
    run(|| async {
        let budget = Budget::new(100);
        let most = Rc::new(Cell::new(0));
        let tasks: Vec<_> = (0..20)
            .map(|_| {
                let (budget, most) = (Rc::clone(&budget), Rc::clone(&most));
                spawn(Queue::Control, async move {
                    let mut charge = budget.charge();
                    for step in 1..=3 {
                        charge.grow_to(20 * step).await;
                        most.set(most.get().max(budget.used_bytes()));
                        yield_now().await;
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await;
        }
        assert_eq!(budget.used_bytes(), 0);
        // The limit, and what one task may hold above it.
        assert!((100..=160).contains(&most.get()), "{}", most.get());
    });
}

#[test]
fn what_shrinks_to_the_limit_lets_another_exceed_it() {
    run(|| async {
        let budget = Budget::new(100);
        let mut first = budget.charge();
        first.grow_to(150).await;
        let waiting = Rc::clone(&budget);
        let second = spawn(Queue::Control, async move {
            let mut charge = waiting.charge();
            charge.grow_to(120).await;
            waiting.used_bytes()
        });
        yield_now().await;
        assert_eq!(budget.used_bytes(), 150, "one may exceed it, not two");
        assert!(budget.is_crowded());
        first.shrink_to(50);
        assert!(!budget.is_crowded());
        assert_eq!(second.await, 170, "the limit holds for the first again");
        drop(first);
        assert_eq!(budget.used_bytes(), 0);
    });
}
