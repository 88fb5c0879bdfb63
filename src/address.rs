//! Where a request comes from: the client's address and the scheme that it used, behind proxies too.
//!
//! Everybody can write `X-Forwarded-For`. So these headers are believed from the proxies of `trustedProxies`
//! alone, and read from the right: each proxy adds its own peer there, and what stands left of the first address
//! that is no trusted proxy's is that client's word.
//!
//! Whatever in this program asks where a request comes from asks a [`Source`]. Values in, values out.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};

/// Headers by which proxies say whom they ask for, beside `X-Forwarded-…`.
const FORWARDING: &[&str] = &[
    "forwarded",
    "via",
    "x-real-ip",
    "client-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "x-envoy-external-address",
    "x-original-forwarded-for",
    "true-client-ip",
    "cf-connecting-ip",
    "fastly-client-ip",
];

/// Whether the header, in small letters, claims to say where a request came from.
pub fn claims_a_source(name: &str) -> bool {
    name.starts_with("x-forwarded") || FORWARDING.contains(&name)
}

/// Addresses that begin with the same bits, as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether it has every address there is.
    pub fn is_everybody(&self) -> bool {
        self.bits == 0
    }

    /// Whether the address is one of them. An IPv4 address is the same in its IPv6 form.
    pub fn contains(&self, address: IpAddr) -> bool {
        let shared = |one: u128, other: u128, width: u32| {
            let bits = u32::from(self.bits);
            bits == 0 || (one ^ other) << (128 - width) >> (128 - bits) == 0
        };
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(one), IpAddr::V4(other)) => shared(one.to_bits().into(), other.to_bits().into(), 32),
            (IpAddr::V6(one), IpAddr::V6(other)) => shared(one.to_bits(), other.to_bits(), 128),
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = ();

    /// An address, or an address, a slash and the number of bits that count.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) if !bits.is_empty() && bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                (address, Some(bits.parse::<u8>().map_err(|_| ())?))
            }
            Some(_) => return Err(()),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| ())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(width);
        // `::ffff:10.0.0.0/104` is `10.0.0.0/8`.
        match address.to_canonical() {
            IpAddr::V4(address) if width == 128 && bits >= 96 => Ok(Self { address: address.into(), bits: bits - 96 }),
            _ if bits > width => Err(()),
            _ => Ok(Self { address, bits }),
        }
    }
}

/// `trustedProxies`: whose word counts about where a request comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TrustedProxies(Vec<Network>);

impl TrustedProxies {
    /// The addresses of these networks.
    pub fn new(networks: Vec<Network>) -> Self {
        Self(networks)
    }

    /// Whether the word of this peer counts; `None` is the unix socket, which only programs of this
    /// machine that its mode allows can connect to.
    pub fn trusts(&self, peer: Option<IpAddr>) -> bool {
        peer.is_none_or(|address| self.0.iter().any(|network| network.contains(address)))
    }
}

impl Default for TrustedProxies {
    /// This machine. Whole private networks are not among them: who is in one, as another container, a
    /// neighbour's server or a visitor in the office, could be anybody then.
    fn default() -> Self {
        let v4 = Network { address: IpAddr::from([127, 0, 0, 0]), bits: 8 };
        let v6 = Network { address: Ipv6Addr::LOCALHOST.into(), bits: 128 };
        Self(vec![v4, v6])
    }
}

/// Where one request comes from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Source {
    /// The client's address, as far as it is known: behind a trusted proxy that does not tell, it is not.
    pub client: Option<IpAddr>,
    /// The other end of the connection, or what a trusted proxy has said of it in the PROXY protocol; `None`:
    /// the unix socket.
    pub peer: Option<IpAddr>,
    /// Whether the client speaks TLS, with this server or with a trusted proxy.
    pub is_https: bool,
    /// The header by which somebody says that the request has come through a proxy, believed or not.
    pub forwarded_by: Option<HeaderName>,
    /// See [`Connection::proxied`].
    pub proxied: Proxied,
}

