//! The admin HTTP server: `/metrics`, `/healthz`, `/readyz`.
//!
//! Runs on its own thread with a current-thread tokio runtime, so that no scrape runs on a shard.
//! Everything a peer can use up is bounded: connections, header bytes, time. A connection carries
//! one request; request bodies are not read.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::io::Errno;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use tracing::{debug, error, warn};

use crate::limits::{
    ADMIN_ACCEPT_RETRY, ADMIN_BACKLOG, ADMIN_CONNECTION_TIMEOUT, ADMIN_CONNECTIONS_MAX,
    ADMIN_HEADER_TIMEOUT, ADMIN_REQUEST_HEAD_BYTES_MAX,
};
use crate::metrics;
use crate::port;
use crate::status::{NodeStatus, Phase};

const METRICS_CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The address of an admin server, taken before there is anything to serve. Until then connections
/// are refused.
#[derive(Debug)]
pub struct AdminPort {
    socket: OwnedFd,
    addr: SocketAddr,
}

impl AdminPort {
    /// Binds `addr` (port 0 picks one).
    pub fn bind(addr: SocketAddr) -> io::Result<Self> {
        let (socket, addr) = port::bind_alone(addr)?;
        Ok(Self { socket, addr })
    }

    /// The bound address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Listens and starts the thread.
    pub fn serve(self, status: Arc<NodeStatus>) -> io::Result<AdminServer> {
        rustix::net::listen(&self.socket, ADMIN_BACKLOG).map_err(|error| match error {
            Errno::ADDRINUSE => port::taken(),
            error => error.into(),
        })?;
        AdminServer::serving(TcpListener::from(self.socket), self.addr, status)
    }
}

/// A running admin server; dropping it stops it.
#[derive(Debug)]
pub struct AdminServer {
    addr: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl AdminServer {
    /// Binds `addr` (port 0 picks one) and starts the thread.
    ///
    /// Fails if the address cannot be bound or the runtime or thread cannot be made.
    ///
    /// ```
    /// use catena_broker::admin::AdminServer;
    /// use catena_broker::status::NodeStatus;
    ///
    /// let status = NodeStatus::new(["0"]);
    /// let admin = AdminServer::start("127.0.0.1:0".parse().expect("an address"), status)?;
    /// println!("metrics on http://{}/metrics", admin.addr());
    /// admin.stop();
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn start(addr: SocketAddr, status: Arc<NodeStatus>) -> io::Result<Self> {
        AdminPort::bind(addr)?.serve(status)
    }

    fn serving(
        listener: TcpListener,
        addr: SocketAddr,
        status: Arc<NodeStatus>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = oneshot::channel();
        let name = "catena-admin".to_owned();
        let thread = thread::Builder::new().name(name).spawn(move || {
            if let Err(failure) = runtime.block_on(serve(listener, router(status), stopped)) {
                error!(%failure, "the admin server stopped");
            }
        })?;
        Ok(Self {
            addr,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// The bound address.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops at once; a response being sent is cut off.
    pub fn stop(mut self) {
        self.join();
    }

    fn join(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            error!("the admin thread panicked");
        }
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.join();
    }
}

fn router(status: Arc<NodeStatus>) -> Router {
    Router::new()
        .route("/metrics", get(show_metrics))
        .route("/healthz", get(show_health))
        .route("/readyz", get(show_readiness))
        .with_state(status)
}

async fn show_metrics(State(status): State<Arc<NodeStatus>>) -> Response {
    match metrics::render(&status) {
        Ok(text) => ([(header::CONTENT_TYPE, METRICS_CONTENT_TYPE)], text).into_response(),
        Err(failure) => {
            error!(%failure, "metrics could not be rendered");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn show_health(State(status): State<Arc<NodeStatus>>) -> (StatusCode, String) {
    verdict(&status.problems())
}

async fn show_readiness(State(status): State<Arc<NodeStatus>>) -> (StatusCode, String) {
    let mut problems = status.problems();
    let phase = status.phase();
    if phase != Phase::Ready {
        problems.insert(0, phase.to_string());
    }
    verdict(&problems)
}

fn verdict(problems: &[String]) -> (StatusCode, String) {
    if problems.is_empty() {
        return (StatusCode::OK, "ok\n".into());
    }
    (StatusCode::SERVICE_UNAVAILABLE, problems.join("\n") + "\n")
}

async fn serve(
    listener: TcpListener,
    router: Router,
    mut stopped: oneshot::Receiver<()>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let permits = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    loop {
        let permit = tokio::select! {
            permit = Arc::clone(&permits).acquire_owned() => permit,
            _ = &mut stopped => return Ok(()),
        };
        let permit = permit.expect("the semaphore is never closed");
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = &mut stopped => return Ok(()),
        };
        match accepted {
            Ok((stream, peer)) => {
                let router = router.clone();
                tokio::spawn(async move {
                    if timeout(ADMIN_CONNECTION_TIMEOUT, answer(stream, router))
                        .await
                        .is_err()
                    {
                        debug!(%peer, "admin connection timed out");
                    }
                    drop(permit);
                });
            }
            Err(failure) => {
                warn!(%failure, "admin accept failed");
                tokio::time::sleep(ADMIN_ACCEPT_RETRY).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, router: Router) {
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ADMIN_HEADER_TIMEOUT)
        .max_buf_size(ADMIN_REQUEST_HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .await;
    if let Err(failure) = served {
        debug!(%failure, "admin connection failed");
    }
}

#[cfg(test)]
mod tests;
