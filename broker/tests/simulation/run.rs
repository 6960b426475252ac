//! One run: the clients at work, the node dying and coming back, and the check at the end.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use catena_broker::runtime::channel::Notify;
use catena_broker::runtime::clock;
use catena_broker::runtime::simulated::disk::FaultCounts;
use catena_broker::runtime::simulated::{self, Death, Domain, Options, Rng, Simulation};
use catena_protocol::error::ErrorCode;
use catena_protocol::ids::{PartitionId, TopicId, TopicPartition};
use catena_protocol::messages::{CreateTopicRequest, DeleteTopicRequest, TopicConfig};
use futures_util::future::{Either, select};

use crate::consumer;
use crate::model::Model;
use crate::node::{JOURNALS, Node};
use crate::plan::{Crash, Scenario, TopicPlan, Trouble};
use crate::producer;
use crate::quiet::quietly;
use crate::wire::{CallError, Wire};
use crate::world::{Topic, World};

/// Virtual time that a run may take from one crash to the next, and to its end.
const PROGRESS_MAX: Duration = Duration::from_secs(300);

/// Virtual time for some rounds of compaction.
const COMPACTION_TIME: Duration = Duration::from_secs(5);

/// What a run came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) seed: u64,
    /// A hash of everything that happened.
    pub(crate) trace: u64,
    /// What went wrong, if anything did.
    pub(crate) failure: Option<String>,
    pub(crate) crashes: u64,
    pub(crate) starts: u64,
    pub(crate) ios: u64,
    pub(crate) acks: u64,
    pub(crate) reads: u64,
    pub(crate) reported_lost: u64,
    pub(crate) faults: FaultCounts,
    pub(crate) virtual_ms: u64,
    /// Whether the node refused to start on a damaged disk, which ends a run early.
    pub(crate) refused: Option<String>,
}

/// Runs a seed.
pub(crate) fn run_seed(seed: u64, verbose: bool) -> Summary {
    let scenario = Scenario::draw(seed);
    if verbose {
        eprintln!("{scenario:#?}");
    }
    let options = Options {
        verbose,
        ..Options::with_seed(seed)
    };
    let (ran, place) = quietly(|| catch_unwind(AssertUnwindSafe(|| simulate(scenario, options))));
    let mut summary = ran.unwrap_or_else(|_| Summary {
        failure: Some("the simulation itself panicked".to_owned()),
        ..Summary::default()
    });
    if let Some(failure) = summary.failure.as_mut().filter(|_| !place.is_empty()) {
        *failure = format!("{failure} [{place}]");
    }
    summary.seed = seed;
    summary
}

fn simulate(scenario: Scenario, options: Options) -> Summary {
    let simulation = Simulation::new(options);
    let summary = Rc::new(Cell::new(Summary::default()));
    let result = simulation.run(whole(scenario, options.seed, Rc::clone(&summary)));
    let mut summary = summary.take();
    summary.failure = result.err().map(|halt| halt.to_string());
    summary.trace = simulation.trace();
    summary.virtual_ms = simulation.now_us() / 1000;
    summary
}

async fn whole(scenario: Scenario, seed: u64, summary: Rc<Cell<Summary>>) {
    let model = Model::new(scenario.trouble.tolerance());
    let world = World::new(Rc::clone(&model), Rng::new(seed).fork());
    simulated::with_disk(|disk| {
        disk.create_dir(JOURNALS.as_ref());
        disk.protect("/data/journals/999".as_ref());
        for (from_io, fault) in &scenario.faults {
            disk.plan_fault(*from_io, *fault);
        }
    });
    let finished = Rc::new(Notify::new());
    let told = Rc::clone(&finished);
    let driver = drive(Rc::clone(&world), scenario.clone());
    simulated::spawn_in(Domain(0), async move {
        driver.await;
        told.notify();
    })
    .detach();
    let mut keeper = Keeper {
        scenario,
        world,
        incarnation: 0,
        crashes: 0,
        failures: 0,
        refused: None,
    };
    keeper.until(&finished).await;
    if keeper.refused.is_none() {
        keeper.end().await;
    }
    let model = model.borrow();
    let (ios, faults) = simulated::with_disk(|disk| (disk.ios(), disk.fault_counts()));
    summary.set(Summary {
        crashes: keeper.crashes,
        starts: u64::from(keeper.incarnation),
        ios,
        faults,
        acks: model.acks,
        reads: model.reads,
        reported_lost: model.reported_lost,
        refused: keeper.refused.clone(),
        ..Summary::default()
    });
}

