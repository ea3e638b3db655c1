//! What is known of servers that were not there: until when nobody tries them,
//! longer each time. What one camera finds out, all cameras of the process
//! know, so that a dead server costs one attempt and not one for each camera.
//! Pure; the caller brings the time.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// A server that was not there is not tried for so long the first time.
const FIRST_ABSENCE: Duration = Duration::from_secs(1);
/// And never for longer.
const LONGEST_ABSENCE: Duration = Duration::from_secs(15);

/// Who was not there; servers that are there have no entry.
#[derive(Debug, Default)]
pub struct Standing {
    absences: BTreeMap<SocketAddr, Absence>,
}

#[derive(Debug)]
struct Absence {
    until: Instant,
    step: Duration,
}

impl Standing {
    /// `server` does not answer. Draws from `share` (0 to 1) when it is tried
    /// again, so that processes do not return together.
    pub fn gone(&mut self, server: SocketAddr, share: f64, now: Instant) {
        let absence = self.absences.entry(server).or_insert(Absence { until: now, step: FIRST_ABSENCE / 2 });
        // Every stream that breaks says so: one absence, not one for each.
        if absence.until > now {
            return;
        }
        absence.step = (absence.step * 2).min(LONGEST_ABSENCE);
        absence.until = now + absence.step.mul_f64(0.5 + 0.5 * share);
    }

    /// `server` took a stream.
    pub fn there(&mut self, server: SocketAddr) {
        self.absences.remove(&server);
    }

    /// Whether it is not to be tried yet.
    pub fn is_absent(&self, server: SocketAddr, now: Instant) -> bool {
        self.absences.get(&server).is_some_and(|absence| absence.until > now)
    }

    /// Forgets all others.
    pub fn keep_only(&mut self, servers: &[SocketAddr]) {
        self.absences.retain(|server, _| servers.contains(server));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(number: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, number], 50_051))
    }

    #[test]
    fn longer_each_time_up_to_a_bound_and_not_by_each_stream() {
        let (mut standing, mut now) = (Standing::default(), Instant::now());
        for step_s in [1, 2, 4, 8, 15, 15] {
            (0..100).for_each(|_| standing.gone(server(1), 1.0, now));
            assert!(standing.is_absent(server(1), now + Duration::from_secs(step_s) - Duration::from_millis(1)));
            now += Duration::from_secs(step_s);
            assert!(!standing.is_absent(server(1), now), "{step_s} s");
        }
        assert!(!standing.is_absent(server(2), now), "others are not meant");
        standing.there(server(1));
        standing.gone(server(1), 0.0, now);
        assert!(!standing.is_absent(server(1), now + FIRST_ABSENCE / 2), "begins anew");
    }

    #[test]
    fn servers_that_are_no_more_are_forgotten() {
        let (mut standing, now) = (Standing::default(), Instant::now());
        (1..=9).for_each(|number| standing.gone(server(number), 1.0, now));
        standing.keep_only(&[server(3)]);
        assert_eq!(standing.absences.len(), 1);
        assert!(standing.is_absent(server(3), now));
    }
}
