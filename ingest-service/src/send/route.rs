//! One camera's way to a server: which of them it dials, when it goes to
//! another, and why. A camera belongs to the server that ranks first for it
//! ([`super::servers::ranking`]). It passes over servers that are not there and
//! those that refused it, and comes back at a random time. Load counts: a
//! server that is full refuses, and one that asks for much less than the camera
//! wants is left for the next, once in a while. Sends nothing itself.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flatframe_shared::clock::now;
use flatframe_shared::frame::{CameraId, Pace};
use tonic::transport::Channel;

use crate::send::dial::{Dial, DialError, Parting, Retry};
use crate::send::servers::directory::Known;
use crate::send::servers::ranking::weight;
use crate::send::servers::{MoveReason, Servers, Turn};
use crate::source::BoxFuture;
use crate::terms::TermsCell;

/// Below this share of the rate that a camera wants its server is busy.
const BUSY: f32 = 0.75;
/// A server that is to relieve another must ask for so many times its pace.
const RELIEF: f32 = 1.25;
/// The busier one of two is not tried again for so long, nor one that had no
/// room for a camera that left another for it.
const BUSY_FOR: Duration = Duration::from_secs(300);
/// A server that asks for little is watched for so long before it is left: one
/// that recovers asks for more each second.
const WATCHED_FOR: Duration = Duration::from_secs(4);

/// The way of one camera.
#[derive(Debug)]
pub struct Route {
    servers: Servers,
    camera: CameraId,
    wanted_fps: f32,
    terms: TermsCell,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Dialled last, and whether a stream to it is open.
    current: Option<SocketAddr>,
    is_open: bool,
    /// The server before, when the camera moves for its own good.
    moving: Option<Moving>,
    /// Had a stream last.
    served_by: Option<SocketAddr>,
    /// What this camera knows of servers beside what all know; at most one
    /// for each server.
    marks: BTreeMap<SocketAddr, Mark>,
}

#[derive(Debug, Clone, Copy)]
struct Moving {
    to: SocketAddr,
    reason: MoveReason,
    /// What the server before asked for.
    pace_fps: f32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    /// Not wanted before: it refused this camera, or is busier than another.
    passed_over_until: Option<Instant>,
    /// When an attempt failed last: among servers that are all not there, the
    /// one that was tried longest ago is next.
    failed: Option<Instant>,
}

