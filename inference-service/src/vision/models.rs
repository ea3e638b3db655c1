//! Finds a model by name: its manifest first, then its weights, whose hash is
//! checked before anything reads them. Embedded models and the folder
//! `vision.models_dir` are the only places looked at. Which models there are
//! and where they lie is also for [`models_command`](crate::models_command) to
//! show.
//!
//! Must never answer with another model than the one asked for.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::ModelError;

mod embedded;
pub mod manifest;

use manifest::Manifest;

/// A detector or gender classifier, as `K`, with its weights.
pub struct Model<K> {
    /// Name of the manifest.
    pub name: String,
    /// What the manifest says.
    pub manifest: K,
    /// The ONNX file, its hash checked.
    pub onnx: Cow<'static, [u8]>,
}

/// A manifest and where its weights should lie; they were not looked at.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// Name of the manifest.
    pub name: String,
    /// What the manifest says.
    pub manifest: Manifest,
    /// File of the manifest; `None` when it is the embedded one.
    pub manifest_file: Option<PathBuf>,
    /// File of the weights; `None` when they are embedded.
    pub weights_file: Option<PathBuf>,
}

impl Listed {
    /// Size of the weights in bytes as they lie there; `None` when they do not.
    pub fn present_bytes(&self) -> Option<u64> {
        match &self.weights_file {
            None => embedded::weights(&self.manifest.weights().file).map(|onnx| onnx.len() as u64),
            Some(path) => std::fs::metadata(path).ok().filter(|file| file.is_file()).map(|file| file.len()),
        }
    }

    /// Reads the weights and checks their hash.
    ///
    /// # Errors
    /// [`ModelError`] when they are missing, unreadable, or not the ones that
    /// the manifest describes.
    pub fn read_weights(&self) -> Result<Cow<'static, [u8]>, ModelError> {
        let wanted = self.manifest.weights();
        let (onnx, origin) = match &self.weights_file {
            None => {
                let onnx = embedded::weights(&wanted.file).expect("`list` gives no file only when they are embedded");
                (Cow::Borrowed(onnx), format!("{}, embedded", wanted.file))
            }
            Some(path) => match std::fs::read(path) {
                Ok(onnx) => (Cow::Owned(onnx), path.display().to_string()),
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(ModelError::MissingWeights {
                        name: self.name.clone(),
                        file: wanted.file.clone(),
                        looked_at: path.clone(),
                        source_url: wanted.source.clone(),
                    });
                }
                Err(error) => return Err(ModelError::Unreadable { path: path.clone(), error }),
            },
        };
        let found = hex(&Sha256::digest(&onnx));
        if found != wanted.sha256 {
            let (name, expected) = (self.name.clone(), wanted.sha256.clone());
            return Err(ModelError::WrongHash { name, origin, expected, found });
        }
        Ok(onnx)
    }
}

