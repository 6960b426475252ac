//! Executors pin, report every failure, beat while idle, cancel dropped tasks and end in order.

use std::cell::Cell;
use std::future::pending;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use super::engine::OpenFiles;
use super::heartbeat::BEAT;
use super::*;
use crate::runtime::buffer::Buffer;
use crate::runtime::channel;
use crate::runtime::testing::{run, wait_until};

fn failure_of<Fut>(main: impl FnOnce() -> Fut + Send + 'static) -> String
where
    Fut: Future<Output = ()> + 'static,
{
    let thread = start(ExecutorConfig::system("shard-7"), main).expect("an executor starts");
    let ended = thread.join().expect("panics are reported as errors");
    ended.expect_err("a panic is an error").to_string()
}

#[test]
fn the_result_of_main_is_returned() {
    assert_eq!(run(|| async { 42 }), 42);
}

#[test]
fn a_panic_in_main_is_reported_with_its_message() {
    let message = failure_of(|| async { panic!("the journal latched") });
    assert_eq!(message, "shard-7 panicked: the journal latched");
}

#[test]
fn a_panic_in_a_detached_task_ends_the_executor() {
    let message = failure_of(|| async {
        spawn(Queue::Background, async {
            panic!("block {} is missing", 3)
        })
        .detach();
        pending::<()>().await;
    });
    assert_eq!(message, "shard-7 panicked: block 3 is missing");
}

/// Panics when its owner is dropped.
struct PanicOnDrop(&'static str);

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        panic!("{}", self.0);
    }
}

#[test]
fn a_panic_in_a_destructor_ends_the_executor_and_not_the_process() {
    let pends_with = |bomb: PanicOnDrop| async move {
        let _bomb = bomb;
        pending::<()>().await;
    };
    let message = failure_of(move || async move {
        let task = spawn(
            Queue::Network,
            pends_with(PanicOnDrop("a count fell below 0")),
        );
        yield_now().await;
        drop(task);
        pending::<()>().await;
    });
    assert_eq!(message, "shard-7 panicked: a count fell below 0");

    let message = failure_of(move || async move {
        spawn(Queue::Network, pends_with(PanicOnDrop("a consequence"))).detach();
        yield_now().await;
        panic!("the cause");
    });
    assert_eq!(message, "shard-7 panicked: the cause");
}

#[test]
fn a_core_that_does_not_exist_is_an_error_at_start() {
    let config = ExecutorConfig::shard("shard-0", Some(1023));
    let error = start(config, || async {}).expect_err("no host has 1,024 cores");
    assert!(
        error
            .to_string()
            .starts_with("cannot pin shard-0 to core 1023: "),
        "{error}"
    );
}

#[test]
fn a_shard_runs_on_the_core_it_is_pinned_to() {
    let allowed = rustix::thread::sched_getaffinity(None).expect("the mask can be read");
    let core = (0..CpuSet::MAX_CPU)
        .find(|core| allowed.is_set(*core))
        .expect("at least one");
    let on_core = move || async move {
        let mask = rustix::thread::sched_getaffinity(None).expect("the mask can be read");
        (
            mask.count(),
            mask.is_set(core),
            host_cores() == Some(allowed),
        )
    };
    let thread = start(ExecutorConfig::shard("shard-0", Some(core)), on_core);
    let seen = thread
        .expect("an executor starts")
        .join()
        .expect("no panic")
        .expect("no error");
    assert_eq!(seen, (1, true, true));
}

#[test]
fn heartbeats_advance_while_idle_and_stop_at_the_end() {
    let config = ExecutorConfig::system("idle");
    let progress = Arc::clone(&config.progress);
    let (stop, stopped) = channel::bounded::<()>(1);
    let thread = start(config, move || async move { stopped.recv().await });
    let thread = thread.expect("an executor starts");
    for beats in [1, 5] {
        wait_until("the idle executor beats", || progress.beats() >= beats);
    }
    drop(stop);
    thread.join().expect("no panic").expect("no error");
    let at_end = progress.beats();
    run(|| clock_ticks(3));
    assert_eq!(progress.beats(), at_end);
}