/// Makes the topics, runs the clients, and waits until the producers are through.
async fn drive(world: Rc<World>, scenario: Scenario) {
    let mut ids = Vec::new();
    for topic in &scenario.topics {
        ids.push(create(&world, topic).await);
    }
    world.producers.set(scenario.producers.len());
    for (sender, plan) in (1..).zip(&scenario.producers) {
        let plan = producer::Plan {
            sender,
            topic: scenario.topics[plan.topic].name.clone(),
            tp: TopicPartition::new(ids[plan.topic], PartitionId(plan.partition)),
            keys: plan.keys,
            batches: plan.batches,
            records_max: plan.records_max,
            record_bytes: plan.record_bytes,
            in_flight: plan.in_flight,
            durability: plan.durability,
            reconnects: plan.reconnects,
            pause_us: plan.pause_us,
        };
        simulated::spawn_in(Domain(0), producer::run(Rc::clone(&world), plan)).detach();
    }
    for plan in &scenario.readers {
        let plan = consumer::Plan {
            topic: scenario.topics[plan.topic].name.clone(),
            tp: TopicPartition::new(ids[plan.topic], PartitionId(plan.partition)),
            bytes_max: plan.bytes_max,
            rewinds: plan.rewinds,
            stalls: plan.stalls,
        };
        simulated::spawn_in(Domain(0), consumer::follow(Rc::clone(&world), plan)).detach();
    }
    for (topic, id) in scenario.topics.iter().zip(&ids) {
        if topic.is_deleted {
            world.pause().await;
            delete(&world, topic, *id).await;
        }
    }
    while world.producers.get() > 0 {
        world.producer_done.notified().await;
    }
    world.ending.set(true);
}

async fn create(world: &Rc<World>, topic: &TopicPlan) -> TopicId {
    let request = CreateTopicRequest {
        name: topic.name.clone(),
        partitions: topic.partitions,
        config: TopicConfig {
            retention_bytes: topic.retention_bytes,
            cleanup: topic.cleanup(),
            ..TopicConfig::default()
        },
    };
    let id = loop {
        let made: Result<TopicId, CallError> = async {
            let mut wire = Wire::connect(None).await?;
            match wire.call(&request).await {
                Ok(made) => Ok(made.topic),
                Err(CallError::Refused(ErrorCode::TopicExists)) => {
                    Ok(wire.describe(&topic.name).await?.topic.id)
                }
                Err(error) => Err(error),
            }
        }
        .await;
        match made {
            Ok(id) => break id,
            Err(error) => tolerate(world, &error),
        }
        world.pause().await;
    };
    let name = topic.name.clone();
    world.topics.borrow_mut().insert(name, Topic::Alive(id));
    for partition in 0..topic.partitions {
        let tp = TopicPartition::new(id, PartitionId(partition));
        let is_trimmed = topic.retention_bytes.is_some();
        world.model.borrow_mut().open(tp, is_trimmed, topic.keys);
    }
    id
}

