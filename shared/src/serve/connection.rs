//! One connection from its first byte to its end: TLS where it is spoken, then
//! HTTP/2 for gRPC, HTTP/1.1 for browsers.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

use super::calls::{CallWatch, Calls};
use super::{ConnectionCounts, ConnectionLimits, Protocol, Speaks, TrackedExecutor};
use crate::tls;

/// The first bytes of every HTTP/2 connection (RFC 9113, section 3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What a client of another protocol reads.
const NOT_GRPC: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\nthis port speaks gRPC (HTTP/2) only\n";
/// Most headers of a browser's request.
const MAX_WEB_HEADERS: usize = 64;
/// An idle connection that was told to end may take so long.
const GOODBYE_DEADLINE: Duration = Duration::from_secs(5);

/// Serves one connection to its end; `true` when it ends because the client
/// did not take an answer.
pub(super) async fn serve(
    (reader, writer): (impl AsyncRead + Unpin + Send + 'static, impl AsyncWrite + Unpin + Send + 'static),
    speaks: &Speaks,
    mut calls: Calls,
    limits: &ConnectionLimits,
    counts: &ConnectionCounts,
    executor: TrackedExecutor,
    shutdown: CancellationToken,
) -> bool {
    let Some(tls) = &speaks.tls else {
        return converse((reader, writer), speaks.protocol, calls, limits, counts, executor, shutdown).await;
    };
    // Ports change with every attempt, and would each be told of.
    let who = calls.peer().ip().to_string();
    let handshake = tls::secure(tls, speaks.protocol, tokio::io::join(reader, writer), limits.preface_deadline, &who);
    let Some(Some(secured)) = shutdown.run_until_cancelled(handshake).await else { return false };
    counts.secured.fetch_add(1, Relaxed);
    calls.shown(secured.certificate);
    converse((secured.reader, secured.writer), speaks.protocol, calls, limits, counts, executor, shutdown).await
}

/// What is spoken once bytes can be read.
async fn converse(
    (mut reader, mut writer): (impl AsyncRead + Unpin + Send + 'static, impl AsyncWrite + Unpin + Send + 'static),
    protocol: Protocol,
    calls: Calls,
    limits: &ConnectionLimits,
    counts: &ConnectionCounts,
    executor: TrackedExecutor,
    shutdown: CancellationToken,
) -> bool {
    let watch = calls.watch();
    match protocol {
        Protocol::Grpc => {
            let mut preface = [0; PREFACE.len()];
            match tokio::time::timeout(limits.preface_deadline, read_preface(&mut reader, &mut preface)).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => {
                    counts.no_preface.fetch_add(1, Relaxed);
                    let answer = answer_not_grpc(&mut reader, &mut writer);
                    let _ = tokio::time::timeout(limits.preface_deadline, answer).await;
                    return false;
                }
                Ok(Err(_)) | Err(_) => {
                    counts.no_preface.fetch_add(1, Relaxed);
                    return false;
                }
            }
            let io = tokio::io::join(std::io::Cursor::new(preface).chain(reader), writer);
            let serving = hyper::server::conn::http2::Builder::new(executor)
                .timer(TokioTimer::new())
                .initial_stream_window_size(limits.window_bytes)
                .initial_connection_window_size(limits.window_bytes)
                .max_concurrent_streams(limits.max_calls_per_connection)
                .max_send_buf_size(limits.send_buffer_bytes)
                .max_header_list_size(limits.max_header_bytes)
                .keep_alive_interval(limits.ping_interval)
                .keep_alive_timeout(limits.ping_deadline)
                .serve_connection(TokioIo::new(io), calls);
            until_over(serving, watch, limits, counts, shutdown).await
        }
        Protocol::Web => {
            let io = tokio::io::join(reader, writer);
            let serving = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.idle_deadline)
                .max_headers(MAX_WEB_HEADERS)
                .max_buf_size(limits.send_buffer_bytes)
                .serve_connection(TokioIo::new(io), calls);
            until_over(serving, watch, limits, counts, shutdown).await
        }
    }
}

/// Drives a connection until it, its client or the service ends.
async fn until_over<C: GracefulConnection>(
    serving: C,
    watch: CallWatch,
    limits: &ConnectionLimits,
    counts: &ConnectionCounts,
    shutdown: CancellationToken,
) -> bool
where
    C::Error: std::fmt::Display,
{
    let mut serving = std::pin::pin!(serving);
    // A connection that breaks has told every call on it; nobody else to tell.
    let result = tokio::select! {
        biased;
        result = serving.as_mut() => result,
        () = shutdown.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
        () = watch.unread_for(limits.unread_deadline) => return true,
        () = watch.idle_for(limits.idle_deadline) => {
            counts.idle.fetch_add(1, Relaxed);
            serving.as_mut().graceful_shutdown();
            // A call that came just now is still served.
            tokio::select! {
                biased;
                result = serving => result,
                () = watch.unread_for(limits.unread_deadline) => return true,
                () = watch.idle_for(GOODBYE_DEADLINE) => return false,
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection ended");
    }
    false
}

/// Tells a client of another protocol what this port is.
async fn answer_not_grpc(
    reader: &mut (impl AsyncRead + Unpin),
    writer: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    writer.write_all(NOT_GRPC).await?;
    writer.shutdown().await?;
    // What it still sends is read, up to a bound: closing a socket with unread
    // data resets it, and the answer would be lost.
    let mut rest = [0; 1024];
    for _ in 0..16 {
        if reader.read(&mut rest).await? == 0 {
            break;
        }
    }
    Ok(())
}

/// Reads the preface; `false` as soon as it is another protocol's.
async fn read_preface(
    reader: &mut (impl AsyncRead + Unpin),
    preface: &mut [u8; PREFACE.len()],
) -> std::io::Result<bool> {
    let mut have = 0;
    while have < preface.len() {
        let more = reader.read(&mut preface[have..]).await?;
        if more == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        have += more;
        if preface[..have] != PREFACE[..have] {
            return Ok(false);
        }
    }
    Ok(true)
}
