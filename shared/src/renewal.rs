//! Files that may be exchanged while the service runs: looked at once a second,
//! read again when they changed. What cannot be used is refused, told once and
//! counted, and what was read before goes on. Knows nothing of what is in them.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

/// Between two looks.
const TICK: Duration = Duration::from_secs(1);

/// A file and the configuration key that names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// The key, or the flag.
    pub key: &'static str,
    /// The file.
    pub path: PathBuf,
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{key} = {}: {reason}", path.display())]
pub struct FileError {
    /// The configuration key, or the flag, that names the file.
    pub key: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What is wrong, and what to do.
    pub reason: String,
}

impl NamedFile {
    /// The file at `path`, which `key` names.
    pub fn new(key: &'static str, path: impl Into<PathBuf>) -> Self {
        Self { key, path: path.into() }
    }

    /// That the file cannot be used.
    pub fn wrong(&self, reason: impl Into<String>) -> FileError {
        FileError { key: self.key, path: self.path.clone(), reason: reason.into() }
    }
}

/// What is read from files that may be exchanged.
pub trait Renewable: Send + Sync {
    /// Reads the files again if they changed. Blocks for as long as the disk
    /// takes.
    fn look(&self);

    /// Does what the clock alone asks for, also while a look takes long. Does
    /// not block.
    fn tick(&self) {}
}

/// Looks once a second at each of `files` until `shutdown`. A disk that does
/// not answer holds one blocking thread for each of them that lies on it; the
/// others are looked at, and time goes on for all.
pub async fn renew(files: Vec<Arc<dyn Renewable>>, shutdown: CancellationToken) {
    let mut loops: JoinSet<()> = files.into_iter().map(|file| renew_one(file, shutdown.clone())).collect();
    while loops.join_next().await.is_some() {}
}

async fn renew_one(file: Arc<dyn Renewable>, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut looking: Option<JoinHandle<()>> = None;
    while shutdown.run_until_cancelled(ticks.tick()).await.is_some() {
        if looking.as_ref().is_none_or(JoinHandle::is_finished) {
            let file = file.clone();
            looking = Some(tokio::task::spawn_blocking(move || file.look()));
        }
        file.tick();
    }
}

/// Reads `T` from its files.
type Load<T> = Box<dyn Fn() -> Result<T, FileError> + Send + Sync>;

/// What was read last, and the files that it comes from.
pub struct Renewing<T> {
    /// What it is, for the log.
    what: &'static str,
    load: Load<T>,
    paths: Vec<PathBuf>,
    seen: Mutex<Seen>,
    current: RwLock<Arc<T>>,
    renewed: AtomicU64,
    failed: AtomicU64,
}

/// What the last look saw.
struct Seen {
    stamps: Vec<Option<Stamp>>,
    /// Whether it could not be read. What stood in the way may pass without a
    /// change of the files, such as a lack of file descriptors.
    is_broken: bool,
}

impl<T> Renewing<T> {
    /// Reads `files` by `load` for the first time.
    ///
    /// # Errors
    /// As `load`.
    pub fn begin(
        what: &'static str,
        files: &[&NamedFile],
        load: impl Fn() -> Result<T, FileError> + Send + Sync + 'static,
    ) -> Result<Self, FileError> {
        let paths: Vec<_> = files.iter().map(|file| file.path.clone()).collect();
        // Before they are read: a change in between is seen at the first look.
        let seen = Mutex::new(Seen { stamps: stamps(&paths), is_broken: false });
        let current = RwLock::new(Arc::new(load()?));
        let (renewed, failed) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Self { what, load: Box::new(load), paths, seen, current, renewed, failed })
    }

    /// What was read last.
    pub fn current(&self) -> Arc<T> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often it was read anew, and how often that failed.
    pub fn counts(&self) -> (u64, u64) {
        (self.renewed.load(Relaxed), self.failed.load(Relaxed))
    }

    /// Reads the files again if they changed, or could not be read at the last
    /// look; `true` when there is something new. A failure is told and counted
    /// once for each change.
    pub fn look(&self) -> bool {
        // Held while it reads: nobody else has a use for it.
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.paths);
        let is_changed = seen.stamps != stamps;
        if !is_changed && !seen.is_broken {
            return false;
        }
        seen.stamps = stamps;
        let loaded = (self.load)();
        seen.is_broken = loaded.is_err();
        match loaded {
            Ok(new) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
                self.renewed.fetch_add(1, Relaxed);
                tracing::info!(what = self.what, "read anew: the files changed");
                true
            }
            Err(error) => {
                if is_changed {
                    self.failed.fetch_add(1, Relaxed);
                    tracing::warn!(what = self.what, %error, "the changed files cannot be used: the old ones go on");
                }
                false
            }
        }
    }
}

/// What differs when a file was written or exchanged. Links are followed:
/// Kubernetes exchanges a whole folder by one link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified_ns: (i64, i64),
    changed_ns: (i64, i64),
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    paths.iter().map(|path| stamp(path)).collect()
}

