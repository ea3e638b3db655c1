//! Takes recorded frames along: into one AVI file, or into a folder of JPEGs.
//! Never overwrites a file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};

use flatframe_shared::frame::{CameraId, PictureSize};

use super::avi::{self, AviWriter};
use super::catalog::{Damage, Found, Frames, TimeRange, between};
use super::name::time_in_name;

/// A frame that comes after so many times the usual interval ends no interval:
/// there was a gap.
const GAP_INTERVALS: u64 = 3;

/// What was taken along.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exported {
    /// Frames.
    pub frames: u64,
    /// Bytes of their pictures.
    pub jpeg_bytes: u64,
    /// Capture of the first, microseconds.
    pub from_unix_us: Option<i64>,
    /// Capture of the last.
    pub to_unix_us: Option<i64>,
    /// Usual time between two, microseconds; 0 when there are less than two.
    pub period_us: u32,
    /// Longer times between two, which the film skips.
    pub gaps: u64,
    /// What makes them upright, degrees clockwise.
    pub rotation_degrees: u32,
    /// Largest width and height.
    pub size: Option<PictureSize>,
    /// What could not be read.
    pub damage: Vec<Damage>,
}

/// Why nothing was taken along.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The recording cannot be read.
    #[error("the recording cannot be read: {0}")]
    Unreadable(io::Error),
    /// Nothing is recorded there.
    #[error("nothing is recorded of camera {0} in that time; `recordings list` shows what is")]
    Nothing(CameraId),
    /// One file cannot hold it.
    #[error("{bytes} bytes of pictures do not fit into an AVI file (2 GiB): ask for less time, or for --jpegs")]
    TooLong {
        /// What there is.
        bytes: u64,
    },
    /// The output cannot be written.
    #[error("{path} cannot be written: {reason}")]
    Unwritable {
        /// What.
        path: PathBuf,
        /// What the system says.
        reason: io::Error,
    },
}

/// Looks through the frames without reading pictures.
///
/// # Errors
/// [`ExportError::Unreadable`], [`ExportError::Nothing`].
pub fn survey(dir: &Path, camera: &CameraId, range: TimeRange) -> Result<Exported, ExportError> {
    let mut frames = Frames::of(dir, camera, range).map_err(ExportError::Unreadable)?;
    let (mut seen, mut intervals_us) = (Exported::default(), Vec::new());
    let mut before: Option<Found> = None;
    while let Some(found) = frames.next(None).map_err(ExportError::Unreadable)? {
        seen.take(&found);
        if let Some(before) = before.replace(found) {
            let us = between(&before, &found).map_or(u64::MAX, |lasted| lasted.as_micros() as u64);
            intervals_us.push(us);
        }
    }
    if seen.frames == 0 {
        return Err(ExportError::Nothing(camera.clone()));
    }
    if !intervals_us.is_empty() {
        let middle = intervals_us.len() / 2;
        let usual_us = (*intervals_us.select_nth_unstable(middle).1).max(1);
        // The mean of what is no gap: the film then lasts as long as it took.
        let usual: Vec<u64> = intervals_us.iter().copied().filter(|us| *us / GAP_INTERVALS <= usual_us).collect();
        let mean_us = usual.iter().map(|us| u128::from(*us)).sum::<u128>() / (usual.len() as u128).max(1);
        seen.period_us = u32::try_from(mean_us.max(1)).unwrap_or(u32::MAX);
        seen.gaps = (intervals_us.len() - usual.len()) as u64;
    }
    Ok(seen)
}

