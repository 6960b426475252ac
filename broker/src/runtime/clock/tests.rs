//! Sleeps last long enough, timeouts drop what they give up and leave no timer behind.

use std::cell::Cell;
use std::future::{pending, ready};
use std::rc::Rc;

use super::*;
use crate::runtime::channel::Notify;
use crate::runtime::testing::run;

#[test]
fn the_clock_is_shared_by_threads_and_never_goes_back() {
    let before = now_us();
    let elsewhere = std::thread::spawn(now_us)
        .join()
        .expect("the thread only reads a clock");
    assert!(before <= elsewhere && elsewhere <= now_us());
}

#[test]
fn the_wall_clock_is_past_the_year_2020() {
    assert!(wall_ms() > 1_577_836_800_000);
}

#[test]
fn a_sleep_lasts_at_least_as_long_as_asked() {
    run(|| async {
        let start = now_us();
        sleep(Duration::from_millis(3)).await;
        assert!(now_us() - start >= 3_000);
        let deadline = now_us() + 2_000;
        sleep_until(deadline).await;
        assert!(now_us() >= deadline);
        sleep_until(0).await;
    });
}

#[test]
fn a_timeout_drops_the_future_it_gave_up() {
    struct Dropped(Rc<Cell<bool>>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.set(true);
        }
    }
    run(|| async {
        let dropped = Rc::new(Cell::new(false));
        let guard = Dropped(Rc::clone(&dropped));
        let never = async move {
            let _guard = guard;
            pending::<()>().await;
        };
        assert_eq!(timeout(Duration::from_millis(2), never).await, Err(Elapsed));
        assert!(dropped.get());
    });
}

#[test]
fn a_ready_future_wins_over_a_passed_deadline() {
    run(|| async {
        assert_eq!(timeout(Duration::ZERO, ready(5)).await, Ok(5));
        assert_eq!(timeout(Duration::ZERO, pending::<()>()).await, Err(Elapsed));
    });
}

#[test]
fn timeouts_that_never_fire_leave_no_timer_behind() {
    run(|| async {
        let notify = Notify::new();
        for _ in 0..10_000 {
            notify.notify();
            let far = Duration::from_secs(1_000);
            timeout(far, notify.notified())
                .await
                .expect("already notified");
        }
        // Ten thousand armed timers would all be walked here.
        sleep(Duration::from_millis(1)).await;
    });
}
