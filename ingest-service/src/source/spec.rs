//! What a camera's `source` key may say. Reads text; opens nothing.

use std::fmt;
use std::path::PathBuf;

use http::Uri;

/// The sources there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceSpec {
    /// `pattern`: a moving test card with faces.
    Pattern,
    /// `file:PATH`: a folder of JPEGs or an .mjpeg file, looped.
    Files(PathBuf),
    /// `mjpeg+http://[user:password@]host[:port]/path`.
    MjpegHttp(CameraAddress),
    /// `rtsp://[user:password@]host[:port]/path`.
    Rtsp(CameraAddress),
    /// `v4l2:/dev/videoN`: a USB camera.
    V4l2(PathBuf),
    /// `rpicam` or `rpicam:N`: a Raspberry Pi camera and its number.
    Rpicam(u32),
    /// `ffmpeg:INPUT`: what ffmpeg can read.
    Ffmpeg(FfmpegInput),
}

/// Where a network camera answers.
#[derive(Clone, PartialEq, Eq)]
pub struct CameraAddress {
    /// `http` or `rtsp`.
    pub scheme: &'static str,
    /// Name or IP address; an IPv6 address without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// Path and query.
    pub path: String,
    /// Name and password, if the camera wants them.
    pub login: Option<Login>,
}

/// Name and password; never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The name.
    pub username: String,
    /// The password.
    pub password: String,
}

/// What stands behind ffmpeg's `-i`; may hold a password.
#[derive(Clone, PartialEq, Eq)]
pub struct FfmpegInput(pub String);

/// What `source` may be, for messages.
pub const ALLOWED: &str = "use pattern, file:PATH, mjpeg+http://[user:password@]host[:port]/path, \
     rtsp://[user:password@]host[:port]/path, v4l2:/dev/videoN, rpicam[:N] or ffmpeg:INPUT";

impl SourceSpec {
    /// Reads a `source` text.
    ///
    /// # Errors
    /// Says what is wrong, without showing a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "pattern" => return Ok(Self::Pattern),
            "rpicam" => return Ok(Self::Rpicam(0)),
            _ => {}
        }
        // A URL's scheme ends in "://", the words of this service in ":".
        if let Some(url) = text.strip_prefix("mjpeg+") {
            return CameraAddress::parse(url, "http", 80).map(Self::MjpegHttp);
        }
        if text.starts_with("rtsp://") || text.starts_with("rtsps://") {
            return CameraAddress::parse(text, "rtsp", 554).map(Self::Rtsp);
        }
        match text.split_once(':').unwrap_or((text, "")) {
            ("file", "") => Err("the path after file: is missing".into()),
            ("file", path) => Ok(Self::Files(PathBuf::from(path))),
            ("v4l2", path) if path.starts_with('/') => Ok(Self::V4l2(PathBuf::from(path))),
            ("v4l2", _) => Err("name the device, such as v4l2:/dev/video0 or v4l2:/dev/v4l/by-id/...".into()),
            ("rpicam", number) => match number.parse() {
                Ok(number) => Ok(Self::Rpicam(number)),
                Err(_) => Err("number the cameras from 0, such as rpicam:1".into()),
            },
            ("ffmpeg", "") => Err("the input after ffmpeg: is missing".into()),
            // It could not be taken for an option, but is more likely meant as one.
            ("ffmpeg", input) if input.starts_with('-') => {
                Err("an input does not begin with -: write ./-name for a file, ffmpeg_input_options for options".into())
            }
            ("ffmpeg", input) => Ok(Self::Ffmpeg(FfmpegInput(input.into()))),
            _ => Err(ALLOWED.into()),
        }
    }
}

impl CameraAddress {
    fn parse(url: &str, scheme: &'static str, default_port: u16) -> Result<Self, String> {
        if url.starts_with(&format!("{scheme}s://")) {
            return Err(format!("{scheme}s is not read; use {scheme}://, over a trusted network"));
        }
        let uri: Uri = url.parse().map_err(|error| format!("not a URL: {error}"))?;
        let authority = match (uri.scheme_str(), uri.authority()) {
            (Some(given), Some(authority)) if given == scheme => authority,
            _ => return Err(ALLOWED.into()),
        };
        let (login, host_port) = match authority.as_str().rsplit_once('@') {
            Some((login, host_port)) => (Some(login), host_port),
            None => (None, authority.as_str()),
        };
        let host = authority.host().trim_matches(['[', ']']);
        if host.is_empty() {
            return Err("the host is missing".into());
        }
        // Not `authority.port()`: it takes a port it cannot read for none.
        let port = match host_port[authority.host().len()..].strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| format!("port {port:?} is not 1 to 65535"))?,
            None => default_port,
        };
        let login = match login {
            Some(login) => {
                let (username, password) = login.split_once(':').unwrap_or((login, ""));
                Some(Login { username: percent_decoded(username)?, password: percent_decoded(password)? })
            }
            None => None,
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self { scheme, host: host.into(), port, path: path.into(), login })
    }

    /// The host as it stands in a URL or a `Host` header, with the port.
    pub fn host_port(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for CameraAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = if self.login.is_some() { "***@" } else { "" };
        write!(f, "{}://{login}{}{}", self.scheme, self.host_port(), self.path)
    }
}

