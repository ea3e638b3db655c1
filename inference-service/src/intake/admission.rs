//! Before a call is read: gives it a deadline and, where a call costs memory,
//! one of a fixed number of slots. A client that sends its request slowly, or
//! sends too many, costs no more than its slot. Streams of cameras are bounded
//! by credits instead.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use flatframe_shared::clock;
use flatframe_shared::error::ErrorKind;
use flatframe_shared::serve::{Connection, KeptUntilTaken};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::server::NamedService;
use tower_service::Service;

use super::lifetime;

/// Headers that are read after the admission, or that a status may name.
const KEPT_HEADERS: [&str; 4] = ["content-type", "te", "grpc-encoding", "grpc-accept-encoding"];
/// Longest of them that means something, bytes.
const MAX_KEPT_HEADER_BYTES: usize = 128;

/// When the answer of a call is worthless; in the extensions of its request.
#[derive(Debug, Clone, Copy)]
pub struct CallDeadline(pub Instant);

/// The slot of a call; in the extensions of its request. Whoever keeps memory
/// of the call beyond its answer keeps this with it.
#[derive(Debug, Clone)]
pub struct CallSlot {
    _permit: Arc<OwnedSemaphorePermit>,
    _share: Option<Arc<Taken>>,
}

/// A fixed number of slots.
#[derive(Debug, Clone)]
pub struct Slots {
    permits: Arc<Semaphore>,
    count: usize,
    /// The configuration key that raises it, or what else it is.
    limit: &'static str,
    /// What one connection may take of them; `None`: all.
    share: Option<Share>,
}

impl Slots {
    /// `count` slots; `limit` names the number for a person.
    pub fn new(count: usize, limit: &'static str) -> Self {
        Self { permits: Arc::new(Semaphore::new(count)), count, limit, share: None }
    }

    /// At most `max` of them for the calls of one connection, so that one cannot
    /// keep out all others.
    pub fn with_share(mut self, max: usize) -> Self {
        self.share = Some(Share { max, by_peer: Arc::default() });
        self
    }

    /// How many there are.
    pub fn cap(&self) -> usize {
        self.count
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.count - self.permits.available_permits()
    }

    /// One for a call on the connection of `peer`, where that is known.
    fn take(&self, peer: Option<SocketAddr>) -> Result<CallSlot, tonic::Status> {
        let refused = |whose: &str| {
            let message = format!("as many calls{whose} as allowed are waiting or unread ({})", self.limit);
            ErrorKind::Exhausted { retry_after: Duration::from_secs(1) }.status(message)
        };
        let share = match (&self.share, peer) {
            (Some(share), Some(peer)) => Some(share.take(peer).ok_or_else(|| refused(" of one connection"))?),
            _ => None,
        };
        let permit = self.permits.clone().try_acquire_owned().map_err(|_| refused(""))?;
        Ok(CallSlot { _permit: Arc::new(permit), _share: share.map(Arc::new) })
    }
}

/// How much each connection has taken, where that is bounded. By the peer's
/// address with its port: cameras behind one address have a connection each.
#[derive(Debug, Clone)]
struct Share {
    max: usize,
    /// No more entries than slots: one leaves with its last call.
    by_peer: Arc<Mutex<HashMap<SocketAddr, usize>>>,
}

impl Share {
    fn take(&self, peer: SocketAddr) -> Option<Taken> {
        let mut by_peer = counted(&self.by_peer);
        let taken = by_peer.get(&peer).copied().unwrap_or(0);
        (taken < self.max).then(|| {
            by_peer.insert(peer, taken + 1);
            Taken { peer, by_peer: self.by_peer.clone() }
        })
    }
}

/// One call of a connection.
#[derive(Debug)]
struct Taken {
    peer: SocketAddr,
    by_peer: Arc<Mutex<HashMap<SocketAddr, usize>>>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut by_peer = counted(&self.by_peer);
        let left = by_peer.get(&self.peer).map_or(0, |taken| taken - 1);
        if left == 0 {
            by_peer.remove(&self.peer);
        } else {
            by_peer.insert(self.peer, left);
        }
    }
}

fn counted(by_peer: &Mutex<HashMap<SocketAddr, usize>>) -> MutexGuard<'_, HashMap<SocketAddr, usize>> {
    by_peer.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A service behind the admission.
#[derive(Debug, Clone)]
pub struct Admitted<S> {
    inner: S,
    max: Duration,
    slots: Option<Slots>,
    /// Slots of single methods, by their paths.
    of_methods: Vec<(&'static str, Slots)>,
    lifetime: Option<Duration>,
}

impl<S> Admitted<S> {
    /// Calls of `inner` must give their first answer within `max`, or within
    /// their own deadline if that is shorter.
    pub fn new(inner: S, max: Duration) -> Self {
        Self { inner, max, slots: None, of_methods: Vec::new(), lifetime: None }
    }

    /// At most as many calls at once as there are `slots`.
    pub fn with_slots(mut self, slots: Slots) -> Self {
        self.slots = Some(slots);
        self
    }

