//! The certificate of `"protocol": "https"` or `httpsPort`: files, dates, names, and whether browsers trust it.

use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use url::Url;

use super::Subject;
use super::clock::now_millis;
use super::finding::Finding;
use super::in_list;
use crate::config::Tls;
use crate::tls::{self, x509::Certificate};

/// So many days before its end somebody should look at it.
const DAYS_LEFT_MIN: i64 = 14;

/// What is known of the certificate.
#[derive(Debug)]
struct Facts {
    /// Why the server could not use it.
    unusable: Option<String>,
    /// The certificate, then those between it and an authority.
    chain: Vec<CertificateDer<'static>>,
    /// Why this machine does not trust it, for the name that browsers use.
    distrust: Option<String>,
}

/// Reads it and judges it.
pub(super) async fn probe(subject: &Subject, url: Option<&Url>) -> Vec<Finding> {
    let Some(tls) = subject.config.tls.clone() else { return Vec::new() };
    let app_url = subject.application.as_ref().and_then(|app| Url::parse(app.env.get("APP_URL")?).ok());
    let name = url.or(app_url.as_ref()).and_then(|url| url.host_str()).map(str::to_owned);
    let name = name.filter(|name| !super::is_this_machine(name));
    let wanted = name.clone();
    // Reads files, the machine's certificates among them.
    let facts = tokio::task::spawn_blocking(move || read(&tls, wanted.as_deref())).await;
    facts.map(|facts| judge(subject, &facts, name.as_deref(), now_millis() / 1000)).unwrap_or_default()
}

fn read(tls: &Tls, name: Option<&str>) -> Facts {
    let unusable = tls::read_served(tls).err().map(|error| format!("{error:#}"));
    let paths = [Some(&tls.certificate), tls.chain.as_ref()].into_iter().flatten();
    let chain: Vec<_> = paths
        .filter_map(|path| std::fs::read(path).ok())
        .flat_map(|pem| CertificateDer::pem_slice_iter(&pem).flatten().collect::<Vec<_>>())
        .collect();
    let distrust = distrust(&chain, name);
    Facts { unusable, chain, distrust }
}

/// What browsers with this machine's authorities would say of it. Without a name, one of its own is taken.
fn distrust(chain: &[CertificateDer<'static>], name: Option<&str>) -> Option<String> {
    let (own, others) = chain.split_first()?;
    let own_name = names(own).into_iter().next().map(|name| name.replacen("*.", "www.", 1));
    let name = name.map(str::to_owned).or(own_name)?;
    let provider = rustls::crypto::CryptoProvider::get_default()?;
    let verifier = rustls_platform_verifier::Verifier::new(Arc::clone(provider)).ok()?;
    let name = ServerName::try_from(name).ok()?;
    verifier.verify_server_cert(own, others, &name, &[], UnixTime::now()).err().map(|error| error.to_string())
}

fn names(certificate: &[u8]) -> Vec<String> {
    Certificate::parse(certificate).map(|certificate| certificate.names).unwrap_or_default()
}

/// Whether a name of a certificate is that of a host; a star stands for one label.
fn fits(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(domain) => host.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(domain)),
        None => pattern.eq_ignore_ascii_case(host.trim_matches(['[', ']'])),
    }
}

