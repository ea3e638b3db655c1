//! Loads a service's configuration: defaults, then a TOML file, then
//! environment variables, then flags. An unknown key or a wrong type is an
//! error that names the key and where it stands. What values mean is checked
//! by each service.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use config::{Config, Environment, File, FileFormat};
use serde::de::DeserializeOwned;

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file is not there or not readable.
    #[error("configuration file {path}: {reason}")]
    Unreadable {
        /// The file asked for.
        path: PathBuf,
        /// What the system says.
        reason: std::io::Error,
    },
    /// Not TOML, an unknown key, or a wrong type.
    #[error("configuration: {0}")]
    Wrong(String),
    /// A key has a value that cannot work.
    #[error("configuration: {key} = {value} is not allowed: {allowed}")]
    NotAllowed {
        /// The key, with dots.
        key: String,
        /// What it was set to.
        value: String,
        /// What it may be, and what to do.
        allowed: String,
    },
}

impl ConfigError {
    /// `key` must not be `value`; `allowed` says what it may be.
    pub fn not_allowed(key: impl Into<String>, value: impl ToString, allowed: impl Into<String>) -> Self {
        Self::NotAllowed { key: key.into(), value: value.to_string(), allowed: allowed.into() }
    }
}

/// Refuses `value` outside `range`, naming `key` and the range.
///
/// # Errors
/// [`ConfigError::NotAllowed`].
pub fn in_range<T>(key: &str, value: T, range: std::ops::RangeInclusive<T>) -> Result<(), ConfigError>
where
    T: PartialOrd + std::fmt::Display,
{
    if range.contains(&value) {
        return Ok(());
    }
    let allowed = format!("use {} to {}", range.start(), range.end());
    Err(ConfigError::not_allowed(key, value, allowed))
}

/// Whether a file is named: an empty path means none.
pub fn is_set(path: &Path) -> bool {
    !path.as_os_str().is_empty()
}

/// Loads `T` from `file` (if any), from environment variables that begin with
/// `env_prefix` (`PREFIX_SECTION__KEY=value`), and from `flags` (key with dots,
/// value), later ones winning. `T` gives the defaults through
/// `#[serde(default)]` and refuses unknown keys through
/// `#[serde(deny_unknown_fields)]`.
///
/// # Errors
/// [`ConfigError::Unreadable`] or [`ConfigError::Wrong`].
pub fn load<T: DeserializeOwned>(
    file: Option<&Path>,
    env_prefix: &str,
    flags: &[(String, String)],
) -> Result<T, ConfigError> {
    Layers::read(file, env_prefix, flags)?.above(&[])
}

/// What an operator set, wherever: read once, since a file may be a pipe.
#[derive(Debug)]
pub struct Layers {
    file: Option<(PathBuf, String)>,
    env_prefix: String,
    variables: HashMap<String, String>,
    flags: Vec<(String, String)>,
}

impl Layers {
    /// Reads what [`load`] reads.
    ///
    /// # Errors
    /// [`ConfigError::Unreadable`].
    pub fn read(file: Option<&Path>, env_prefix: &str, flags: &[(String, String)]) -> Result<Self, ConfigError> {
        let read = |path: &Path| match std::fs::read_to_string(path) {
            Ok(text) => Ok((path.to_path_buf(), text)),
            Err(reason) => Err(ConfigError::Unreadable { path: path.to_path_buf(), reason }),
        };
        Ok(Self {
            file: file.map(read).transpose()?,
            env_prefix: env_prefix.to_owned(),
            variables: std::env::vars().collect(),
            flags: flags.to_vec(),
        })
    }

