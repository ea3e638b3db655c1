//! Finds a model by name: its manifest first, then its weights, whose hash is
//! checked before anything reads them. Embedded models and the folder
//! `vision.models_dir` are the only places looked at.
//!
//! Must never answer with another model than the one asked for.

use std::borrow::Cow;
use std::io::ErrorKind;
use std::path::Path;

use sha2::{Digest, Sha256};

use super::ModelError;

mod embedded;
pub mod manifest;

use manifest::{Manifest, Weights};

/// A detector or gender classifier, as `K`, with its weights.
pub struct Model<K> {
    /// Name of the manifest.
    pub name: String,
    /// What the manifest says.
    pub manifest: K,
    /// The ONNX file, its hash checked.
    pub onnx: Cow<'static, [u8]>,
}

/// The model called `name`, as configured under `vision.{key}`.
pub fn find<K>(key: &'static str, name: &str, models_dir: &Path) -> Result<Model<K>, ModelError>
where
    K: TryFrom<Manifest, Error = String> + AsRef<Weights>,
{
    let invalid = |reason| ModelError::Manifest { name: name.into(), reason };
    let text = manifest_text(key, name, models_dir)?;
    let manifest = Manifest::parse(&text).and_then(K::try_from).map_err(invalid)?;
    let onnx = weights(name, manifest.as_ref(), models_dir)?;
    Ok(Model { name: name.into(), manifest, onnx })
}

fn manifest_text(key: &'static str, name: &str, models_dir: &Path) -> Result<Cow<'static, str>, ModelError> {
    let unknown = || ModelError::Unknown {
        key,
        name: name.into(),
        looked_at: models_dir.join(format!("{name}.toml")),
        known: known_names(models_dir).join(", "),
    };
    if !manifest::is_plain_name(name) {
        return Err(unknown());
    }
    let path = models_dir.join(format!("{name}.toml"));
    match std::fs::read_to_string(&path) {
        Ok(text) => Ok(text.into()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            embedded::manifest(name).map(Cow::Borrowed).ok_or_else(unknown)
        }
        Err(error) => Err(ModelError::Unreadable { path, error }),
    }
}

/// Names of all manifests, those of the folder included; sorted.
fn known_names(models_dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = embedded::manifest_names().map(String::from).collect();
    let paths = std::fs::read_dir(models_dir).into_iter().flatten().flatten().map(|entry| entry.path());
    for path in paths.filter(|path| path.extension().is_some_and(|extension| extension == "toml")) {
        names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
    }
    names.sort();
    names.dedup();
    names
}

fn weights(name: &str, wanted: &Weights, models_dir: &Path) -> Result<Cow<'static, [u8]>, ModelError> {
    let missing = |looked_at| ModelError::MissingWeights {
        name: name.into(),
        file: wanted.file.clone(),
        looked_at,
        source_url: wanted.source.clone(),
    };
    let path = models_dir.join(&wanted.file);
    let (onnx, origin) = match embedded::weights(&wanted.file).filter(|_| wanted.embedded) {
        Some(onnx) => (Cow::Borrowed(onnx), format!("{}, embedded", wanted.file)),
        None => match std::fs::read(&path) {
            Ok(onnx) => (Cow::Owned(onnx), path.display().to_string()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Err(missing(path)),
            Err(error) => return Err(ModelError::Unreadable { path, error }),
        },
    };
    let found: String = Sha256::digest(&onnx).iter().map(|byte| format!("{byte:02x}")).collect();
    if found != wanted.sha256 {
        return Err(ModelError::WrongHash { name: name.into(), origin, expected: wanted.sha256.clone(), found });
    }
    Ok(onnx)
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
            let manifest = Manifest::parse(embedded::manifest(name).expect("is listed"));
            let weights = match manifest.unwrap_or_else(|error| panic!("{name}: {error}")) {
                Manifest::Detector(detector) => detector.weights,
                Manifest::Gender(gender) => gender.weights,
            };
            assert!(weights.source.starts_with("https://") && !weights.licence.is_empty(), "{name}");
            assert_eq!(weights.embedded, embedded::weights(&weights.file).is_some(), "{name}");
            if weights.embedded {
                super::weights(name, &weights, Path::new("nowhere")).unwrap_or_else(|error| panic!("{error}"));
            }
        }
    }

    #[test]
    fn bad_manifests_say_what_is_wrong() {
        let gender = embedded::manifest("gender_dlib").expect("is embedded").to_string();
        for (good, from, to, says) in [
            (manifest(), "size = \"320x256\"", "size = \"320x250\"", "input.size"),
            (manifest(), "size = \"320x256\"", "size = \"32x0\"", "WIDTHxHEIGHT"),
            (manifest(), "multiple_px = 32", "multiple_px = 16", "output.strides"),
            (manifest(), "multiple_px = 32", "multiple_px = 0", "multiple_px"),
            (manifest(), "mean = [0.0, 0.0, 0.0]", "mean = [0.0]", "input.mean"),
            (manifest(), "scale = 1.0", "scale = 0.0", "input.scale"),
            (manifest(), "score = 0.6", "score = 6.0", "thresholds.score"),
            (manifest(), "sha256 = \"ba", "sha256 = \"BA", "weights.sha256"),
            (manifest(), "file = \"mine.onnx\"", "file = \"../mine.onnx\"", "weights.file"),
            (manifest(), "decoder = \"yunet\"", "decoder = \"yolo\"", "yolo"),
            (manifest(), "colour = \"bgr\"", "colour = \"bgr\"\nchannels = 3", "channels"),
            (gender.clone(), "[9.767, 9.632]", "[99.0, 9.632]", "crop.targets"),
            (gender.clone(), "kind = \"aligned\"", "kind = \"round\"", "round"),
            (gender.clone(), "probability = 0.7", "probability = 0.3", "thresholds.probability"),
            (gender, "\"male\"]", "\"female\"]", "output.classes"),
        ] {
            assert!(good.contains(from), "{from}");
            let message = Manifest::parse(&good.replace(from, to)).expect_err(to);
            assert!(message.contains(says), "{to}: {message}");
        }
    }
}
