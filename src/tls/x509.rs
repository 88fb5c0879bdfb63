//! As much of a certificate (RFC 5280, in DER) as is looked at here: when it is valid, and for which names.
//! Whether it may be trusted is for rustls to say.

use std::net::IpAddr;

/// What is read of it.
#[derive(Debug, Eq, PartialEq)]
pub struct Certificate {
    /// When it begins to be valid.
    pub not_before: Moment,
    /// When it ends.
    pub not_after: Moment,
    /// DNS names and addresses of `subjectAltName`; browsers look at no others.
    pub names: Vec<String>,
}

/// A point in time.
#[derive(Debug, Eq, PartialEq)]
pub struct Moment {
    /// Seconds since 1970.
    pub seconds: i64,
    /// `2030-01-31`.
    pub date: String,
}

const SEQUENCE: u8 = 0x30;
const OID: u8 = 0x06;
const OCTETS: u8 = 0x04;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
/// The version, which is left out in certificates of version 1.
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;
const DNS_NAME: u8 = 0x82;
const IP_ADDRESS: u8 = 0x87;

/// 2.5.29.17.
const SUBJECT_ALT_NAME: [u8; 3] = [0x55, 0x1d, 0x11];

impl Certificate {
    /// `None`: it is not read here, or is no certificate.
    pub fn parse(der: &[u8]) -> Option<Self> {
        let mut signed = Values(Values(der).content(SEQUENCE)?);
        let mut fields = Values(signed.content(SEQUENCE)?);
        let (first, _) = fields.next()?;
        if first == VERSION {
            // The serial number.
            fields.next()?;
        }
        let (_algorithm, _issuer) = (fields.content(SEQUENCE)?, fields.content(SEQUENCE)?);
        let mut validity = Values(fields.content(SEQUENCE)?);
        let (not_before, not_after) = (Moment::parse(validity.next()?)?, Moment::parse(validity.next()?)?);
        let extensions =
            fields.find(|(tag, _)| *tag == EXTENSIONS).and_then(|(_, list)| Values(list).content(SEQUENCE));
        Some(Self { not_before, not_after, names: names(extensions.unwrap_or_default()) })
    }
}

fn names(extensions: &[u8]) -> Vec<String> {
    let of_extension = |(_, extension)| {
        let mut parts = Values(extension);
        let is_names = parts.content(OID)? == SUBJECT_ALT_NAME;
        // A flag may stand between.
        let (_, list) = parts.find(|(tag, _)| *tag == OCTETS).filter(|_| is_names)?;
        Some(Values(Values(list).content(SEQUENCE)?).filter_map(name).collect())
    };
    Values(extensions).find_map(of_extension).unwrap_or_default()
}

fn name((tag, bytes): (u8, &[u8])) -> Option<String> {
    match tag {
        DNS_NAME => String::from_utf8(bytes.to_vec()).ok(),
        IP_ADDRESS => {
            let v4 = || <[u8; 4]>::try_from(bytes).map(IpAddr::from);
            let v6 = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
            v4().or_else(|_| v6()).ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

impl Moment {
    /// `YYMMDDHHMMSSZ`, or with a year of four digits.
    fn parse((tag, text): (u8, &[u8])) -> Option<Self> {
        let digits = std::str::from_utf8(text).ok()?.strip_suffix('Z')?;
        let full = match (tag, digits.len()) {
            (UTC_TIME, 12) if digits < "50" => format!("20{digits}"),
            (UTC_TIME, 12) => format!("19{digits}"),
            (GENERALIZED_TIME, 14) => digits.to_owned(),
            _ => return None,
        };
        let part = |from: usize, to: usize| full.get(from..to)?.parse::<i64>().ok();
        let date = [part(0, 4)?, part(4, 6)?, part(6, 8)?];
        let seconds = seconds(date, [part(8, 10)?, part(10, 12)?, part(12, 14)?])?;
        Some(Self { seconds, date: format!("{:04}-{:02}-{:02}", date[0], date[1], date[2]) })
    }
}

/// Seconds since 1970 at this year, month and day, and this hour, minute and second, in UTC.
pub fn seconds([year, month, day]: [i64; 3], [hours, minutes, seconds]: [i64; 3]) -> Option<i64> {
    let is_date = (1950..10_000).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    let is_time = (0..=24).contains(&hours) && (0..=60).contains(&minutes) && (0..=61).contains(&seconds);
    if !is_date || !is_time {
        return None;
    }
    // Years that begin in March have their leap day at the end.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    Some(((days * 24 + hours) * 60 + minutes) * 60 + seconds)
}

/// Values one after the other: each one's tag and content. What is cut off ends it.
struct Values<'a>(&'a [u8]);

impl<'a> Values<'a> {
    /// The next one, which has to have this tag.
    fn content(&mut self, wanted: u8) -> Option<&'a [u8]> {
        self.next().filter(|(tag, _)| *tag == wanted).map(|(_, content)| content)
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (&tag, rest) = self.0.split_first()?;
        let (length, rest) = match rest {
            [length @ 0..=0x7f, rest @ ..] => (usize::from(*length), rest),
            [0x81, length, rest @ ..] => (usize::from(*length), rest),
            [0x82, high, low, rest @ ..] => (usize::from(u16::from_be_bytes([*high, *low])), rest),
            // Longer than any certificate.
            _ => return None,
        };
        let (content, after) = rest.split_at_checked(length)?;
        self.0 = after;
        Some((tag, content))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn certificate() -> Vec<u8> {
        let names = ["a.test".to_owned(), "*.b.test".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2090, 3, 1);
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn dates_and_names() {
        let expected = Certificate {
            not_before: Moment { seconds: 1_577_836_800, date: "2020-01-01".to_owned() },
            not_after: Moment { seconds: 3_792_009_600, date: "2090-03-01".to_owned() },
            names: ["a.test", "*.b.test", "127.0.0.1", "::1"].map(str::to_owned).to_vec(),
        };
        assert_eq!(Certificate::parse(&certificate()), Some(expected));
    }

    #[test]
    fn what_is_cut_off_is_none() {
        let der = certificate();
        for length in 0..der.len() {
            assert_eq!(Certificate::parse(&der[..length]), None);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(at in 0usize..400, bytes in prop::collection::vec(any::<u8>(), 0..4)) {
            let mut der = certificate();
            let at = at.min(der.len());
            der.splice(at..(at + bytes.len()).min(der.len()), bytes);
            let _ = Certificate::parse(&der);
        }
    }
}