fn stamp(path: &Path) -> Option<Stamp> {
    let about = std::fs::metadata(path).ok()?;
    Some(Stamp {
        device: about.dev(),
        inode: about.ino(),
        bytes: about.size(),
        modified_ns: (about.mtime(), about.mtime_nsec()),
        changed_ns: (about.ctime(), about.ctime_nsec()),
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::sync::mpsc;

    use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

    use super::*;

    /// Longer than any machine takes for three ticks.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn number(file: &NamedFile) -> Result<u32, FileError> {
        let text = std::fs::read_to_string(&file.path).map_err(|error| file.wrong(error.to_string()))?;
        text.parse().map_err(|_| file.wrong("is no number"))
    }

    #[test]
    fn what_is_broken_changes_nothing_until_it_is_mended() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = NamedFile::new("a.key", folder.path().join("number"));
        let error = Renewing::begin("a number", &[&file], || Ok(1)).map(|_| ());
        assert!(error.is_ok(), "a file that is not there is for `load` to refuse");
        std::fs::write(&file.path, "1").expect("written");
        let load = {
            let file = file.clone();
            move || number(&file)
        };
        let kept = Renewing::begin("a number", &[&file], load).expect("a number");
        assert!(!kept.look(), "nothing changed");
        std::fs::write(&file.path, "no number").expect("written");
        assert!(!kept.look() && !kept.look());
        assert_eq!((*kept.current(), kept.counts()), (1, (0, 1)), "told once for each change");
        // Exchanged as Kubernetes does: by another file in its place.
        let other = folder.path().join("other");
        std::fs::write(&other, "2").expect("written");
        std::fs::rename(&other, &file.path).expect("exchanged");
        assert!(kept.look());
        assert_eq!((*kept.current(), kept.counts()), (2, (1, 1)));
        std::fs::remove_file(&file.path).expect("removed");
        assert!(!kept.look());
        assert_eq!((*kept.current(), kept.counts()), (2, (1, 2)));
    }

    /// Such as no file descriptor that is free, at the moment of the look.
    #[test]
    fn what_fails_for_a_moment_is_tried_again_though_nothing_changed() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = NamedFile::new("a.key", folder.path().join("number"));
        std::fs::write(&file.path, "1").expect("written");
        let fails = Arc::new(AtomicBool::new(false));
        let load = {
            let (file, fails) = (file.clone(), fails.clone());
            move || if fails.load(Relaxed) { Err(file.wrong("too many open files")) } else { number(&file) }
        };
        let kept = Renewing::begin("a number", &[&file], load).expect("a number");
        std::fs::write(&file.path, "22").expect("written");
        fails.store(true, Relaxed);
        assert!(!kept.look() && !kept.look());
        assert_eq!((*kept.current(), kept.counts()), (1, (0, 1)), "told once");
        fails.store(false, Relaxed);
        assert!(kept.look(), "it can be read now");
        assert_eq!((*kept.current(), kept.counts()), (22, (1, 1)));
        assert!(!kept.look(), "what was read is not read again");
    }

    /// Says when it is looked at and when it ticks; a look lasts for as long as
    /// `answer` is kept.
    struct Disk {
        looks: UnboundedSender<()>,
        ticks: UnboundedSender<()>,
        answered: Mutex<mpsc::Receiver<()>>,
    }

    impl Renewable for Disk {
        fn look(&self) {
            let _ = self.looks.send(());
            let _ = self.answered.lock().expect("not poisoned").recv();
        }

        fn tick(&self) {
            let _ = self.ticks.send(());
        }
    }

    fn disk() -> (Arc<Disk>, mpsc::Sender<()>, [UnboundedReceiver<()>; 2]) {
        let (answer, answered) = mpsc::channel();
        let ((looks, looked), (ticks, ticked)) = (unbounded_channel(), unbounded_channel());
        (Arc::new(Disk { looks, ticks, answered: Mutex::new(answered) }), answer, [looked, ticked])
    }

    #[tokio::test]
    async fn a_disk_that_does_not_answer_holds_up_nothing_else() {
        let (dead, no_answer, [mut dead_looked, mut dead_ticked]) = disk();
        let (live, answer, [mut live_looked, mut live_ticked]) = disk();
        drop(answer);
        let shutdown = CancellationToken::new();
        let renewing = tokio::spawn(renew(vec![dead, live], shutdown.clone()));
        for said in [&mut live_looked, &mut live_ticked, &mut dead_ticked] {
            for _ in 0..3 {
                let said = tokio::time::timeout(PATIENCE, said.recv()).await;
                assert_eq!(said.expect("in time"), Some(()));
            }
        }
        assert_eq!(dead_looked.recv().await, Some(()));
        assert!(dead_looked.try_recv().is_err(), "one thread waits for it, not one more with every tick");
        shutdown.cancel();
        renewing.await.expect("ends, whatever the disk does");
        drop(no_answer);
    }
}
