//! Outcomes, reasons, states, and the ledgers that count them.

use super::InvalidMessage;
use crate::frame::CameraState;
use crate::r#gen::v1;
use crate::ledger::{IngestCounts, ServerCounts};
use crate::outcome::{DropReason, Outcome};

/// An outcome as sent.
pub fn outcome_to_wire(outcome: Outcome) -> v1::Outcome {
    match outcome {
        Outcome::Analyzed => v1::Outcome::Analyzed,
        Outcome::Expired => v1::Outcome::Expired,
        Outcome::Shed => v1::Outcome::Shed,
        Outcome::Invalid => v1::Outcome::Invalid,
        Outcome::Failed => v1::Outcome::Failed,
        Outcome::Draining => v1::Outcome::Draining,
    }
}

/// An outcome as received.
///
/// # Errors
/// When it is not one of this version.
pub fn outcome_from_wire(outcome: i32) -> Result<Outcome, InvalidMessage> {
    let known = Outcome::ALL.iter().copied().find(|known| outcome_to_wire(*known) as i32 == outcome);
    known.ok_or_else(|| InvalidMessage::new("outcome", outcome, "not an outcome of protocol version 1"))
}

/// A reason as sent.
pub fn reason_to_wire(reason: DropReason) -> v1::DropReason {
    match reason {
        DropReason::Superseded => v1::DropReason::Superseded,
        DropReason::Paced => v1::DropReason::Paced,
        DropReason::Still => v1::DropReason::Still,
        DropReason::Expired => v1::DropReason::Expired,
        DropReason::Corrupt => v1::DropReason::Corrupt,
        DropReason::TooLarge => v1::DropReason::TooLarge,
        DropReason::Offline => v1::DropReason::Offline,
        DropReason::Shutdown => v1::DropReason::Shutdown,
    }
}

/// A camera state as sent.
pub fn state_to_wire(state: CameraState) -> v1::CameraState {
    match state {
        CameraState::Connecting => v1::CameraState::Connecting,
        CameraState::Live => v1::CameraState::Live,
        CameraState::Stalled => v1::CameraState::Stalled,
        CameraState::Down => v1::CameraState::Down,
        CameraState::Offline => v1::CameraState::Offline,
    }
}

/// A camera state as received; `None` when it is not one of this version.
pub fn state_from_wire(state: i32) -> Option<CameraState> {
    use CameraState::{Connecting, Down, Live, Offline, Stalled};
    [Connecting, Live, Stalled, Down, Offline].into_iter().find(|known| state_to_wire(*known) as i32 == state)
}

/// The sender's counters as sent.
pub fn ingest_counts_to_wire(counts: &IngestCounts) -> v1::IngestLedger {
    let dropped = DropReason::ALL
        .iter()
        .filter(|reason| counts.dropped(**reason) > 0)
        .map(|&reason| v1::DropCount { reason: reason_to_wire(reason) as i32, frames: counts.dropped(reason) })
        .collect();
    v1::IngestLedger {
        captured: counts.captured,
        dropped,
        sent: counts.sent,
        answered: answered_to_wire(&counts.answered),
        lost: counts.lost,
        waiting: counts.waiting,
        in_flight: counts.in_flight,
    }
}

/// The sender's counters as received; reasons and outcomes of later versions
/// are left out.
pub fn ingest_counts_from_wire(ledger: &v1::IngestLedger) -> IngestCounts {
    let mut counts = IngestCounts {
        captured: ledger.captured,
        sent: ledger.sent,
        lost: ledger.lost,
        waiting: ledger.waiting,
        in_flight: ledger.in_flight,
        ..IngestCounts::default()
    };
    for drop in &ledger.dropped {
        if let Some(reason) = DropReason::ALL.iter().find(|reason| reason_to_wire(**reason) as i32 == drop.reason) {
            counts.dropped[reason.index()] = drop.frames;
        }
    }
    for answer in &ledger.answered {
        if let Ok(outcome) = outcome_from_wire(answer.outcome) {
            counts.answered[outcome.index()] = answer.frames;
        }
    }
    counts
}

/// The server's counters as sent.
pub fn server_counts_to_wire(counts: &ServerCounts) -> v1::ServerLedger {
    v1::ServerLedger { received: counts.received, answered: answered_to_wire(&counts.answered), queued: counts.queued }
}

fn answered_to_wire(answered: &[u64; Outcome::COUNT]) -> Vec<v1::OutcomeCount> {
    Outcome::ALL
        .iter()
        .zip(answered)
        .filter(|(_, frames)| **frames > 0)
        .map(|(&outcome, &frames)| v1::OutcomeCount { outcome: outcome_to_wire(outcome) as i32, frames })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_there_and_back() {
        let mut counts =
            IngestCounts { captured: 10, sent: 6, lost: 1, waiting: 1, in_flight: 2, ..Default::default() };
        counts.dropped[DropReason::Still.index()] = 3;
        counts.answered[Outcome::Shed.index()] = 3;
        assert_eq!(ingest_counts_from_wire(&ingest_counts_to_wire(&counts)), counts);
    }
}
