//! What must hold at every step, whatever goes wrong. Only reads.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use flatframe_shared::frame::SessionId;
use flatframe_shared::outcome::Outcome;

use crate::flooder;
use crate::scenario::Scenario;
use crate::sender::{SenderRun, SenderSite};
use crate::server::{ServerRun, ServerSite};

/// Returns from a function with the text unless the law holds.
macro_rules! law {
    ($holds:expr, $($broken:tt)*) => {
        if !$holds {
            return Err(format!($($broken)*));
        }
    };
}

/// The laws, and what they remember from step to step.
#[derive(Default)]
pub struct Laws {
    /// Session and number of the newest result of each camera.
    newest: HashMap<String, (SessionId, u64)>,
}

impl Laws {
    /// Checks all of them.
    ///
    /// # Errors
    /// The first that does not hold, with the figures.
    pub fn check(
        &mut self,
        scenario: &Scenario,
        server: &ServerSite,
        senders: &[Arc<SenderSite>],
    ) -> Result<(), String> {
        for sender in senders {
            if let Some(run) = sender.current().filter(|run| run.is_alive()) {
                check_sender(scenario, sender, &run).map_err(|broken| format!("{}: {broken}", sender.name))?;
            }
            check_both_sides(server, sender).map_err(|broken| format!("{}: {broken}", sender.name))?;
        }
        if let Some(run) = server.current().filter(|run| run.is_alive()) {
            check_server(scenario, &run).map_err(|broken| format!("server: {broken}"))?;
            self.check_results(scenario, &run, senders).map_err(|broken| format!("results: {broken}"))?;
        }
        Ok(())
    }

    /// Results of a camera come in the order of its frames, and none is of a
    /// frame whose work began after its time to live.
    fn check_results(
        &mut self,
        scenario: &Scenario,
        run: &ServerRun,
        senders: &[Arc<SenderSite>],
    ) -> Result<(), String> {
        law!(run.begun_late.load(Relaxed) == 0, "a worker got a job after its deadline");
        for sender in senders {
            let cameras = &run.intake.cameras;
            let Some(camera) = cameras.all().into_iter().find(|camera| camera.id.as_str() == sender.name) else {
                continue;
            };
            let Some(latest) = camera.view().latest else { continue };
            let newest = (latest.session, latest.number.0);
            let before = self.newest.insert(sender.name.clone(), newest);
            if let Some((session, number)) = before.filter(|(session, _)| *session == newest.0) {
                law!(number <= newest.1, "{}: frame {} after frame {number} of {session:?}", sender.name, newest.1);
            }
            // Begun within its time, done within a job's; an earlier frame of
            // the camera that another worker has may hold it up as long.
            let longest = sender.draw.ttl + scenario.server.longest_job() + Duration::from_millis(2);
            law!(latest.latency <= longest, "{}: a result {:?} old, of {longest:?}", sender.name, latest.latency);
        }
        Ok(())
    }
}

fn check_sender(scenario: &Scenario, sender: &SenderSite, run: &SenderRun) -> Result<(), String> {
    let (counts, draw) = (run.ledger.counts(), &sender.draw);
    law!(counts.balance() == 0, "captured = dropped + sent + waiting, sent = answered + lost + in flight: {counts:?}");
    let (frames, bytes) = (run.outbox.frames(), run.outbox.bytes());
    law!(frames <= draw.mailbox_frames, "{frames} frames in a mailbox for {}", draw.mailbox_frames);
    law!(bytes <= draw.mailbox_bytes, "{bytes} bytes in a mailbox for {}", draw.mailbox_bytes);
    // What waits is in the mailbox, in the slot, or one picture in preparation.
    let elsewhere = counts.waiting.checked_sub(frames as u64 + run.slot.live());
    law!(elsewhere.is_some_and(|frames| frames <= 1), "{frames} in the mailbox, but {counts:?}");
    let most = draw.max_in_flight.min(scenario.server.window as usize) as u64;
    law!(counts.in_flight <= most, "{} frames in flight, of {most}", counts.in_flight);
    law!(counts.answered(Outcome::Invalid) == 0, "a well-behaved sender is told invalid: {counts:?}");
    if run.ended.load(Relaxed) {
        law!(counts.waiting == 0 && counts.in_flight == 0, "stopped, but {counts:?}");
    }
    Ok(())
}

/// Nothing is answered that did not arrive, and nothing arrives that was not
/// sent; by outcome.
fn check_both_sides(server: &ServerSite, sender: &SenderSite) -> Result<(), String> {
    let (sent, received) = (sender.counts(), server.counts(&sender.name));
    law!(received.received <= sent.sent, "received {} of {} sent", received.received, sent.sent);
    for outcome in Outcome::ALL {
        let (told, counted) = (sent.answered(*outcome), received.answered(*outcome));
        law!(told <= counted, "{told} told {outcome}, the server counts {counted}");
    }
    Ok(())
}

fn check_server(scenario: &Scenario, run: &ServerRun) -> Result<(), String> {
    let (intake, window) = (&run.intake, scenario.server.window);
    let (streams, waiting) = (intake.streams(), intake.dispatch.waiting());
    law!(streams <= scenario.server.max_streams, "{streams} streams of {}", scenario.server.max_streams);
    let mut queued = 0;
    for camera in intake.cameras.all() {
        let counts = camera.ledger.counts();
        law!(counts.balance() == 0, "{}: received = answered + queued: {counts:?}", camera.id);
        if camera.id.as_str() != flooder::NAME {
            law!(counts.answered(Outcome::Invalid) == 0, "{}: an invalid frame: {counts:?}", camera.id);
        }
        if let Some(link) = camera.stream() {
            let credits = link.credits();
            let (held, in_server) = (credits.held(), credits.in_server());
            law!(held + in_server <= window, "{}: {held} held, {in_server} here, window {window}", camera.id);
        }
        queued += counts.queued;
    }
    // A stream's slot is the memory of its window, and stays as long as one of
    // its frames does.
    let room = streams as u64 * u64::from(window);
    law!(queued <= room, "{queued} frames in the memory of {room}");
    law!(waiting as u64 <= queued, "{waiting} wait, {queued} are counted");
    law!(intake.cameras.len() <= intake.limits.max_cameras, "{} cameras", intake.cameras.len());
    law!(intake.bus.held() <= intake.limits.result_ring, "{} results kept", intake.bus.held());
    if run.ended.load(Relaxed) {
        let open = run.connections.open.load(Relaxed);
        law!(
            (queued, waiting, streams, open) == (0, 0, 0, 0),
            "stopped with {queued} queued, {waiting} waiting, {streams} streams, {open} connections"
        );
    }
    Ok(())
}
