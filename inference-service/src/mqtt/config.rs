//! The table `[mqtt]`: where the broker is and what the topics are called.

use std::path::PathBuf;

use flatframe_shared::config::ConfigError;
use flatframe_shared::frame::CameraId;
use serde::{Deserialize, Serialize};

/// Port of MQTT without encryption (IANA).
const PORT: u16 = 1883;
/// Longest password, in bytes.
const MAX_PASSWORD_BYTES: u64 = 4096;

/// Settings of the table `[mqtt]`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MqttConfig {
    /// The broker, such as `mqtt://USER@HOST:1883`; empty: nothing is told.
    pub broker: String,
    /// File with the user's password; empty: none. Its last line end does not
    /// count.
    pub password_file: PathBuf,
    /// Topics begin with this.
    pub topic: String,
    /// Where Home Assistant looks for devices; empty: they are not announced.
    pub discovery: String,
}

impl Default for MqttConfig {
    fn default() -> Self {
        Self {
            broker: String::new(),
            password_file: PathBuf::new(),
            topic: "flatframe".to_owned(),
            discovery: "homeassistant".to_owned(),
        }
    }
}

/// A broker that is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How this service calls itself there.
    pub client_id: String,
    /// User and password.
    pub login: Option<(String, String)>,
    topic: String,
    discovery: String,
}

impl MqttConfig {
    /// Checks every value that can be judged without the file.
    ///
    /// # Errors
    /// [`ConfigError`], naming key, value and what is allowed.
    pub fn check(&self) -> Result<(), ConfigError> {
        for (key, topic, may_be_empty) in [("topic", &self.topic, false), ("discovery", &self.discovery, true)] {
            let is_good =
                |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
            let is_allowed = topic.len() <= 64 && topic.split('/').all(is_good);
            if !(is_allowed || may_be_empty && topic.is_empty()) {
                return Err(wrong(
                    key,
                    topic,
                    "words of a-z, A-Z, 0-9, '_', '-', '.' with '/' between them, 64 letters at most",
                ));
            }
        }
        self.address().map(|_| ())
    }

    /// The broker; `None`: nothing is told.
    ///
    /// # Errors
    /// As [`MqttConfig::check`], and when the password cannot be read.
    pub fn broker(&self) -> Result<Option<Broker>, ConfigError> {
        let Some((user, host, port)) = self.address()? else { return Ok(None) };
        let login = match user {
            Some(user) => Some((user, self.password()?)),
            None => None,
        };
        let client_id = format!("flatframe-{:016x}", fastrand::u64(..));
        Ok(Some(Broker { host, port, client_id, login, topic: self.topic.clone(), discovery: self.discovery.clone() }))
    }

    fn address(&self) -> Result<Option<(Option<String>, String, u16)>, ConfigError> {
        if self.broker.is_empty() {
            return Ok(None);
        }
        let allowed = "mqtt://HOST, mqtt://HOST:PORT or mqtt://USER@HOST:PORT, the password in mqtt.password_file";
        // The value may hold a password in spite of all: it is not shown.
        let refused = || wrong("broker", "...", allowed);
        let rest = self.broker.strip_prefix("mqtt://").ok_or_else(refused)?;
        let (user, place) = rest.rsplit_once('@').map_or((None, rest), |(user, place)| (Some(user), place));
        let place: http::uri::Authority = place.trim_end_matches('/').parse().map_err(|_| refused())?;
        // What follows the host is a port or nothing.
        let is_port_wrong = place.port_u16().is_none() && place.as_str() != place.host();
        let is_user_wrong = user.is_some_and(|user| user.is_empty() || user.contains(':'));
        if is_port_wrong || is_user_wrong || place.host().is_empty() {
            return Err(refused());
        }
        if user.is_none() && !self.password_file.as_os_str().is_empty() {
            return Err(wrong("broker", "...", "mqtt://USER@HOST: there is a password_file, but no user"));
        }
        // Without the brackets of an IPv6 address.
        let host = place.host().trim_matches(['[', ']']).to_owned();
        Ok(Some((user.map(str::to_owned), host, place.port_u16().unwrap_or(PORT))))
    }

