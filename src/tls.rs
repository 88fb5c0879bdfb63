//! The certificate that a port serves: read from PEM files, errors as sentences.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rustls::ServerConfig;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::config::Tls;

mod expiry;
mod key;
pub mod x509;

pub use expiry::Expiry;

/// What a port serves.
#[derive(Clone, Debug)]
pub struct Served {
    /// For handshakes.
    pub config: Arc<ServerConfig>,
    /// The server's own certificate, with those after it.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// Reads certificate and key. Only HTTP/1.1 is offered: WebSockets begin with it.
pub fn read_served(tls: &Tls) -> anyhow::Result<Served> {
    let mut certificates = certificates(&tls.certificate, "certificate", "sslCertPath")?;
    if let Some(chain) = &tls.chain {
        certificates.extend(self::certificates(chain, "certificate chain", "sslCertChainPath")?);
    }
    let key = read(&tls.key)
        .and_then(|pem| Ok(key::read(&pem, tls.passphrase.as_ref())?))
        .with_context(|| format!("The private key in {} (sslKeyPath) cannot be read", tls.key.display()))?;
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(certificates.clone(), key)
        .with_context(|| {
            let (certificate, key) = (tls.certificate.display(), tls.key.display());
            format!("The certificate in {certificate} and the key in {key} do not go together, or cannot be used")
        })?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Served { config: Arc::new(config), certificates })
}

fn certificates(path: &Path, what: &str, key: &str) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let cannot = || format!("The {what} in {} ({key}) cannot be read", path.display());
    let certificates =
        read(path).and_then(|pem| Ok(CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>()?));
    let certificates = certificates.with_context(cannot)?;
    anyhow::ensure!(!certificates.is_empty(), "{}: there is no CERTIFICATE in it", cannot());
    Ok(certificates)
}

/// The file's text. A relative path begins where the server was started, which is not where its configuration is
/// if it was found by `--dir`: so the error says where that was.
fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).map_err(|error| match std::path::absolute(path) {
        Ok(absolute) if path.is_relative() => anyhow::anyhow!("{error}; this is {}", absolute.display()),
        _ => error.into(),
    })
}
