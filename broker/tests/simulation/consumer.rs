//! Readers: one that follows a partition while everything else happens, and the one at the end.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use catena_broker::runtime::clock;
use catena_protocol::error::ErrorCode;
use catena_protocol::frame::Api;
use catena_protocol::ids::{Offset, SessionId, TopicPartition};
use catena_protocol::messages::{ErrorResponse, FetchInterest, FetchItem, FetchRequest, FetchView};

use crate::model::Value;
use crate::payload;
use crate::wire::{CallError, Wire};
use crate::world::World;

/// How a reader reads.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) topic: String,
    pub(crate) tp: TopicPartition,
    pub(crate) bytes_max: u32,
    /// One time in so many it starts over from the beginning; 0 for never.
    pub(crate) rewinds: u64,
    /// One time in so many it lets an answer wait for seconds; 0 for never.
    pub(crate) stalls: u64,
}

/// What one fetch brought.
enum Fetched {
    /// It was at the end.
    Nothing,
    Something,
    /// Try again on another connection.
    Again,
    /// The topic is gone.
    Gone,
}

struct Reader {
    world: Rc<World>,
    plan: Plan,
    next: u64,
    high_watermark: u64,
    log_start: u64,
    session: u32,
    /// What was known of the bounds when the last request was sent.
    bounds_before: (u64, u64),
    /// What a complete read collects.
    collected: Option<BTreeMap<u64, Value>>,
}

/// Reads until the run ends.
pub(crate) async fn follow(world: Rc<World>, plan: Plan) {
    let mut reader = Reader::new(&world, plan);
    while !world.ending.get() {
        match reader.connection().await {
            Ok(Fetched::Gone) => return,
            Ok(_) | Err(CallError::Broken) => world.pause().await,
            Err(CallError::Refused(code)) => {
                if reader.is_gone(code) {
                    return;
                }
                reader.tolerate(code);
                world.pause().await;
            }
        }
    }
}

/// Reads a partition to its end and checks everything that is known of it.
pub(crate) async fn check(world: &Rc<World>, topic: &str, tp: TopicPartition) {
    let plan = Plan {
        topic: topic.to_owned(),
        tp,
        bytes_max: 4 << 20,
        rewinds: 0,
        stalls: 0,
    };
    let mut reader = Reader::new(world, plan);
    reader.collected = Some(BTreeMap::new());
    loop {
        match reader.connection().await {
            Ok(Fetched::Nothing) => break,
            Ok(Fetched::Gone) => panic!("lost: topic {topic} of {tp}"),
            Ok(_) | Err(CallError::Broken) => world.pause().await,
            Err(CallError::Refused(code)) => {
                assert!(
                    code != ErrorCode::TopicNotFound && code != ErrorCode::UnknownPartition,
                    "lost: topic {topic} with {tp}: {code:?}"
                );
                reader.tolerate(code);
                world.pause().await;
            }
        }
    }
    let collected = reader.collected.take().unwrap_or_default();
    let bounds = (reader.log_start, reader.high_watermark);
    let mut model = world.model.borrow_mut();
    model.check_final(tp, bounds, &collected, clock::now_us());
}

impl Reader {
    fn new(world: &Rc<World>, plan: Plan) -> Reader {
        Reader {
            world: Rc::clone(world),
            plan,
            next: 0,
            high_watermark: 0,
            log_start: 0,
            session: 0,
            bounds_before: (0, 0),
            collected: None,
        }
    }

    /// Reads on one connection until there is nothing more, for a complete read, or it breaks.
    async fn connection(&mut self) -> Result<Fetched, CallError> {
        let tp = self.plan.tp;
        let mut wire = Wire::connect_to_owner(&self.plan.topic, tp.partition).await?;
        let mut begins = true;
        loop {
            if self.world.ending.get() && self.collected.is_none() {
                return Ok(Fetched::Nothing);
            }
            let rewinds = self.plan.rewinds;
            if rewinds > 0 && self.world.draw(|rng| rng.chance(1, rewinds)) {
                self.next = self.log_start;
                begins = true;
            }
            match self.fetch(&mut wire, begins).await? {
                Fetched::Nothing if self.collected.is_some() => return Ok(Fetched::Nothing),
                Fetched::Nothing | Fetched::Something => begins = false,
                Fetched::Again => {
                    self.world.pause().await;
                    begins = true;
                }
                Fetched::Gone => return Ok(Fetched::Gone),
            }
        }
    }

