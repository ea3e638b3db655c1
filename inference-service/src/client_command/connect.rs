//! How a command reaches the service: where it is, whom it trusts there, and
//! the token it shows. A token goes to nobody unencrypted but this machine.

use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

use flatframe_shared::renewal::NamedFile;
use flatframe_shared::tls::{ClientTls, ClientTlsFiles, Trust};
use tokio_rustls::rustls::RootCertStore;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::{Failure, PATIENCE};

/// The token, where no file is named.
const TOKEN_VARIABLE: &str = "FLATFRAME_TOKEN";
/// Longer files hold something else, in bytes.
const MAX_TOKEN_BYTES: u64 = 4096;

/// Which service, and how it is to be printed.
#[derive(Debug, clap::Args)]
pub(super) struct ServerArgs {
    /// Address of the service.
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:50051")]
    pub(super) server: String,
    /// With https://: the authority of the server's certificate, PEM; left out:
    /// those that browsers trust.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// File with the token; left out: the environment variable FLATFRAME_TOKEN,
    /// if it is set.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Print JSON, one object in each line.
    #[arg(long)]
    pub(super) json: bool,
}

/// A connection that shows the token with every call.
pub(super) type Connected = InterceptedService<Channel, Bearer>;

/// What is shown with every call.
#[derive(Clone)]
pub(super) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(shown) = &self.0 {
            request.metadata_mut().insert("authorization", shown.clone());
        }
        Ok(request)
    }
}

impl ServerArgs {
    pub(super) async fn connect(&self) -> Result<Connected, Failure> {
        let wrong = |why: String| Failure::Address { url: self.server.clone(), why };
        let endpoint = Endpoint::from_shared(self.server.clone()).map_err(|error| wrong(reason(&error)))?;
        let is_encrypted = match endpoint.uri().scheme_str() {
            Some("http") if self.ca.is_some() => return Err(wrong("--ca is for https".to_owned())),
            Some("http") => false,
            Some("https") => true,
            _ => return Err(wrong("only http and https are spoken".to_owned())),
        };
        let bearer = self.bearer()?;
        if bearer.0.is_some() && !is_encrypted && !is_this_machine(endpoint.uri().host().unwrap_or_default()) {
            return Err(wrong("a token is not sent unencrypted: use https".to_owned()));
        }
        let endpoint = endpoint
            .connect_timeout(PATIENCE)
            .http2_keep_alive_interval(PATIENCE)
            .keep_alive_timeout(PATIENCE)
            .keep_alive_while_idle(true);
        let tls = is_encrypted.then(|| self.tls()).transpose()?;
        let connecting = async {
            match &tls {
                Some(tls) => endpoint.connect_with_connector(tls.connect()).await,
                None => endpoint.connect().await,
            }
        };
        let unreachable = |why: String| Failure::Unreachable { url: self.server.clone(), why };
        let connected = tokio::time::timeout(PATIENCE, connecting).await;
        let connected = connected.map_err(|_| unreachable(format!("no connection within {} s", PATIENCE.as_secs())))?;
        let channel = connected.map_err(|error| unreachable(reason(&error)))?;
        Ok(InterceptedService::new(channel, bearer))
    }

    fn tls(&self) -> Result<ClientTls, Failure> {
        let trust = match &self.ca {
            Some(path) => Trust::File(NamedFile::new("--ca", path)),
            None => Trust::Roots(Arc::new(RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() })),
        };
        Ok(ClientTls::load(ClientTlsFiles { trust, identity: None })?)
    }

    fn bearer(&self) -> Result<Bearer, Failure> {
        let (from, text) = match &self.token_file {
            Some(path) => {
                let file = NamedFile::new("--token-file", path);
                let mut text = String::new();
                let read =
                    std::fs::File::open(path).and_then(|open| open.take(MAX_TOKEN_BYTES).read_to_string(&mut text));
                read.map_err(|error| file.wrong(format!("cannot be read ({error})")))?;
                ("the file of --token-file", text)
            }
            None => match std::env::var(TOKEN_VARIABLE) {
                Ok(text) => (TOKEN_VARIABLE, text),
                Err(_) => return Ok(Bearer(None)),
            },
        };
        // What is wrong with it is not shown: it may be a token all the same.
        let is_good = !text.trim().is_empty();
        let mut shown: MetadataValue<Ascii> = is_good
            .then(|| format!("Bearer {}", text.trim()).parse().ok())
            .flatten()
            .ok_or_else(|| Failure::Wrong(format!("{from} holds no token: use what `tokens add` printed")))?;
        shown.set_sensitive(true);
        Ok(Bearer(Some(shown)))
    }
}

fn is_this_machine(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The last cause of an error: transports wrap it in words that say nothing.
fn reason(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).last().map_or_else(String::new, ToString::to_string)
}