async fn delete(world: &Rc<World>, topic: &TopicPlan, id: TopicId) {
    let request = DeleteTopicRequest {
        name: topic.name.clone(),
    };
    let note = |is_certain| {
        let name = topic.name.clone();
        let deleted = Topic::Deleted { is_certain };
        world.topics.borrow_mut().insert(name, deleted);
    };
    note(false);
    loop {
        let deleted = async { Wire::connect(None).await?.call(&request).await }.await;
        match deleted {
            Ok(_) | Err(CallError::Refused(ErrorCode::TopicNotFound)) => break,
            Err(error) => tolerate(world, &error),
        }
        world.pause().await;
    }
    note(true);
    for partition in 0..topic.partitions {
        let tp = TopicPartition::new(id, PartitionId(partition));
        world.model.borrow_mut().forget(tp);
    }
}

fn tolerate(world: &World, error: &CallError) {
    match error {
        CallError::Broken | CallError::Refused(ErrorCode::ShuttingDown | ErrorCode::Overloaded) => {
        }
        CallError::Refused(ErrorCode::StoreFailed) => world.note_store_failed(),
        CallError::Refused(other) => panic!("refused: a topic's change got {other:?}"),
    }
}

/// Starts the node again and again.
struct Keeper {
    scenario: Scenario,
    world: Rc<World>,
    incarnation: u32,
    crashes: u64,
    /// Starts in a row that failed.
    failures: u32,
    refused: Option<String>,
}

enum Event {
    Finished,
    Crashed,
    StoreFailed,
    Ended(String),
}

impl Keeper {
    fn start(&mut self) -> Node {
        self.incarnation += 1;
        let redeals = self.scenario.redeals;
        if self.incarnation > 1 && redeals > 0 && self.world.draw(|rng| rng.chance(1, redeals)) {
            self.scenario.node.shards = self.world.draw(|rng| [1, 2, 3][rng.index(3)]);
        }
        Node::start(self.scenario.node, self.incarnation)
    }

    /// Keeps the node going until the clients are through.
    async fn until(&mut self, finished: &Notify) {
        let mut crashes = std::mem::take(&mut self.scenario.crashes).into_iter();
        loop {
            let crash = crashes.next();
            arm(crash.as_ref());
            let node = self.start();
            let watched = clock::timeout(PROGRESS_MAX, self.watch(&node, finished)).await;
            let event = watched.unwrap_or_else(|_| panic!("stuck: no progress after healing"));
            match event {
                Event::Finished => {
                    self.finish(node).await;
                    return;
                }
                Event::Crashed => {
                    self.crashes += 1;
                    self.kill(node, crash.map_or(Death::PowerCut, |crash| crash.death));
                }
                Event::StoreFailed => {
                    self.may_fail("the store failed");
                    self.kill(node, self.some_death());
                }
                Event::Ended(why) => {
                    self.may_fail(&why);
                    self.kill(node, self.some_death());
                    self.failures += 1;
                    if self.failures > 4 {
                        self.refused = Some(why);
                        return;
                    }
                    clock::sleep(Duration::from_secs(1)).await;
                }
            }
            self.world.take_store_failed();
        }
    }

    async fn watch(&mut self, node: &Node, finished: &Notify) -> Event {
        let failures = Cell::new(self.failures);
        let troubles = async {
            let ended = std::pin::pin!(async {
                if let Err(why) = node.ready().await {
                    return why;
                }
                failures.set(0);
                node.ended().await
            });
            let failed = std::pin::pin!(self.world.wants_restart.notified());
            match select(ended, failed).await {
                Either::Left((why, _)) => Event::Ended(why),
                Either::Right(((), _)) => Event::StoreFailed,
            }
        };
        let ends = async {
            let finished = std::pin::pin!(finished.notified());
            let crashed = std::pin::pin!(simulated::crashed());
            // At once with the end it counts: a node that is dead cannot be stopped.
            match select(crashed, finished).await {
                Either::Left(((), _)) => Event::Crashed,
                Either::Right(((), _)) => Event::Finished,
            }
        };
        let event = {
            let (troubles, ends) = (std::pin::pin!(troubles), std::pin::pin!(ends));
            match select(ends, troubles).await {
                Either::Left((event, _)) | Either::Right((event, _)) => event,
            }
        };
        self.failures = failures.get();
        event
    }