    /// All of it above `defaults` (key with dots, value), which stand in place
    /// of those of `T`.
    ///
    /// # Errors
    /// [`ConfigError::Wrong`].
    pub fn above<T: DeserializeOwned>(&self, defaults: &[(&str, i64)]) -> Result<T, ConfigError> {
        let wrong = |error: config::ConfigError| wrong(self.file.as_ref().map(|(path, _)| path.as_path()), &error);
        let mut layers = Config::builder();
        for (key, value) in defaults {
            layers = layers.set_default(key, *value).map_err(wrong)?;
        }
        if let Some((_, text)) = &self.file {
            layers = layers.add_source(File::from_str(text, FileFormat::Toml));
        }
        layers = layers.add_source(
            Environment::with_prefix(&self.env_prefix)
                .prefix_separator("_")
                .separator("__")
                .try_parsing(true)
                .source(Some(self.variables.clone())),
        );
        for (key, value) in &self.flags {
            layers = layers.set_override(key, value.as_str()).map_err(wrong)?;
        }
        layers.build().map_err(wrong)?.try_deserialize().map_err(wrong)
    }
}

fn wrong(file: Option<&Path>, error: &config::ConfigError) -> ConfigError {
    match file {
        Some(path) => ConfigError::Wrong(format!("{error} (file {})", path.display())),
        None => ConfigError::Wrong(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Example {
        name: String,
        limits: Limits,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(default, deny_unknown_fields)]
    struct Limits {
        streams: u32,
        ratio: f32,
    }

    impl Default for Example {
        fn default() -> Self {
            Self { name: "default".into(), limits: Limits::default() }
        }
    }

    impl Default for Limits {
        fn default() -> Self {
            Self { streams: 8, ratio: 0.5 }
        }
    }

    fn load_text(text: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Example, ConfigError> {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        std::fs::write(file.path(), text).expect("write");
        let env = env.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let flags: Vec<_> = flags.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        let read = Layers::read(Some(file.path()), "FLATFRAME_TEST", &flags)?;
        Layers { variables: env, ..read }.above(&[("limits.streams", 4)])
    }

    #[test]
    fn later_layers_win() {
        let loaded = load_text("", &[], &[]).expect("loads");
        assert_eq!(loaded, Example { limits: Limits { streams: 4, ratio: 0.5 }, ..Example::default() });
        let loaded = load_text("name = 'file'\n[limits]\nstreams = 1\n", &[], &[]).expect("loads");
        assert_eq!(loaded, Example { name: "file".into(), limits: Limits { streams: 1, ratio: 0.5 } });
        let env = [("FLATFRAME_TEST_LIMITS__STREAMS", "2"), ("FLATFRAME_TEST_NAME", "env")];
        let loaded = load_text("[limits]\nstreams = 1\n", &env, &[("limits.streams", "3")]).expect("loads");
        assert_eq!((loaded.name.as_str(), loaded.limits.streams), ("env", 3));
    }

    #[test]
    fn errors_name_key_and_value() {
        for (text, words) in [
            ("[limits]\nstreems = 1\n", ["streems", "streams"]),
            ("[limits]\nstreams = 'many'\n", ["many", "limits.streams"]),
            ("[limits]\nstreams = -1\n", ["-1", "limits.streams"]),
            ("[limits\n", ["TOML", "line 1"]),
        ] {
            let error = load_text(text, &[], &[]).expect_err(text).to_string();
            for word in words {
                assert!(error.contains(word), "{word:?} missing in: {error}");
            }
        }
        let env = [("FLATFRAME_TEST_LIMITS__STREAMS", "many")];
        let error = load_text("", &env, &[]).expect_err("a word is no number").to_string();
        assert!(error.contains("many"), "{error}");
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load::<Example>(Some(Path::new("/no/such.toml")), "X", &[]).expect_err("missing").to_string();
        assert!(error.contains("/no/such.toml"), "{error}");
    }

    #[test]
    fn ranges() {
        assert!(in_range("limits.streams", 5, 1..=10).is_ok());
        let error = in_range("limits.streams", 11, 1..=10).expect_err("too many").to_string();
        assert_eq!(error, "configuration: limits.streams = 11 is not allowed: use 1 to 10");
    }
}