impl fmt::Debug for FfmpegInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(&self.0))
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(***)")
    }
}

/// A text without what the logins of addresses in it may hold.
pub fn redacted(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + "://".len());
        shown.push_str(before);
        let end = after.find(|letter: char| letter == '/' || letter.is_whitespace()).unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(at) => {
                shown.push_str("***");
                &after[at..]
            }
            None => after,
        };
    }
    shown + rest
}

fn percent_decoded(text: &str) -> Result<String, String> {
    let wrong = || "a % in the login must be followed by two hexadecimal digits (UTF-8)".to_owned();
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'%' {
            let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok()).ok_or_else(wrong)?;
            decoded.push(u8::from_str_radix(digits, 16).map_err(|_| wrong())?);
            rest = &after[2..];
        } else {
            decoded.push(byte);
            rest = after;
        }
    }
    String::from_utf8(decoded).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn http(text: &str) -> CameraAddress {
        match SourceSpec::parse(text) {
            Ok(SourceSpec::MjpegHttp(address)) => address,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn all_forms() {
        assert_eq!(SourceSpec::parse("pattern"), Ok(SourceSpec::Pattern));
        assert_eq!(SourceSpec::parse("rpicam"), Ok(SourceSpec::Rpicam(0)));
        assert_eq!(SourceSpec::parse("rpicam:1"), Ok(SourceSpec::Rpicam(1)));
        assert_eq!(SourceSpec::parse("v4l2:/dev/video0"), Ok(SourceSpec::V4l2("/dev/video0".into())));
        let input = |text: &str| Ok(SourceSpec::Ffmpeg(FfmpegInput(text.into())));
        assert_eq!(SourceSpec::parse("ffmpeg:rtsp://cam/x"), input("rtsp://cam/x"));
        assert_eq!(SourceSpec::parse("ffmpeg:./-i"), input("./-i"));
        let Ok(SourceSpec::Rtsp(address)) = SourceSpec::parse("rtsp://a:b@cam/s?channel=1&x=2") else { panic!("RTSP") };
        assert_eq!((address.host_port().as_str(), address.path.as_str()), ("cam:554", "/s?channel=1&x=2"));
        assert_eq!(format!("{address:?}"), "rtsp://***@cam:554/s?channel=1&x=2");
        assert_eq!(SourceSpec::parse("file:/a b/c.mjpeg"), Ok(SourceSpec::Files("/a b/c.mjpeg".into())));

        let address = http("mjpeg+http://cam.lan/video?size=2");
        assert_eq!((address.host_port().as_str(), address.path.as_str()), ("cam.lan:80", "/video?size=2"));
        let address = http("mjpeg+http://us%40er:p%3Aw@10.0.0.7:8080");
        let login = address.login.clone().expect("given");
        assert_eq!((login.username.as_str(), login.password.as_str()), ("us@er", "p:w"));
        assert_eq!((address.host_port().as_str(), address.path.as_str()), ("10.0.0.7:8080", "/"));
        assert_eq!(http("mjpeg+http://[::1]:81/x").host_port(), "[::1]:81");
    }

    #[test]
    fn wrong_forms_say_what_is_allowed() {
        for (text, word) in [
            ("", "use pattern"),
            ("patern", "use pattern"),
            ("http://cam/", "mjpeg+http"),
            ("file:", "path"),
            ("mjpeg+https://cam/", "https is not read"),
            ("mjpeg+http://cam:99999/", "99999"),
            ("mjpeg+http:///x", ""),
            ("mjpeg+http://u:%zz@cam/", "hexadecimal"),
            ("mjpeg+ftp://cam/", "use pattern"),
            ("rtsps://cam/x", "rtsps is not read"),
            ("rtsp://cam:0x/", "0x"),
            ("v4l2:video0", "v4l2:/dev/video0"),
            ("rpicam:front", "rpicam:1"),
            ("rpicam:", "rpicam:1"),
            ("ffmpeg:", "missing"),
            ("ffmpeg:-f lavfi", "ffmpeg_input_options"),
        ] {
            let error = SourceSpec::parse(text).expect_err(text);
            assert!(error.contains(word), "{text}: {error}");
        }
    }

    #[test]
    fn a_password_is_never_shown() {
        let text = "mjpeg+http://user:s3cret@cam/x";
        assert!(!format!("{:?}", SourceSpec::parse(text)).contains("s3cret"));
        assert_eq!(redacted(text), "mjpeg+http://***@cam/x");
        assert_eq!(redacted("mjpeg+http://cam/x@y"), "mjpeg+http://cam/x@y");
        assert_eq!(redacted("file:/x"), "file:/x");
        let text = "ffmpeg:rtsp://u:s3cret@cam/x";
        assert_eq!(redacted(text), "ffmpeg:rtsp://***@cam/x");
        assert!(!format!("{:?}", SourceSpec::parse(text)).contains("s3cret"));
        let line = "[tcp @ 0x5] rtsp://u:s3@cret@cam/x: refused, not http://a:s3cret@b";
        assert_eq!(redacted(line), "[tcp @ 0x5] rtsp://***@cam/x: refused, not http://***@b");
    }
}
