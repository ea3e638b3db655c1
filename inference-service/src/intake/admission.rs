//! Before a call is read: gives it a deadline and, where a call costs memory,
//! one of a fixed number of slots. A client that sends its request slowly, or
//! sends too many, costs no more than its slot. Streams of cameras are bounded
//! by credits instead.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use flatframe_shared::clock;
use flatframe_shared::error::ErrorKind;
use http::{HeaderMap, Request, Response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::body::Body;
use tonic::server::NamedService;
use tower_service::Service;

/// When the answer of a call is worthless; in the extensions of its request.
#[derive(Debug, Clone, Copy)]
pub struct CallDeadline(pub Instant);

/// The slot of a call; in the extensions of its request. Whoever keeps memory
/// of the call beyond its answer keeps this with it.
#[derive(Debug, Clone)]
pub struct CallSlot {
    _permit: Arc<OwnedSemaphorePermit>,
}

/// A service behind the admission.
#[derive(Debug, Clone)]
pub struct Admitted<S> {
    inner: S,
    max: Duration,
    slots: Option<Arc<Semaphore>>,
}

impl<S> Admitted<S> {
    /// Calls of `inner` must give their first answer within `max`, or within
    /// their own deadline if that is shorter.
    pub fn new(inner: S, max: Duration) -> Self {
        Self { inner, max, slots: None }
    }

    /// At most as many calls at once as `slots` has permits.
    pub fn with_slots(mut self, slots: Arc<Semaphore>) -> Self {
        self.slots = Some(slots);
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
        let slot = match &self.slots {
            None => None,
            Some(slots) => match slots.clone().try_acquire_owned() {
                Ok(permit) => Some(CallSlot { _permit: Arc::new(permit) }),
                Err(_) => {
                    let message = "as many calls as allowed are waiting or unread (limits.max_detect_calls, limits.max_subscribers)";
                    return refuse(ErrorKind::Exhausted { retry_after: Duration::from_secs(1) }.status(message));
                }
            },
        };
        let deadline = clock::now() + allowed;
        request.extensions_mut().insert(CallDeadline(deadline));
        if let Some(slot) = &slot {
            request.extensions_mut().insert(slot.clone());
        }
        let call = self.inner.call(request);
        Box::pin(async move {
            match tokio::time::timeout_at(deadline.into(), call).await {
                // An answer that the client does not read keeps its slot.
                Ok(response) => response.map(|response| response.map(|body| Body::new(Held { body, _slot: slot }))),
                Err(_) => {
                    let message = format!("no answer within {} ms", allowed.as_millis());
                    Ok(ErrorKind::DeadlineExceeded.status(message).into_http())
                }
            }
        })
    }
}

/// The body of an answer, with the slot of its call.
struct Held {
    body: Body,
    _slot: Option<CallSlot>,
}

impl http_body::Body for Held {
    type Data = bytes::Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<bytes::Bytes>, tonic::Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

type Answering = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

fn refuse(status: tonic::Status) -> Answering {
    Box::pin(std::future::ready(Ok(status.into_http())))
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
    fn timeouts() {
        for (text, ms) in [("1S", 1000), ("250m", 250), ("3M", 180_000), ("2000u", 2), ("99999999n", 99)] {
            assert_eq!(parse_timeout(text).map(|timeout| timeout.as_millis()), Some(ms), "{text}");
        }
        for text in ["", "S", "1", "1s", "-1S", "123456789m", "1.5S", "١S"] {
            assert_eq!(parse_timeout(text), None, "{text}");
        }
    }
}
