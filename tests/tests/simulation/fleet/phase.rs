//! What a phase of the fleet's life cost, for the report and the laws.

use std::fmt;
use std::time::Duration;

/// What a phase cost.
pub struct Phase {
    /// Its name.
    pub name: &'static str,
    /// At its end, how long it took until half, 99 % and all cameras had a new
    /// result.
    pub served: [Duration; 3],
    /// Streams that had to be opened.
    pub opened: u64,
    /// Connections that were tried.
    pub attempts: u64,
    /// Most that one replica accepted in a second.
    pub accepted_per_second: u64,
    /// Most and fewest streams of a replica that serves.
    pub streams: (usize, usize),
    /// Frames lost.
    pub lost: u64,
}

impl Phase {
    pub fn has_lost_nothing(&self) -> Result<(), String> {
        if self.lost > 0 { Err(format!("frames were lost: {self}")) } else { Ok(()) }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, served: [half, most, all], opened, attempts, accepted_per_second, streams, lost } = self;
        let (most_streams, fewest_streams) = streams;
        write!(
            f,
            "{name}: new results for half of the cameras after {half:?}, for 99 % after {most:?}, for all after \
             {all:?}; {opened} streams opened with {attempts} connections, at one replica at most \
             {accepted_per_second} in a second; {fewest_streams} to {most_streams} streams at each; {lost} frames lost"
        )
    }
}