/// What is known of a connection, and so of each of its requests.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Connection {
    /// As [`Source::peer`].
    pub peer: Option<IpAddr>,
    /// What a trusted proxy has said of its peer in the PROXY protocol.
    pub proxied: Proxied,
    /// TLS with this server.
    pub is_tls: bool,
}

/// Whether a connection began with a header of the PROXY protocol.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Proxied {
    /// It did not.
    No,
    /// With one that says who connects, to the proxy or to one before it.
    Told,
    /// With one that says nothing of who connects. Such a proxy passes on what it gets, so what stands in a request is the
    /// word of anybody.
    Untold,
}

impl Source {
    /// Where a request with these headers comes from, which arrived over this connection.
    pub fn of(connection: Connection, headers: &HeaderMap, trusted: &TrustedProxies) -> Self {
        let peer = connection.peer.map(|peer| peer.to_canonical());
        let forwarded_by = headers.keys().find(|name| claims_a_source(name.as_str())).cloned();
        let Connection { proxied, is_tls, .. } = connection;
        let mut source = Self { client: peer, peer, is_https: is_tls, forwarded_by, proxied };
        if proxied == Proxied::Untold {
            source.client = None;
            return source;
        }
        if !trusted.trusts(peer) {
            return source;
        }
        let told = x_forwarded(headers).or_else(|| forwarded(headers));
        let Some(Told { chain, is_https }) = told else {
            // With the PROXY protocol the address is a client's, be it in a trusted network.
            source.client = peer.filter(|_| proxied == Proxied::Told);
            return source;
        };
        source.is_https = is_https.unwrap_or(is_tls);
        source.client = None;
        for address in chain.iter().rev() {
            source.client = *address;
            // What is no address tells nothing, and what stands left of it is nobody's word.
            if !address.is_some_and(|address| trusted.trusts(Some(address))) {
                break;
            }
        }
        source
    }

    /// Whether a program on this machine has made the connection, and has not said that it asks for
    /// somebody else. Not the unix socket: it is there for proxies.
    pub fn is_this_machine(&self) -> bool {
        self.forwarded_by.is_none() && self.proxied == Proxied::No && self.peer.is_some_and(|peer| peer.is_loopback())
    }

    /// By what a client is told from others where each may have so much. `None`: the address is not known, or
    /// is of a private network: whole sites are behind one of those, as behind a proxy that is not trusted.
    pub fn counted_as(&self) -> Option<Counted> {
        self.client.and_then(Counted::of)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.client, self.peer) {
            (Some(client), peer) if peer != Some(client) => write!(f, "{client} (behind a proxy)"),
            (Some(client), _) => client.fmt(f),
            (None, Some(peer)) => write!(f, "somebody behind {peer}"),
            (None, None) => f.write_str("somebody behind the unix socket"),
        }
    }
}

/// What of an address is one client's: of IPv6, the first 64 bits, since whoever has one address there has all with the same
/// beginning.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
        address => address,
    }
}

/// A client's address on the public network, as [`network_of`] it.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Counted(IpAddr);

impl Counted {
    /// `None`: an address of this machine or of a private network.
    pub fn of(address: IpAddr) -> Option<Self> {
        match address.to_canonical() {
            IpAddr::V4(address) => {
                let is_shared = matches!(address.octets(), [100, 64..=127, ..]);
                let is_public = !(address.is_loopback()
                    || address.is_private()
                    || address.is_link_local()
                    || address.is_unspecified()
                    || is_shared);
                is_public.then_some(Self(address.into()))
            }
            IpAddr::V6(address) => {
                let is_public = !(address.is_loopback()
                    || address.is_unspecified()
                    || address.is_unique_local()
                    || address.is_unicast_link_local());
                is_public.then_some(Self(network_of(address.into())))
            }
        }
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(address) => write!(f, "{address}/64"),
        }
    }
}

/// What trusted proxies say: addresses, the client's first, `None` for what is none; and the scheme.
struct Told {
    chain: Vec<Option<IpAddr>>,
    is_https: Option<bool>,
}

/// Addresses of a chain that are looked at, from the right.
const CHAIN_MAX: usize = 32;

