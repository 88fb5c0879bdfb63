//! Which Laravel is asked, where `authHost` names several: the one whose page it is.
//!
//! The page is known by the `Origin` of its request, or by the `Referer` where there is none, as the
//! old server knew it. Both are the client's word outside browsers; so scheme and port
//! come from the configuration, and a page of nobody's is the first one's.

use url::Url;

use crate::config::{Auth, AuthHost};

/// The base URL for this page; `None`: that of `auth.host`.
pub(super) fn choose(auth: &Auth, page: &str) -> Option<Url> {
    if auth.hosts.is_empty() {
        return None;
    }
    let page = Url::parse(page).ok().filter(|page| matches!(page.scheme(), "http" | "https"))?;
    let host = page.host_str()?;
    let urls = || auth.hosts.iter().filter_map(AuthHost::url);
    let exact = urls().find(|url| url.origin() == page.origin());
    // Pages often come by https where Laravel is asked by http.
    let chosen = exact.or_else(|| urls().find(|url| url.host_str() == Some(host)));
    chosen.cloned().or_else(|| {
        auth.hosts.iter().find_map(|entry| match entry {
            AuthHost::SubDomains { scheme, domain, port } if is_sub_domain(host, domain) => {
                let scheme = scheme.as_deref().unwrap_or(page.scheme());
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                Url::parse(&format!("{scheme}://{host}{port}")).ok()
            }
            _ => None,
        })
    })
}

/// Whether an entry names this host, so that its pages are our own.
pub(super) fn names(auth: &Auth, host: &str) -> bool {
    auth.hosts.iter().any(|entry| match entry {
        AuthHost::Url(url) => url.host_str() == Some(host),
        AuthHost::SubDomains { domain, .. } => is_sub_domain(host, domain),
    })
}

/// One label and then the domain, which begins with a dot: `a.b.example.com` is not one of `.example.com`.
fn is_sub_domain(host: &str, domain: &str) -> bool {
    host.find('.').is_some_and(|dot| dot > 0 && host[dot..] == *domain)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::Config;

    fn auth(hosts: &str) -> Auth {
        let text = format!("{{ \"authHost\": {hosts} }}");
        Config::parse(Path::new("f.json"), text.as_bytes(), &|_| None).unwrap().auth
    }

    /// As the old server chose, but for what stands in docs/upgrading.md.
    #[test]
    fn the_host_whose_page_it_is() {
        let two = r#"["http://a.test", "http://b.test:8000/sub"]"#;
        let wild = r#"["http://a.test", ".example.com", "https://.example.org:8443"]"#;
        for (hosts, page, expected) in [
            ("\"http://a.test\"", "http://b.test", None),
            (two, "http://b.test:8000/x", Some("http://b.test:8000/sub")),
            (two, "https://b.test", Some("http://b.test:8000/sub")),
            (two, "http://a.test/page?x", Some("http://a.test/")),
            (two, "http://zzz.test", None),
            (two, "null", None),
            (two, "", None),
            (two, "ftp://b.test", None),
            // These ended the old server.
            (two, "http://[::1", None),
            (two, "http://a[b/", None),
            (
                r#"["http://localhost:8000", "http://localhost:8001"]"#,
                "http://localhost:8001",
                Some("http://localhost:8001/"),
            ),
            (wild, "http://t1.example.com:8080/x", Some("http://t1.example.com/")),
            (wild, "https://t1.example.com", Some("https://t1.example.com/")),
            (wild, "http://t2.example.org:1234", Some("https://t2.example.org:8443/")),
            (wild, "http://a.b.example.com", None),
            (wild, "http://example.com", None),
            (wild, "http://evil-example.com", None),
            (wild, "http://example.com.evil.test", None),
        ] {
            assert_eq!(choose(&auth(hosts), page).as_ref().map(Url::as_str), expected, "{hosts} {page}");
        }
    }

    #[test]
    fn the_first_that_is_a_host_is_asked_for_pages_of_nobody() {
        for (hosts, first) in [
            (r#"["http://a.test", "http://b.test"]"#, "http://a.test/"),
            (r#"[".example.com", "http://b.test"]"#, "http://b.test/"),
            ("\".example.com\"", "http://example.com/"),
            (r#"["https://.example.com:444"]"#, "https://example.com:444/"),
            ("[]", "http://localhost/"),
        ] {
            assert_eq!(auth(hosts).host.as_str(), first);
        }
    }
}
