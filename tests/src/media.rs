//! The pictures: the ones that the services draw themselves, and the clips of
//! the folder beside the project, which may be absent.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::jpeg;

/// A file or folder of the shared folder beside the project; `None` when it is
/// not there.
pub fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared").join(name);
    path.exists().then_some(path)
}

/// Says visibly that a test did not run.
pub fn skipped(test: &str, why: &str) {
    // To the terminal itself, past the capture of the test runner.
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIPPED {test}: {why}");
}

/// The pictures of an .mjpeg file; see [`split_jpegs`].
///
/// # Errors
/// When the file cannot be read.
pub fn mjpeg_frames(path: &Path) -> std::io::Result<Vec<Bytes>> {
    Ok(split_jpegs(std::fs::read(path)?.into()))
}

/// The pictures of a sequence of JPEGs. For well-formed ones only: splits at
/// every end marker that is followed by a start marker.
pub fn split_jpegs(data: Bytes) -> Vec<Bytes> {
    let mut starts: Vec<usize> =
        data.windows(4).enumerate().filter(|(_, w)| *w == [0xFF, 0xD9, 0xFF, 0xD8]).map(|(at, _)| at + 2).collect();
    starts.insert(0, 0);
    starts.push(data.len());
    starts.windows(2).map(|ends| data.slice(ends[0]..ends[1])).collect()
}

/// A folder of eight pictures to loop over, and the source that names it; keep
/// the handle.
///
/// # Errors
/// When the folder cannot be written.
pub fn picture_folder(size: PictureSize) -> std::io::Result<(tempfile::TempDir, String)> {
    let folder = tempfile::tempdir()?;
    for number in 0..8 {
        std::fs::write(folder.path().join(format!("{number}.jpg")), textured_jpeg(size, number))?;
    }
    let source = format!("file:{}", folder.path().display());
    Ok((folder, source))
}

/// A picture with some texture, `seed` making it differ from others.
pub fn textured_jpeg(size: PictureSize, seed: u32) -> Bytes {
    let rgb: Vec<u8> = (0..size.height_px)
        .flat_map(|y| {
            (0..size.width_px).flat_map(move |x| {
                let wave = (x + seed * 7) ^ (y + seed * 3);
                [(wave >> 1) as u8, (x * 255 / size.width_px) as u8, (y * 255 / size.height_px) as u8]
            })
        })
        .collect();
    let mut out = Vec::new();
    jpeg::encode_rgb(&rgb, size, 75, &mut out).expect("a picture of allowed size is written");
    out.into()
}