/// The parts between commas of all headers of this name, one after the other. What is no text counts as one
/// part that means nothing.
fn parts(headers: &HeaderMap, name: &str) -> Vec<String> {
    let values = headers.get_all(name).iter();
    let all = values.flat_map(|value: &HeaderValue| value.to_str().unwrap_or("?").split(','));
    let mut all: Vec<String> = all.map(|part| part.trim().to_owned()).collect();
    all.drain(..all.len().saturating_sub(CHAIN_MAX));
    all
}

/// `Forwarded` (RFC 7239). It counts where there is no `X-Forwarded-…` alone: proxies write those, and
/// many pass a `Forwarded` on that the client has written.
fn forwarded(headers: &HeaderMap) -> Option<Told> {
    headers.get("forwarded")?;
    let parts = parts(headers, "forwarded");
    let value = |part: &str, name: &str| {
        let mut pairs = part.split(';').filter_map(|pair| pair.trim().split_once('='));
        let (_, value) = pairs.find(|(own, _)| own.trim().eq_ignore_ascii_case(name))?;
        Some(value.trim().trim_matches('"').to_owned())
    };
    let chain = parts.iter().map(|part| value(part, "for").and_then(|text| address(&text))).collect();
    let is_https = parts.last().and_then(|part| value(part, "proto")).map(|proto| is_tls(&proto));
    Some(Told { chain, is_https })
}

fn x_forwarded(headers: &HeaderMap) -> Option<Told> {
    let chain = parts(headers, "x-forwarded-for").iter().map(|part| address(part)).collect::<Vec<_>>();
    let is_https = parts(headers, "x-forwarded-proto").last().map(|proto| is_tls(proto));
    (!chain.is_empty() || is_https.is_some()).then_some(Told { chain, is_https })
}

fn is_tls(scheme: &str) -> bool {
    scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("wss")
}

