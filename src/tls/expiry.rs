//! Until when a certificate is good.

use std::time::{SystemTime, UNIX_EPOCH};

use super::x509::Certificate;
use rustls::pki_types::CertificateDer;

/// So many days before, somebody should look at it: renewal by machine comes earlier.
const DAYS_LEFT_MIN: i64 = 14;

/// The end of a certificate.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expiry {
    /// As `2030-01-31`.
    pub at: String,
    /// Whole days until then, negative ones since then.
    pub days_left: i64,
}

impl Expiry {
    /// Of this certificate; `None`: it is none that can be read.
    pub fn of(certificate: &CertificateDer<'_>, now: SystemTime) -> Option<Self> {
        let end = Certificate::parse(certificate)?.not_after;
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        Some(Self { at: end.date, days_left: (end.seconds - now).div_euclid(24 * 60 * 60) })
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
            assert!(expiry.at == "2030-03-15", "{expiry:?}");
        }
        assert_eq!(Expiry::of(&CertificateDer::from(vec![1, 2, 3]), march), None);
    }
}
