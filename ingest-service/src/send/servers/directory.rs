//! The addresses of all servers: what the configuration names, looked up. The
//! last good answer holds while a look-up fails or hangs, which is counted; at
//! most one look-up is under way. Ranks nobody and connects to nobody.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flatframe_shared::clock::now;
use flatframe_shared::rate_log::RateLog;
use tokio::time::timeout;

use crate::source::BoxFuture;

/// Most addresses that are used.
pub const MAX_SERVERS: usize = 64;
/// Between two look-ups.
const MIN_AGE: Duration = Duration::from_secs(1);
/// A look-up is waited for so long where an earlier answer can be used.
const WAIT_WITH_ANSWER: Duration = Duration::from_millis(250);
/// And where none can.
const WAIT_WITHOUT_ANSWER: Duration = Duration::from_secs(3);

/// Finds the addresses of a name.
pub trait Resolve: std::fmt::Debug + Send + Sync {
    /// One look-up.
    fn look_up(&self, host: String, port: u16) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>>;
}

/// As the system does it (`/etc/hosts`, DNS), on a thread that may block.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn look_up(&self, host: String, port: u16) -> BoxFuture<'static, std::io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.collect()) })
    }
}

/// A server as the configuration names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// `http://HOST:PORT` or `https://HOST:PORT`.
    pub url: String,
    host: String,
    port: u16,
}

impl Named {
    /// Reads such a URL; the port of the scheme where none is given.
    pub fn parse(url: &str) -> Option<Self> {
        let uri: http::Uri = url.parse().ok()?;
        let of_scheme = match uri.scheme_str()? {
            "https" => 443,
            _ => 80,
        };
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_owned();
        Some(Self { url: url.to_owned(), host, port: uri.port_u16().unwrap_or(of_scheme) })
    }

    /// The name without its port, or the address without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The address, where it is one and no name.
    fn literal(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.host.parse().ok()?, self.port))
    }
}

/// A server and what the configuration calls it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Where it listens.
    pub address: SocketAddr,
    /// The name that led there.
    pub named: Arc<Named>,
}

type Answers = Vec<std::io::Result<Vec<SocketAddr>>>;
type LookUp = Pin<Box<dyn Future<Output = Answers> + Send>>;

/// The addresses, and how to find them again.
pub struct Directory {
    resolver: Arc<dyn Resolve>,
    names: Vec<Arc<Named>>,
    state: Mutex<State>,
    /// The one that is under way; kept when nobody waits for it any more.
    under_way: tokio::sync::Mutex<Option<LookUp>>,
    counts: LookUpCounts,
    warnings: RateLog,
}

/// How look-ups ended.
#[derive(Debug, Default)]
pub struct LookUpCounts {
    /// With an answer for every name.
    pub good: AtomicU64,
    /// Without one for some name; the last good one is used.
    pub failed: AtomicU64,
    /// Not in time; the last good one is used meanwhile.
    pub late: AtomicU64,
    /// Addresses beyond [`MAX_SERVERS`] in the last answers; not used.
    pub over_cap: AtomicU64,
}

#[derive(Debug)]
struct State {
    /// For each name its last good answer.
    found: Vec<Vec<SocketAddr>>,
    asked: Option<Instant>,
    /// What went wrong last, for a person.
    trouble: Option<String>,
}

impl std::fmt::Debug for Directory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Directory").field("names", &self.names).field("state", &self.state).finish_non_exhaustive()
    }
}

impl Directory {
    /// Of `names`; nothing is looked up yet.
    pub fn new(names: Vec<Named>, resolver: Arc<dyn Resolve>) -> Self {
        let found = names.iter().map(|named| named.literal().into_iter().collect()).collect();
        Self {
            resolver,
            names: names.into_iter().map(Arc::new).collect(),
            state: Mutex::new(State { found, asked: None, trouble: None }),
            under_way: tokio::sync::Mutex::default(),
            counts: LookUpCounts::default(),
            warnings: RateLog::default(),
        }
    }

