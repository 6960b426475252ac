//! The first part of a start: what only one broker can have, its storage and its port. Then the
//! rest.
//!
//! Invariant: what was taken is given up again when a start fails. Runs on the thread that starts
//! the node.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Error, Result, ensure};

use super::home::Home;
use super::starting::{self, Plan};
use super::{Broker, NodeOptions, Storage, refusal};
use crate::config::HostPort;
use crate::limits::SHARDS_MAX;
use crate::port::PortReservation;
use crate::shard::NodeIdentity;
use crate::status::{NodeStatus, Phase};
use crate::watchdog::Watchdog;

/// What clients see in place of a host name when a broker listens nowhere.
const IN_PROCESS_HOST: &str = "in-process";

/// A storage and a port that nobody else can have, for a broker that is not started yet.
#[derive(Debug)]
pub struct Prepared<'a> {
    options: &'a NodeOptions,
    shards: u16,
    home: Home,
    reservation: Option<PortReservation>,
}

pub(super) fn prepare(options: &NodeOptions) -> Result<Prepared<'_>> {
    taken(options).map_err(|failure| explained(failure, options))
}

fn taken(options: &NodeOptions) -> Result<Prepared<'_>> {
    let shards = options.cores.len();
    ensure!(
        (1..=SHARDS_MAX).contains(&shards),
        "a broker has 1 to {SHARDS_MAX} shards, and {shards} were asked for"
    );
    let home = Home::open(&options.storage)?;
    let reserve = |at| PortReservation::bind(at).with_context(|| format!("cannot listen on {at}"));
    Ok(Prepared {
        options,
        shards: u16::try_from(shards).expect("at most SHARDS_MAX"),
        home,
        reservation: options.listen.map(reserve).transpose()?,
    })
}

impl Prepared<'_> {
    /// Starts the broker; returns when it accepts connections.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn start(self) -> Result<Broker> {
        let options = self.options;
        self.started()
            .map_err(|failure| explained(failure, options))
    }

    fn started(self) -> Result<Broker> {
        let Prepared {
            options,
            shards,
            home,
            reservation,
        } = self;
        let addr = reservation.as_ref().map(PortReservation::addr);
        let names = (0..shards)
            .map(|shard| shard.to_string())
            .chain(["control".to_owned()]);
        let status = NodeStatus::new(names);
        let advertised = advertised(options, addr);
        let node = Arc::new(NodeIdentity {
            store_uuid: home.store_uuid,
            cluster_id: home.cluster_id,
            node: home.node,
            advertised_host: advertised.host,
            advertised_port: advertised.port,
            shards,
        });
        let started = starting::start(Plan {
            options,
            home: &home,
            listen: addr,
            node,
            status: Arc::clone(&status),
        })?;
        let mut broker = Broker {
            addr,
            status: Arc::clone(&status),
            control: started.control,
            shards: started.shards,
            threads: started.threads,
            control_thread: Some(started.control_thread),
            failure: None,
            watchdog: None,
            _home: home,
        };
        // Only now: reading back is one long turn here and there, and no stall.
        let watchdog = Watchdog::start(Arc::clone(&status));
        broker.watchdog = Some(watchdog.context("cannot start the watchdog")?);
        status.set_phase(Phase::Ready);
        Ok(broker)
    }
}

fn explained(failure: Error, options: &NodeOptions) -> Error {
    match &options.storage {
        Storage::Directory(dir) => refusal::explained(failure, dir),
        Storage::Memory => failure,
    }
}

fn advertised(options: &NodeOptions, bound: Option<SocketAddr>) -> HostPort {
    let in_process = || HostPort {
        host: IN_PROCESS_HOST.to_owned(),
        port: 0,
    };
    let advertised = options.advertise.clone();
    advertised.unwrap_or_else(|| bound.map_or_else(in_process, HostPort::from))
}
