//! Segments written by hand, as the recording writes them, and read while they
//! grow, vanish and are damaged.

use std::fs::{self, OpenOptions};
use std::io::Write;

use flatframe_shared::frame::CameraId;
use flatframe_shared::outcome::Outcome;

use super::*;
use crate::record::container::{FRAME_HEADER_BYTES, FileHeader};

/// 2026-11-22T03:15:00Z.
const START_US: i64 = 1_795_317_300_000_000;
const DAY: Duration = Duration::from_secs(86_400);
/// When frames are sent: an hour after the start.
const NOW_US: i64 = START_US + 3_600_000_000;
/// Largest picture that the server takes, bytes.
const LIMIT: usize = 100_000;

struct Disk {
    folder: tempfile::TempDir,
}

/// A frame of second `at_s` after the start.
#[derive(Clone, Copy)]
struct Written {
    at_s: i64,
    is_late: bool,
}

fn late(at_s: i64) -> Written {
    Written { at_s, is_late: true }
}

fn live(at_s: i64) -> Written {
    Written { at_s, is_late: false }
}

impl Disk {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("folder") }
    }

    fn path(&self, sequence: u64) -> PathBuf {
        let name = SegmentName { sequence, started_unix_ms: Some(START_US / 1000) };
        self.folder.path().join(name.to_string())
    }

    /// Appends to a segment, begun by `run` if it is not there.
    fn write(&self, sequence: u64, run: u64, frames: &[Written]) {
        let path = self.path(sequence);
        let is_new = !path.exists();
        let mut file = OpenOptions::new().append(true).create(true).open(path).expect("opens");
        if is_new {
            let camera = CameraId::parse("a").expect("valid");
            let started_unix_us = Some(START_US);
            let header = FileHeader { camera, rotation_degrees: 90, sequence, run, started_unix_us };
            file.write_all(&header.encode()).expect("written");
        }
        for frame in frames {
            let (header, jpeg) = encoded(*frame);
            file.write_all(&header).expect("written");
            file.write_all(&jpeg).expect("written");
        }
    }

    fn backlog(&self) -> Backlog {
        let view = LateView::new(CameraId::parse("a").expect("valid"));
        Backlog::new(self.folder.path().into(), Rotation::None, DAY, Duration::ZERO, view)
    }
}

fn encoded(frame: Written) -> ([u8; FRAME_HEADER_BYTES], Vec<u8>) {
    let jpeg = vec![frame.at_s as u8; 100 + frame.at_s as usize];
    let header = FrameHeader {
        jpeg_bytes: jpeg.len() as u32,
        number: 1,
        captured_unix_us: Some(START_US + frame.at_s * 1_000_000),
        since_run_us: 0,
        size: PictureSize::new(64, 48),
        is_late: frame.is_late,
        jpeg_crc: crc32fast::hash(&jpeg),
    };
    (header.encode(), jpeg)
}

fn look(backlog: &mut Backlog) {
    backlog.look(&CancellationToken::new()).expect("readable");
}

/// The next frame, sent and answered: its second.
fn send(backlog: &mut Backlog) -> Option<i64> {
    let frame = backlog.next(Some(NOW_US), LIMIT).expect("readable")?;
    let at_s = (frame.captured_unix_us - START_US) / 1_000_000;
    assert!(frame.jpeg.iter().all(|byte| *byte == at_s as u8), "a picture of another frame");
    assert_eq!(frame.rotation, Rotation::Clockwise90);
    backlog.view.ledger.send().answer(Outcome::Analyzed);
    backlog.settle(&frame, Instant::now()).expect("written");
    Some(at_s)
}

fn send_all(backlog: &mut Backlog) -> Vec<i64> {
    std::iter::from_fn(|| send(backlog)).collect()
}

#[test]
fn only_what_was_kept_in_order_also_while_it_grows() {
    let disk = Disk::new();
    let mut backlog = disk.backlog();
    look(&mut backlog);
    assert_eq!(send(&mut backlog), None, "nothing is recorded");
    disk.write(1, 7, &[live(1), late(2), live(3), late(4)]);
    disk.write(2, 7, &[late(5)]);
    look(&mut backlog);
    assert_eq!((backlog.view.counts().waiting, send(&mut backlog)), (3, Some(2)));
    disk.write(2, 7, &[late(6), live(7)]);
    look(&mut backlog);
    look(&mut backlog);
    assert_eq!(send_all(&mut backlog), [4, 5, 6]);
    disk.write(2, 7, &[late(8)]);
    disk.write(3, 7, &[late(9)]);
    look(&mut backlog);
    assert_eq!(send_all(&mut backlog), [8, 9]);
    let counts = backlog.view.counts();
    assert_eq!((counts.found, counts.sent, counts.waiting, counts.balance()), (6, 6, 0, 0));
}

