//! The page: a few files in the program, and over gRPC-Web the same calls that
//! every client has. Opens nothing, asks nobody outside, knows no camera.
//!
//! There is no authentication yet. What keeps other web sites in the same
//! browser out: calls have a content type that a foreign page may not send
//! unasked (Fetch Standard, "CORS-safelisted request-header"), a request that
//! says it comes from elsewhere is refused, and on a port of this machine so is
//! one for a foreign name (DNS rebinding).

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode, Uri};
use sha2::{Digest, Sha256};
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_web::GrpcWebLayer;
use tower::Layer;
use tower_service::Service;

/// The files of the page: path and content.
macro_rules! files {
    ($($name:literal)*) => {
        &[$((concat!("/", $name), include_str!(concat!("../page/", $name)))),*]
    };
}

const FILES: &[(&str, &str)] = files![
    "style.css" "charts.js" "counts.js" "dom.js" "gender.js" "glance.js" "grpc_web.js" "health.js" "incidents.js"
    "link.js" "live.js" "main.js" "occupancy.js" "picture.js" "protobuf.js" "repeat.js" "schema.js" "text.js" "tile.js"
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

/// The page and the services behind it.
pub fn routes<R, A>(results: R, resources: A, is_local: bool) -> Routes
where
    R: GrpcService,
    A: GrpcService,
{
    let web = GrpcWebLayer::new();
    let mut router = Router::new()
        .route_service(&format!("/{}/{{method}}", R::NAME), web.layer(results))
        .route_service(&format!("/{}/{{method}}", A::NAME), web.layer(resources));
    router = router.route("/", file("text/html; charset=utf-8", INDEX));
    for (path, content) in FILES {
        let is_style = path.ends_with(".css");
        let content_type = if is_style { "text/css; charset=utf-8" } else { "text/javascript; charset=utf-8" };
        router = router.route(path, file(content_type, content));
    }
    let router = router
        .fallback(async || (StatusCode::NOT_FOUND, "there is no such page: go to /\n"))
        .layer(middleware::from_fn_with_state(is_local, guard));
    Routes::from(router)
}

/// A file that a browser keeps, and asks whether it is still the same.
fn file(content_type: &'static str, content: &'static str) -> MethodRouter {
    let tag = format!("\"{}\"", hex_of(&Sha256::digest(content)));
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

/// What tonic's servers are, behind the admission.
pub trait GrpcService:
    Service<
        Request<tonic::body::Body>,
        Response = Response<tonic::body::Body>,
        Error = std::convert::Infallible,
        Future: Send,
    > + NamedService
    + Clone
    + Send
    + Sync
    + 'static
{
}

impl<S> GrpcService for S where
    S: Service<
            Request<tonic::body::Body>,
            Response = Response<tonic::body::Body>,
            Error = std::convert::Infallible,
            Future: Send,
        > + NamedService
        + Clone
        + Send
        + Sync
        + 'static
{
}

async fn guard(State(is_local): State<bool>, request: Request, next: Next) -> Response {
    let mut response = match refusal(is_local, request.uri(), request.headers()) {
        Some(why) => (StatusCode::FORBIDDEN, why).into_response(),
        None => next.run(request).await,
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Why a request is not answered.
fn refusal(is_local: bool, uri: &Uri, headers: &HeaderMap) -> Option<&'static str> {
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    // Following a link from elsewhere to the page itself is good.
    let is_page = uri.path() == "/";
    match text(HeaderName::from_static("sec-fetch-site")) {
        None | Some("same-origin" | "none") => {}
        Some(_) if is_page => {}
        Some(_) => return Some("this page answers only itself\n"),
    }
    let host = uri.host().or_else(|| text(header::HOST).map(host_of)).unwrap_or_default();
    let is_this_machine = host == "localhost"
        || host.ends_with(".localhost")
        || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    (is_local && !is_this_machine).then_some("this page is for this machine: use http://localhost or its address\n")
}

/// A host without its port.
fn host_of(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) && !name.is_empty() => name,
        _ => host,
    }
}

fn hex_of(bytes: &[u8]) -> String {
    bytes.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(is_local: bool, path: &str, headers: &[(&'static str, &str)]) -> bool {
        let value = |text: &str| HeaderValue::from_str(text).expect("a value");
        let headers = headers.iter().map(|(name, text)| (HeaderName::from_static(name), value(text))).collect();
        refusal(is_local, &path.parse().expect("a path"), &headers).is_some()
    }

    #[test]
    fn foreign_pages_are_refused() {
        let call = "/flatframe.v1.ResultService/ResetOccupancy";
        for site in ["cross-site", "same-site", "anything"] {
            assert!(refused(false, call, &[("host", "box:9470"), ("sec-fetch-site", site)]), "{site}");
            assert!(!refused(false, "/", &[("host", "box:9470"), ("sec-fetch-site", site)]), "{site}");
        }
        for site in ["same-origin", "none"] {
            assert!(!refused(false, call, &[("host", "box:9470"), ("sec-fetch-site", site)]), "{site}");
        }
    }

    #[test]
    fn a_local_page_has_local_names() {
        for host in ["localhost", "localhost:9470", "127.0.0.1:9470", "[::1]:9470", "[::1]", "a.localhost:1"] {
            assert!(!refused(true, "/", &[("host", host)]), "{host}");
        }
        for host in ["evil.example", "evil.example:9470", "127.0.0.1.evil.example", "", "localhost.evil.example"] {
            assert!(refused(true, "/", &[("host", host)]), "{host}");
            assert!(!refused(false, "/", &[("host", host)]), "{host}");
        }
    }
}
