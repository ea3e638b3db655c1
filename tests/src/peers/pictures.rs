//! The pictures that every side gets, in the forms in which it gets them.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use flatframe_shared::frame::PictureSize;
use flatframe_shared::jpeg;
use ingest_service::CameraConfig;
use ingest_service::source::pattern;

use crate::media::{mjpeg_frames, shared};

/// Used when no other pictures are named.
const CLIP: &str = "media/face-demographics-walking-and-pause.mjpeg";
/// The word for the test card.
const PATTERN: &str = "pattern";
/// Pictures of the test card.
const CARDS: usize = 60;

/// One picture.
#[derive(Debug, Clone)]
pub struct Picture {
    /// As encoded.
    pub jpeg: Bytes,
    /// Its size.
    pub size: PictureSize,
    /// As the HTTP peer takes it: written before anything is measured.
    pub json: Bytes,
}

/// The pictures, and a file with the same for those who read files.
pub struct Pictures {
    /// In order.
    pub all: Arc<[Picture]>,
    /// What they are, for people.
    pub name: String,
    file: tempfile::NamedTempFile,
}

impl Pictures {
    /// The pictures of `from`: an .mjpeg file, or `pattern` for the test card
    /// of ingest-service. Without it the clip of the shared folder where that
    /// is, else the test card.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn load(from: Option<&Path>) -> anyhow::Result<Self> {
        let clip = shared(CLIP);
        let (name, jpegs) = match from.or(clip.as_deref()) {
            Some(path) if path != Path::new(PATTERN) => {
                let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
                (name, mjpeg_frames(path).with_context(|| format!("read {}", path.display()))?)
            }
            _ => ("the test card".into(), pattern::pictures(&CameraConfig::new("card", PATTERN), CARDS)?),
        };
        ensure!(!jpegs.is_empty(), "{name} has no pictures");
        let mut file = tempfile::Builder::new().suffix(".mjpeg").tempfile()?;
        for jpeg in &jpegs {
            file.write_all(jpeg)?;
        }
        let all: Result<_, _> = jpegs.into_iter().map(Picture::new).collect();
        Ok(Self { all: all.with_context(|| format!("a picture of {name}"))?, name, file })
    }

    /// An .mjpeg file of them, which lives as long as this.
    pub fn file(&self) -> &Path {
        self.file.path()
    }
}

impl Picture {
    fn new(jpeg: Bytes) -> Result<Self, jpeg::JpegError> {
        let json = format!(r#"{{"image": "{}"}}"#, BASE64_STANDARD.encode(&jpeg));
        Ok(Self { size: jpeg::read_size(&jpeg)?, json: json.into(), jpeg })
    }
}
