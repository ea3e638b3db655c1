//! Certificates and keys out of PEM files. Reads no more of a file than a
//! certificate may have, and never shows what is in it.

use std::io::Read;

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::renewal::{FileError, NamedFile};

/// Larger files are no certificates: a bundle of all public authorities has a
/// quarter of this.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// All certificates of a file, at least one.
pub(super) fn certificates(file: &NamedFile) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let text = read(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| file.wrong(format!("is no PEM file ({error})")))?;
    if found.is_empty() {
        return Err(file.wrong("has no certificate: use a PEM file with -----BEGIN CERTIFICATE-----"));
    }
    Ok(found)
}

/// The first private key of a file.
pub(super) fn private_key(file: &NamedFile) -> Result<PrivateKeyDer<'static>, FileError> {
    let text = read(file)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|_| {
        // The error may quote what it read.
        file.wrong("has no private key without a password: use a PEM file with -----BEGIN PRIVATE KEY-----")
    })
}

/// The certificates of a file as authorities that are trusted.
pub(super) fn authorities(file: &NamedFile) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), FileError> {
    let found = certificates(file)?;
    let mut roots = RootCertStore::empty();
    for certificate in &found {
        let added = roots.add(certificate.clone());
        added.map_err(|error| file.wrong(format!("has a certificate that cannot be trusted ({error})")))?;
    }
    Ok((roots, found))
}

/// Whether a file holds certificates of authorities, for those who read it
/// themselves later.
///
/// # Errors
/// [`FileError`]: it does not, or it cannot be read.
pub fn check_authorities(file: &NamedFile) -> Result<(), FileError> {
    authorities(file).map(drop)
}

fn read(file: &NamedFile) -> Result<Vec<u8>, FileError> {
    let mut text = Vec::new();
    let read = std::fs::File::open(&file.path).and_then(|open| open.take(MAX_FILE_BYTES + 1).read_to_end(&mut text));
    read.map_err(|error| file.wrong(format!("cannot be read ({error}): name a file that this service may read")))?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(file.wrong(format!("is larger than {MAX_FILE_BYTES} bytes: that is no certificate or key")));
    }
    Ok(text)
}
