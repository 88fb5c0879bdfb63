//! Private keys that are encrypted with a passphrase: PKCS #8 (`ENCRYPTED PRIVATE KEY`), and the form
//! that older OpenSSL wrote (`Proc-Type: 4,ENCRYPTED`, RFC 1421 section 4.6 with OpenSSL's own `DEK-Info`).

use aes::{Aes128, Aes192, Aes256};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cbc::cipher::block_padding::Pkcs7;
use cbc::cipher::{BlockCipherDecrypt, BlockModeDecrypt, KeyInit, KeyIvInit};
use des::TdesEde3;
use md5::{Digest, Md5};
use pkcs8::EncryptedPrivateKeyInfoRef;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;

use crate::config::Secret;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeyError {
    #[error("it is encrypted, and \"sslPassphrase\" is not set")]
    NoPassphrase,
    #[error("\"sslPassphrase\" does not open it, or it is damaged")]
    WrongPassphrase,
    #[error(
        "it is encrypted in a way that is not read here ({0}); write it anew with: openssl pkcs8 -topk8 -in KEY -out NEW"
    )]
    Cipher(String),
    #[error("there is no private key in it")]
    None,
    #[error("{0}")]
    Pem(rustls::pki_types::pem::Error),
}

/// The key of a PEM text.
pub(super) fn read(pem: &str, passphrase: Option<&Secret>) -> Result<PrivateKeyDer<'static>, KeyError> {
    let passphrase = || passphrase.map(|passphrase| passphrase.expose().as_bytes()).ok_or(KeyError::NoPassphrase);
    if let Some(block) = Block::find(pem, "ENCRYPTED PRIVATE KEY") {
        let info = EncryptedPrivateKeyInfoRef::try_from(block.bytes.as_slice())
            .map_err(|why| KeyError::Cipher(why.to_string()))?;
        let key = info.decrypt(passphrase()?).map_err(|_| KeyError::WrongPassphrase)?;
        return whole(key.as_bytes().to_vec());
    }
    let old = ["RSA PRIVATE KEY", "EC PRIVATE KEY"].into_iter().find_map(|label| Block::find(pem, label));
    match old.as_ref().and_then(|block| block.dek_info.as_deref().map(|dek_info| (block, dek_info))) {
        Some((block, dek_info)) => whole(decrypt_old(&block.bytes, dek_info, passphrase()?)?),
        None => PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|why| match why {
            rustls::pki_types::pem::Error::NoItemsFound => KeyError::None,
            other => KeyError::Pem(other),
        }),
    }
}

/// A key that has been decrypted says itself of which kind it is; what a wrong passphrase leaves, does not.
fn whole(der: Vec<u8>) -> Result<PrivateKeyDer<'static>, KeyError> {
    PrivateKeyDer::try_from(der).map_err(|_| KeyError::WrongPassphrase)
}

fn decrypt_old(bytes: &[u8], dek_info: &str, passphrase: &[u8]) -> Result<Vec<u8>, KeyError> {
    let other = || KeyError::Cipher(dek_info.split(',').next().unwrap_or_default().to_owned());
    let (cipher, iv) = dek_info.split_once(',').ok_or_else(other)?;
    let iv = from_hex(iv.trim()).filter(|iv| iv.len() >= 8).ok_or_else(other)?;
    match cipher.trim() {
        "AES-128-CBC" => decrypt::<Aes128>(bytes, &iv, passphrase),
        "AES-192-CBC" => decrypt::<Aes192>(bytes, &iv, passphrase),
        "AES-256-CBC" => decrypt::<Aes256>(bytes, &iv, passphrase),
        "DES-EDE3-CBC" => decrypt::<TdesEde3>(bytes, &iv, passphrase),
        _ => Err(other()),
    }
}

fn decrypt<C: BlockCipherDecrypt + KeyInit>(bytes: &[u8], iv: &[u8], passphrase: &[u8]) -> Result<Vec<u8>, KeyError> {
    // OpenSSL makes the key of as many MD5 sums as it takes, each over the one before, the
    // passphrase and the first 8 bytes of the vector.
    let mut key = Vec::new();
    let mut last = Vec::new();
    while key.len() < C::key_size() {
        last = Md5::new().chain_update(&last).chain_update(passphrase).chain_update(&iv[..8]).finalize().to_vec();
        key.extend_from_slice(&last);
    }
    key.truncate(C::key_size());
    let cipher = cbc::Decryptor::<C>::new_from_slices(&key, iv).map_err(|_| KeyError::WrongPassphrase)?;
    cipher.decrypt_padded_vec::<Pkcs7>(bytes).map_err(|_| KeyError::WrongPassphrase)
}