    /// All servers, in the order of their addresses, at most [`MAX_SERVERS`].
    pub fn servers(&self) -> Vec<Known> {
        let state = lock(&self.state);
        let mut all: Vec<Known> = Vec::new();
        for (named, found) in self.names.iter().zip(&state.found) {
            all.extend(found.iter().map(|&address| Known { address, named: named.clone() }));
        }
        all.sort_by_key(|known| known.address);
        all.dedup_by_key(|known| known.address);
        all.truncate(MAX_SERVERS);
        all
    }

    /// Why there is no server, for a person.
    pub fn trouble(&self) -> String {
        lock(&self.state).trouble.clone().unwrap_or_else(|| "the name has no address".into())
    }

    /// How look-ups ended.
    pub fn counts(&self) -> &LookUpCounts {
        &self.counts
    }

    /// Looks names up unless that was done a moment ago. Waits a little; an
    /// answer that comes later counts when the next camera asks.
    pub async fn refresh(&self) {
        if self.names.iter().all(|named| named.literal().is_some()) || self.is_fresh() {
            return;
        }
        let wait = if self.servers().is_empty() { WAIT_WITHOUT_ANSWER } else { WAIT_WITH_ANSWER };
        // Whoever holds it looks up already.
        let Ok(mut under_way) = timeout(wait, self.under_way.lock()).await else { return };
        if self.is_fresh() {
            return;
        }
        let look_up = under_way.get_or_insert_with(|| self.look_up_all());
        let answers = timeout(wait, look_up).await;
        // Also a look-up that hangs: nobody else waits for it at once.
        lock(&self.state).asked = Some(now());
        match answers {
            Ok(answers) => {
                *under_way = None;
                self.take(answers);
            }
            Err(_) => {
                self.counts.late.fetch_add(1, Relaxed);
                self.warn(format!("the name is not resolved within {} ms", wait.as_millis()));
            }
        }
    }

    fn is_fresh(&self) -> bool {
        lock(&self.state).asked.is_some_and(|asked| now().duration_since(asked) < MIN_AGE)
    }

    fn look_up_all(&self) -> LookUp {
        let look_ups: Vec<_> = self
            .names
            .iter()
            .map(|named| match named.literal() {
                Some(address) => {
                    let ready: BoxFuture<'static, std::io::Result<_>> = Box::pin(async move { Ok(vec![address]) });
                    ready
                }
                None => self.resolver.look_up(named.host.clone(), named.port),
            })
            .collect();
        Box::pin(async move {
            let mut answers = Vec::with_capacity(look_ups.len());
            for look_up in look_ups {
                answers.push(look_up.await);
            }
            answers
        })
    }

    fn take(&self, answers: Answers) {
        let (mut trouble, mut over_cap) = (None, 0);
        let mut state = lock(&self.state);
        for ((named, found), answer) in self.names.iter().zip(&mut state.found).zip(answers) {
            match answer {
                Ok(mut addresses) if !addresses.is_empty() => {
                    // The same ones in every process.
                    addresses.sort();
                    addresses.dedup();
                    over_cap += addresses.len().saturating_sub(MAX_SERVERS);
                    addresses.truncate(MAX_SERVERS);
                    *found = addresses;
                }
                Ok(_) => trouble = Some(format!("{} has no address", named.host)),
                Err(error) => trouble = Some(format!("{} is not resolved: {error}", named.host)),
            }
        }
        let kept: usize = state.found.iter().map(Vec::len).sum();
        over_cap += kept.saturating_sub(MAX_SERVERS);
        self.counts.over_cap.store(over_cap as u64, Relaxed);
        state.trouble = trouble.clone();
        drop(state);
        match trouble {
            None => {
                self.counts.good.fetch_add(1, Relaxed);
            }
            Some(trouble) => {
                self.counts.failed.fetch_add(1, Relaxed);
                self.warn(trouble);
            }
        }
    }

    fn warn(&self, trouble: String) {
        let known = self.servers().len();
        // Without any address the uplink says it, with when it tries again.
        if known > 0
            && let Some(held_back) = self.warnings.allow(now())
        {
            tracing::warn!(trouble, known, held_back, "servers cannot be looked up: the last answer is used");
        }
        lock(&self.state).trouble = Some(trouble);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Whole answers go in and out: there is no half-written state.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
