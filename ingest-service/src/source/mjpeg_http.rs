//! Reads an endless `multipart/x-mixed-replace` answer from a network camera,
//! over HTTP/1.0 or 1.1, chunked or not.
//!
//! The pictures are found by walking their markers: boundaries, part headers
//! and part lengths are passed over as bytes between pictures, since cameras
//! pad, misspell and misstate them. Follows no redirect, reads no single
//! pictures, and shows no password.

use std::io::Write;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue, LOCATION, USER_AGENT};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::plan::CameraPlan;
use crate::source::capture::Capture;
use crate::source::jpeg_framing::JpegFramer;
use crate::source::spec::{CameraAddress, Login};
use crate::source::{BoxFuture, Source, SourceError};

/// Time to look up the name and connect.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Time until the answer's header has come.
const HEADER_DEADLINE: Duration = Duration::from_secs(5);
/// The most that is read ahead, in bytes.
pub const READ_BUFFER_BYTES: usize = 64 * 1024;

/// One network camera.
#[derive(Debug)]
pub struct MjpegHttpSource {
    address: CameraAddress,
    max_picture_bytes: usize,
}

impl MjpegHttpSource {
    /// The camera at `address`, with the login of the plan.
    pub fn new(address: CameraAddress, plan: &CameraPlan) -> Self {
        let login = plan.login.clone().or(address.login.clone());
        Self { address: CameraAddress { login, ..address }, max_picture_bytes: plan.max_picture_bytes }
    }

    async fn read(&self, capture: &mut Capture) -> Result<(), SourceError> {
        let not_opened = |what: String| SourceError::NotOpened(format!("{what} ({:?})", self.address));
        let target = (self.address.host.as_str(), self.address.port);
        let socket = timeout(CONNECT_DEADLINE, TcpStream::connect(target))
            .await
            .map_err(|_| not_opened(format!("no connection within {} s", CONNECT_DEADLINE.as_secs())))?
            .map_err(|error| not_opened(format!("no connection: {error}")))?;
        let (mut sender, connection) = http1::Builder::new()
            .max_buf_size(READ_BUFFER_BYTES)
            .handshake(TokioIo::new(socket))
            .await
            .map_err(|error| not_opened(error.to_string()))?;
        let request = self.request().map_err(|error| not_opened(error.to_string()))?;

        // The connection is driven here, beside the answer, so that nothing of
        // it outlives this attempt.
        let reading = async {
            let response = timeout(HEADER_DEADLINE, sender.send_request(request))
                .await
                .map_err(|_| not_opened(format!("no answer within {} s", HEADER_DEADLINE.as_secs())))?
                .map_err(|error| not_opened(format!("not an HTTP answer: {error}")))?;
            check_answer(response.status(), response.headers()).map_err(not_opened)?;
            capture.opened();
            let mut framer = JpegFramer::new(self.max_picture_bytes);
            let mut body = response.into_body();
            let ended = loop {
                match body.frame().await {
                    Some(Ok(frame)) => {
                        if let Some(data) = frame.data_ref() {
                            capture.bytes(&mut framer, data);
                        }
                    }
                    Some(Err(error)) => break error.to_string(),
                    None => break "the camera closed the connection".to_owned(),
                }
            };
            capture.end_of_bytes(&mut framer);
            Err(SourceError::Ended(ended))
        };
        tokio::pin!(reading, connection);
        tokio::select! {
            ended = &mut reading => ended,
            // When the connection ends first, the answer says what it means.
            _ = &mut connection => reading.await,
        }
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, http::Error> {
        let mut request = Request::get(&self.address.path)
            .header(HOST, self.address.host_port())
            .header(USER_AGENT, flatframe_shared::SOFTWARE)
            .header(ACCEPT, "multipart/x-mixed-replace, */*");
        if let Some(login) = &self.address.login {
            let mut value = HeaderValue::try_from(basic(login))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        request.body(Empty::new())
    }
}

impl Source for MjpegHttpSource {
    fn run_once<'a>(
        &'a mut self,
        capture: &'a mut Capture,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<(), SourceError>> {
        Box::pin(async { stop.run_until_cancelled(self.read(capture)).await.unwrap_or(Ok(())) })
    }
}

/// Whether an answer can be a stream of pictures.
///
/// # Errors
/// Why not, and what to do, short enough for a log line.
pub fn check_answer(status: StatusCode, headers: &HeaderMap) -> Result<(), String> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    if status.is_redirection() {
        let to = text(LOCATION).unwrap_or("elsewhere");
        return Err(format!("the camera redirects to {}; put that address into source", shortened(to)));
    }
    match status {
        StatusCode::OK => {}
        StatusCode::UNAUTHORIZED => {
            return Err("the camera wants a login, or another one: set username and password".into());
        }
        other => return Err(format!("the camera answers {other}")),
    }
    // A missing or unspecific type is common and harmless: the walk decides.
    let kind = text(CONTENT_TYPE).unwrap_or("").to_ascii_lowercase();
    if kind.starts_with("image/") {
        return Err(format!(
            "the camera answers with one picture ({}), not with a stream: use its MJPEG stream's address",
            shortened(&kind)
        ));
    }
    if kind.starts_with("text/") || kind.starts_with("application/json") {
        return Err(format!(
            "the camera answers with {}, not with pictures: use its MJPEG stream's address",
            shortened(&kind)
        ));
    }
    Ok(())
}