/// A section of a PEM text.
struct Block {
    bytes: Vec<u8>,
    /// Its `DEK-Info` header, if it has one.
    dek_info: Option<String>,
}

impl Block {
    fn find(pem: &str, label: &str) -> Option<Self> {
        let (_, rest) = pem.split_once(&format!("-----BEGIN {label}-----"))?;
        let (body, _) = rest.split_once(&format!("-----END {label}-----"))?;
        let mut base64 = String::new();
        let mut dek_info = None;
        for line in body.lines().map(str::trim) {
            match line.split_once(':') {
                Some(("DEK-Info", value)) => dek_info = Some(value.trim().to_owned()),
                Some(_) => {}
                None => base64.push_str(line),
            }
        }
        Some(Self { bytes: STANDARD.decode(base64).ok()?, dek_info })
    }
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: &u8| (*byte as char).to_digit(16);
    let pairs = text.as_bytes().chunks(2);
    pairs.map(|pair| Some((digit(pair.first()?)? * 16 + digit(pair.get(1)?)?) as u8)).collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Command, Stdio};

    use super::*;

    /// What `openssl` makes of the arguments, given this on standard input.
    fn openssl(arguments: &str, input: &str) -> String {
        let mut child = Command::new("openssl")
            .args(arguments.split(' '))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "openssl {arguments}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn secret(text: &str) -> Option<Secret> {
        Some(Secret::new(text))
    }

    #[test]
    fn keys_of_every_form_that_openssl_writes() {
        let plain = openssl("genrsa -traditional 2048", "");
        let expected = read(&plain, None).unwrap();
        let pkcs8 = read(&openssl("pkcs8 -topk8 -nocrypt", &plain), None).unwrap();
        for (form, is_pkcs8) in [
            ("pkcs8 -topk8 -passout pass:hush", true),
            ("pkcs8 -topk8 -v2 aes-128-cbc -passout pass:hush", true),
            ("pkcs8 -topk8 -v2 des3 -passout pass:hush", true),
            ("pkcs8 -topk8 -scrypt -passout pass:hush", true),
            ("rsa -traditional -aes128 -passout pass:hush", false),
            ("rsa -traditional -aes192 -passout pass:hush", false),
            ("rsa -traditional -aes256 -passout pass:hush", false),
            ("rsa -traditional -des3 -passout pass:hush", false),
        ] {
            let encrypted = openssl(form, &plain);
            let key = read(&encrypted, secret("hush").as_ref()).unwrap_or_else(|error| panic!("{form}: {error}"));
            assert_eq!(key.secret_der(), if is_pkcs8 { &pkcs8 } else { &expected }.secret_der(), "{form}");
            assert!(matches!(read(&encrypted, secret("wrong").as_ref()), Err(KeyError::WrongPassphrase)), "{form}");
            assert!(matches!(read(&encrypted, None), Err(KeyError::NoPassphrase)), "{form}");
        }
        let elliptic = openssl("ecparam -name prime256v1 -genkey -noout", "");
        let encrypted = openssl("ec -aes256 -passout pass:hush", &elliptic);
        let key = read(&encrypted, secret("hush").as_ref()).unwrap();
        assert_eq!(key.secret_der(), read(&elliptic, None).unwrap().secret_der());
        // A passphrase that is not needed does no harm, as before.
        assert_eq!(read(&plain, secret("hush").as_ref()).unwrap().secret_der(), expected.secret_der());
    }

    #[test]
    fn texts_that_are_no_key() {
        let old = |dek_info: &str| {
            format!(
                "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: {dek_info}\n\nAAAA\n-----END RSA PRIVATE KEY-----\n"
            )
        };
        for (text, expected) in [
            ("", "there is no private key in it"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "there is no private key in it"),
            (
                "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
                "it is encrypted in a way that is not read here",
            ),
            (&old("IDEA-CBC,0011223344556677"), "it is encrypted in a way that is not read here (IDEA-CBC)"),
            (&old("AES-256-CBC"), "it is encrypted in a way that is not read here (AES-256-CBC)"),
            (&old("AES-256-CBC,0"), "it is encrypted in a way that is not read here (AES-256-CBC)"),
            (&old("AES-256-CBC,0011223344556677"), "\"sslPassphrase\" does not open it, or it is damaged"),
        ] {
            let error = read(text, secret("hush").as_ref()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error} for {text}");
        }
    }
}