/// The model called `name`, as configured under `vision.{key}`.
pub(super) fn find<K>(key: &'static str, name: &str, models_dir: &Path) -> Result<Model<K>, ModelError>
where
    K: TryFrom<Manifest, Error = String>,
{
    let listed = look_up(&format!("vision.{key} = {name:?}"), name, models_dir)?;
    let invalid = |reason| ModelError::Manifest { name: name.into(), reason };
    let manifest = K::try_from(listed.manifest.clone()).map_err(invalid)?;
    let onnx = listed.read_weights()?;
    Ok(Model { name: name.into(), manifest, onnx })
}

/// The manifest called `name`; its weights need not be there.
///
/// # Errors
/// [`ModelError`] when there is none of that name, or it is not valid.
pub fn list(name: &str, models_dir: &Path) -> Result<Listed, ModelError> {
    look_up(&format!("model {name:?}"), name, models_dir)
}

/// `asked` is how the name was given, for the error.
fn look_up(asked: &str, name: &str, models_dir: &Path) -> Result<Listed, ModelError> {
    let (text, manifest_file) = manifest_text(asked, name, models_dir)?;
    let manifest = Manifest::parse(&text).map_err(|reason| ModelError::Manifest { name: name.into(), reason })?;
    let wanted = manifest.weights();
    let is_embedded = wanted.embedded && embedded::weights(&wanted.file).is_some();
    let weights_file = (!is_embedded).then(|| models_dir.join(&wanted.file));
    Ok(Listed { name: name.into(), manifest, manifest_file, weights_file })
}

fn manifest_text(
    asked: &str,
    name: &str,
    models_dir: &Path,
) -> Result<(Cow<'static, str>, Option<PathBuf>), ModelError> {
    let path = models_dir.join(format!("{name}.toml"));
    let unknown = || ModelError::Unknown {
        asked: asked.into(),
        looked_at: path.clone(),
        known: known_names(models_dir).join(", "),
    };
    if !manifest::is_plain_name(name) {
        return Err(unknown());
    }
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok((text.into(), Some(path))),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            embedded::manifest(name).map(|text| (Cow::Borrowed(text), None)).ok_or_else(unknown)
        }
        Err(error) => Err(ModelError::Unreadable { path, error }),
    }
}

/// Names of all manifests, those of the folder included; sorted.
pub fn known_names(models_dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = embedded::manifest_names().map(String::from).collect();
    let paths = std::fs::read_dir(models_dir).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml")) {
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    names.dedup();
    names
}