    /// Calls of the method at `path` take theirs from `slots` instead.
    pub fn with_slots_of(mut self, path: &'static str, slots: Slots) -> Self {
        self.of_methods.push((path, slots));
        self
    }

    /// A request is read for at most `lifetime`.
    pub fn with_lifetime(mut self, lifetime: Duration) -> Self {
        self.lifetime = Some(lifetime);
        self
    }
}

impl<S: NamedService> NamedService for Admitted<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Admitted<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let asked = match grpc_timeout(request.headers()) {
            Ok(asked) => asked,
            Err(status) => return refuse(status),
        };
        let allowed = asked.map_or(self.max, |asked| asked.min(self.max));
        let of_method = self.of_methods.iter().find(|(path, _)| request.uri().path() == *path);
        let slots = of_method.map(|(_, slots)| slots).or(self.slots.as_ref());
        let peer = request.extensions().get::<Connection>().map(|connection| connection.peer);
        let slot = match slots.map(|slots| slots.take(peer)).transpose() {
            Ok(slot) => slot,
            Err(status) => return refuse(status),
        };
        *request.headers_mut() = kept(request.headers());
        let deadline = clock::now() + allowed;
        request.extensions_mut().insert(CallDeadline(deadline));
        if let Some(slot) = &slot {
            request.extensions_mut().insert(slot.clone());
        }
        if let Some(lifetime) = self.lifetime {
            request = request.map(|body| lifetime::limit(body, lifetime, slot.clone()));
        }
        let call = self.inner.call(request);
        Box::pin(async move {
            match tokio::time::timeout_at(deadline.into(), call).await {
                Ok(Ok(mut response)) => {
                    // An answer that the client does not read keeps its slot.
                    if let Some(slot) = slot {
                        response.extensions_mut().insert(KeptUntilTaken::new(slot));
                    }
                    Ok(response)
                }
                Ok(Err(never)) => match never {},
                Err(_) => {
                    let message = format!("no answer within {} ms", allowed.as_millis());
                    Ok(ErrorKind::DeadlineExceeded.status(message).into_http())
                }
            }
        })
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

fn refuse(status: tonic::Status) -> Answering {
    Box::pin(std::future::ready(Ok(status.into_http())))
}

/// Copies of the headers that are read later. Many small ones take several
/// times their bytes, for as long as the call waits.
fn kept(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(KEPT_HEADERS.len());
    for name in KEPT_HEADERS {
        let value = headers.get(name).filter(|value| value.len() <= MAX_KEPT_HEADER_BYTES);
        if let Some(copy) = value.and_then(|value| HeaderValue::from_bytes(value.as_bytes()).ok()) {
            kept.insert(name, copy);
        }
    }
    kept
}

/// The `grpc-timeout` of a call: up to 8 digits and a unit
/// (gRPC over HTTP/2, "Request-Headers").
fn grpc_timeout(headers: &HeaderMap) -> Result<Option<Duration>, tonic::Status> {
    let Some(header) = headers.get("grpc-timeout") else { return Ok(None) };
    let parsed = header.to_str().ok().and_then(parse_timeout);
    parsed.map(Some).ok_or_else(|| {
        ErrorKind::Invalid.status("grpc-timeout is not allowed: use 1 to 8 digits and one of H, M, S, m, u, n")
    })
}

fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(count * 3600)),
        "M" => Some(Duration::from_secs(count * 60)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_connection_takes_its_share_alone() {
        let slots = Slots::new(3, "a limit").with_share(2);
        let [one, other] = [1, 2].map(|port| Some(SocketAddr::from(([10, 0, 0, 1], port))));
        let first = slots.take(one).expect("free");
        let _second = slots.clone().take(one).expect("free");
        let refused = slots.take(one).expect_err("has its share");
        assert!(refused.message().contains("of one connection"), "{refused}");
        let third = slots.take(other).expect("free for another");
        assert_eq!(slots.taken(), 3);
        assert!(!slots.take(other).expect_err("none is left").message().contains("of one connection"));
        drop((first, third));
        let _again = slots.take(one).expect("its share is free again");
        let _another = slots.take(other).expect("free for another");
        assert_eq!(slots.taken(), 3, "who was refused holds nothing");
    }

    #[test]
    fn only_headers_that_are_read_are_kept() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("te", "trailers"), ("x-flood", "1"), ("grpc-encoding", "x")] {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers.insert("content-type", HeaderValue::try_from("x".repeat(1000)).expect("a value"));
        let kept = kept(&headers);
        let mut names: Vec<_> = kept.keys().map(|name| name.as_str()).collect();
        names.sort();
        assert_eq!(names, ["grpc-encoding", "te"]);
    }

    #[test]
    fn timeouts() {
        for (text, ms) in [("1S", 1000), ("250m", 250), ("3M", 180_000), ("2000u", 2), ("99999999n", 99)] {
            assert_eq!(parse_timeout(text).map(|timeout| timeout.as_millis()), Some(ms), "{text}");
        }
        for text in ["", "S", "1", "1s", "-1S", "123456789m", "1.5S", "١S"] {
            assert_eq!(parse_timeout(text), None, "{text}");
        }
    }
}
