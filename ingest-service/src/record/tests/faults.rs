//! What may go wrong: power cuts, damaged bytes, full and failing disks.

use super::*;
use crate::record::state::Pause;

#[test]
fn a_nearly_full_disk_stops_it_and_it_goes_on() {
    let mut stage = Stage::new(|settings| settings.min_free_bytes = 1 << 30);
    let step = |stage: &mut Stage, free: u64| {
        stage.clock.free_bytes.store(free, Relaxed);
        stage.offer(0, 100).turn();
        let of = stage.of_camera(0);
        (of.recorded, of.not_recorded[NotRecorded::DiskLow as usize], stage.shared.seen.paused())
    };
    assert_eq!(step(&mut stage, 1 << 30), (1, 0, None));
    let low = Pause::DiskLow { free_bytes: (1 << 30) - 1, min_free_bytes: 1 << 30 };
    assert_eq!(step(&mut stage, (1 << 30) - 1), (1, 1, Some(low)));
    assert!(step(&mut stage, (1 << 30) + 1).2.is_some(), "a little more is not enough");
    assert_eq!(step(&mut stage, 2 << 30), (2, 2, None));
    assert_eq!(stage.read("a").0, [1, 4]);
}

#[test]
fn a_folder_that_cannot_be_had_is_tried_again() {
    let mut stage = Stage::new(|_| {});
    // Its parent is not there: a disk that is not mounted.
    let parent = stage.dir().parent().expect("a parent").to_path_buf();
    fs::remove_dir_all(&parent).expect("removed");
    stage.offer(0, 100).turn();
    assert!(matches!(stage.shared.seen.paused(), Some(Pause::Failing(_))));
    assert_eq!(stage.of_camera(0).not_recorded[NotRecorded::Failed as usize], 1);
    fs::create_dir(&parent).expect("made");
    stage.offer(0, 100).turn();
    assert_eq!(stage.of_camera(0).recorded, 0, "not at once");
    stage.advance(2000).turn().offer(0, 100).turn();
    assert_eq!((stage.of_camera(0).recorded, stage.shared.seen.paused()), (1, None));
    // And it may vanish later.
    fs::remove_dir_all(stage.dir()).expect("removed");
    for _ in 0..10 {
        stage.advance(61_000).offer(0, 100).turn();
    }
    assert!(stage.shared.seen.paused().is_none() && stage.read("a").0.len() > 3, "{:?}", stage.read("a"));
}

#[test]
fn one_process_at_a_time() {
    let mut first = Stage::new(|_| {});
    first.offer(0, 100).turn();
    let plans = [plan("a", RecordPolicy::Continuous)];
    let mut second = Stage::of(Arc::clone(&first.folder), &plans, |_| {});
    second.offer(0, 100).turn();
    let paused = second.shared.seen.paused().expect("it has to wait").to_string();
    assert!(paused.contains("another process"), "{paused}");
    first.kill();
    second.advance(2000).turn().offer(0, 100).turn();
    assert_eq!((second.shared.seen.paused(), second.read("a").0), (None, vec![1, 2]));
}

/// A power cut leaves any begin of what was not yet synced: wherever the last
/// frame was cut, those before it are read, and the next run goes on.
#[test]
fn torn_anywhere_in_the_last_frame() {
    let mut stage = Stage::new(|_| {});
    stage.offer(0, 150).offer(0, 150).turn();
    let whole = fs::read(&stage.files("a")[0]).expect("readable");
    stage.offer(0, 150).turn();
    let (file, longer) = (stage.files("a")[0].clone(), fs::read(&stage.files("a")[0]).expect("readable"));
    let (folder, dir) = (stage.close(), settings(Path::new("")).dir);
    let dir = folder.path().join(dir);
    for len in whole.len()..longer.len() {
        // Cut off, and cut off with zeros as file systems leave them.
        for zeros in [0, longer.len() - len] {
            fs::write(&file, [&longer[..len], &vec![0; zeros]].concat()).expect("written");
            assert_eq!(read(&dir, "a").0, [1, 2], "{len} of {}", longer.len());
            let mut stage = Stage::of(Arc::clone(&folder), &[plan("a", RecordPolicy::Continuous)], |_| {});
            stage.number = 10;
            stage.offer(0, 50).turn();
            assert_eq!(fs::read(&file).expect("readable"), whole, "the torn end is cut off");
            assert_eq!(stage.read("a"), (vec![1, 2, 11], 0));
            let next = stage.files("a")[1].clone();
            stage.close();
            fs::remove_file(next).expect("removed");
        }
    }
    // Not even the file header was written.
    for len in [0, 60, 128] {
        cut(&file, len);
        let mut stage = Stage::of(Arc::clone(&folder), &[plan("a", RecordPolicy::Continuous)], |_| {});
        stage.offer(0, 50).turn();
        assert_eq!((stage.read("a"), stage.files("a").len()), ((vec![1], 0), 1));
        let next = stage.files("a")[0].clone();
        stage.close();
        fs::rename(next, &file).expect("renamed");
    }
}