/// An address, with a port or without: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn address(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.split_once(']')?.0,
        None if text.matches(':').count() == 1 => text.split_once(':')?.0,
        None => text,
    };
    bare.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn networks(texts: &[&str]) -> TrustedProxies {
        TrustedProxies::new(texts.iter().map(|text| text.parse().unwrap()).collect())
    }

    fn source(peer: &str, headers: &[(&str, &str)], trusted: &TrustedProxies) -> Source {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let connection = Connection { peer: peer.parse().ok(), proxied: Proxied::No, is_tls: false };
        Source::of(connection, &map, trusted)
    }

    fn client(peer: &str, headers: &[(&str, &str)], trusted: &TrustedProxies) -> String {
        source(peer, headers, trusted).client.map_or("unknown".to_owned(), |address| address.to_string())
    }

    #[test]
    fn networks_are_read_and_compared() {
        let is_in =
            |address: &str, network: &str| network.parse::<Network>().unwrap().contains(address.parse().unwrap());
        for (address, network, expected) in [
            ("10.1.2.3", "10.0.0.0/8", true),
            ("11.1.2.3", "10.0.0.0/8", false),
            ("10.255.255.255", "10.1.0.0/8", true),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.2", "192.0.2.1", false),
            ("192.0.2.130", "192.0.2.128/25", true),
            ("192.0.2.127", "192.0.2.128/25", false),
            ("255.1.2.3", "0.0.0.0/0", true),
            ("::ffff:10.1.2.3", "10.0.0.0/8", true),
            ("10.1.2.3", "::ffff:10.0.0.0/104", true),
            ("::1", "0.0.0.0/0", false),
            ("2001:db8::1", "2001:db8::/32", true),
            ("2001:db9::1", "2001:db8::/32", false),
            ("2001:db8::1", "2001:db8::1/128", true),
            ("2001:db8::2", "2001:db8::1/128", false),
            ("ffff::", "::/0", true),
        ] {
            assert_eq!(is_in(address, network), expected, "{address} in {network}");
        }
        for wrong in
            ["", "10.0.0", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/-1", "10.0.0.0/+8", "::/129", "localhost", " ::1"]
        {
            assert_eq!(wrong.parse::<Network>(), Err(()), "{wrong}");
        }
    }

    #[test]
    fn headers_of_strangers_mean_nothing() {
        let trusted = TrustedProxies::default();
        for header in ["X-Forwarded-For", "Forwarded", "X-Real-IP", "X-Forwarded-Proto"] {
            let source = source("192.0.2.9", &[(header, "for=127.0.0.1, 127.0.0.1, https")], &trusted);
            assert_eq!(source.client, "192.0.2.9".parse().ok());
            assert!(!source.is_https && !source.is_this_machine());
        }
        // Nor do those of neighbours in a private network.
        assert_eq!(client("10.0.0.2", &[("X-Forwarded-For", "192.0.2.1")], &trusted), "10.0.0.2");
        assert_eq!(client("10.0.0.2", &[("X-Forwarded-For", "192.0.2.1")], &networks(&["10.0.0.0/8"])), "192.0.2.1");
        assert_eq!(client("127.0.0.1", &[("X-Forwarded-For", "192.0.2.1")], &networks(&[])), "127.0.0.1");
    }

    #[test]
    fn a_chain_is_read_from_the_right() {
        let trusted = networks(&["127.0.0.0/8", "10.0.0.0/8"]);
        for (chain, expected) in [
            ("192.0.2.1", "192.0.2.1"),
            ("203.0.113.7, 192.0.2.1", "192.0.2.1"),
            ("127.0.0.1, 192.0.2.1", "192.0.2.1"),
            ("203.0.113.7, 192.0.2.1, 10.0.0.2", "192.0.2.1"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
            ("192.0.2.1:4711", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]:4711", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("192.0.2.1, unknown", "unknown"),
            ("192.0.2.1, unknown, 10.0.0.2", "unknown"),
            ("", "unknown"),
            ("192.0.2.1,", "unknown"),
        ] {
            assert_eq!(client("127.0.0.1", &[("X-Forwarded-For", chain)], &trusted), expected, "{chain}");
        }
        // Several headers of the name are one list.
        let two = [("X-Forwarded-For", "203.0.113.7"), ("X-Forwarded-For", "192.0.2.1")];
        assert_eq!(client("127.0.0.1", &two, &trusted), "192.0.2.1");
        for (forwarded, expected) in [
            ("for=192.0.2.1", "192.0.2.1"),
            ("For=\"[2001:db8::1]:4711\";proto=https", "2001:db8::1"),
            ("for=203.0.113.7, for=192.0.2.1;by=10.0.0.1, For=10.0.0.2", "192.0.2.1"),
            ("for=_hidden, for=10.0.0.2", "unknown"),
            ("proto=https", "unknown"),
        ] {
            assert_eq!(client("127.0.0.1", &[("Forwarded", forwarded)], &trusted), expected, "{forwarded}");
        }
        // nginx writes the one, and passes on what the client has written as the other.
        let both = [("Forwarded", "for=203.0.113.7"), ("X-Forwarded-For", "192.0.2.1")];
        assert_eq!(client("127.0.0.1", &both, &trusted), "192.0.2.1");
        let many = "10.0.0.1, ".repeat(10_000) + "10.0.0.9";
        assert_eq!(client("127.0.0.1", &[("X-Forwarded-For", &many)], &trusted), "10.0.0.1");
        // The unix socket is a trusted proxy's.
        assert_eq!(client("unix", &[("X-Forwarded-For", "192.0.2.1")], &networks(&[])), "192.0.2.1");
        assert_eq!(client("unix", &[], &networks(&[])), "unknown");
    }

    #[test]
    fn the_scheme_is_the_last_proxys_word() {
        let trusted = TrustedProxies::default();
        for (headers, expected) in [
            (&[("X-Forwarded-Proto", "https")][..], true),
            (&[("X-Forwarded-Proto", "http, HTTPS")], true),
            (&[("X-Forwarded-Proto", "https, http")], false),
            (&[("Forwarded", "for=1.2.3.4;proto=https")], true),
            (&[("Forwarded", "for=1.2.3.4;proto=https"), ("X-Forwarded-Proto", "http")], false),
            (&[("X-Forwarded-For", "1.2.3.4")], false),
        ] {
            assert_eq!(source("127.0.0.1", headers, &trusted).is_https, expected, "{headers:?}");
        }
    }

    #[test]
    fn this_machine_is_whoever_says_nothing_else() {
        let trusted = TrustedProxies::default();
        for peer in ["127.0.0.1", "127.3.4.5", "::1", "::ffff:127.0.0.1"] {
            assert!(source(peer, &[], &trusted).is_this_machine(), "{peer}");
            // Where a header is not believed, it tells of a proxy all the same.
            for trusted in [&trusted, &networks(&[])] {
                for name in ["X-Forwarded-For", "X-Forwarded", "Forwarded", "Via", "X-Real-IP", "CF-Connecting-IP"] {
                    assert!(!source(peer, &[(name, "127.0.0.1")], trusted).is_this_machine(), "{peer} {name}");
                }
            }
        }
        for peer in ["192.0.2.1", "10.0.0.1", "::2", "unix"] {
            assert!(!source(peer, &[], &trusted).is_this_machine(), "{peer}");
        }
        for proxied in [Proxied::Told, Proxied::Untold] {
            let told = Connection { peer: "127.0.0.1".parse().ok(), proxied, is_tls: false };
            assert!(!Source::of(told, &HeaderMap::new(), &trusted).is_this_machine(), "by the PROXY protocol");
        }
    }

    #[test]
    fn behind_a_proxy_for_tcp_headers_are_its_clients_word() {
        let trusted = networks(&["127.0.0.0/8", "10.0.0.0/8"]);
        let mut headers = HeaderMap::new();
        headers.append("x-forwarded-for", HeaderValue::from_static("192.0.2.1"));
        headers.append("x-forwarded-proto", HeaderValue::from_static("https"));
        let of = |peer: &str, proxied| {
            let source = Source::of(Connection { peer: peer.parse().ok(), proxied, is_tls: false }, &headers, &trusted);
            (source.client.map(|client| client.to_string()), source.is_https)
        };
        assert_eq!(of("127.0.0.1", Proxied::Untold), (None, false));
        assert_eq!(of("unix", Proxied::Untold), (None, false));
        assert_eq!(of("203.0.113.7", Proxied::Told), (Some("203.0.113.7".to_owned()), false));
        // Before the one for TCP there is one of ours for HTTP, which writes them itself.
        assert_eq!(of("10.0.0.2", Proxied::Told), (Some("192.0.2.1".to_owned()), true));
    }

    #[test]
    fn what_counts_as_one_client() {
        let counted = |address: &str| Counted::of(address.parse().unwrap()).map(|counted| counted.to_string());
        assert_eq!(counted("192.0.2.1").as_deref(), Some("192.0.2.1"));
        assert_eq!(counted("::ffff:192.0.2.1").as_deref(), Some("192.0.2.1"));
        assert_eq!(counted("2001:db8:1:2:3:4:5:6").as_deref(), Some("2001:db8:1:2::/64"));
        assert_eq!(counted("2001:db8:1:2::1"), counted("2001:db8:1:2:ffff::9"));
        assert_ne!(counted("2001:db8:1:2::1"), counted("2001:db8:1:3::1"));
        for private in [
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.1.1",
            "100.64.0.1",
            "::1",
            "fe80::1",
            "fd00::1",
        ] {
            assert_eq!(counted(private), None, "{private}");
        }
        let trusted = TrustedProxies::default();
        // Behind a trusted proxy that does not tell, all would be one.
        assert_eq!(source("127.0.0.1", &[], &trusted).counted_as(), None);
        assert_eq!(source("192.0.2.1", &[], &networks(&["192.0.2.0/24"])).counted_as(), None);
    }

    proptest! {
        /// Whatever a client writes, its proxy adds the address that it sees, and that one counts.
        #[test]
        fn a_client_cannot_choose_its_address(lies in "[ -~]{0,60}") {
            let chain = format!("{lies}, 192.0.2.1");
            prop_assert_eq!(client("127.0.0.1", &[("X-Forwarded-For", &chain)], &TrustedProxies::default()), "192.0.2.1");
        }
    }
}
