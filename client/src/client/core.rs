//! What all parts of one client share.
//!
//! Invariant: lives as long as the client, a producer or a consumer of it does. No task of its
//! own holds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use catena_protocol::error::{ErrorCode, Retry, owner_from_detail};
use catena_protocol::frame::Api;
use catena_protocol::messages::{ErrorResponse, Message, Request};

use crate::backoff::{Backoff, seed};
use crate::connection::Endpoint;
use crate::connection::control::ControlPool;
use crate::connection::driver::DriverTimeouts;
use crate::connection::handshake::Identity;
use crate::connection::places::Places;
use crate::connection::read_buffer::Frame;
use crate::error::{ConnectionError, RequestError};
use crate::limits::CONTROL_ATTEMPTS_MAX;
use crate::metadata::MetadataCache;
use crate::producer::lane::ProduceLane;

/// The shared state of a client.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) identity: Arc<Identity>,
    pub(crate) timeouts: DriverTimeouts,
    pub(crate) connections_per_node_max: usize,
    pub(crate) metadata: MetadataCache,
    /// The produce connections.
    pub(crate) produce_lanes: Places<ProduceLane>,
    control: ControlPool,
    bootstrap: Vec<Endpoint>,
    /// Which of the bootstrap addresses answered last.
    preferred: AtomicUsize,
}

impl Core {
    pub(crate) fn new(
        identity: Arc<Identity>,
        timeouts: DriverTimeouts,
        connections_per_node_max: usize,
        bootstrap: Vec<Endpoint>,
    ) -> Self {
        Self {
            control: ControlPool::new(identity.clone(), timeouts),
            produce_lanes: Places::new(connections_per_node_max),
            identity,
            timeouts,
            connections_per_node_max,
            metadata: MetadataCache::default(),
            bootstrap,
            preferred: AtomicUsize::new(0),
        }
    }

    /// Asks any node, as long as the request timeout lasts.
    /// `is_repeatable` says whether asking twice does no more than asking once.
    pub(crate) async fn ask_any<R: Request + Sync>(
        &self,
        request: &R,
        is_repeatable: bool,
    ) -> Result<R::Response, RequestError> {
        let mut attempts = Attempts::new(self.timeouts.request);
        loop {
            let turn = self.preferred.load(Ordering::Relaxed);
            let error = match self.ask_once(&self.any_endpoint(turn), request).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let has_lost = matches!(
                error,
                RequestError::Connection(_) | RequestError::Unanswered(_)
            );
            if has_lost {
                let next = turn.wrapping_add(1);
                let order = Ordering::Relaxed;
                // If it fails, another question has moved on already.
                let _ = self.preferred.compare_exchange(turn, next, order, order);
            }
            attempts.pause_after(error, is_repeatable).await?;
        }
    }

    /// Asks one node and shard, once; follows one hint to another node.
    pub(crate) async fn ask_once<R: Request + Sync>(
        &self,
        endpoint: &Endpoint,
        request: &R,
    ) -> Result<R::Response, RequestError> {
        let answer = self.ask(endpoint, request).await;
        if let Err(RequestError::Refused {
            code: ErrorCode::NotOwner,
            detail,
            ..
        }) = &answer
            && let Some((node, _)) = owner_from_detail(*detail)
            && endpoint.node != Some(node)
            && let Some(endpoint) = self.metadata.node(node, None)
        {
            return self.ask(&endpoint, request).await;
        }
        answer
    }

    async fn ask<R: Request + Sync>(
        &self,
        endpoint: &Endpoint,
        request: &R,
    ) -> Result<R::Response, RequestError> {
        let encode = |correlation, out: &mut Vec<u8>| request.encode(correlation, out);
        let reply = self.control.call(endpoint, &encode).await?;
        decode::<R::Response>(&reply)
    }

    fn any_endpoint(&self, turn: usize) -> Endpoint {
        let nodes = self.metadata.nodes();
        let index = turn % (self.bootstrap.len() + nodes.len());
        match self.bootstrap.get(index) {
            Some(endpoint) => endpoint.clone(),
            None => nodes[index - self.bootstrap.len()].clone(),
        }
    }
}

fn decode<M: Message>(frame: &Frame) -> Result<M, RequestError> {
    let unreadable = |reason: String| RequestError::Protocol {
        reason: reason.into(),
    };
    let api = frame.prefix.api;
    if api == M::API.to_wire() {
        return M::decode(&frame.header).map_err(|error| unreadable(error.to_string()));
    }
    if api != Api::Error.to_wire() {
        return Err(unreadable(format!("api {api} answered {:?}", M::API)));
    }
    let error = ErrorResponse::decode(&frame.header).map_err(|e| unreadable(e.to_string()))?;
    Err(RequestError::Refused {
        code: error.code,
        message: error.message.into(),
        detail: error.detail,
    })
}

/// Attempts at one request, bounded in time and number.
#[derive(Debug)]
pub(crate) struct Attempts {
    after: Duration,
    deadline: Instant,
    backoff: Backoff,
    /// Whether one of them got no answer.
    may_have_been_carried_out: bool,
}

impl Attempts {
    pub(crate) fn new(after: Duration) -> Self {
        Self {
            after,
            deadline: Instant::now() + after,
            backoff: Backoff::new(seed()),
            may_have_been_carried_out: false,
        }
    }

    /// Waits before the next attempt, or gives up with the error. Only what is repeatable is
    /// repeated after a lost connection.
    pub(crate) async fn pause_after(
        &mut self,
        error: RequestError,
        is_repeatable: bool,
    ) -> Result<(), RequestError> {
        let may_repeat = match &error {
            RequestError::Connection(
                ConnectionError::WrongCluster { .. } | ConnectionError::Address { .. },
            )
            | RequestError::Refused {
                code: ErrorCode::TopicNotFound,
                ..
            } => false,
            RequestError::Connection(ConnectionError::Refused { code, .. }) => {
                is_repeatable && code.retry() != Retry::Never
            }
            RequestError::Connection(_)
            | RequestError::Unanswered(_)
            | RequestError::Refused {
                code: ErrorCode::Internal,
                ..
            } => is_repeatable,
            RequestError::Refused { code, .. } => code.is_retriable(),
            _ => false,
        };
        if !may_repeat {
            return Err(error);
        }
        self.may_have_been_carried_out |= error.may_have_been_carried_out();
        self.pause(&error).await
    }

    /// Waits before the next attempt, or gives up: the time or the attempts are used up, and this
    /// was the last reason.
    pub(crate) async fn pause(
        &mut self,
        last: &(dyn std::fmt::Display + Sync),
    ) -> Result<(), RequestError> {
        let pause = self.backoff.next_pause();
        if Instant::now() + pause >= self.deadline || self.backoff.failures() > CONTROL_ATTEMPTS_MAX
        {
            return Err(RequestError::TimedOut {
                after: self.after,
                last: last.to_string().into(),
                may_have_been_carried_out: self.may_have_been_carried_out,
            });
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}
