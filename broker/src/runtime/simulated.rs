//! The simulated runtime: a whole node, and its clients, in one thread, decided by a seed.
//!
//! Inside [`Simulation::run`] the runtime's types are of this kind: tasks run in a random order,
//! the clock moves only when nothing can run, connections are queues in memory, and files lie on a
//! [disk](disk) that loses what was not flushed. The same seed gives the same run, to the bit:
//! [`Simulation::trace`] is a hash of everything that happened.
//!
//! Invariant: nothing here reads a real clock, draws real randomness or depends on an address in
//! memory. Everything of a simulation stays on the thread that made it.

pub mod disk;
mod executor;
mod network;
mod rng;
mod timers;
mod trace;

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;

pub(in crate::runtime) use executor::yield_now;
pub use executor::{Domain, Halt, JoinHandle};
pub(in crate::runtime) use network::{SimulatedConn, SimulatedListener};
pub use rng::Rng;
pub(in crate::runtime) use timers::Sleep;

use disk::Disk;
use executor::Executor;
use network::Network;
use timers::Timers;
use trace::Trace;

use super::channel::Notify;

/// Wall clock at the start of every simulation, in milliseconds since 1970.
const WALL_START_MS: i64 = 1_700_000_000_000;

thread_local! {
    static WORLD: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
}

/// Everything that a simulation consists of.
pub(in crate::runtime) struct World {
    executor: Executor,
    timers: Timers,
    network: Network,
    disk: Disk,
    trace: Trace,
    /// Set by an I/O at which the node is to die; the executor acts on it before anything else.
    crash: Cell<Option<Domain>>,
    crashed: Notify,
}

/// The world of the simulation that runs on this thread, if one does.
pub(in crate::runtime) fn world() -> Option<Rc<World>> {
    WORLD.with_borrow(Clone::clone)
}

/// The world, for what exists only inside a simulation.
fn this_world() -> Rc<World> {
    world().expect("called inside a simulation")
}

impl World {
    pub(in crate::runtime) fn now_us(&self) -> u64 {
        self.timers.now_us()
    }

    pub(in crate::runtime) fn wall_ms(&self) -> i64 {
        let elapsed_ms = i64::try_from(self.now_us() / 1000).expect("a simulation is short");
        WALL_START_MS + elapsed_ms
    }

    pub(in crate::runtime) fn spawn<F>(self: &Rc<Self>, future: F) -> JoinHandle<F::Output>
    where
        F: Future + 'static,
        F::Output: 'static,
    {
        self.executor.spawn(self.executor.domain(), future)
    }

    /// Lets other tasks go first, one time in four.
    pub(in crate::runtime) async fn yield_sometimes(&self) {
        if self.executor.draws_yield() {
            yield_now().await;
        }
    }

    pub(in crate::runtime) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Ends the running domain as soon as the task that runs gives way.
    fn crash_here(&self) {
        self.crash.set(Some(self.executor.domain()));
    }
}

/// How a simulation behaves.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Decides everything.
    pub seed: u64,
    /// Polls after which a run counts as one that never ends.
    pub polls_max: u64,
    /// Prints each event to standard error.
    pub verbose: bool,
}

impl Options {
    /// The usual options with a seed.
    pub const fn with_seed(seed: u64) -> Options {
        Options {
            seed,
            polls_max: 20_000_000,
            verbose: false,
        }
    }
}

/// A simulated world: a disk, a network, a clock, and tasks.
///
/// ```
/// use std::time::Duration;
///
/// use catena_broker::runtime::clock;
/// use catena_broker::runtime::simulated::{Options, Simulation};
///
/// let simulation = Simulation::new(Options::with_seed(7));
/// let slept_us = simulation.run(async {
///     let start_us = clock::now_us();
///     clock::sleep(Duration::from_secs(3600)).await;
///     clock::now_us() - start_us
/// });
/// assert!(slept_us.expect("nothing panics") >= 3_600_000_000);
/// ```
pub struct Simulation {
    world: Rc<World>,
}

impl Simulation {
    /// A world in which nothing has happened.
    #[must_use]
    pub fn new(options: Options) -> Simulation {
        let mut seeds = Rng::new(options.seed);
        let world = Rc::new(World {
            executor: Executor::new(seeds.fork(), options.polls_max),
            timers: Timers::default(),
            network: Network::new(seeds.fork()),
            disk: Disk::new(seeds.fork()),
            trace: Trace::new(options.verbose),
            crash: Cell::new(None),
            crashed: Notify::new(),
        });
        super::random::seed(seeds.next_u64());
        Simulation { world }
    }

    /// Runs `main`, and all tasks that it spawns, until `main` completes.
    ///
    /// # Errors
    /// [`Halt`]: a task panicked, nothing can run any more, or the run does not end.
    ///
    /// # Panics
    /// If another simulation runs on this thread.
    pub fn run<T: 'static>(&self, main: impl Future<Output = T> + 'static) -> Result<T, Halt> {
        let _installed = Installed::new(Rc::clone(&self.world));
        executor::run(&self.world, main)
    }

    /// A hash of everything that happened so far.
    pub fn trace(&self) -> u64 {
        self.world.trace.hash()
    }

    /// Virtual microseconds that have passed.
    pub fn now_us(&self) -> u64 {
        self.world.now_us()
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        let _installed = Installed::new(Rc::clone(&self.world));
        executor::drop_all(&self.world);
    }
}

struct Installed;

impl Installed {
    fn new(world: Rc<World>) -> Installed {
        WORLD.with_borrow_mut(|slot| {
            assert!(slot.is_none(), "one simulation runs on a thread at a time");
            *slot = Some(world);
        });
        Installed
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        WORLD.with_borrow_mut(Option::take);
    }
}

/// What a node's death leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Death {
    /// The process is gone, the machine runs on: what was written stays.
    Killed,
    /// The power is gone: what was not flushed may be lost.
    PowerCut,
}

/// Spawns a task of a node. Its tasks, and those that they spawn, die together.
///
/// # Panics
/// Outside of a simulation, like everything below.
pub fn spawn_in<F>(domain: Domain, future: F) -> JoinHandle<F::Output>
where
    F: Future + 'static,
    F::Output: 'static,
{
    this_world().executor.spawn(domain, future)
}

/// Ends a node: drops all of its tasks, its connections and listeners, and reduces the disk to what
/// `death` leaves of it.
pub fn kill(domain: Domain, death: Death) {
    let world = this_world();
    world.network.forget(domain);
    executor::drop_domain(&world, domain);
    world.disk.crash(death);
    world.trace.event("kill", &[u64::from(domain.0)]);
}

/// Waits until an I/O at which a crash was asked for has stopped its node. What is left to do is
/// [`kill`].
pub async fn crashed() {
    this_world().crashed.notified().await;
}

/// The disk, to plan faults and crashes.
pub fn with_disk<T>(then: impl FnOnce(&Disk) -> T) -> T {
    then(&this_world().disk)
}
