//! What was recorded, listed and exported, beside a writer that goes on.

use super::*;
use crate::record::catalog::{Gap, list};
use crate::record::export::{ExportError, to_avi, to_folder};

const GAP: Duration = Duration::from_secs(10);

/// Two runs: 10 frames at 5 a second, a pause of a minute, 10 more; then after
/// a restart 5 without a clock.
fn two_runs() -> Stage {
    let mut stage = Stage::new(|_| {});
    for frame in 0..20 {
        stage.advance(if frame == 10 { 60_000 } else { 200 });
        stage.offer(0, 500 + frame).turn();
    }
    let mut stage = Stage::of(stage.close(), &[plan("a", RecordPolicy::Continuous)], |_| {});
    stage.clock.wall_us.store(0, Relaxed);
    for _ in 0..5 {
        stage.advance(200);
        stage.offer(0, 500).turn();
    }
    stage
}

#[test]
fn listed_with_gaps() {
    let stage = two_runs();
    let listing = list(&stage.dir(), &camera("a"), GAP, true).expect("readable");
    assert_eq!((listing.frames, listing.frames_without_time, listing.segments), (25, 5, 2));
    let (from, to) = (START_US + 200_000, START_US + 63_800_000);
    assert_eq!((listing.from_unix_us, listing.to_unix_us), (Some(from), Some(to)));
    let pause = Gap {
        from_unix_us: Some(START_US + 2_000_000),
        to_unix_us: Some(START_US + 62_000_000),
        lasted: Some(Duration::from_secs(60)),
    };
    assert_eq!(listing.gaps, [pause, Gap { from_unix_us: Some(to), to_unix_us: None, lasted: None }]);
    let bytes: u64 = stage.files("a").iter().map(|file| fs::metadata(file).expect("there").len()).sum();
    assert_eq!((listing.bytes, listing.damage.len()), (bytes, 0));
    assert_eq!(catalog::cameras(&stage.dir()).expect("readable"), [camera("a"), camera("b")]);
}

#[test]
fn exported_by_time() {
    let stage = two_runs();
    let (dir, out) = (stage.dir(), stage.folder.path().join("out"));
    let export = |from_s: Option<i64>, to_s: Option<i64>| {
        let at = |s: i64| START_US + s * 1_000_000;
        let range = TimeRange { from_unix_us: from_s.map(at), to_unix_us: to_s.map(at) };
        let _ = fs::remove_dir_all(&out);
        to_folder(&dir, &camera("a"), range, &out)
    };
    let all = export(None, None).expect("exported");
    assert_eq!((all.frames, all.period_us, all.gaps), (25, 200_000, 2));
    let first = files(&out)[0].clone();
    assert_eq!(first.file_name().expect("a name"), "0000000001-0000000001-20261122T031500.200Z.jpg");
    assert_eq!((files(&out).len(), fs::read(&first).expect("readable")), (25, vec![1; 500]));
    assert_eq!(export(Some(0), Some(2)).expect("exported").frames, 9, "to before the end");
    assert_eq!(export(Some(2), None).expect("exported").frames, 11);
    assert!(matches!(export(Some(1000), None), Err(ExportError::Nothing(_))));
    export(None, None).expect("exported");
    let again = to_folder(&dir, &camera("a"), TimeRange::default(), &out);
    assert!(matches!(again, Err(ExportError::Unwritable { .. })), "no file is overwritten: {again:?}");
}

#[test]
fn a_damaged_frame_is_left_out_of_an_export() {
    let stage = two_runs();
    overwrite(&stage.files("a")[0], 300, b"damaged");
    let (film, range) = (stage.folder.path().join("a.avi"), TimeRange::default());
    let exported = to_avi(&stage.dir(), &camera("a"), range, &film).expect("exported");
    assert_eq!((exported.frames, exported.damage.len(), exported.damage[0].bytes), (24, 1, 552));
    assert!(film.exists());
    assert!(to_avi(&stage.dir(), &camera("a"), range, &film).is_err(), "no film is overwritten");
    let listing = list(&stage.dir(), &camera("a"), GAP, true).expect("readable");
    assert_eq!((listing.frames, listing.damage.len()), (24, 1));
}

/// The ring moves on while it is read.
#[test]
fn read_while_it_is_written_and_removed() {
    let mut stage = Stage::new(|settings| settings.bounds.max_bytes = 256 << 10);
    for _ in 0..200 {
        stage.offer(0, 2000).turn();
    }
    let mut frames = Frames::of(&stage.dir(), &camera("a"), TimeRange::default()).expect("listed");
    let first = frames.next(None).expect("readable").expect("a frame").header.number;
    for _ in 0..60 {
        stage.offer(0, 2000).turn();
    }
    let (mut last, mut count) = (first, 1);
    while let Some(found) = frames.next(Some(&mut Vec::new())).expect("readable") {
        assert!(found.header.number > last, "in order");
        (last, count) = (found.header.number, count + 1);
    }
    assert!(last >= 200 && count > 50 && frames.damage.is_empty(), "{first} to {last}, {count}");
}
