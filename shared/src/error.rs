//! One place where a kind of failure becomes a gRPC status. Holds no failure
//! of its own: each service's error type says its kind.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

/// What went wrong, as far as a caller must tell it apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is wrong and will stay wrong.
    Invalid,
    /// The named thing does not exist.
    NotFound,
    /// The named thing exists already and is in use.
    AlreadyExists,
    /// The request is right, but not for this server.
    Precondition,
    /// The caller did not show who it is.
    Unauthenticated,
    /// The caller may not have it.
    Denied,
    /// A limit is reached; try again after the given time.
    Exhausted {
        /// When trying again has a chance.
        retry_after: Duration,
    },
    /// The service is stopping; try another.
    Unavailable,
    /// The deadline passed.
    DeadlineExceeded,
    /// The other side broke the protocol or vanished.
    Aborted,
    /// A defect of ours.
    Internal,
}

impl ErrorKind {
    /// The gRPC status of a failure of this kind; [`ErrorKind::Exhausted`]
    /// carries `google.rpc.RetryInfo`.
    pub fn status(self, message: impl Into<String>) -> Status {
        let code = match self {
            Self::Invalid => Code::InvalidArgument,
            Self::NotFound => Code::NotFound,
            Self::AlreadyExists => Code::AlreadyExists,
            Self::Precondition => Code::FailedPrecondition,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::Denied => Code::PermissionDenied,
            Self::Exhausted { .. } => Code::ResourceExhausted,
            Self::Unavailable => Code::Unavailable,
            Self::DeadlineExceeded => Code::DeadlineExceeded,
            Self::Aborted => Code::Aborted,
            Self::Internal => Code::Internal,
        };
        match self {
            Self::Exhausted { retry_after } => {
                Status::with_error_details(code, message, ErrorDetails::with_retry_info(Some(retry_after)))
            }
            _ => Status::new(code, message),
        }
    }
}

/// The delay that a status asks for before trying again, if it names one.
pub fn retry_after(status: &Status) -> Option<Duration> {
    status.get_details_retry_info().and_then(|info| info.retry_delay)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exhausted_carries_the_delay() {
        let delay = Duration::from_millis(1500);
        let status = ErrorKind::Exhausted { retry_after: delay }.status("full");
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(retry_after(&status), Some(delay));
        assert_eq!(retry_after(&ErrorKind::Internal.status("x")), None);
    }
}
