//! Connections in memory: ordered, delayed, of limited capacity, and gone with their node.
//!
//! What is sent arrives after a delay that the seed chooses, in order. A connection takes no more
//! than its capacity until the peer reads. When a node dies its connections end; what had been sent
//! and not received may be lost, from some byte on.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::executor::Domain;
use super::rng::Rng;
use super::timers::Sleep;
use super::{Trace, this_world, world};
use crate::runtime::net::Lender;

/// Bytes that a direction holds, at least and at most.
const CAPACITY_BYTES: (u64, u64) = (4 << 10, 256 << 10);
/// How long bytes travel, in microseconds, at least and at most; and now and then for how long.
const DELAY_US: (u64, u64) = (10, 300);
const DELAY_LONG_US: u64 = 20_000;

pub(super) struct Network {
    rng: RefCell<Rng>,
    listeners: RefCell<BTreeMap<SocketAddr, Vec<Rc<Backlog>>>>,
    connections: RefCell<BTreeMap<u64, Rc<Pair>>>,
    /// Ends that are on their way from one executor to another.
    detached: RefCell<BTreeMap<u64, SimulatedConn>>,
    next: Cell<u64>,
}

impl Network {
    pub(super) fn new(rng: Rng) -> Network {
        Network {
            rng: RefCell::new(rng),
            listeners: RefCell::default(),
            connections: RefCell::default(),
            detached: RefCell::default(),
            next: Cell::new(1),
        }
    }

    /// Ends what a dead node had open.
    pub(super) fn forget(&self, domain: Domain) {
        self.listeners.borrow_mut().retain(|_, backlogs| {
            backlogs.retain(|backlog| backlog.domain != domain);
            !backlogs.is_empty()
        });
        self.detached.take().clear();
        let pairs: Vec<_> = self.connections.borrow().values().cloned().collect();
        for pair in pairs.iter().filter(|pair| pair.domain.get() == domain) {
            let keeps_bytes = self.rng.borrow_mut().chance(1, 2);
            for direction in &pair.directions {
                direction.end(keeps_bytes);
            }
        }
    }

    pub(super) fn clear(&self) {
        drop(self.detached.take());
        drop(self.listeners.take());
        drop(self.connections.take());
    }

    fn number(&self) -> u64 {
        let number = self.next.get();
        self.next.set(number + 1);
        number
    }

    fn delay_us(&self) -> u64 {
        let mut rng = self.rng.borrow_mut();
        if rng.chance(1, 100) {
            rng.between(DELAY_US.1, DELAY_LONG_US)
        } else {
            rng.between(DELAY_US.0, DELAY_US.1)
        }
    }

    fn pair(&self) -> Rc<Pair> {
        let (least, most) = CAPACITY_BYTES;
        let capacity = self.rng.borrow_mut().between(least, most);
        let capacity = usize::try_from(capacity).expect("below 1 MiB");
        Rc::new(Pair {
            number: self.number(),
            domain: Cell::new(Domain(0)),
            directions: [Direction::new(capacity), Direction::new(capacity)],
        })
    }
}

/// Both directions of a connection.
struct Pair {
    number: u64,
    /// The node that it leads to.
    domain: Cell<Domain>,
    directions: [Direction; 2],
}

struct Direction {
    chunks: RefCell<VecDeque<(u64, Vec<u8>)>>,
    /// Bytes of the first chunk that were received already.
    taken: Cell<usize>,
    queued_bytes: Cell<usize>,
    capacity: usize,
    last_arrival_us: Cell<u64>,
    /// Nothing is sent any more.
    ended: Cell<bool>,
    /// Nothing is received any more.
    refused: Cell<bool>,
    receiver: RefCell<Option<Waker>>,
    sender: RefCell<Option<Waker>>,
}

impl Direction {
    fn new(capacity: usize) -> Direction {
        Direction {
            chunks: RefCell::default(),
            taken: Cell::new(0),
            queued_bytes: Cell::new(0),
            capacity,
            last_arrival_us: Cell::new(0),
            ended: Cell::new(false),
            refused: Cell::new(false),
            receiver: RefCell::new(None),
            sender: RefCell::new(None),
        }
    }

