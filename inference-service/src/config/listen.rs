//! The table `[listen]`. Binds nothing.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Listen {
    /// gRPC: cameras and clients.
    pub grpc: SocketAddr,
    /// HTTP: `/livez`, `/readyz`, `/metrics`.
    pub admin: SocketAddr,
    /// HTTP: the page for people; empty: it is off.
    #[serde(with = "address_or_none")]
    pub page: Option<SocketAddr>,
    /// Names by which browsers may ask for the page, besides addresses and
    /// names of local networks; at most 16.
    pub page_names: Vec<String>,
}

impl Default for Listen {
    fn default() -> Self {
        let local = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self { grpc: local(50051), admin: local(9464), page: Some(local(9470)), page_names: Vec::new() }
    }
}

/// An address, or an empty text for none.
mod address_or_none {
    use std::net::SocketAddr;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(address: &Option<SocketAddr>, to: S) -> Result<S::Ok, S::Error> {
        address.map_or(String::new(), |address| address.to_string()).serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddr>, D::Error> {
        let text = String::deserialize(from)?;
        if text.is_empty() {
            return Ok(None);
        }
        let wrong =
            || D::Error::custom(format!("{text:?} is no address: use one like \"0.0.0.0:9470\", or \"\" for none"));
        text.parse().map(Some).map_err(|_| wrong())
    }
}