/// Whatever was sent when the process was killed is not sent by the next, and
/// the rest is, also when it was killed between a frame and its answer.
#[test]
fn a_kill_after_any_frame() {
    for sent in 0..=6 {
        let disk = Disk::new();
        disk.write(1, 7, &[late(1), live(2), late(3), late(4)]);
        disk.write(2, 7, &[late(5), late(6), late(7)]);
        let mut backlog = disk.backlog();
        look(&mut backlog);
        let before: Vec<_> = (0..sent).filter_map(|_| send(&mut backlog)).collect();
        // One more is on its way.
        backlog.next(Some(NOW_US), LIMIT).expect("readable");
        drop(backlog);
        let mut backlog = disk.backlog();
        look(&mut backlog);
        let after = send_all(&mut backlog);
        assert_eq!([before, after].concat(), [1, 3, 4, 5, 6, 7], "killed after {sent}");
        assert_eq!(backlog.view.counts().balance(), 0);
    }
}

#[test]
fn what_cannot_be_sent_is_counted() {
    let disk = Disk::new();
    disk.write(1, 7, &[late(1), late(2)]);
    disk.write(2, 7, &[late(3), late(10), late(9), late(11)]);
    disk.write(3, 7, &[late(12), late(4000), late(13)]);
    disk.write(4, 7, &[late(20), late(21)]);
    let mut backlog = disk.backlog();
    look(&mut backlog);
    assert_eq!(send(&mut backlog), Some(1));
    // The ring makes room; a picture loses a bit; the end of a file is lost.
    fs::remove_file(disk.path(1)).expect("removed");
    let (header, jpeg) = encoded(late(3));
    let mut bytes = fs::read(disk.path(2)).expect("read");
    bytes[128 + header.len() + jpeg.len() - 1] ^= 1;
    fs::write(disk.path(2), bytes).expect("written");
    let bytes = fs::read(disk.path(4)).expect("read");
    fs::write(disk.path(4), &bytes[..bytes.len() - 1]).expect("written");
    look(&mut backlog);
    assert_eq!(send_all(&mut backlog), [10, 11, 12, 13, 20]);
    let counts = backlog.view.counts();
    let of = |reason| counts.dropped(reason);
    assert_eq!((of(LateDrop::Removed), of(LateDrop::Damaged)), (1, 2));
    assert_eq!((of(LateDrop::NotNewer), of(LateDrop::NoClock)), (1, 1), "the clock went back, and was ahead");
    assert_eq!((counts.waiting, counts.balance()), (0, 0));

    disk.write(5, 7, &[late(30)]);
    look(&mut backlog);
    let next_week_us = START_US + 7 * 86_400_000_000;
    assert!(backlog.next(Some(next_week_us), LIMIT).expect("readable").is_none());
    assert_eq!(backlog.view.counts().dropped(LateDrop::TooOld), 1);
}

#[test]
fn what_is_too_large_is_passed_over_unread() {
    let disk = Disk::new();
    disk.write(1, 7, &[late(1), late(500), late(2000)]);
    let mut backlog = disk.backlog();
    look(&mut backlog);
    let sizes = [600, 600, 100_000].map(|limit| {
        let frame = backlog.next(Some(NOW_US), limit).expect("readable").expect("up to the limit");
        backlog.view.ledger.send().answer(Outcome::Analyzed);
        frame.jpeg.len()
    });
    assert_eq!(sizes, [101, 600, 2100]);

    // One byte of it is damaged, and not even looked at.
    disk.write(2, 7, &[late(2500), late(2600)]);
    let mut bytes = fs::read(disk.path(2)).expect("read");
    bytes[1000] ^= 1;
    fs::write(disk.path(2), bytes).expect("written");
    look(&mut backlog);
    assert!(backlog.next(Some(NOW_US), 2599).expect("readable").is_none());
    let counts = backlog.view.counts();
    assert_eq!((counts.dropped(LateDrop::TooLarge), counts.dropped(LateDrop::Damaged)), (2, 0));
    assert_eq!((counts.waiting, counts.balance()), (0, 0));
}

