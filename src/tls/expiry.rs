//! Until when a certificate is good.

use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// So many days before, somebody should look at it: renewal by machine comes earlier.
const DAYS_LEFT_MIN: i64 = 14;

/// The end of a certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expiry {
    /// As date and time.
    pub at: String,
    /// Whole days until then, negative ones since then.
    pub days_left: i64,
}

impl Expiry {
    /// Of this certificate; `None`: it is none that can be read.
    pub fn of(certificate: &CertificateDer<'_>, now: SystemTime) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let end = certificate.validity().not_after;
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        Some(Self { at: end.to_string(), days_left: (end.timestamp() - now).div_euclid(24 * 60 * 60) })
    }

    /// Whether somebody should look at it.
    pub fn is_soon(&self) -> bool {
        self.days_left < DAYS_LEFT_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn days_until_the_end() {
        let mut parameters = rcgen::CertificateParams::new(["a.test".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(2030, 3, 15);
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.self_signed(&key).unwrap();
        // 2030-03-01 00:00:00 UTC.
        let march = UNIX_EPOCH + Duration::from_secs(1_898_553_600);
        let day = Duration::from_secs(24 * 60 * 60);
        for (now, days_left, is_soon) in
            [(march - day, 15, false), (march, 14, false), (march + day, 13, true), (march + day * 15, -1, true)]
        {
            let expiry = Expiry::of(certificate.der(), now).unwrap();
            assert_eq!((expiry.days_left, expiry.is_soon()), (days_left, is_soon), "{expiry:?}");
            assert!(expiry.at.contains("2030"), "{expiry:?}");
        }
        assert_eq!(Expiry::of(&CertificateDer::from(vec![1, 2, 3]), march), None);
    }
}
