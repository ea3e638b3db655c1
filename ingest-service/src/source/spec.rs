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
    MjpegHttp(HttpAddress),
    /// `rpicam`: a child process that writes MJPEG to its standard output.
    Rpicam,
}

/// Where an MJPEG camera answers.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpAddress {
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

/// What `source` may be, for messages.
pub const ALLOWED: &str = "use pattern, file:PATH, mjpeg+http://[user:password@]host[:port]/path or rpicam";

impl SourceSpec {
    /// Reads a `source` text.
    ///
    /// # Errors
    /// Says what is wrong, without showing a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "pattern" => return Ok(Self::Pattern),
            "rpicam" => return Ok(Self::Rpicam),
            _ => {}
        }
        if let Some(path) = text.strip_prefix("file:") {
            return match path {
                "" => Err("the path after file: is missing".into()),
                path => Ok(Self::Files(PathBuf::from(path))),
            };
        }
        match text.strip_prefix("mjpeg+") {
            Some(url) => HttpAddress::parse(url).map(Self::MjpegHttp),
            None => Err(ALLOWED.into()),
        }
    }
}

impl HttpAddress {
    fn parse(url: &str) -> Result<Self, String> {
        if url.starts_with("https://") {
            return Err("https is not read; use http://, over a trusted network".into());
        }
        let uri: Uri = url.parse().map_err(|error| format!("not a URL: {error}"))?;
        let authority = match (uri.scheme_str(), uri.authority()) {
            (Some("http"), Some(authority)) => authority,
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
            None => 80,
        };
        let login = match login {
            Some(login) => {
                let (username, password) = login.split_once(':').unwrap_or((login, ""));
                Some(Login { username: percent_decoded(username)?, password: percent_decoded(password)? })
            }
            None => None,
        };
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok(Self { host: host.into(), port, path: path.into(), login })
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

impl fmt::Debug for HttpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let login = if self.login.is_some() { "***@" } else { "" };
        write!(f, "http://{login}{}{}", self.host_port(), self.path)
    }
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(***)")
    }
}

/// A `source` text without what a login in it may hold.
pub fn redacted(source: &str) -> String {
    let Some((scheme, rest)) = source.split_once("://") else { return source.into() };
    let end = rest.find('/').unwrap_or(rest.len());
    match rest[..end].rfind('@') {
        Some(at) => format!("{scheme}://***{}", &rest[at..]),
        None => source.into(),
    }
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

    fn http(text: &str) -> HttpAddress {
        match SourceSpec::parse(text) {
            Ok(SourceSpec::MjpegHttp(address)) => address,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn all_forms() {
        assert_eq!(SourceSpec::parse("pattern"), Ok(SourceSpec::Pattern));
        assert_eq!(SourceSpec::parse("rpicam"), Ok(SourceSpec::Rpicam));
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
    }
}