/// A clock that is not set yet makes good frames look as if they came from the
/// future.
#[test]
fn frames_of_a_time_to_come_are_told() {
    let disk = Disk::new();
    disk.write(1, 7, &[late(1), live(500)]);
    disk.write(2, 7, &[late(100), late(90)]);
    let mut backlog = disk.backlog();
    let second = |at_s: i64| START_US + at_s * 1_000_000;
    assert!(!backlog.is_ahead_of(0), "nothing waits");
    look(&mut backlog);
    assert!(backlog.is_ahead_of(second(0)) && backlog.is_ahead_of(second(69)));
    assert!(!backlog.is_ahead_of(second(70)), "30 s are no matter");
    disk.write(2, 7, &[late(200)]);
    look(&mut backlog);
    assert!(backlog.is_ahead_of(second(70)));
    assert_eq!(send_all(&mut backlog), [1, 100, 200]);
    assert!(!backlog.is_ahead_of(0), "nothing waits any more");
}

/// What the disk does not give any more is damaged; what is behind it is sent.
#[test]
fn a_segment_that_cannot_be_read_on_holds_up_nothing() {
    let disk = Disk::new();
    // Longer than what is read ahead.
    disk.write(1, 7, &[late(12_000), late(12_001), late(12_002), late(12_003)]);
    disk.write(2, 7, &[late(13_000)]);
    let mut backlog = disk.backlog();
    look(&mut backlog);
    let now_us = START_US + 14_000 * 1_000_000;
    let mut next = || {
        let frame = backlog.next(Some(now_us), LIMIT).expect("the error stays there")?;
        backlog.view.ledger.send().answer(Outcome::Analyzed);
        Some((frame.captured_unix_us - START_US) / 1_000_000)
    };
    assert_eq!(next(), Some(12_000));
    // It ends before the length that it had when it was opened.
    let whole = 128 + FRAME_HEADER_BYTES as u64 + 12_100;
    OpenOptions::new().write(true).open(disk.path(1)).expect("opens").set_len(whole).expect("cut");
    assert_eq!((next(), next()), (Some(13_000), None));
    let counts = backlog.view.counts();
    assert_eq!((counts.dropped(LateDrop::Damaged), counts.waiting, counts.balance()), (3, 0, 0));
}

/// After a power cut a segment may have the sequence of one that was lost.
#[test]
fn another_segment_of_the_same_sequence_is_read_from_its_begin() {
    let disk = Disk::new();
    disk.write(1, 7, &[late(1), late(2), late(3)]);
    let mut backlog = disk.backlog();
    look(&mut backlog);
    assert_eq!(send_all(&mut backlog), [1, 2, 3]);
    drop(backlog);
    fs::remove_file(disk.path(1)).expect("lost");
    disk.write(1, 8, &[late(5), late(6)]);
    let mut backlog = disk.backlog();
    look(&mut backlog);
    assert_eq!(send_all(&mut backlog), [5, 6]);

    // Begun anew, at the first sequence, in an emptied folder.
    disk.write(9, 8, &[late(7)]);
    look(&mut backlog);
    assert_eq!(send_all(&mut backlog), [7]);
    for sequence in [1, 9] {
        fs::remove_file(disk.path(sequence)).expect("removed");
    }
    disk.write(1, 9, &[late(8)]);
    look(&mut backlog);
    assert_eq!(send_all(&mut backlog), [8]);
}

/// A frame that is being written when it is looked at is found when it is whole.
#[test]
fn half_a_frame_waits_for_its_other_half() {
    let disk = Disk::new();
    disk.write(1, 7, &[late(1)]);
    let (header, jpeg) = encoded(late(2));
    let whole = [header.as_slice(), &jpeg].concat();
    let before = fs::read(disk.path(1)).expect("read");
    for cut in 0..=whole.len() {
        fs::write(disk.path(1), [&before, &whole[..cut]].concat()).expect("written");
        let mut backlog = disk.backlog();
        let _ = fs::remove_file(disk.folder.path().join(POSITION_FILE));
        look(&mut backlog);
        assert_eq!(backlog.view.counts().found, if cut == whole.len() { 2 } else { 1 }, "{cut}");
        fs::write(disk.path(1), [&before, &whole[..]].concat()).expect("written");
        look(&mut backlog);
        assert_eq!(send_all(&mut backlog), [1, 2], "{cut}");
    }
}
