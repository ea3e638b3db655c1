//! Results of a time in pages: from the result bus, for it has those of all
//! replicas, unless only the history of this one reaches back so far. What may
//! be missing is said in the answer.

use std::sync::Arc;
use std::time::Duration;

use flatframe_shared::clock;
use flatframe_shared::convert::short;
use flatframe_shared::error::ErrorKind;
use flatframe_shared::frame::CameraId;
use flatframe_shared::r#gen::v1;
use tonic::{Code, Status};

use super::archive::{Archive, from_body};
use super::elsewhere::{self, Page, PageQuery};
use super::query::{blocking, history, known, refused};
use super::service::camera_id;
use super::wire::Wire;
use crate::history::{Cursor, History, ResultPage, ResultQuery};
use crate::intake::admission::CallSlot;
use crate::replicas::Replicas;

/// Most results of one page, and most bytes of it as they are kept.
const PAGE_RESULTS: usize = 256;
const PAGE_BYTES: usize = 64 << 10;
/// Results of a query that does not say how many.
const DEFAULT_RESULTS: u32 = 1000;
/// Most results of one query.
const MAX_RESULTS: u32 = 100_000;
/// Length of a number in a page token: 64 bits in hexadecimal.
const TOKEN_DIGITS: usize = 16;
/// What a token of the bus begins with.
const BUS_TOKEN: char = 'b';
const DAMAGED: &str = "the history holds a row that is no result: stop the service and run \
                       inference-service history repair";

/// What is left of a query for results.
pub struct Pages {
    source: Source,
    camera: CameraId,
    from_unix_ms: i64,
    to_unix_ms: i64,
    left: u32,
    page_deadline: Duration,
    wire: Wire,
    /// What is said of what may be missing.
    incomplete: String,
    /// Kept by every thread that works for the call, also when its client has
    /// gone: as many work at once as there are slots.
    _slot: Option<CallSlot>,
}

/// Where results are read, and after which.
enum Source {
    History(History, Option<Cursor>),
    Bus(Arc<Replicas>, Option<u64>),
}

/// Where an earlier answer ended.
enum Token {
    History(Cursor),
    Bus(u64),
}

impl Pages {
    /// All that `request` asks for.
    ///
    /// # Errors
    /// As the call's.
    pub async fn new(
        archive: &Archive,
        request: &v1::QueryResultsRequest,
        page_deadline: Duration,
        slot: Option<CallSlot>,
    ) -> Result<Self, Status> {
        let camera = camera_id(&request.camera_id)?;
        let (from_unix_ms, to_unix_ms) = (request.from_unix_ms, request.to_unix_ms);
        if from_unix_ms < 0 || to_unix_ms <= from_unix_ms {
            let message = format!(
                "from_unix_ms = {from_unix_ms} and to_unix_ms = {to_unix_ms} are no span of time: \
                 use milliseconds since 1970, from below to"
            );
            return Err(ErrorKind::Invalid.status(message));
        }
        let left = match request.max_results {
            0 => DEFAULT_RESULTS,
            1..=MAX_RESULTS => request.max_results,
            more => {
                let message = format!("max_results = {more}: use 0 ({DEFAULT_RESULTS}) to {MAX_RESULTS}");
                return Err(ErrorKind::Invalid.status(message));
            }
        };
        let token = token(&request.page_token)?;
        let (source, incomplete) = source(archive, &camera, from_unix_ms, token, page_deadline).await?;
        let wire = archive.wire;
        Ok(Self { source, camera, from_unix_ms, to_unix_ms, left, page_deadline, wire, incomplete, _slot: slot })
    }

