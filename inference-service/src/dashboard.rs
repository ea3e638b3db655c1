//! The page: a few files in the program, and over gRPC-Web the same calls that
//! every client has. Opens nothing, asks nobody outside, knows no camera.
//!
//! The files need no token, what the page asks for does where there are some
//! ([`crate::access`]). What keeps other web sites in the same browser out: calls have a content type that a foreign page may not send
//! unasked (Fetch Standard, "CORS-safelisted request-header"); a request that
//! says it comes from elsewhere is refused; and so is one for a name that
//! anyone could have made to point here (DNS rebinding): only addresses, names
//! of local networks, and those that the operator gave are answered.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode, Uri};
use sha2::{Digest, Sha256};
use tonic::service::Routes;
use tonic_web::GrpcWebLayer;

use crate::vision::models::hex;

/// The files of the page: path and content.
macro_rules! files {
    ($($name:literal)*) => {
        &[$((concat!("/", $name), include_str!(concat!("../page/", $name)))),*]
    };
}

const FILES: &[(&str, &str)] = files![
    "style.css" "charts.js" "counts.js" "dom.js" "gender.js" "glance.js" "grpc_web.js" "health.js"
    "incident_pictures.js" "incidents.js"
    "link.js" "live.js" "main.js" "occupancy.js" "picture.js" "protobuf.js" "question.js" "repeat.js" "schema.js" "text.js"
    "tile.js" "token.js"
];

const INDEX: &str = include_str!("../page/index.html");

/// Sent with everything.
const HEADERS: [(HeaderName, &str); 6] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    // Asked for anew each time, and answered 304: the program may be newer.
    (header::CACHE_CONTROL, "no-cache"),
];

/// The page, and `calls` for browsers.
pub fn routes(calls: Routes, audience: Audience) -> Routes {
    // What is added after the layer is no call.
    let mut router = calls.into_axum_router().layer(GrpcWebLayer::new());
    router = router.route("/", file("text/html; charset=utf-8", INDEX));
    for (path, content) in FILES {
        let is_style = path.ends_with(".css");
        let content_type = if is_style { "text/css; charset=utf-8" } else { "text/javascript; charset=utf-8" };
        router = router.route(path, file(content_type, content));
    }
    let router = router
        .fallback(async || (StatusCode::NOT_FOUND, "there is no such page: go to /\n"))
        .layer(middleware::from_fn_with_state(audience, guard));
    Routes::from(router)
}

/// A file that a browser keeps, and asks whether it is still the same.
fn file(content_type: &'static str, content: &'static str) -> MethodRouter {
    let tag = format!("\"{}\"", hex(&Sha256::digest(content)[..16]));
    let tag = HeaderValue::from_str(&tag).expect("hexadecimal digits");
    get(move |headers: HeaderMap| {
        let is_known = headers.get(header::IF_NONE_MATCH).is_some_and(|known| *known == tag);
        let tag = [(header::ETAG, tag.clone())];
        std::future::ready(if is_known {
            (StatusCode::NOT_MODIFIED, tag).into_response()
        } else {
            (tag, [(header::CONTENT_TYPE, content_type)], content).into_response()
        })
    })
}

/// For whom the page is.
#[derive(Debug, Clone)]
pub struct Audience {
    /// Whether its port is for this machine only.
    pub is_local: bool,
    /// Names by which browsers may ask for it besides.
    pub names: Arc<[String]>,
}

/// Ends of names that nobody outside a local network can give out (RFC 6762,
/// RFC 8375, and the root zone's `internal`), and what routers use.
const LOCAL_ENDS: [&str; 5] = [".local", ".lan", ".home.arpa", ".internal", ".fritz.box"];

