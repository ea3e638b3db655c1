//! Whether the other replicas are heard, as far as one client was told of it.

use flatframe_shared::r#gen::v1;
use tokio::sync::watch;

use crate::replicas::{Absence, Replicas};

/// What one client knows. A client that was told nothing takes it that others
/// are heard, or that there are none.
pub struct Hearing {
    /// `None`: there is no result bus.
    absence: Option<watch::Receiver<Absence>>,
    /// Why they are not heard, as the client was told.
    told: Option<String>,
}

impl Hearing {
    /// Of a client that was told nothing yet.
    pub fn new(replicas: Option<&Replicas>) -> Self {
        Self { absence: replicas.map(Replicas::watch_absence), told: None }
    }

    /// Waits until the client is to be told something; for ever without a bus.
    /// Can be dropped at any time.
    pub async fn changed(&mut self) -> v1::Elsewhere {
        let Some(absence) = &mut self.absence else { return std::future::pending().await };
        let changed = absence.wait_for(|now| now.why().is_some() != self.told.is_some()).await;
        // The sender lives as long as the service.
        let Ok(why) = changed.map(|now| now.why()) else { return std::future::pending().await };
        self.tell(why)
    }

    /// What the client is to be told at this instant.
    pub fn news(&mut self) -> Option<v1::Elsewhere> {
        let now = self.absence.as_ref()?.borrow().why();
        (now.is_some() != self.told.is_some()).then(|| self.tell(now))
    }

    fn tell(&mut self, why: Option<String>) -> v1::Elsewhere {
        self.told.clone_from(&why);
        v1::Elsewhere { is_heard: why.is_none(), detail: why.unwrap_or_default() }
    }
}
