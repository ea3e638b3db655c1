//! What a recording may take: bytes, age, memory, wear. At every instant.

use proptest::prelude::*;

use super::*;
use crate::record::ring::{Ring, Writing};

/// A day at 5 frames a second from two cameras, in compressed time: never
/// above the cap, nothing lost, the newest is there.
#[test]
fn a_day_of_two_cameras_stays_below_the_cap() {
    let mut stage = Stage::new(|settings| settings.bounds.max_bytes = 4 << 20);
    let mut random = fastrand::Rng::with_seed(1);
    let (mut most, day_s) = (0, 86_400);
    for second in 0..day_s {
        for _ in 0..5 {
            for camera in 0..2 {
                stage.offer(camera, random.usize(200..2000));
            }
            stage.advance(200);
        }
        stage.turn();
        if second % 10 == 0 {
            for (number, id) in ["a", "b"].into_iter().enumerate() {
                let bytes = on_disk(&stage.dir().join(id));
                assert!(bytes <= 4 << 20, "{bytes} after {second} s");
                assert_eq!(stage.of_camera(number).disk_bytes, bytes, "what is shown is what is there");
                most = most.max(bytes);
            }
        }
    }
    let (of, frames) = (stage.of_camera(0), 5 * day_s);
    assert_eq!((of.recorded, of.not_recorded), (frames, [0; 6]));
    let (numbers, damaged) = stage.read("a");
    assert_eq!((numbers.last(), damaged), (Some(&(2 * frames - 1)), 0));
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 2), "no frame is missing in between");
    println!(
        "{frames} frames and {} MiB written for each camera, {} files removed, at most {most} of {} bytes on disk",
        of.written_bytes >> 20,
        of.removed_segments,
        4 << 20
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// After every single append, whatever comes: frames of any size, pauses,
    /// clocks that jump, restarts, a cap that changes.
    #[test]
    fn never_above_the_cap(
        steps in prop::collection::vec((0u8..20, 1usize..40_000, 0u64..400_000), 1..300),
        caps in prop::collection::vec(20u64..60, 2),
    ) {
        let folder = folder();
        let dir = folder.path().join("a");
        let (start, began) = (Instant::now(), Instant::now());
        let writing = Writing { camera: camera("a"), rotation_degrees: 0, run: 1, began };
        let bounds = |cap: u64| Bounds {
            max_bytes: cap << 14, max_age: Duration::from_secs(86_400), segment: Duration::from_secs(300),
        };
        let (mut cap, mut now_ms, mut wall_us, mut newest) = (caps[0] << 14, 0, START_US, 0);
        let mut ring = Ring::open_for_writing(dir.clone(), bounds(caps[0])).expect("opens");
        for (number, (step, bytes, ms)) in steps.into_iter().enumerate() {
            now_ms += ms;
            let now = start + Duration::from_millis(now_ms);
            match step {
                0 => wall_us += (bytes as i64 - 20_000) * 10_000_000,
                1 => {
                    drop(ring);
                    let other = caps[number % 2];
                    (ring, cap) = (Ring::open_for_writing(dir.clone(), bounds(other)).expect("opens"), other << 14);
                }
                2 => ring.expire(now, Some(wall_us / 1_000_000)).expect("expires"),
                3 => ring.sync().expect("syncs"),
                _ => {
                    let frame = Frame {
                        camera: 0,
                        number: number as u64,
                        captured: now,
                        captured_unix_us: (step != 4).then_some(wall_us + now_ms as i64 * 1000),
                        size: SIZE,
                        is_late: false,
                        jpeg: Bytes::from(vec![number as u8; bytes]),
                    };
                    let written = ring.append(&frame, &writing).expect("written");
                    prop_assert_eq!(written.is_some(), (bytes as u64 + 180).next_multiple_of(4096) <= cap / 2);
                    newest = if written.is_some() { number as u64 } else { newest };
                }
            }
            let bytes = on_disk(&dir);
            prop_assert!(bytes <= cap, "{} of {}", bytes, cap);
            prop_assert_eq!(ring.disk_bytes(), bytes);
        }
        drop(ring);
        let (numbers, damaged) = read(folder.path(), "a");
        prop_assert!(damaged == 0 && numbers.windows(2).all(|pair| pair[0] < pair[1]));
        if let Some(last) = numbers.last() {
            prop_assert_eq!(*last, newest, "the newest is kept");
        }
    }
}

