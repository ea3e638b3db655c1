//! What protects the ports, put together from the configuration: TLS, the
//! authority, and what both refuse. Decides nothing.

use std::sync::Arc;

use flatframe_shared::refusals::Refusals;
use flatframe_shared::renewal::{FileError, Renewable};
use flatframe_shared::tls::ServerTls;

use crate::access::authority::Authority;
use crate::config::Config;

/// What protects the ports.
#[derive(Clone)]
pub struct Security {
    /// `None`: connections are not encrypted.
    pub tls: Option<Arc<ServerTls>>,
    /// Who may call what.
    pub authority: Arc<Authority>,
    /// Who was refused, and why.
    pub refusals: Arc<Refusals>,
}

impl Security {
    /// Reads certificates and tokens.
    ///
    /// # Errors
    /// [`FileError`], naming key and file.
    pub fn load(config: &Config) -> Result<Self, FileError> {
        let refusals = Arc::<Refusals>::default();
        let tls = config.tls.files().map(|files| ServerTls::load(files, refusals.clone())).transpose()?;
        let authority = Authority::new(config.auth.clone(), config.tls.knows_cameras(), refusals.clone())?;
        Ok(Self { tls: tls.map(Arc::new), authority: Arc::new(authority), refusals })
    }

    /// What is to be read again when its files change.
    pub fn files(&self) -> Vec<Arc<dyn Renewable>> {
        let tls = self.tls.clone().map(|tls| tls as Arc<dyn Renewable>);
        tls.into_iter().chain([self.authority.clone() as Arc<dyn Renewable>]).collect()
    }
}