fn judge(subject: &Subject, facts: &Facts, name: Option<&str>, now: i64) -> Vec<Finding> {
    let Some(tls) = &subject.config.tls else { return Vec::new() };
    if let Some(why) = &facts.unusable {
        return vec![
            Finding::problem("tls.files", why)
                .why("The server does not start with it.")
                .fix("Name the certificate and the key that belong together:")
                .line(&subject.file, format!("\"sslCertPath\": {:?}, \"sslKeyPath\": {:?}", tls.certificate, tls.key)),
        ];
    }
    let Some(own) = facts.chain.first() else { return Vec::new() };
    let path = tls.certificate.display().to_string();
    let mut findings =
        vec![Finding::ok("tls.files", format!("Certificate and key can be read and belong together ({path})"))];
    let dates = dates("tls.dates", own, now);
    let is_dated = dates.as_ref().is_some_and(|dates| dates.level == super::Level::Problem);
    findings.extend(dates.map(|dates| renewed(dates, &subject.file, &path)));
    let found = names(own);
    let is_named = name.is_none_or(|name| found.iter().any(|pattern| fits(pattern, name)));
    match name {
        Some(name) if is_named => findings.push(Finding::ok("tls.names", format!("The certificate is for {name}"))),
        Some(name) => findings.push(
            Finding::problem("tls.names", format!("The certificate is for {}, and not for {name}", in_list(&found)))
                .why("Browsers refuse the connection, without a word to the page but an error in the console.")
                .fix("Have one made for that name too, or let the front end connect to one of its names (wsHost); the file is:")
                .line(&subject.file, format!("\"sslCertPath\": {:?}", tls.certificate)),
        ),
        None => findings.push(Finding::ok("tls.names", format!("The certificate is for {}", in_list(&found)))),
    }
    findings.extend(facts.distrust.as_ref().filter(|_| is_named && !is_dated).map(|why| {
        Finding::warning("tls.trust", format!("This machine does not trust the certificate: {why}"))
            .why("Browsers will not either, unless they know the authority that has made it. Often the certificates between it and a known authority are missing.")
            .fix("Name the file with all of them (Let's Encrypt calls it fullchain.pem):")
            .line(&subject.file, format!("\"sslCertPath\": {:?}", tls.certificate.with_file_name("fullchain.pem")))
    }));
    findings
}

/// When it begins and ends. `now` in seconds since 1970.
pub(super) fn dates(id: &'static str, certificate: &[u8], now: i64) -> Option<Finding> {
    let Certificate { not_before, not_after, .. } = Certificate::parse(certificate)?;
    let (from, to) = (not_before.seconds, not_after.seconds);
    const DAY: i64 = 24 * 60 * 60;
    let until = not_after.date;
    Some(if now > to {
        Finding::problem(id, format!("The certificate has expired {} days ago ({until})", (now - to) / DAY))
            .why("Browsers refuse the connection.")
    } else if now < from {
        Finding::problem(id, format!("The certificate is valid only from {} on", not_before.date))
            .why("Browsers refuse the connection; or is this machine's clock wrong?")
    } else if to - now < DAYS_LEFT_MIN * DAY {
        Finding::warning(id, format!("The certificate expires in {} days ({until})", (to - now) / DAY))
            .why("From then on browsers refuse the connection.")
    } else {
        Finding::ok(id, format!("The certificate is valid until {until}"))
    })
}

fn renewed(finding: Finding, file: &str, path: &str) -> Finding {
    if finding.level == super::Level::Ok {
        return finding;
    }
    finding
        .fix("Have it renewed (as by certbot renew) under the name that is in the file:")
        .line(file, format!("\"sslCertPath\": {path:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_stars() {
        for (pattern, host, expected) in [
            ("example.com", "EXAMPLE.com", true),
            ("*.example.com", "ws.example.com", true),
            ("*.example.com", "a.b.example.com", false),
            ("*.example.com", "example.com", false),
            ("::1", "[::1]", true),
        ] {
            assert_eq!(fits(pattern, host), expected, "{pattern} {host}");
        }
    }

    #[test]
    fn dates_and_names_of_a_certificate() {
        let mut params = rcgen::CertificateParams::new(["a.test".to_owned(), "127.0.0.1".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 3, 1);
        let certificate = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let der = certificate.der();
        const DAY: i64 = 86_400;
        let first = 1_577_836_800;
        let at = |days: i64| dates("tls.dates", der, first + days * DAY).unwrap();
        for (days, level, part) in [
            (-1, super::super::Level::Problem, "only from"),
            (1, super::super::Level::Ok, "valid until"),
            (50, super::super::Level::Warning, "expires in 10 days"),
            (70, super::super::Level::Problem, "expired 10 days ago"),
        ] {
            let finding = at(days);
            assert_eq!(finding.level, level, "{finding:?}");
            assert!(finding.what.contains(part), "{finding:?}");
        }
        assert!(dates("tls.dates", b"nonsense", 0).is_none());
    }
}