    fn password(&self) -> Result<String, ConfigError> {
        use std::io::Read;
        if self.password_file.as_os_str().is_empty() {
            return Ok(String::new());
        }
        let mut text = String::new();
        let read = std::fs::File::open(&self.password_file)
            .and_then(|file| file.take(MAX_PASSWORD_BYTES).read_to_string(&mut text));
        read.map_err(|error| {
            wrong(
                "password_file",
                &self.password_file.display().to_string(),
                &format!("a file that can be read ({error})"),
            )
        })?;
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    }
}

fn wrong(key: &str, value: &str, allowed: &str) -> ConfigError {
    ConfigError::Wrong(format!("mqtt.{key} = {value:?}: use {allowed}"))
}

impl Broker {
    /// Where this service says whether it lives.
    pub fn status_topic(&self) -> String {
        format!("{}/status", self.topic)
    }

    /// Where the state of a camera is told.
    pub fn state_topic(&self, camera: &CameraId) -> String {
        format!("{}/camera/{camera}", self.topic)
    }

    /// Where the states of all cameras are told.
    pub fn all_cameras(&self) -> String {
        format!("{}/camera/+", self.topic)
    }

    /// The camera whose state is told on `topic`.
    pub fn camera_of(&self, topic: &str) -> Option<CameraId> {
        let id = topic.strip_prefix(&self.topic)?.strip_prefix("/camera/")?;
        CameraId::parse(id).ok()
    }

    /// Where a camera is announced; empty: it is not.
    pub fn discovery_topic(&self, camera: &CameraId) -> String {
        if self.discovery.is_empty() {
            return String::new();
        }
        format!("{}/device/{}/config", self.discovery, object_id(camera))
    }
}

/// A camera's id in the letters that Home Assistant allows: a-z, A-Z, 0-9, `_`
/// and `-`. Different cameras have different ones.
pub(super) fn object_id(camera: &CameraId) -> String {
    let letter =
        |c: char| if c.is_ascii_alphanumeric() || c == '-' { c.to_string() } else { format!("_{:02x}", c as u32) };
    format!("flatframe-{}", camera.as_str().chars().map(letter).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(broker: &str) -> MqttConfig {
        MqttConfig { broker: broker.to_owned(), ..MqttConfig::default() }
    }

    #[test]
    fn brokers_are_found() {
        assert_eq!(with("").broker().expect("off"), None);
        for (text, host, port, user) in [
            ("mqtt://box", "box", 1883, None),
            ("mqtt://box:1884/", "box", 1884, None),
            ("mqtt://me@192.168.1.2", "192.168.1.2", 1883, Some("me")),
            ("mqtt://[::1]:99", "::1", 99, None),
        ] {
            let broker = with(text).broker().expect(text).expect("is told");
            assert_eq!((broker.host.as_str(), broker.port), (host, port));
            assert_eq!(broker.login.map(|(user, _)| user).as_deref(), user);
        }
    }

    #[test]
    fn what_is_wrong_is_named_without_its_password() {
        for text in ["box", "mqtts://box", "mqtt://", "mqtt://me:secret@box", "mqtt://@box", "mqtt://box:port"] {
            let error = with(text).check().expect_err(text).to_string();
            assert!(
                error.contains("mqtt.broker") && error.contains("use mqtt://") && !error.contains("secret"),
                "{error}"
            );
        }
        for (key, config) in [
            ("mqtt.topic", MqttConfig { topic: "a/#".to_owned(), ..with("") }),
            ("mqtt.topic", MqttConfig { topic: String::new(), ..with("") }),
            ("mqtt.discovery", MqttConfig { discovery: "a//b".to_owned(), ..with("") }),
            ("mqtt.broker", MqttConfig { password_file: "/x".into(), ..with("mqtt://box") }),
        ] {
            assert!(config.check().expect_err(key).to_string().contains(key));
        }
        let missing = MqttConfig { password_file: "/no/such/file".into(), ..with("mqtt://me@box") };
        assert!(missing.broker().expect_err("no file").to_string().contains("/no/such/file"));
    }

    #[test]
    fn different_cameras_have_different_names() {
        let of = |id: &str| object_id(&CameraId::parse(id).expect("an id"));
        assert_eq!(of("bus-7.front_door"), "flatframe-bus-7_2efront_5fdoor");
        assert_ne!(of("a.b"), of("a_b"));
        assert_ne!(of("a_2eb"), of("a.b"));
    }
}
