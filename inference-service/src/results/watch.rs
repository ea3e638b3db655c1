//! Live results of one client: of this replica, of others as they come, what
//! it missed, and whether others are heard at all.

use flatframe_shared::r#gen::v1;
use flatframe_shared::r#gen::v1::watch_response::Message;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::bus::{Subscriber, Taken};
use super::elsewhere;
use super::hearing::Hearing;
use super::service::stopping;
use super::wire::Wire;

/// One client that watches.
pub struct Watch {
    /// What waits for it.
    pub subscriber: Subscriber,
    /// How results look.
    pub wire: Wire,
    /// What the client knows of the other replicas.
    pub hearing: Hearing,
    /// Cancelled when the service stops.
    pub shutdown: CancellationToken,
}

/// The next message; the last one says that the service stops.
pub async fn next(watch: Option<Watch>) -> Option<(Result<v1::WatchResponse, Status>, Option<Watch>)> {
    let mut watch = watch?;
    let message = tokio::select! {
        biased;
        () = watch.shutdown.cancelled() => return Some((Err(stopping()), None)),
        changed = watch.hearing.changed() => Message::Elsewhere(changed),
        taken = watch.subscriber.next() => match taken {
            Taken::Result(record) => Message::Result(watch.wire.result(&record)),
            Taken::Elsewhere(told) => match elsewhere::result(&told, watch.wire) {
                Ok(result) => Message::Result(result),
                // Of a newer replica: this one cannot tell what it is.
                Err(_) => Message::Gap(v1::Gap { missed: 1, last_missed_position: told.position.0 }),
            },
            Taken::Gap { missed, last_missed } => {
                Message::Gap(v1::Gap { missed, last_missed_position: last_missed.0 })
            }
        },
    };
    Some((Ok(v1::WatchResponse { message: Some(message) }), Some(watch)))
}