/// A camera's text, short enough for a log line.
fn shortened(text: &str) -> String {
    crate::source::spec::redacted(text).chars().take(120).collect()
}

/// The value of a Basic `Authorization` header (RFC 7617).
fn basic(login: &Login) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut plain = Vec::new();
    // Writing into a Vec does not fail.
    let _ = write!(plain, "{}:{}", login.username, login.password);
    let mut value = b"Basic ".to_vec();
    for three in plain.chunks(3) {
        let bits = three.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - three.len()));
        for digit in 0..4 {
            let shown = digit <= three.len();
            value.push(if shown { DIGITS[(bits >> (18 - 6 * digit) & 63) as usize] } else { b'=' });
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn basic_login() {
        // The example of RFC 7617, and one of each padding.
        for (username, password, expected) in [
            ("Aladdin", "open sesame", "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            ("a", "b", "Basic YTpi"),
            ("a", "bc", "Basic YTpiYw=="),
            ("a", "bcd", "Basic YTpiY2Q="),
            ("test", "123\u{a3}", "Basic dGVzdDoxMjPCow=="),
        ] {
            let login = Login { username: username.into(), password: password.into() };
            assert_eq!(String::from_utf8(basic(&login)).expect("text"), expected);
        }
    }

    #[test]
    fn answers_that_are_no_stream_say_what_to_do() {
        let answer = |status: u16, name, value: &'static str| {
            let headers = HeaderMap::from_iter([(name, HeaderValue::from_static(value))]);
            check_answer(StatusCode::from_u16(status).expect("valid"), &headers)
        };
        for kind in
            ["multipart/x-mixed-replace; boundary=\"--x\"", "application/octet-stream", "video/x-motion-jpeg", ""]
        {
            assert_eq!(answer(200, CONTENT_TYPE, kind), Ok(()), "{kind}");
        }
        for (status, name, value, word) in [
            (302, LOCATION, "http://u:secret@other/stream", "redirects to http://***@other/stream"),
            (401, LOCATION, "", "login"),
            (404, CONTENT_TYPE, "text/html", "404"),
            (200, CONTENT_TYPE, "image/JPEG", "one picture"),
            (200, CONTENT_TYPE, "Text/html; charset=utf-8", "text/html"),
        ] {
            let error = answer(status, name, value).expect_err(word);
            assert!(error.contains(word), "{error}");
        }
    }
}
