//! Where the authority is asked: in front of all routes of a port, before
//! anything of a call is read. Decides nothing itself.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use flatframe_shared::error::ErrorKind;
use flatframe_shared::serve::Connection;
use http::header::AUTHORIZATION;
use tonic::service::Routes;

use super::authority::Authority;

/// `routes`, behind `authority`.
pub fn guarded(routes: Routes, authority: Arc<Authority>) -> Routes {
    Routes::from(routes.into_axum_router().layer(middleware::from_fn_with_state(authority, ask)))
}

async fn ask(State(authority): State<Arc<Authority>>, mut request: Request, next: Next) -> Response {
    let judged = match request.extensions().get::<Connection>() {
        Some(connection) => authority.judge(request.uri().path(), request.headers(), connection),
        None => Err(ErrorKind::Internal.status("the connection is not known")),
    };
    match judged {
        Ok(caller) => {
            // Nobody behind this has a use for it.
            request.headers_mut().remove(AUTHORIZATION);
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(status) => status.into_http(),
    }
}
