//! TLS with Redis, by the options that ioredis passed on to Node.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_platform_verifier::ConfigVerifierExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::config::RedisTls;

/// Shakes hands. The error ends the sentence "TLS with … …".
pub(super) async fn connect(stream: TcpStream, host: &str, options: &RedisTls) -> Result<TlsStream<TcpStream>, String> {
    // rustls panics without a provider. `server` installs one; whoever uses this module alone may not have.
    if CryptoProvider::get_default().is_none() {
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let name = ServerName::try_from(options.server_name.as_deref().unwrap_or(host).to_owned()).map_err(|_| {
        "is impossible: no certificate names such a host. Check \"host\" in databaseConfig.redis, or set \"tls\": { \
         \"servername\": … }."
            .to_owned()
    })?;
    let config = client(options)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| {
        format!(
            "failed: {error}. Does Redis speak TLS on this port, with a certificate that this machine trusts and that \
             names the host?"
        )
    })
}

fn client(options: &RedisTls) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder();
    if options.any_certificate {
        let provider = builder.crypto_provider().clone();
        return Ok(builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth());
    }
    let Some(authorities) = &options.authorities else {
        return ClientConfig::with_platform_verifier()
            .map_err(|error| format!("is impossible: this machine's trusted certificates: {error}."));
    };
    let cannot = |why: &dyn std::fmt::Display| format!("is impossible: \"databaseConfig.redis.tls.ca\": {why}.");
    let pem = match authorities.contains("-----BEGIN") {
        true => authorities.clone(),
        false => std::fs::read_to_string(Path::new(authorities)).map_err(|error| cannot(&error))?,
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        certificate.map_err(|error| cannot(&error)).and_then(|it| roots.add(it).map_err(|error| cannot(&error)))?;
    }
    if roots.is_empty() {
        return Err(cannot(&"there is no CERTIFICATE in it"));
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// `"rejectUnauthorized": false`: whoever answers is taken for Redis.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
