//! One picture to a server and the answer back, over gRPC or HTTP, on a
//! connection of its own.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use bytes::Bytes;
use flatframe_shared::r#gen::v1::{DetectRequest, DetectResponse, detect_service_client::DetectServiceClient};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;

use super::pictures::Picture;

/// A client of one server.
pub enum Client {
    /// Of `DetectService`.
    Grpc(DetectServiceClient<Channel>),
    /// Of the HTTP peer.
    Http(HttpClient),
}

/// A kept connection, one request at a time.
pub struct HttpClient {
    address: SocketAddr,
    sender: SendRequest<Full<Bytes>>,
    /// Moves the bytes; closes the connection when dropped.
    _connection: AbortOnDropHandle<()>,
}

/// A server's answer, as it came.
pub enum Answer {
    /// Of `DetectService`.
    Grpc(DetectResponse),
    /// JSON of the HTTP peer.
    Http(Bytes),
}

impl Client {
    /// Connects to a `DetectService`.
    ///
    /// # Errors
    /// When it does not accept.
    pub async fn grpc(address: SocketAddr) -> anyhow::Result<Self> {
        let channel = Channel::from_shared(format!("http://{address}"))?.connect().await?;
        Ok(Self::Grpc(DetectServiceClient::new(channel)))
    }

    /// Connects to the HTTP peer.
    ///
    /// # Errors
    /// When it does not accept.
    pub async fn http(address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        // How a connection ends is told by the call on it.
        let connection = tokio::spawn(async { drop(connection.await) });
        Ok(Self::Http(HttpClient { address, sender, _connection: AbortOnDropHandle::new(connection) }))
    }

    /// One more call at once: gRPC carries many calls on a connection, HTTP/1
    /// needs another one.
    ///
    /// # Errors
    /// When the server does not accept.
    pub async fn another(&self) -> anyhow::Result<Self> {
        match self {
            Self::Grpc(client) => Ok(Self::Grpc(client.clone())),
            Self::Http(client) => Self::http(client.address).await,
        }
    }

    /// Sends a picture and waits for the answer, at most for `deadline`. After
    /// an error over HTTP the connection is of no use any more.
    ///
    /// # Errors
    /// What the server refused with, or that the deadline passed.
    pub async fn call(&mut self, picture: &Picture, deadline: Duration) -> anyhow::Result<Answer> {
        let answer = async {
            match self {
                Self::Grpc(client) => {
                    let mut request =
                        tonic::Request::new(DetectRequest { jpeg: picture.jpeg.clone(), rotation_degrees: 0 });
                    request.set_timeout(deadline);
                    Ok(Answer::Grpc(client.detect(request).await?.into_inner()))
                }
                Self::Http(client) => client.post(picture.json.clone()).await.map(Answer::Http),
            }
        };
        tokio::time::timeout(deadline, answer).await.map_err(|_| anyhow!("no answer within {deadline:?}"))?
    }
}

impl HttpClient {
    async fn post(&mut self, json: Bytes) -> anyhow::Result<Bytes> {
        let request = Request::post("/detect")
            .header(HOST, self.address.to_string())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(json))?;
        self.sender.ready().await.context("the connection is closed")?;
        let response = self.sender.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(status == StatusCode::OK, "{status}: {}", String::from_utf8_lossy(&body));
        Ok(body)
    }
}