async fn guard(State(audience): State<Audience>, request: Request, next: Next) -> Response {
    let mut response = match refusal(&audience, request.uri(), request.headers()) {
        Some(why) => (StatusCode::FORBIDDEN, why).into_response(),
        None => next.run(request).await,
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Why a request is not answered.
fn refusal(audience: &Audience, uri: &Uri, headers: &HeaderMap) -> Option<&'static str> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let host = uri.authority().map(|authority| authority.as_str()).or_else(|| text(header::HOST)).unwrap_or_default();
    // Following a link from elsewhere to the page itself is good.
    let is_page = uri.path() == "/";
    // Over plain HTTP browsers say only the origin, and that with every call.
    let is_own = match (text(HeaderName::from_static("sec-fetch-site")), headers.get(header::ORIGIN)) {
        (Some("same-origin" | "none") | None, None) => true,
        (Some("same-origin" | "none") | None, Some(origin)) => {
            origin.to_str().ok().and_then(|origin| origin.split_once("://")).is_some_and(|(_, own)| own == host)
        }
        (Some(_), _) => is_page,
    };
    if !is_own {
        return Some("this page answers only itself\n");
    }
    let name = host_of(host).to_ascii_lowercase();
    let is_this_machine = name == "localhost"
        || name.ends_with(".localhost")
        || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    let is_near = !name.is_empty() && !name.contains('.') || LOCAL_ENDS.iter().any(|end| name.ends_with(end));
    let is_known = is_this_machine
        || audience.names.iter().any(|known| known.eq_ignore_ascii_case(&name))
        || !audience.is_local && is_near;
    (!is_known).then_some(
        "this page is not known by that name: use its address, or have the operator add the name to listen.page_names\n",
    )
}

/// A host without its port.
fn host_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(is_local: bool, path: &str, headers: &[(&'static str, &str)]) -> bool {
        let value = |text: &str| HeaderValue::from_str(text).expect("a value");
        let headers = headers.iter().map(|(name, text)| (HeaderName::from_static(name), value(text))).collect();
        let audience = Audience { is_local, names: ["cams.example.org".to_owned()].into() };
        refusal(&audience, &path.parse().expect("a path"), &headers).is_some()
    }

    #[test]
    fn foreign_pages_are_refused() {
        let call = "/flatframe.v1.ResultService/ResetOccupancy";
        for site in ["cross-site", "same-site", "anything"] {
            assert!(refused(true, call, &[("host", "localhost:9470"), ("sec-fetch-site", site)]), "{site}");
            assert!(!refused(true, "/", &[("host", "localhost:9470"), ("sec-fetch-site", site)]), "{site}");
        }
        // What browsers say over plain HTTP.
        for origin in ["http://evil.example", "http://192.168.1.5:9471", "http://192.168.1.5", "null", "x"] {
            assert!(refused(false, call, &[("host", "192.168.1.5:9470"), ("origin", origin)]), "{origin}");
        }
        assert!(!refused(false, call, &[("host", "192.168.1.5:9470"), ("origin", "http://192.168.1.5:9470")]));
        let own = [("host", "localhost:1"), ("origin", "http://localhost:1"), ("sec-fetch-site", "same-origin")];
        assert!(!refused(true, call, &own));
    }

    #[test]
    fn only_names_that_nobody_else_gives_out_are_known() {
        let this_machine = ["localhost", "localhost:9470", "127.0.0.1:9470", "[::1]:9470", "[::1]", "a.localhost:1"];
        for host in this_machine.into_iter().chain(["CAMS.example.org:9470"]) {
            assert!(!refused(true, "/", &[("host", host)]) && !refused(false, "/", &[("host", host)]), "{host}");
        }
        for host in ["box", "box:9470", "192.168.1.5", "flatframe.local:9470", "pi.lan", "pi.home.arpa"] {
            assert!(!refused(false, "/", &[("host", host)]), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9470",
            "127.0.0.1.evil.example",
            "",
            "local.evil.example",
            "x.cams.example.org",
        ] {
            assert!(refused(true, "/", &[("host", host)]) && refused(false, "/", &[("host", host)]), "{host}");
        }
        assert!(refused(true, "/", &[("host", "box:9470")]), "a name for this machine alone");
    }
}