    fn may_fail(&self, why: &str) {
        assert!(
            self.scenario.trouble.may_fail(),
            "the node failed without a cause: {why}"
        );
    }

    /// Also what closes a connection instead of being answered must have a cause.
    fn kill(&self, node: Node, death: Death) {
        let tolerance = self.scenario.trouble.tolerance();
        let is_excused = tolerance.damage || tolerance.read_errors;
        assert!(
            is_excused || node.damaged() == 0,
            "damage without a cause: the node counted it"
        );
        node.kill(death);
    }

    fn some_death(&self) -> Death {
        let is_kill = self.world.draw(|rng| rng.chance(1, 2));
        if is_kill {
            Death::Killed
        } else {
            Death::PowerCut
        }
    }

    /// The clients are through: nothing goes wrong any more.
    async fn finish(&mut self, node: Node) {
        simulated::with_disk(|disk| {
            disk.crash_at_io(None);
            disk.heal();
        });
        if self.scenario.ends_orderly && self.scenario.trouble != Trouble::Errors {
            let stopped = clock::timeout(PROGRESS_MAX, node.stop()).await;
            assert!(stopped.is_ok(), "stuck: the node does not stop");
        }
        self.kill(node, Death::PowerCut);
    }

    /// Starts the node once more and reads everything.
    async fn end(&mut self) {
        let mut topics = self.scenario.topics.iter();
        if topics.any(|topic| topic.keys.is_some()) {
            // What compaction left out meanwhile stays out after one more power cut.
            let Some(node) = self.start_well().await else {
                return;
            };
            for _ in 0..2 {
                self.check_in_time().await;
                // Time for more passes, and to free what they left.
                clock::sleep(COMPACTION_TIME).await;
            }
            self.kill(node, Death::PowerCut);
        }
        let Some(node) = self.start_well().await else {
            return;
        };
        self.check_in_time().await;
        clock::sleep(COMPACTION_TIME).await;
        let stopped = clock::timeout(PROGRESS_MAX, node.stop()).await;
        assert!(stopped.is_ok(), "stuck: the node does not stop");
        self.kill(node, Death::Killed);
    }

    /// Starts the node on a disk that works; none if that is damaged and the node says so.
    async fn start_well(&mut self) -> Option<Node> {
        let node = self.start();
        let Err(why) = node.ready().await else {
            return Some(node);
        };
        self.may_fail(&why);
        assert!(
            self.scenario.trouble == Trouble::Damage,
            "the node does not start on a disk that works: {why}"
        );
        self.refused = Some(why);
        None
    }

    async fn check_in_time(&self) {
        let checked = clock::timeout(PROGRESS_MAX, self.check()).await;
        assert!(checked.is_ok(), "stuck: the final read does not end");
    }

    async fn check(&self) {
        let topics = self.world.topics.borrow().clone();
        for (name, topic) in topics {
            match topic {
                Topic::Alive(id) => {
                    let partitions = self.world.model.borrow().partitions();
                    for tp in partitions {
                        if tp.topic == id {
                            self.world.check(&name, tp).await;
                        }
                    }
                }
                Topic::Deleted { is_certain } => {
                    let described = self.world.describe(&name).await;
                    let is_gone =
                        matches!(described, Err(CallError::Refused(ErrorCode::TopicNotFound)));
                    assert!(is_gone || !is_certain, "undone: topic {name} was deleted");
                }
            }
        }
    }
}

impl World {
    async fn check(self: &Rc<Self>, topic: &str, tp: TopicPartition) {
        consumer::check(self, topic, tp).await;
    }

    async fn describe(&self, topic: &str) -> Result<(), CallError> {
        Wire::connect(None).await?.describe(topic).await.map(drop)
    }
}

fn arm(crash: Option<&Crash>) {
    simulated::with_disk(|disk| {
        let at = crash.map(|crash| disk.ios() + crash.after_ios);
        disk.crash_at_io(at);
    });
}