async fn clock_ticks(ticks: u32) {
    for _ in 0..ticks {
        crate::runtime::clock::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[test]
fn a_task_returns_its_result_and_runs_in_every_queue() {
    let sum = run(|| async {
        let mut sum = 0;
        let queues = [
            Queue::Network,
            Queue::Journal,
            Queue::Control,
            Queue::Cold,
            Queue::Background,
        ];
        for (index, queue) in queues.into_iter().enumerate() {
            sum += spawn(queue, async move {
                10_usize.pow(index.try_into().expect("small"))
            })
            .await;
        }
        sum
    });
    assert_eq!(sum, 11_111);
}

/// Counts when its owner is dropped.
struct OnDrop(Rc<Cell<u32>>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.set(self.0.get() + 1);
    }
}

#[test]
fn dropping_a_task_cancels_it_and_detaching_does_not() {
    run(|| async {
        let dropped = Rc::new(Cell::new(0));
        let guard = OnDrop(Rc::clone(&dropped));
        let task = spawn(Queue::Control, async move {
            let _guard = guard;
            pending::<()>().await;
        });
        yield_now().await;
        assert_eq!(dropped.get(), 0);
        drop(task);
        while dropped.get() == 0 {
            yield_now().await;
        }

        let (sender, receiver) = channel::oneshot();
        spawn(Queue::Control, async move {
            yield_now().await;
            sender.send(7).expect("the receiver waits");
        })
        .detach();
        assert_eq!(receiver.await, Some(7));
    });
}

#[test]
fn a_cancelled_task_has_dropped_its_future() {
    run(|| async {
        let dropped = Rc::new(Cell::new(0));
        let guard = OnDrop(Rc::clone(&dropped));
        let task = spawn(Queue::Background, async move {
            let _guard = guard;
            pending::<()>().await;
        });
        assert_eq!(task.cancel().await, None);
        assert_eq!(dropped.get(), 1);
    });
}

#[test]
fn tasks_that_are_left_over_do_not_hurt_the_end() {
    // A queued task that owns another task: its destructor needs the executor.
    let leave_tasks = || {
        let owned = spawn(Queue::Background, pending::<()>());
        spawn(Queue::Background, owned).detach();
        spawn(Queue::Cold, pending::<()>()).detach();
    };
    assert_eq!(
        run(move || async move {
            leave_tasks();
            7
        }),
        7
    );
    let message = failure_of(move || async move {
        leave_tasks();
        panic!("in the middle");
    });
    assert_eq!(message, "shard-7 panicked: in the middle");
}

#[test]
fn an_end_gives_everything_back_also_after_a_panic() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").expect("procfs").count();
    // Each has three: epoll, eventfd, ring. Other tests of this process open and close
    // descriptors, too, hence the several tries.
    wait_until("the descriptors are closed", || {
        let before = descriptors();
        for _ in 0..20 {
            run(|| async { spawn(Queue::Network, async {}).await });
            failure_of(|| async { panic!("in the middle") });
        }
        descriptors() < before + 20
    });
}

#[test]
fn tasks_that_are_left_are_dropped_with_the_executor() {
    let leave_a_task = |told: channel::Sender<()>| {
        spawn(Queue::Background, async move {
            let _told = told;
            pending::<()>().await;
        })
        .detach();
    };
    let (told, dropped) = channel::bounded::<()>(1);
    run(move || async move { leave_a_task(told) });
    assert_eq!(dropped.recv_blocking(), None, "after an orderly end");
    let (told, dropped) = channel::bounded::<()>(1);
    failure_of(move || async move {
        leave_a_task(told);
        yield_now().await;
        panic!("in the middle");
    });
    assert_eq!(dropped.recv_blocking(), None, "after a panic");
}

#[test]
fn a_task_that_another_thread_wakes_runs_soon() {
    const ROUNDS: u32 = 5_000;
    let (there, arrived) = channel::bounded::<u32>(1);
    let (back, returned) = channel::bounded::<u32>(1);
    let config = ExecutorConfig::system("answers");
    let thread = start(config, move || async move {
        while let Some(number) = arrived.recv().await {
            back.send(number).await.expect("the test waits");
        }
    });
    let thread = thread.expect("an executor starts");
    let mut late = 0;
    for round in 0..ROUNDS {
        let asked = Instant::now();
        there.send_blocking(round).expect("it answers");
        assert_eq!(returned.recv_blocking(), Some(round));
        late += u32::from(asked.elapsed() >= BEAT / 4);
    }
    // A wake-up that was lost is made good by the next heartbeat, half of one later on average.
    assert!(late < ROUNDS / 50, "{late} of {ROUNDS}");
    drop(there);
    thread.join().expect("no panic").expect("no error");
}

#[test]
fn queues_share_the_time_by_their_parts() {
    let turns = run(|| async {
        let stop = Rc::new(Cell::new(false));
        let busy = |queue| {
            let (stop, turns) = (Rc::clone(&stop), Rc::new(Cell::new(0_u64)));
            let counted = Rc::clone(&turns);
            spawn(queue, async move {
                while !stop.get() {
                    work_for_us(20);
                    counted.set(counted.get() + 1);
                    yield_now().await;
                }
            })
            .detach();
            turns
        };
        let (network, background) = (busy(Queue::Network), busy(Queue::Background));
        while background.get() < 50 {
            clock_ticks(1).await;
        }
        stop.set(true);
        (network.get(), background.get())
    });
    let ratio = turns.0 / turns.1;
    assert!((10..=40).contains(&ratio), "20 to 1: {turns:?}");
}

fn work_for_us(us: u64) {
    let until_us = crate::runtime::clock::now_us() + us;
    while crate::runtime::clock::now_us() < until_us {}
}