    /// The next page, and what is left then.
    ///
    /// # Errors
    /// As the call's.
    pub async fn next(mut self) -> Result<(v1::QueryResultsResponse, Option<Self>), Status> {
        let (results, next_page_token) = match self.source {
            Source::Bus(ref replicas, after) => {
                let query = PageQuery {
                    span_unix_ms: (self.from_unix_ms, self.to_unix_ms),
                    after,
                    limit: PAGE_RESULTS.min(self.left as usize),
                    max_bytes: PAGE_BYTES,
                    deadline: clock::now() + self.page_deadline,
                };
                let Page { results, next } = elsewhere::page(replicas, &self.camera, query, self.wire).await?;
                let token = next.map(|next| format!("{BUS_TOKEN}{next:0TOKEN_DIGITS$x}"));
                self.source = Source::Bus(replicas.clone(), next);
                (results, token)
            }
            Source::History(..) => {
                let (pages, results, token) = self.next_of_history().await?;
                self = pages;
                (results, token)
            }
        };
        self.left = self.left.saturating_sub(results.len() as u32);
        let is_more = next_page_token.is_some() && self.left > 0;
        let next_page_token = next_page_token.unwrap_or_default();
        let incomplete = self.incomplete.clone();
        Ok((v1::QueryResultsResponse { results, next_page_token, incomplete }, is_more.then_some(self)))
    }

    async fn next_of_history(self) -> Result<(Self, Vec<v1::FrameResult>, Option<String>), Status> {
        // The history goes by the system's clock, on its own threads.
        let deadline = std::time::Instant::now() + self.page_deadline;
        let (mut pages, page) = blocking(move || {
            let mut pages = self;
            let Source::History(history, after) = &mut pages.source else {
                return Err(ErrorKind::Internal.status("a page of the bus was asked of the history"));
            };
            let query = ResultQuery {
                camera: &pages.camera,
                from_unix_ms: pages.from_unix_ms,
                to_unix_ms: pages.to_unix_ms,
                after: after.take(),
                limit: PAGE_RESULTS.min(pages.left as usize),
                max_bytes: PAGE_BYTES,
            };
            let is_first = query.after.is_none();
            let page = history.query_results(&query, deadline).map_err(refused)?;
            if is_first && page.results.is_empty() {
                known(history, &pages.camera, deadline)?;
            }
            Ok((pages, page))
        })
        .await?;
        let ResultPage { results, next } = page;
        if let Source::History(_, after) = &mut pages.source {
            *after = next;
        }
        let camera = pages.camera.as_str();
        let results = results.iter().map(|stored| from_body(&stored.body, camera)).collect::<Result<_, _>>();
        let results = results.map_err(|_| ErrorKind::Internal.status(DAMAGED))?;
        Ok((pages, results, next.map(|cursor| format!("{:0TOKEN_DIGITS$x}", cursor.to_u64()))))
    }
}

/// Where the results of a query are, and what may be missing there.
async fn source(
    archive: &Archive,
    camera: &CameraId,
    from_unix_ms: i64,
    token: Option<Token>,
    limit: Duration,
) -> Result<(Source, String), Status> {
    let Some(replicas) = archive.replicas.clone() else {
        return match token {
            Some(Token::Bus(_)) => Err(strange_token("of a result bus, and there is none")),
            Some(Token::History(cursor)) => Ok((Source::History(history(archive)?, Some(cursor)), String::new())),
            None => Ok((Source::History(history(archive)?, None), String::new())),
        };
    };
    let of_this_replica = |why: String| format!("results of this replica alone: {why}");
    match token {
        Some(Token::Bus(after)) => return Ok((Source::Bus(replicas, Some(after)), String::new())),
        Some(Token::History(cursor)) => {
            let incomplete = of_this_replica("they go on from its history".to_owned());
            return Ok((Source::History(history(archive)?, Some(cursor)), incomplete));
        }
        None => {}
    }
    let since = elsewhere::complete_since(&replicas, camera, clock::now() + limit).await;
    match (since, &archive.history) {
        (Ok(Some(since_ms)), history) => {
            let reaches_back = since_ms <= from_unix_ms;
            if !reaches_back
                && let Some(history) = history
                && has_results(history, camera, (from_unix_ms, since_ms), limit).await?
            {
                let why = of_this_replica("the bus does not reach back so far".to_owned());
                return Ok((Source::History(history.clone(), None), why));
            }
            let missing = if reaches_back {
                missing_on_the_bus(&replicas, archive, camera, from_unix_ms, limit).await?
            } else {
                format!("the result bus has results of camera {camera} since {since_ms} ms after 1970")
            };
            Ok((Source::Bus(replicas, None), missing))
        }
        (Ok(None), Some(history)) => {
            let why = of_this_replica("the result bus has none".to_owned());
            Ok((Source::History(history.clone(), None), why))
        }
        (Ok(None), None) => Err(ErrorKind::NotFound.status(format!("the result bus has no result of camera {camera}"))),
        // A camera that the history does not know may be another replica's.
        (Err(status), Some(history)) if !is_known(history, camera, limit).await? => Err(status),
        (Err(status), Some(history)) => {
            Ok((Source::History(history.clone(), None), of_this_replica(status.message().to_owned())))
        }
        (Err(status), None) => Err(status),
    }
}