/// Writes an AVI file at the rate at which the frames were captured.
///
/// # Errors
/// [`ExportError`]; there is no file then.
pub fn to_avi(dir: &Path, camera: &CameraId, range: TimeRange, path: &Path) -> Result<Exported, ExportError> {
    let plan = survey(dir, camera, range)?;
    if plan.jpeg_bytes + (plan.frames + 1) * avi::BESIDE_JPEG_BYTES > avi::MAX_BYTES - 4096 {
        return Err(ExportError::TooLong { bytes: plan.jpeg_bytes });
    }
    let unwritable = |reason| ExportError::Unwritable { path: path.into(), reason };
    let file = OpenOptions::new().write(true).create_new(true).open(path).map_err(unwritable)?;
    let written = write_avi(dir, camera, range, &plan, path, file);
    if written.is_err() {
        // Half a film is none; why it is half is said.
        let _ = fs::remove_file(path);
    }
    let written = written?;
    Ok(Exported { period_us: plan.period_us, gaps: plan.gaps, ..written })
}

fn write_avi(
    dir: &Path,
    camera: &CameraId,
    range: TimeRange,
    plan: &Exported,
    path: &Path,
    file: File,
) -> Result<Exported, ExportError> {
    let unwritable = |reason| ExportError::Unwritable { path: path.into(), reason };
    let size = plan.size.unwrap_or(PictureSize::new(1, 1));
    // A single frame is shown for a second.
    let period_us = if plan.period_us == 0 { 1_000_000 } else { plan.period_us };
    let mut film = AviWriter::new(BufWriter::new(file), size, period_us).map_err(unwritable)?;
    let exported = each(dir, camera, range, |_, jpeg| film.add(jpeg).map_err(unwritable))?;
    film.finish().map_err(unwritable)?;
    Ok(exported)
}

/// Writes each frame into a file of its own, named by segment, number and
/// time. Makes the folder if its parent is there.
///
/// # Errors
/// [`ExportError`]; files written before stay.
pub fn to_folder(dir: &Path, camera: &CameraId, range: TimeRange, folder: &Path) -> Result<Exported, ExportError> {
    let plan = survey(dir, camera, range)?;
    let unwritable = |path: &Path| {
        let path = path.to_path_buf();
        move |reason| ExportError::Unwritable { path, reason }
    };
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(unwritable(folder)(error)),
        _ => {}
    }
    let written = each(dir, camera, range, |found, jpeg| {
        let time = time_in_name(found.header.captured_unix_us.map(|unix_us| unix_us / 1000));
        let path = folder.join(format!("{:010}-{:010}-{time}.jpg", found.sequence, found.header.number));
        let mut file = OpenOptions::new().write(true).create_new(true).open(&path).map_err(unwritable(&path))?;
        io::Write::write_all(&mut file, jpeg).map_err(unwritable(&path))
    })?;
    Ok(Exported { period_us: plan.period_us, gaps: plan.gaps, ..written })
}

fn each(
    dir: &Path,
    camera: &CameraId,
    range: TimeRange,
    mut take: impl FnMut(&Found, &[u8]) -> Result<(), ExportError>,
) -> Result<Exported, ExportError> {
    let mut frames = Frames::of(dir, camera, range).map_err(ExportError::Unreadable)?;
    let (mut exported, mut jpeg) = (Exported::default(), Vec::new());
    while let Some(found) = frames.next(Some(&mut jpeg)).map_err(ExportError::Unreadable)? {
        exported.take(&found);
        take(&found, &jpeg)?;
    }
    if exported.frames == 0 {
        return Err(ExportError::Nothing(camera.clone()));
    }
    exported.damage = frames.damage;
    Ok(exported)
}

impl Exported {
    fn take(&mut self, found: &Found) {
        let header = &found.header;
        self.frames += 1;
        self.jpeg_bytes += u64::from(header.jpeg_bytes);
        self.from_unix_us = self.from_unix_us.or(header.captured_unix_us);
        self.to_unix_us = header.captured_unix_us.or(self.to_unix_us);
        self.rotation_degrees = found.rotation_degrees;
        let size = self.size.unwrap_or(header.size);
        self.size =
            Some(PictureSize::new(size.width_px.max(header.size.width_px), size.height_px.max(header.size.height_px)));
    }
}
