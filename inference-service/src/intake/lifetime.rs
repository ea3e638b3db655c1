//! A request that ends in time: for calls that read for as long as the client
//! likes to send. When the time is over the request ends in an error, and with
//! it the task that reads it and the answer.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use flatframe_shared::error::ErrorKind;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::Sleep;
use tonic::Status;
use tonic::body::Body;

use super::admission::CallSlot;

/// `body`, ended with an error after `lifetime`; keeps `slot` until it is
/// dropped, since what was read of a request is memory too.
pub fn limit(body: Body, lifetime: Duration, slot: Option<CallSlot>) -> Body {
    Body::new(Limited { body, lifetime, end: Box::pin(tokio::time::sleep(lifetime)), _slot: slot })
}

struct Limited {
    body: Body,
    lifetime: Duration,
    end: Pin<Box<Sleep>>,
    _slot: Option<CallSlot>,
}

impl HttpBody for Limited {
    type Data = bytes::Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
        if self.end.as_mut().poll(cx).is_ready() {
            let message = format!("the call lasted {} s: call again", self.lifetime.as_secs());
            return Poll::Ready(Some(Err(ErrorKind::DeadlineExceeded.status(message))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that says nothing more and does not end.
    struct Silent;

    impl HttpBody for Silent {
        type Data = bytes::Bytes;
        type Error = Status;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<bytes::Bytes>, Status>>> {
            Poll::Pending
        }
    }

    #[tokio::test]
    async fn a_request_that_never_ends_is_ended() {
        let mut body = limit(Body::new(Silent), Duration::from_millis(20), None);
        let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
        let status = frame.expect("not an end").expect_err("an error");
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    }
}