#[test]
fn what_is_too_old_goes_though_nothing_comes() {
    let mut stage = Stage::new(|settings| settings.bounds.max_age = Duration::from_secs(1000));
    for _ in 0..4 {
        stage.offer(0, 100).turn().advance(300_000);
    }
    stage.turn();
    assert_eq!(stage.read("a").0, [2, 3, 4], "the first is 1200 s old");
    stage.advance(10_000_000);
    stage.turn();
    assert_eq!((stage.read("a").0.len(), stage.of_camera(0).segments), (0, 0), "the open one too");
    stage.offer(0, 100).turn();
    assert_eq!(stage.read("a").0, [5]);
}

/// The order of files decides, not what a clock said when they were written.
#[test]
fn wrong_clocks_cost_no_good_frames() {
    let mut stage = Stage::new(|settings| settings.bounds.max_age = Duration::from_secs(86_400));
    // Good, then without a clock, then years ahead, then good again.
    for wall_us in [START_US, 0, START_US + 100_000_000_000_000, START_US] {
        stage.clock.wall_us.store(wall_us, Relaxed);
        stage.offer(0, 100).turn().advance(1000);
    }
    stage.advance(3_600_000).turn();
    let names: Vec<_> = stage.files("a").iter().map(|file| file.file_name().expect("a name").to_owned()).collect();
    assert_eq!((stage.read("a").0, names.len()), (vec![1, 2, 3, 4], 4), "each clock has its file: {names:?}");
    assert!(names[1].to_string_lossy().contains("no-clock"), "{names:?}");
}

/// Of an earlier run only the wall clock tells how old frames are.
#[test]
fn frames_of_an_earlier_run_grow_old_too() {
    let mut stage = Stage::new(|_| {});
    stage.offer(0, 100).offer(1, 100).turn();
    let folder = stage.close();
    let plans = [plan("a", RecordPolicy::Continuous), plan("b", RecordPolicy::Off)];
    let mut stage = Stage::of(folder, &plans, |_| {});
    let now_us = clock::unix_us();
    stage.clock.wall_us.store(now_us, Relaxed);
    stage.turn();
    assert_eq!((stage.read("a").0.len(), stage.read("b").0.len()), (1, 1));
    stage.clock.wall_us.store(0, Relaxed);
    stage.advance(4_000_000).turn();
    assert_eq!(stage.read("a").0.len(), 1, "without a clock nothing is too old");
    stage.clock.wall_us.store(now_us + 8 * 86_400_000_000, Relaxed);
    stage.advance(4_000_000).turn();
    assert_eq!((stage.read("a").0.len(), stage.read("b").0.len()), (0, 0), "also of a camera that is off now");
}

#[test]
fn no_more_is_written_than_the_rate_allows() {
    let mut stage = Stage::new(|settings| {
        (settings.max_write_bytes_per_s, settings.bounds.max_bytes) = (10_000, 4 << 20);
    });
    for _ in 0..100 {
        for _ in 0..5 {
            stage.offer(0, 4000).advance(200);
        }
        stage.turn();
    }
    let of = stage.of_camera(0);
    let missed = of.not_recorded[NotRecorded::WriteRate as usize];
    assert!(of.written_bytes <= 10_000 * 110 && of.written_bytes > 10_000 * 95, "{of:?}");
    assert_eq!((of.recorded + missed, stage.read("a").0.len() as u64), (500, of.recorded));
}

#[test]
fn what_waits_is_bounded_and_nobody_waits() {
    let mut stage = Stage::new(|settings| settings.queue_bytes = 100_000);
    for _ in 0..50 {
        stage.offer(0, 10_000);
    }
    let held = stage.shared.queue.held_bytes();
    let full = stage.of_camera(0).not_recorded[NotRecorded::QueueFull as usize];
    assert!(held <= 100_000 && full > 30, "{held} {full}");
    stage.turn().offer(0, 10_000).turn();
    assert_eq!(stage.of_camera(0).recorded + full, 51, "each is recorded or counted");
    assert_eq!(stage.shared.queue.held_bytes(), 0);
}

#[test]
fn only_around_motion() {
    let mut stage = Stage::of(folder(), &[plan("a", RecordPolicy::Motion)], |_| {});
    for second in 0..20 {
        let motion = if second == 8 { Motion::Moving } else { Motion::Still };
        stage.offer_with(0, 1000, motion).advance(1000);
        stage.turn();
    }
    assert_eq!(stage.read("a").0, [7, 8, 9, 10, 11, 12]);
    let before = stage.of_camera(0).before_bytes;
    assert_eq!(before as usize, 3 * (1000 + queue::BESIDE_JPEG_BYTES), "two seconds and this frame");
}
