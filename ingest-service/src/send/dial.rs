//! What a stream asks of the way to its server ([`Dial`]), and what it says of
//! how it went. The real way is [`super::route`]; tests and the simulation have
//! others. Opens no stream.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use flatframe_shared::frame::Pace;
use tonic::transport::{Channel, Endpoint};

use crate::send::servers::Turn;
use crate::source::BoxFuture;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No server is known.
    #[error("no server: {0}")]
    NoServer(String),
    /// The server does not take the connection.
    #[error("{}", with_causes(.0))]
    Transport(#[from] tonic::transport::Error),
    /// As [`DialError::Transport`], where there are several servers.
    #[error("{server}: {}", with_causes(.reason))]
    Server {
        /// Which of them.
        server: SocketAddr,
        /// What is wrong.
        reason: tonic::transport::Error,
    },
}

/// How an attempt or a stream ended, as far as it matters for where to go next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    /// The server does not answer, or broke off.
    Gone,
    /// It does not want this camera for so long.
    Refused(Duration),
    /// Another sender uses the camera's id: no other server changes that.
    Taken,
    /// It asked to go, and all is answered.
    Drained,
    /// The camera goes to where [`Dial::better`] leads, and all is answered.
    Moved,
}

/// When to try again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// There is another server.
    Elsewhere,
    /// There is none: with growing pauses.
    Later,
}

/// Opens connections to a server. Every method but [`Dial::dial`] has a meaning
/// only where there are several servers.
pub trait Dial: fmt::Debug + Send + Sync {
    /// Waits until this camera may open a stream; the turn is kept until the
    /// welcome.
    fn turn(&self) -> BoxFuture<'_, Turn> {
        Box::pin(async { Turn::default() })
    }

    /// One attempt.
    fn dial(&self) -> BoxFuture<'_, Result<Channel, DialError>>;

    /// The server that was dialled took the stream, and asks for `pace`.
    fn opened(&self, _pace: Pace) {}

    /// The attempt or the stream ended.
    fn ended(&self, _parting: Parting) -> Retry {
        Retry::Later
    }

    /// Waits until the open stream had better be elsewhere: a connection to
    /// there, and the turn to use it. Can be dropped at any time.
    fn better(&self) -> BoxFuture<'_, (Channel, Turn)> {
        Box::pin(std::future::pending())
    }
}

/// One server, over TCP.
impl Dial for Endpoint {
    fn dial(&self) -> BoxFuture<'_, Result<Channel, DialError>> {
        Box::pin(async { Ok(self.connect().await?) })
    }
}

/// An error and what caused it: tonic's own text is only "transport error".
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
