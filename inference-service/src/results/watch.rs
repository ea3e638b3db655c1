//! Live results of one client: of this replica, of others as they come, what
//! it missed, and whether others are heard at all.

use flatframe_shared::r#gen::v1;
use flatframe_shared::r#gen::v1::watch_response::Message;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::bus::{Subscriber, Taken};
use super::elsewhere;
use super::service::stopping;
use super::wire::Wire;
use crate::replicas::Absence;

/// One client that watches.
pub struct Watch {
    /// What waits for it.
    pub subscriber: Subscriber,
    /// How results look.
    pub wire: Wire,
    /// Why others are not heard; `None`: there is no result bus.
    pub absence: Option<watch::Receiver<Absence>>,
    /// What the client was told of that.
    pub told_absence: Option<String>,
    /// Cancelled when the service stops.
    pub shutdown: CancellationToken,
}

/// The next message; the last one says that the service stops.
pub async fn next(watch: Option<Watch>) -> Option<(Result<v1::WatchResponse, Status>, Option<Watch>)> {
    let mut watch = watch?;
    let message = tokio::select! {
        biased;
        () = watch.shutdown.cancelled() => return Some((Err(stopping()), None)),
        changed = changed(&mut watch.absence, &watch.told_absence) => {
            watch.told_absence.clone_from(&changed);
            Message::Elsewhere(v1::Elsewhere { is_heard: changed.is_none(), detail: changed.unwrap_or_default() })
        }
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

/// Waits until others are heard or not, other than the client was told; for
/// ever without a bus.
async fn changed(absence: &mut Option<watch::Receiver<Absence>>, told: &Option<String>) -> Option<String> {
    if let Some(absence) = absence
        && let Ok(now) = absence.wait_for(|now| now.why().is_some() != told.is_some()).await
    {
        return now.why();
    }
    std::future::pending().await
}