/// How good a server is for a camera: the least is the best.
type Place = (Standing, Option<Instant>, std::cmp::Reverse<u64>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Standing {
    There,
    PassedOver,
    Absent,
}

impl Route {
    /// The way of `camera`, which wants `wanted_fps`; what its server takes is
    /// in `terms`.
    pub fn new(servers: Servers, camera: CameraId, wanted_fps: f32, terms: TermsCell) -> Self {
        Self { servers, camera, wanted_fps, terms, state: Mutex::default() }
    }

    /// All servers, the best for this camera first.
    fn ranked(&self, state: &State) -> Vec<(Place, Known)> {
        let now = now();
        let place = |known: &Known, is_absent| {
            let mark = state.marks.get(&known.address).copied().unwrap_or_default();
            let standing = if is_absent {
                Standing::Absent
            } else if mark.passed_over_until.is_some_and(|until| until > now) {
                Standing::PassedOver
            } else {
                Standing::There
            };
            let failed = mark.failed.filter(|_| standing != Standing::There);
            (standing, failed, std::cmp::Reverse(weight(&self.camera, known.address)))
        };
        let mut ranked: Vec<_> =
            self.servers.known().into_iter().map(|(known, is_absent)| (place(&known, is_absent), known)).collect();
        ranked.sort_by_key(|(place, _)| *place);
        ranked
    }

    /// The server to dial now, and whether there are others.
    fn choose(&self) -> Option<(Known, bool)> {
        let mut state = self.lock();
        let ranked = self.ranked(&state);
        let known: Vec<_> = ranked.iter().map(|(_, known)| known.address).collect();
        state.marks.retain(|server, _| known.contains(server));
        let has_others = ranked.len() > 1;
        let (_, best) = ranked.into_iter().next()?;
        state.current = Some(best.address);
        Some((best, has_others))
    }

    /// Where this camera had better be, if anywhere, and why.
    fn better_place(&self) -> Option<(Known, MoveReason)> {
        let state = self.lock();
        let current = state.current.filter(|_| state.is_open)?;
        let ranked = self.ranked(&state);
        let own = weight(&self.camera, current);
        let is_passed_over = |place: &Place| place.0 != Standing::There;
        let mut others = ranked.iter().filter(|(place, known)| known.address != current && !is_passed_over(place));
        let (_, best) = others.next()?;
        let current_is_passed_over =
            ranked.iter().any(|(place, known)| known.address == current && place.0 == Standing::PassedOver);
        if weight(&self.camera, best.address) > own || current_is_passed_over {
            return Some((best.clone(), MoveReason::Return));
        }
        (self.pace_fps() < self.wanted_fps * BUSY).then(|| (best.clone(), MoveReason::Relief))
    }

    /// What the server asks for now.
    fn pace_fps(&self) -> f32 {
        let asked = self.terms.get().and_then(|terms| terms.max_fps);
        asked.map_or(self.wanted_fps, |fps| fps.min(self.wanted_fps))
    }

    /// Whether the server asks for little, but for more while it is watched.
    async fn is_recovering(&self) -> bool {
        let asked_fps = self.pace_fps();
        if asked_fps >= self.wanted_fps * BUSY {
            return false;
        }
        tokio::time::sleep(WATCHED_FOR).await;
        self.pace_fps() >= asked_fps * RELIEF
    }

    /// A connection to a server where this camera had better be. Waits for ever
    /// where it is well; the caller drops it with the stream.
    async fn find_better(&self) -> (Channel, Turn) {
        loop {
            tokio::time::sleep(self.servers.next_look()).await;
            if self.is_recovering().await {
                continue;
            }
            let turn = self.servers.turn_to_move().await;
            self.servers.refresh().await;
            let Some((to, reason)) = self.better_place() else { continue };
            let pace_fps = self.pace_fps();
            match self.servers.connect(&to, true).await {
                Ok(channel) if Servers::is_serving(channel.clone()).await => {
                    tracing::info!(server = %to.address, reason = reason.as_str(), "moving to another server");
                    self.lock().moving = Some(Moving { to: to.address, reason, pace_fps });
                    return (channel, turn);
                }
                // It stays where it is.
                _ => self.servers.gone(to.address),
            }
        }
    }

    /// Counts the stream as closed, if one is open.
    fn close(&self, state: &mut State) {
        if std::mem::take(&mut state.is_open)
            && let Some(server) = state.current
        {
            self.servers.closed(server);
        }
    }

    fn pass_over(state: &mut State, server: SocketAddr, time: Duration) {
        let now = now();
        let mark = state.marks.entry(server).or_default();
        mark.passed_over_until = Some(now + time);
        mark.failed = Some(now);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one step: what a panic left behind is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Dial for Route {
    fn turn(&self) -> BoxFuture<'_, Turn> {
        Box::pin(self.servers.turn())
    }

    fn dial(&self) -> BoxFuture<'_, Result<Channel, DialError>> {
        Box::pin(async {
            // Until one is chosen, no server is to blame.
            self.lock().current = None;
            self.servers.refresh().await;
            let (server, has_others) = self.choose().ok_or_else(|| DialError::NoServer(self.servers.trouble()))?;
            self.servers.connect(&server, has_others).await
        })
    }

    fn opened(&self, pace: Pace) {
        let mut state = self.lock();
        let Some(server) = state.current else { return };
        state.is_open = true;
        state.marks.remove(&server);
        self.servers.opened(server);
        tracing::debug!(%server, "the server took the stream");
        let before = state.served_by.replace(server).filter(|before| *before != server);
        let moving = state.moving.take();
        let Some(before) = before else { return };
        self.servers.moved(moving.map_or(MoveReason::Failover, |moving| moving.reason));
        if let Some(Moving { reason: MoveReason::Relief, pace_fps, .. }) = moving {
            let offered = pace.max_fps.map_or(self.wanted_fps, |fps| fps.min(self.wanted_fps));
            // The busier of the two is left alone for a while; if that is the
            // new one, the camera goes back at its next look.
            let busier = if offered >= pace_fps * RELIEF { before } else { server };
            Self::pass_over(&mut state, busier, BUSY_FOR);
        }
    }

    fn ended(&self, parting: Parting) -> Retry {
        let mut state = self.lock();
        if let Some(server) = state.current.filter(|_| state.is_open) {
            tracing::info!(%server, how = ?parting, "the stream to the server is over");
        }
        self.close(&mut state);
        let moving = state.moving.take();
        if let (Parting::Moved, Some(moving)) = (parting, moving) {
            state.current = Some(moving.to);
            state.moving = Some(moving);
            return Retry::Elsewhere;
        }
        if let Some(server) = state.current {
            match parting {
                Parting::Gone => {
                    self.servers.gone(server);
                    state.marks.entry(server).or_default().failed = Some(now());
                }
                Parting::Refused(time) => {
                    // It left a server that served it: not for this one again so soon.
                    let time = if moving.is_some() { time.max(BUSY_FOR) } else { time };
                    Self::pass_over(&mut state, server, time);
                }
                Parting::Taken => return Retry::Later,
                Parting::Drained | Parting::Moved => {}
            }
        }
        let ranked = self.ranked(&state);
        let has_other = ranked.len() > 1 && ranked.first().is_some_and(|(place, _)| place.0 == Standing::There);
        if has_other { Retry::Elsewhere } else { Retry::Later }
    }

    fn better(&self) -> BoxFuture<'_, (Channel, Turn)> {
        Box::pin(self.find_better())
    }
}

impl Drop for Route {
    fn drop(&mut self) {
        self.close(&mut self.lock());
    }
}

#[cfg(test)]
mod tests;