/// Whether the history of this replica knows of the camera.
async fn is_known(history: &History, camera: &CameraId, limit: Duration) -> Result<bool, Status> {
    let (history, camera, deadline) = (history.clone(), camera.clone(), std::time::Instant::now() + limit);
    blocking(move || match known(&history, &camera, deadline) {
        Err(status) if status.code() == Code::NotFound => Ok(false),
        answer => answer.map(|()| true),
    })
    .await
}

/// Whether the history of this replica has results of that time.
async fn has_results(
    history: &History,
    camera: &CameraId,
    span_unix_ms: (i64, i64),
    limit: Duration,
) -> Result<bool, Status> {
    let (history, camera, deadline) = (history.clone(), camera.clone(), std::time::Instant::now() + limit);
    blocking(move || {
        let (from_unix_ms, to_unix_ms) = span_unix_ms;
        let query =
            ResultQuery { camera: &camera, from_unix_ms, to_unix_ms, after: None, limit: 1, max_bytes: PAGE_BYTES };
        Ok(!history.query_results(&query, deadline).map_err(refused)?.results.is_empty())
    })
    .await
}

/// Which results since then, that this replica knows of, are not on the bus.
async fn missing_on_the_bus(
    replicas: &Replicas,
    archive: &Archive,
    camera: &CameraId,
    from_unix_ms: i64,
    limit: Duration,
) -> Result<String, Status> {
    if let Some(at_ms) = replicas.outbox.dropped_unix_ms().filter(|at_ms| *at_ms >= from_unix_ms) {
        return Ok(format!("results of this replica did not reach the result bus, at last {at_ms} ms after 1970"));
    }
    let Some(history) = archive.history.clone() else { return Ok(String::new()) };
    let (camera, deadline) = (camera.clone(), std::time::Instant::now() + limit);
    let late_us = blocking(move || history.newest_late_us(&camera, deadline).map_err(refused)).await?;
    // They are not on the bus: it is read by when it got them.
    let is_missing = late_us.is_some_and(|late_us| late_us.div_euclid(1000) >= from_unix_ms);
    let why = "late results are in the history of the replica that took them alone";
    Ok(if is_missing { why.to_owned() } else { String::new() })
}

fn token(text: &str) -> Result<Option<Token>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let (digits, is_bus) = text
        .strip_prefix(BUS_TOKEN)
        .filter(|rest| rest.len() == TOKEN_DIGITS)
        .map_or((text, false), |rest| (rest, true));
    let number = u64::from_str_radix(digits, 16).ok().filter(|_| digits.len() == TOKEN_DIGITS);
    let number = number.ok_or_else(|| {
        let text = short(text.to_owned());
        ErrorKind::Invalid.status(format!("page_token = {text:?} is none of this service: leave it empty"))
    })?;
    Ok(Some(if is_bus { Token::Bus(number) } else { Token::History(Cursor::from_u64(number)) }))
}

fn strange_token(why: &str) -> Status {
    ErrorKind::Invalid.status(format!("page_token is {why}: leave it empty"))
}