/// Whichever byte is damaged, only its frame is lost, and that is told.
#[test]
fn one_damaged_byte_costs_one_frame() {
    let mut stage = Stage::new(|_| {});
    for _ in 0..5 {
        stage.offer(0, 200);
    }
    stage.turn();
    let file = stage.files("a")[0].clone();
    let whole = fs::read(&file).expect("readable");
    let each = 252;
    for place in 128..whole.len() {
        overwrite(&file, place as u64, &[whole[place] ^ 0x55]);
        let lost = (place - 128) / each + 1;
        let (numbers, damaged) = stage.read("a");
        let expected: Vec<u64> = (1..=5).filter(|number| *number != lost as u64).collect();
        assert_eq!(numbers, expected, "byte {place}");
        // A damaged header at the end of the newest file may be one that is being written.
        let is_end = lost == 5 && place < 128 + 4 * each + 52;
        assert_eq!(damaged, if is_end { 0 } else { each as u64 }, "byte {place}");
        overwrite(&file, place as u64, &whole[place..=place]);
    }
    overwrite(&file, 20, &[0x55]);
    let (numbers, damaged) = stage.read("a");
    assert_eq!((numbers.len(), damaged), (5, 128), "a damaged file header costs no frame");
}

#[test]
fn a_newer_layout_is_left_alone() {
    let mut stage = Stage::new(|_| {});
    stage.offer(0, 100).turn();
    let file = stage.files("a")[0].clone();
    let folder = stage.close();
    let mut bytes = fs::read(&file).expect("readable");
    bytes[8] = 9;
    let crc = crc32fast::hash(&bytes[..124]);
    bytes[124..128].copy_from_slice(&crc.to_le_bytes());
    fs::write(&file, &bytes).expect("written");
    let mut stage = Stage::of(folder, &[plan("a", RecordPolicy::Continuous)], |_| {});
    stage.offer(0, 100).turn();
    assert_eq!((fs::read(&file).expect("readable"), stage.files("a").len()), (bytes, 2));
    let error = Frames::of(&stage.dir(), &camera("a"), TimeRange::default()).expect("listed").next(None);
    assert!(error.expect_err("refused").to_string().contains("newer Flatframe"));
}

/// Reading a folder in place of the file fails, as a bad place of the disk does.
#[test]
fn a_last_file_that_cannot_be_read_ends_no_recording() {
    let mut stage = Stage::new(|_| {});
    stage.offer(0, 100).turn();
    let last = stage.dir().join("a").join("0000000002-no-clock.ffr");
    let folder = stage.close();
    fs::create_dir(&last).expect("made");
    let plans = [plan("a", RecordPolicy::Continuous), plan("b", RecordPolicy::Continuous)];
    let mut stage = Stage::of(folder, &plans, |_| {});
    stage.offer(0, 100).offer(1, 100).turn();
    let recorded = [stage.of_camera(0).recorded, stage.of_camera(1).recorded];
    assert_eq!((recorded, stage.shared.seen.paused()), ([1, 1], None));
    assert!(last.is_dir() && stage.files("a").len() == 3);
}

#[test]
fn other_files_are_neither_counted_nor_removed() {
    let mut stage = Stage::new(|settings| settings.bounds.max_bytes = 64 << 10);
    stage.turn();
    let other = stage.dir().join("a").join("notes.txt");
    fs::write(&other, vec![0; 100_000]).expect("written");
    for _ in 0..100 {
        stage.offer(0, 5000).turn();
    }
    assert!(other.exists() && stage.of_camera(0).disk_bytes <= 64 << 10);
    assert_eq!(stage.of_camera(0).recorded, 100);
    stage.offer(0, 40_000).turn();
    assert_eq!(stage.of_camera(0).not_recorded[NotRecorded::TooLarge as usize], 1);
}