    fn wake(&self) {
        for waiter in [&self.receiver, &self.sender] {
            let waker = waiter.take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    fn end(&self, keeps_bytes: bool) {
        self.ended.set(true);
        self.refused.set(true);
        if !keeps_bytes {
            self.chunks.borrow_mut().clear();
            self.taken.set(0);
            self.queued_bytes.set(0);
        }
        self.wake();
    }

    fn try_send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let world = this_world();
        if self.ended.get() || self.refused.get() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let room = self.capacity - self.queued_bytes.get();
        let mut chunk = Vec::new();
        for slice in slices {
            let part = slice.len().min(room - chunk.len());
            chunk.extend_from_slice(&slice[..part]);
        }
        if chunk.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let arrival_us = world.now_us() + world.network.delay_us();
        let arrival_us = arrival_us.max(self.last_arrival_us.get());
        self.last_arrival_us.set(arrival_us);
        self.queued_bytes.set(self.queued_bytes.get() + chunk.len());
        note(&world.trace, "send", &chunk);
        let sent = chunk.len();
        self.chunks.borrow_mut().push_back((arrival_us, chunk));
        self.wake();
        Ok(sent)
    }

    /// What has arrived; an error that says when the next bytes do, if they are on their way.
    fn try_recv(&self, buffer: &mut [u8]) -> Result<usize, Option<u64>> {
        let now_us = this_world().now_us();
        let mut chunks = self.chunks.borrow_mut();
        let Some((arrival_us, chunk)) = chunks.front() else {
            return if self.ended.get() { Ok(0) } else { Err(None) };
        };
        if *arrival_us > now_us {
            return Err(Some(*arrival_us));
        }
        let rest = &chunk[self.taken.get()..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        if count == rest.len() {
            chunks.pop_front();
            self.taken.set(0);
        } else {
            self.taken.set(self.taken.get() + count);
        }
        drop(chunks);
        self.queued_bytes.set(self.queued_bytes.get() - count);
        let sender = self.sender.take();
        if let Some(sender) = sender {
            sender.wake();
        }
        Ok(count)
    }
}

fn note(trace: &Trace, what: &str, bytes: &[u8]) {
    trace.event(what, &[u64::try_from(bytes.len()).expect("usize fits u64")]);
    trace.bytes(bytes);
}

/// One end of a connection.
pub(in crate::runtime) struct SimulatedConn {
    pair: Rc<Pair>,
    /// The direction that this end sends in.
    side: usize,
    /// Whether dropping it ends the connection.
    is_owner: bool,
}

impl SimulatedConn {
    pub(in crate::runtime) async fn connect(address: SocketAddr) -> io::Result<SimulatedConn> {
        let world = this_world();
        Sleep::until(world.now_us() + world.network.delay_us()).await;
        let pair = world.network.pair();
        {
            let listeners = world.network.listeners.borrow();
            let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
            let backlogs = listeners.get(&address).ok_or_else(refused)?;
            let index = world.network.rng.borrow_mut().index(backlogs.len());
            let backlog = &backlogs[index];
            pair.domain.set(backlog.domain);
            backlog.waiting.borrow_mut().push_back(SimulatedConn {
                pair: Rc::clone(&pair),
                side: 1,
                is_owner: true,
            });
            let acceptor = backlog.acceptor.take();
            if let Some(acceptor) = acceptor {
                acceptor.wake();
            }
        }
        let number = pair.number;
        let known = Rc::clone(&pair);
        world.network.connections.borrow_mut().insert(number, known);
        Ok(SimulatedConn {
            pair,
            side: 0,
            is_owner: true,
        })
    }

    pub(in crate::runtime) fn number(&self) -> u64 {
        self.pair.number
    }

    /// Leaves this end in the network, to be picked up by its number.
    pub(in crate::runtime) fn detach(mut self) -> u64 {
        self.is_owner = false;
        let number = self.pair.number;
        let kept = SimulatedConn {
            pair: Rc::clone(&self.pair),
            side: self.side,
            is_owner: true,
        };
        let world = this_world();
        world.network.detached.borrow_mut().insert(number, kept);
        number
    }

    pub(in crate::runtime) fn attach(number: u64) -> SimulatedConn {
        let kept = this_world().network.detached.borrow_mut().remove(&number);
        kept.expect("an end is detached before it is attached, once")
    }

    fn outgoing(&self) -> &Direction {
        &self.pair.directions[self.side]
    }

    fn incoming(&self) -> &Direction {
        &self.pair.directions[1 - self.side]
    }

    pub(in crate::runtime) fn try_recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.incoming().refused.get() && self.incoming().chunks.borrow().is_empty() {
            return Ok(0);
        }
        let received = self.incoming().try_recv(buffer);
        received.map_err(|_| io::ErrorKind::WouldBlock.into())
    }

    pub(in crate::runtime) async fn recv(&self, lender: &impl Lender) -> io::Result<usize> {
        loop {
            if self.incoming().refused.get() && self.incoming().chunks.borrow().is_empty() {
                return Ok(0);
            }
            match lender.lend(|room| self.incoming().try_recv(room)) {
                Ok(count) => return Ok(count),
                Err(Some(arrival_us)) => Sleep::until(arrival_us).await,
                Err(None) => self.something_to_receive().await,
            }
        }
    }

    async fn something_to_receive(&self) {
        let incoming = self.incoming();
        poll_fn(|cx| {
            let idle = incoming.chunks.borrow().is_empty()
                && !incoming.ended.get()
                && !incoming.refused.get();
            if !idle {
                return Poll::Ready(());
            }
            *incoming.receiver.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    pub(in crate::runtime) fn try_send(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.outgoing().try_send(slices)
    }

    pub(in crate::runtime) async fn writable(&self, first: &[u8]) -> io::Result<usize> {
        poll_fn(
            |cx| match self.outgoing().try_send(&[IoSlice::new(first)]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    *self.outgoing().sender.borrow_mut() = Some(cx.waker().clone());
                    Poll::Pending
                }
                done => Poll::Ready(done),
            },
        )
        .await
    }

    pub(in crate::runtime) fn shutdown(&self, receiving: bool, sending: bool) {
        if sending {
            self.outgoing().ended.set(true);
            self.outgoing().wake();
        }
        if receiving {
            self.incoming().refused.set(true);
            self.incoming().chunks.borrow_mut().clear();
            self.incoming().wake();
        }
    }
}

impl Drop for SimulatedConn {
    fn drop(&mut self) {
        if self.is_owner {
            self.shutdown(true, true);
            if let Some(world) = world() {
                let number = self.pair.number;
                let gone = world.network.connections.borrow_mut().remove(&number);
                drop(gone);
            }
        }
    }
}

struct Backlog {
    domain: Domain,
    waiting: RefCell<VecDeque<SimulatedConn>>,
    acceptor: RefCell<Option<Waker>>,
}

/// A listener; several may listen on one address, and the seed chooses between them.
pub(in crate::runtime) struct SimulatedListener {
    address: SocketAddr,
    backlog: Rc<Backlog>,
}

impl SimulatedListener {
    pub(in crate::runtime) fn bind(address: SocketAddr) -> SimulatedListener {
        let world = this_world();
        let backlog = Rc::new(Backlog {
            domain: world.executor.domain(),
            waiting: RefCell::default(),
            acceptor: RefCell::new(None),
        });
        let mut listeners = world.network.listeners.borrow_mut();
        let of_address = listeners.entry(address).or_default();
        of_address.push(Rc::clone(&backlog));
        SimulatedListener { address, backlog }
    }

    pub(in crate::runtime) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(in crate::runtime) async fn accept(&self) -> SimulatedConn {
        poll_fn(|cx| {
            if let Some(conn) = self.backlog.waiting.borrow_mut().pop_front() {
                return Poll::Ready(conn);
            }
            *self.backlog.acceptor.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl Drop for SimulatedListener {
    fn drop(&mut self) {
        if let Some(world) = world() {
            let mut listeners = world.network.listeners.borrow_mut();
            if let Some(backlogs) = listeners.get_mut(&self.address) {
                backlogs.retain(|backlog| !Rc::ptr_eq(backlog, &self.backlog));
                if backlogs.is_empty() {
                    listeners.remove(&self.address);
                }
            }
        }
        drop(self.backlog.waiting.take());
    }
}
