//! The V4L2 devices of this machine and what they offer, for people. Captures
//! nothing.

use std::path::{Path, PathBuf};

use super::device::{Device, Identity};
use super::mode::{FourCc, Intervals, Sizes};
use super::why_not_opened;

/// Drivers of codecs and image processors on Raspberry Pis, which give pictures
/// only of pictures that they are given.
const NOT_CAMERAS: [&str; 3] = ["bcm2835-isp", "bcm2835-codec", "pispbe"];

/// A device node, and what is behind it.
#[derive(Debug)]
pub struct Attached {
    /// Such as `/dev/video0`.
    pub path: PathBuf,
    /// Its name that stays the same in any socket, if it has one.
    pub stable: Option<PathBuf>,
    /// What it is; or why that cannot be known.
    pub found: Result<Found, String>,
}

/// A device that gives pictures.
#[derive(Debug)]
pub struct Found {
    /// What it says of itself.
    pub identity: Identity,
    /// What it offers, in its order.
    pub offers: Vec<Offer>,
}

/// One format.
#[derive(Debug)]
pub struct Offer {
    /// Its code.
    pub format: FourCc,
    /// Its sizes.
    pub sizes: Sizes,
    /// Times per picture for each of the exact sizes; for the largest of a
    /// range.
    pub intervals: Vec<Intervals>,
}

/// All nodes below `dev` (`/dev`) that give pictures, or that cannot be opened,
/// by number. Cameras, codecs and image processors have more nodes: those are
/// left out. Asks every device: may take a while.
pub fn attached(dev: &Path) -> Vec<Attached> {
    let stable = stable_names(&dev.join("v4l/by-id"));
    let mut all: Vec<(u32, Attached)> = entries(dev)
        .into_iter()
        .filter_map(|path| {
            let number = path.file_name()?.to_str()?.strip_prefix("video")?.parse().ok()?;
            let found = look(&path).transpose()?;
            let stable = stable.iter().find(|(_, target)| *target == path).map(|(name, _)| name.clone());
            Some((number, Attached { path, stable, found }))
        })
        .collect();
    all.sort_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, attached)| attached).collect()
}

/// What is behind a node; `None` when it gives no pictures.
fn look(path: &Path) -> Result<Option<Found>, String> {
    let failed = |error| why_not_opened(path, &error);
    let device = Device::open(path).map_err(failed)?;
    let identity = device.identity().map_err(failed)?;
    if !identity.captures || NOT_CAMERAS.contains(&identity.driver.as_str()) {
        return Ok(None);
    }
    let offer = |format| {
        let sizes = device.sizes(format);
        let intervals = match &sizes {
            Sizes::Exact(exact) => exact.iter().map(|size| device.intervals(format, *size)).collect(),
            Sizes::Range { to, .. } => vec![device.intervals(format, *to)],
        };
        Offer { format, sizes, intervals }
    };
    Ok(Some(Found { offers: device.formats().into_iter().map(offer).collect(), identity }))
}

/// Links by the names of things, with the nodes that they lead to.
fn stable_names(folder: &Path) -> Vec<(PathBuf, PathBuf)> {
    let mut names: Vec<_> =
        entries(folder).into_iter().filter_map(|link| Some((link.clone(), link.canonicalize().ok()?))).collect();
    names.sort();
    names
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_are_found_by_number_with_their_stable_names() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let dev = folder.path().canonicalize().expect("it exists");
        assert!(attached(&dev).is_empty());
        let by_id = dev.join("v4l/by-id");
        std::fs::create_dir_all(&by_id).expect("creates");
        for name in ["video10", "video2", "videodisc", "null"] {
            std::fs::write(dev.join(name), "").expect("writes");
        }
        std::os::unix::fs::symlink("../../video2", by_id.join("usb-cam-index0")).expect("links");
        let all = attached(&dev);
        let names: Vec<_> = all.iter().map(|one| (one.path.clone(), one.stable.clone())).collect();
        assert_eq!(names, [(dev.join("video2"), Some(by_id.join("usb-cam-index0"))), (dev.join("video10"), None)]);
        assert!(all.iter().all(|one| one.found.as_ref().is_err_and(|why| why.contains("is not a camera"))));
    }
}