#[test]
fn a_task_that_held_the_executor_does_not_silence_its_queue_for_long() {
    let turns = run(|| async {
        let stop = Rc::new(Cell::new(false));
        let (flag, turns) = (Rc::clone(&stop), Rc::new(Cell::new(0_u64)));
        let counted = Rc::clone(&turns);
        let busy = spawn(Queue::Network, async move {
            while !flag.get() {
                work_for_us(20);
                counted.set(counted.get() + 1);
                yield_now().await;
            }
        });
        let held = spawn(Queue::Background, async move {
            work_for_us(100_000);
            let before = turns.get();
            yield_now().await;
            turns.get() - before
        });
        let turns = held.await;
        stop.set(true);
        busy.await;
        turns
    });
    // 200 ms of the other queue, not the 2 s that 100 ms cost at a twentieth.
    assert!(turns < 15_000, "{turns} turns of 20 us before the next one");
}

/// Reads up to a page with the ring of this executor.
async fn read_page(file: impl Into<OwnedFd>) -> Buffer {
    let engine = engine::engine();
    let OpenFiles::Host(ring) = &engine.files else {
        panic!("the files of this executor are the host's");
    };
    let file = Rc::new(file.into());
    let read = ring.read(&file, buffer::allocate(4096), 4096, 0).await;
    read.expect("a readable file")
}

#[test]
fn files_are_served_after_each_round_not_each_turn() {
    const READS: u64 = 100;
    let rounds = run(|| async {
        let stop = Rc::new(Cell::new(false));
        let (flag, rounds) = (Rc::clone(&stop), Rc::new(Cell::new(0_u64)));
        let counted = Rc::clone(&rounds);
        let busy = spawn(Queue::Network, async move {
            while !flag.get() {
                work_for_us(20);
                counted.set(counted.get() + 1);
                yield_now().await;
            }
        });
        let reading = spawn(Queue::Journal, async {
            let mut file = tempfile::tempfile().expect("a temporary file");
            file.write_all(&[7; 4096]).expect("room for a page");
            for _ in 0..READS {
                let again = file.try_clone().expect("a free descriptor");
                assert_eq!(read_page(again).await[..], [7; 4096]);
            }
        });
        reading.await;
        stop.set(true);
        busy.await;
        rounds.get()
    });
    // The page cache has it: a read is done as soon as it is submitted. A turn has 25 rounds.
    assert!(rounds < 5 * READS, "{rounds} rounds for {READS} reads");
}

#[test]
fn a_busy_task_gives_way_as_soon_as_a_file_operation_is_done() {
    const READS: u64 = 50;
    let turns = run(|| async {
        let mut turns = 0;
        for _ in 0..READS {
            let (read_end, write_end) = std::io::pipe().expect("a pipe");
            let is_read = Rc::new(Cell::new(false));
            let flag = Rc::clone(&is_read);
            let reading = spawn(Queue::Journal, async move {
                assert_eq!(read_page(read_end).await[..], [1]);
                flag.set(true);
            });
            clock_ticks(1).await;
            (&write_end).write_all(&[1]).expect("room for a byte");
            while !is_read.get() {
                work_for_us(20);
                turns += 1;
                yield_if_needed().await;
            }
            reading.await;
        }
        turns
    });
    // A turn that is waited for has up to 25 of them.
    assert!(
        turns < 5 * READS,
        "{turns} turns of 20 us for {READS} reads"
    );
}

#[test]
fn a_tracker_waits_for_every_task() {
    run(|| async {
        let tracker = TaskTracker::new();
        tracker.wait().await;
        let done = Rc::new(Cell::new(0));
        for turns in 0..100 {
            let done = Rc::clone(&done);
            tracker.spawn(Queue::Background, async move {
                for _ in 0..turns {
                    yield_now().await;
                }
                done.set(done.get() + 1);
            });
        }
        assert_eq!(tracker.running(), 100);
        let other = tracker.clone();
        let waiting = spawn(Queue::Control, async move { other.wait().await });
        tracker.wait().await;
        waiting.await;
        assert_eq!((done.get(), tracker.running()), (100, 0));
    });
}

#[test]
fn an_idle_queue_saves_nothing_up_and_does_not_wait() {
    run(|| async {
        let stop = Rc::new(Cell::new(false));
        let flag = Rc::clone(&stop);
        // Far ahead in its own virtual time.
        let busy = spawn(Queue::Background, async move {
            while !flag.get() {
                yield_now().await;
            }
        });
        clock_ticks(2).await;
        let turns = Rc::new(Cell::new(0));
        for _ in 0..100 {
            let counted = Rc::clone(&turns);
            spawn(
                Queue::Network,
                async move { counted.set(counted.get() + 1) },
            )
            .await;
        }
        assert_eq!(turns.get(), 100);
        stop.set(true);
        busy.await;
    });
}

#[test]
fn a_busy_task_that_yields_lets_timers_through() {
    run(|| async {
        let stop = Rc::new(Cell::new(false));
        let flag = Rc::clone(&stop);
        let busy = spawn(Queue::Background, async move {
            while !flag.get() {
                yield_if_needed().await;
            }
        });
        clock_ticks(3).await;
        stop.set(true);
        busy.await;
    });
}