    async fn fetch(&mut self, wire: &mut Wire, begins: bool) -> Result<Fetched, CallError> {
        let interest = FetchInterest {
            topic: self.plan.tp.topic,
            partition: self.plan.tp.partition,
            offset: Offset::new(self.next),
            ..FetchInterest::default()
        };
        self.session += u32::from(begins && self.session == 0);
        let request = FetchRequest {
            session: SessionId(self.session),
            max_wait_ms: 300,
            min_bytes: 1,
            max_bytes: self.plan.bytes_max,
            add: if begins { vec![interest] } else { Vec::new() },
            ..FetchRequest::default()
        };
        self.bounds_before = self.world.model.borrow_mut().bounds_so_far(self.plan.tp);
        let mut frame = Vec::new();
        request.encode(wire.correlation(), &mut frame);
        wire.send(&frame).await?;
        let stalls = self.plan.stalls;
        if stalls > 0 && self.world.draw(|rng| rng.chance(1, stalls)) {
            let seconds = self.world.draw(|rng| rng.between(1, 20));
            clock::sleep(Duration::from_secs(seconds)).await;
        }
        let answer = wire.receive().await?;
        if Api::from_wire(answer.prefix.api) != Some(Api::Fetch) {
            let error = ErrorResponse::decode(&answer.header).expect("an error");
            return Err(CallError::Refused(error.code));
        }
        let view = FetchView::decode(&answer.header, answer.prefix.payload_bytes());
        let view = view.expect("fetch responses are well formed");
        let mut fetched = Fetched::Nothing;
        for (item, range) in view.items_in_payload() {
            assert_eq!(item.tp(), self.plan.tp, "nothing else was asked for");
            fetched = self.take(&item, &answer.payload[range])?;
        }
        if self.collected.is_some() && self.next < self.high_watermark {
            return Ok(match fetched {
                Fetched::Nothing => Fetched::Something,
                other => other,
            });
        }
        Ok(fetched)
    }

    fn take(&mut self, item: &FetchItem, payload: &[u8]) -> Result<Fetched, CallError> {
        match item.error {
            ErrorCode::None => {}
            ErrorCode::OffsetOutOfRange => return Ok(self.out_of_range(item)),
            ErrorCode::DataCorrupt => {
                let next = item.high_watermark.get();
                let mut model = self.world.model.borrow_mut();
                model.reported_lost(self.plan.tp, self.next, next);
                self.next = next;
                return Ok(Fetched::Again);
            }
            code if self.is_gone(code) => return Ok(Fetched::Gone),
            code => {
                if code != ErrorCode::NotOwner {
                    self.tolerate(code);
                }
                // An interest that ended in an error begins anew, maybe elsewhere.
                if code == ErrorCode::Internal {
                    return Ok(Fetched::Again);
                }
                return Err(CallError::Broken);
            }
        }
        self.note_bounds(item);
        let Some(fetched) = payload::records(self.plan.tp, payload) else {
            return Ok(Fetched::Nothing);
        };
        let first = fetched.offsets.start;
        assert!(
            first <= self.next,
            "skipped: {} asked for {}, got {first}",
            self.plan.tp,
            self.next
        );
        for (offset, value) in fetched.records {
            assert!(
                offset < self.high_watermark,
                "above the high watermark: {} offset {offset}",
                self.plan.tp
            );
            self.world
                .model
                .borrow_mut()
                .read(self.plan.tp, offset, value);
            if let Some(collected) = &mut self.collected {
                collected.insert(offset, value);
            }
        }
        self.next = self.next.max(fetched.offsets.end);
        Ok(Fetched::Something)
    }

    /// The log start passed this reader by, which only a policy does.
    fn out_of_range(&mut self, item: &FetchItem) -> Fetched {
        self.note_bounds(item);
        assert!(
            self.next < self.log_start || self.world.model.borrow().tolerance.damage,
            "read above the commit: {} offset {} of {}..{}",
            self.plan.tp,
            self.next,
            self.log_start,
            self.high_watermark
        );
        self.next = self.next.clamp(self.log_start, self.high_watermark);
        Fetched::Again
    }

    fn note_bounds(&mut self, item: &FetchItem) {
        (self.log_start, self.high_watermark) = (item.log_start.get(), item.high_watermark.get());
        let mut model = self.world.model.borrow_mut();
        let now = (self.log_start, self.high_watermark);
        model.bounds(self.plan.tp, self.bounds_before, now);
    }

    fn is_gone(&self, code: ErrorCode) -> bool {
        matches!(code, ErrorCode::TopicNotFound | ErrorCode::UnknownPartition)
            && self.world.is_deleted(&self.plan.topic)
    }

    fn tolerate(&self, code: ErrorCode) {
        let tolerance = self.world.model.borrow().tolerance;
        match code {
            ErrorCode::Internal if tolerance.read_errors || tolerance.damage => {}
            ErrorCode::ShuttingDown
            | ErrorCode::NotOwner
            | ErrorCode::WrongNode
            | ErrorCode::Overloaded => {}
            other => panic!("refused: {:?} got {other:?}", self.plan),
        }
    }
}
