//! What this replica tells of its cameras: the newest state of each, replaced
//! when it waits, and published by one task in the order in which it was put
//! up. Putting up never waits. What is put up while the bus is away is not
//! kept: a second later there is something newer.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_nats::HeaderMap;
use async_nats::jetstream::context::PublishAckFuture;
use bytes::Bytes;
use flatframe_shared::frame::CameraId;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::directory::MAX_INFO_BYTES;
use super::follow::within;
use super::publisher::BATCH;
use super::streams::Topic;
use super::{HEADER_REPLICA, HEADER_RUN, Replicas};

/// Most that is told of the people of one camera, in bytes.
pub const MAX_PEOPLE_BYTES: usize = 256 << 10;

/// What is told of one camera.
#[derive(Debug, Default)]
pub struct Post {
    /// Its state, as clients see it.
    pub info: Option<Bytes>,
    /// Who is in front of it, for the replica that serves it next.
    pub people: Option<Bytes>,
    /// Told when the bus has it: the camera's last word from here.
    pub done: Option<oneshot::Sender<()>>,
}

impl Post {
    fn bytes(&self) -> usize {
        [&self.info, &self.people].into_iter().flatten().map(Bytes::len).sum()
    }
}

/// What waits to be told: bounded in bytes.
#[derive(Debug)]
pub struct Board {
    max_bytes: usize,
    waiting: Mutex<Waiting>,
    put_up: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    posts: BTreeMap<CameraId, Post>,
    bytes: usize,
}

impl Board {
    /// For at most `max_bytes` that wait.
    pub fn new(max_bytes: usize) -> Self {
        Self { max_bytes, waiting: Mutex::default(), put_up: Notify::new() }
    }

    /// Puts up what is to be told of `camera`, in place of what waits. A last
    /// word is replaced by nothing but another one. `false`: there is no room
    /// for it, and what waited stays.
    #[must_use]
    pub fn put(&self, camera: &CameraId, post: Post) -> bool {
        let mut waiting = self.lock();
        let before = waiting.posts.get(camera);
        if before.is_some_and(|before| before.done.is_some()) && post.done.is_none() {
            return true;
        }
        let bytes = waiting.bytes - before.map_or(0, Post::bytes) + post.bytes();
        if bytes > self.max_bytes {
            return false;
        }
        waiting.bytes = bytes;
        waiting.posts.insert(camera.clone(), post);
        drop(waiting);
        self.put_up.notify_one();
        true
    }

    /// Cameras of which something waits.
    pub fn len(&self) -> usize {
        self.lock().posts.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn take(&self) -> Option<(CameraId, Post)> {
        let mut waiting = self.lock();
        let (camera, post) = waiting.posts.pop_first()?;
        waiting.bytes -= post.bytes();
        Some((camera, post))
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Last words that wait for the bus to have them, at once: of what it may have
/// to acknowledge they and a batch of results are all.
const LAST_WORDS: usize = BATCH / 2;

/// Tells what is put up until `stop`.
pub async fn run(replicas: &Replicas, stop: &CancellationToken) {
    let mut last_words = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = replicas.board.put_up.notified(), if last_words.len() < LAST_WORDS => {}
            Some(()) = last_words.next(), if !last_words.is_empty() => {}
        }
        while last_words.len() < LAST_WORDS
            && let Some((camera, post)) = replicas.board.take()
        {
            // Dropped with its bell: who waits for it learns that it was not told.
            if replicas.away().is_some() {
                continue;
            }
            let told = tokio::select! {
                () = stop.cancelled() => return,
                told = tell(replicas, &camera, post) => told,
            };
            match told {
                Ok(Some(last_word)) => last_words.push(async move {
                    if let Err(error) = last_word.acknowledged().await {
                        tracing::debug!(%camera, error, "the bus does not have a last word");
                    }
                }),
                Ok(None) => {}
                Err(error) => tracing::debug!(%camera, error, "the bus was not told of a camera"),
            }
        }
    }
}

/// A last word on its way: what is told of a camera is told in order, and only
/// the bus's word is waited for beside others.
struct LastWord {
    sent: Vec<PublishAckFuture>,
    done: oneshot::Sender<()>,
}

impl LastWord {
    async fn acknowledged(self) -> Result<(), String> {
        for ack in self.sent {
            within(ack).await?.map_err(|error| error.to_string())?;
        }
        // Who waited may have given up.
        let _ = self.done.send(());
        Ok(())
    }
}

async fn tell(replicas: &Replicas, camera: &CameraId, post: Post) -> Result<Option<LastWord>, String> {
    let info = post.info.filter(|info| info.len() <= MAX_INFO_BYTES).map(|info| (Topic::Camera, info));
    let people = post.people.filter(|people| people.len() <= MAX_PEOPLE_BYTES).map(|people| (Topic::People, people));
    let mut last_word = post.done.map(|done| LastWord { sent: Vec::new(), done });
    for (topic, body) in people.into_iter().chain(info) {
        let subject = replicas.names.subject(topic, camera);
        let mut headers = HeaderMap::new();
        headers.insert(HEADER_REPLICA, replicas.settings.replica.as_str());
        headers.insert(HEADER_RUN, replicas.run_text.as_str());
        if let Some(last_word) = &mut last_word {
            let published = replicas.context.publish_with_headers(subject, headers, body);
            last_word.sent.push(within(published).await?.map_err(|error| error.to_string())?);
        } else {
            // Nobody waits for it, and a second later there is something newer.
            let published = replicas.client.publish_with_headers(subject, headers, body);
            within(published).await?.map_err(|error| error.to_string())?;
        }
    }
    Ok(last_word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_stays_and_a_last_word_is_not_replaced() {
        let (board, camera) = (Board::new(1 << 10), CameraId::parse("a").expect("an id"));
        let post = |text: &'static str| Post { info: Some(Bytes::from_static(text.as_bytes())), ..Post::default() };
        assert!(board.put(&camera, post("one")) && board.put(&camera, post("two")));
        assert_eq!(board.len(), 1);
        let (done, _told) = oneshot::channel();
        assert!(board.put(&camera, Post { done: Some(done), ..post("last") }) && board.put(&camera, post("three")));
        let (_, waiting) = board.take().expect("waits");
        assert_eq!(waiting.info.as_deref(), Some(&b"last"[..]));
        assert!(board.is_empty());
    }

    #[test]
    fn what_waits_is_bounded_in_bytes() {
        let board = Board::new(10);
        let put = |camera: &str, bytes: usize| {
            let info = Some(Bytes::from(vec![0; bytes]));
            board.put(&CameraId::parse(camera).expect("an id"), Post { info, ..Post::default() })
        };
        assert!(put("a", 4) && put("b", 5) && !put("c", 2), "room for one byte more");
        assert!(put("a", 5), "in place of its own");
        assert!(!put("a", 6) && board.len() == 2);
        let taken: Vec<_> = std::iter::from_fn(|| board.take()).map(|(_, post)| post.bytes()).collect();
        assert_eq!(taken, [5, 5], "what waited stayed");
        assert!(put("c", 10));
    }
}