/// Bytes as lowercase hex digits, as manifests and `sha256sum` write a hash.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::manifest::{DetectorManifest, GenderManifest};
    use super::*;

    /// A folder with the manifest and the weights of a model `mine`.
    fn folder(manifest: &str, weights: Option<&[u8]>) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("mine.toml"), manifest).expect("writes");
        if let Some(weights) = weights {
            std::fs::write(dir.path().join("mine.onnx"), weights).expect("writes");
        }
        dir
    }

    /// A good manifest of weights that are the three bytes `abc` (hash: FIPS
    /// 180-2, appendix B.1).
    fn manifest() -> String {
        let yunet = embedded::manifest("yunet_n").expect("is embedded");
        let lines = yunet.lines().map(|line| match line.split(' ').next() {
            Some("file") => "file = \"mine.onnx\"",
            Some("sha256") => "sha256 = \"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad\"",
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }

    fn error(dir: &Path, name: &str) -> String {
        match find::<DetectorManifest>("detector", name, dir) {
            Ok(_) => panic!("{name} should be refused"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_model_of_the_folder_is_found() {
        let dir = folder(&manifest(), Some(b"abc"));
        let model = find::<DetectorManifest>("detector", "mine", dir.path()).expect("is found");
        assert_eq!((model.name.as_str(), &*model.onnx), ("mine", &b"abc"[..]));
    }

    #[test]
    fn the_folder_comes_before_the_embedded() {
        let dir = folder(&manifest(), Some(b"abc"));
        std::fs::rename(dir.path().join("mine.toml"), dir.path().join("yunet_s.toml")).expect("renames");
        let model = find::<DetectorManifest>("detector", "yunet_s", dir.path()).expect("is found");
        assert_eq!(model.manifest.weights.file, "mine.onnx");
    }

    #[test]
    fn missing_weights_say_which_where_and_from_where() {
        let dir = folder(&manifest(), None);
        let message = error(dir.path(), "mine");
        let place = dir.path().join("mine.onnx").display().to_string();
        for part in ["mine.onnx", place.as_str(), "https://github.com/ShiqiYu", "vision.models_dir"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }

    #[test]
    fn other_weights_are_refused_with_both_hashes() {
        let dir = folder(&manifest(), Some(b"abd"));
        let message = error(dir.path(), "mine");
        assert!(message.contains("sha256 a52d159f262b2c6ddb724a61840befc3"), "{message}");
        assert!(message.contains("ba7816bf8f01cfea414140de5dae2223"), "{message}");
    }

    #[test]
    fn unknown_names_list_the_known() {
        let dir = folder(&manifest(), None);
        for name in ["no-such", "../yunet_n", "a/b", ".hidden", "/etc/passwd"] {
            let message = error(dir.path(), name);
            assert!(message.contains("vision.detector") && message.contains("mine, "), "{message}");
            assert!(message.contains("yunet_n"), "{message}");
        }
    }

    #[test]
    fn a_classifier_is_no_detector() {
        assert!(error(Path::new("nowhere"), "gender_dlib").contains("a detector is wanted"));
        let swapped = find::<GenderManifest>("gender", "yunet_n", Path::new("nowhere"));
        assert!(swapped.is_err_and(|error| error.to_string().contains("a gender classifier is wanted")));
    }

    #[test]
    fn embedded_manifests_are_sound() {
        for name in embedded::manifest_names() {
            let listed = list(name, Path::new("nowhere")).unwrap_or_else(|error| panic!("{error}"));
            let weights = listed.manifest.weights();
            let is_ours = weights.embedded && weights.source == "inference-service/training in this repository";
            assert!(is_ours || weights.source.starts_with("https://"), "{name}: {}", weights.source);
            assert!(!weights.licence.is_empty(), "{name}");
            assert_eq!(weights.embedded, embedded::weights(&weights.file).is_some(), "{name}");
            if weights.embedded {
                listed.read_weights().unwrap_or_else(|error| panic!("{error}"));
            } else {
                // `fetch` needs an address, or a reason why there is none.
                assert!(weights.bytes.is_some() && (weights.url.is_some() || !weights.note.is_empty()), "{name}");
            }
        }
    }

    #[test]
    fn bad_manifests_say_what_is_wrong() {
        let gender = embedded::manifest("gender_dlib").expect("is embedded").to_string();
        for (good, from, to, says) in [
            (manifest(), "size = \"320x256\"", "size = \"320x250\"", "input.size"),
            (manifest(), "size = \"320x256\"", "size = \"32x0\"", "WIDTHxHEIGHT"),
            (manifest(), "[\"320x192\"]", "[\"320x190\"]", "input.also"),
            (manifest(), "[\"320x192\"]", "[\"64x64\", \"96x96\", \"128x128\", \"160x160\"]", "at most 3"),
            (manifest(), "multiple_px = 32", "multiple_px = 16", "output.strides"),
            (manifest(), "multiple_px = 32", "multiple_px = 0", "multiple_px"),
            (manifest(), "mean = [0.0, 0.0, 0.0]", "mean = [0.0]", "input.mean"),
            (manifest(), "scale = 1.0", "scale = 0.0", "input.scale"),
            (manifest(), "score = 0.6", "score = 6.0", "thresholds.score"),
            (manifest(), "sha256 = \"ba", "sha256 = \"BA", "weights.sha256"),
            (manifest(), "file = \"mine.onnx\"", "file = \"../mine.onnx\"", "weights.file"),
            (manifest(), "bytes = 322906", "bytes = 0", "weights.bytes"),
            (manifest(), "url = \"https", "url = \"ftp", "weights.url"),
            (manifest(), "decoder = \"yunet\"", "decoder = \"yolo\"", "yolo"),
            (manifest(), "colour = \"bgr\"", "colour = \"bgr\"\nchannels = 3", "channels"),
            (gender.clone(), "[9.767, 9.632]", "[99.0, 9.632]", "crop.targets"),
            (gender.clone(), "kind = \"aligned\"", "kind = \"round\"", "round"),
            (gender.clone(), "probability = 0.7", "probability = 0.3", "thresholds.probability"),
            (gender.clone(), "size = \"32x32\"", "size = \"32x32\"\nalso = [\"32x32\"]", "one size"),
            (gender, "\"male\"]", "\"female\"]", "output.classes"),
        ] {
            assert!(good.contains(from), "{from}");
            let message = Manifest::parse(&good.replace(from, to)).expect_err(to);
            assert!(message.contains(says), "{to}: {message}");
        }
    }
}
