//! The PROXY protocol, versions 1 and 2 (HAProxy's `send-proxy` and `send-proxy-v2`, nginx' `proxy_protocol`): a
//! header before anything else, in which a proxy for TCP says who connects.
//!
//! It is read from trusted proxies only, and no further than its end.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::io::{AsyncRead, AsyncReadExt};

/// How version 2 begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The longest header of version 1, its line's end included.
const LINE_BYTES_MAX: usize = 107;

/// The longest version 2 header behind its first sixteen bytes. What proxies add beside addresses (the names of
/// certificates) fits.
const REST_BYTES_MAX: usize = 4096;

/// What a header says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Told {
    /// A client with this address connects.
    Client(IpAddr),
    /// Nothing: somebody connects, or the proxy itself does, to see whether the server answers.
    Unknown,
}

/// Reads a header.
///
/// # Errors
/// The connection ends or fails, or what arrives is no header ([`io::ErrorKind::InvalidData`]).
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Told> {
    // No header is shorter.
    let mut start = [0; SIGNATURE.len()];
    stream.read_exact(&mut start).await?;
    if &start == SIGNATURE {
        return read_version_2(stream).await;
    }
    let mut line = start.to_vec();
    if !line.starts_with(b"PROXY ") {
        return Err(broken("the connection does not begin with one"));
    }
    while !line.ends_with(b"\r\n") {
        if line.len() == LINE_BYTES_MAX {
            return Err(broken("its line does not end"));
        }
        line.push(stream.read_u8().await?);
    }
    std::str::from_utf8(&line[..line.len() - 2])
        .ok()
        .and_then(version_1)
        .ok_or_else(|| broken("its line makes no sense"))
}

fn broken(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("no PROXY protocol header: {why}"))
}

/// `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443`: client, proxy, and their ports.
fn version_1(line: &str) -> Option<Told> {
    let mut words = line.split(' ').skip(1);
    let family = words.next()?;
    if family == "UNKNOWN" {
        return Some(Told::Unknown);
    }
    let (client, proxy) = (words.next()?, words.next()?);
    let is_port = |word: Option<&str>| word.is_some_and(|word| word.parse::<u16>().is_ok());
    if !is_port(words.next()) || !is_port(words.next()) || words.next().is_some() {
        return None;
    }
    match family {
        "TCP4" => {
            proxy.parse::<Ipv4Addr>().ok()?;
            client.parse::<Ipv4Addr>().ok().map(|address| Told::Client(address.into()))
        }
        "TCP6" => {
            proxy.parse::<Ipv6Addr>().ok()?;
            client.parse::<Ipv6Addr>().ok().map(|address| Told::Client(address.into()))
        }
        _ => None,
    }
}

async fn read_version_2(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Told> {
    let (version_and_command, family) = (stream.read_u8().await?, stream.read_u8().await?);
    let length = usize::from(stream.read_u16().await?);
    if length > REST_BYTES_MAX {
        return Err(broken("it is too long"));
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    match (version_and_command, family) {
        (0x20, _) => Ok(Told::Unknown),
        // A stream over IPv4, over IPv6.
        (0x21, 0x11) => {
            let (address, _) = rest.split_first_chunk::<4>().filter(|_| length >= 12).ok_or_else(too_short)?;
            Ok(Told::Client(Ipv4Addr::from(*address).into()))
        }
        (0x21, 0x21) => {
            let (address, _) = rest.split_first_chunk::<16>().filter(|_| length >= 36).ok_or_else(too_short)?;
            Ok(Told::Client(Ipv6Addr::from(*address).into()))
        }
        (0x21, _) => Ok(Told::Unknown),
        _ => Err(broken("of this version and command")),
    }
}

fn too_short() -> io::Error {
    broken("it is too short for its addresses")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told, and what is left for whoever reads next; or the error's kind.
    async fn read_all(bytes: &[u8]) -> Result<(Told, Vec<u8>), io::ErrorKind> {
        let mut stream = bytes;
        let told = read(&mut stream).await.map_err(|error| error.kind())?;
        Ok((told, stream.to_vec()))
    }

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend((rest.len() as u16).to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    #[tokio::test]
    async fn both_versions() {
        let client = |address: &str| Told::Client(address.parse().unwrap());
        let v4 = [&[192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 4, 1, 0xbb][..], &[4, 0, 1, 0]].concat();
        let v6 = [&"2001:db8::1".parse::<Ipv6Addr>().unwrap().octets()[..], &[0; 20]].concat();
        for (header, expected) in [
            (b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n".to_vec(), client("192.0.2.1")),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n".to_vec(), client("2001:db8::1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), Told::Unknown),
            (b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n".to_vec(), Told::Unknown),
            (v2(0x21, 0x11, &v4), client("192.0.2.1")),
            (v2(0x21, 0x21, &v6), client("2001:db8::1")),
            (v2(0x20, 0x00, &[]), Told::Unknown),
            (v2(0x20, 0x11, &v4), Told::Unknown),
            (v2(0x21, 0x00, &[]), Told::Unknown),
            (v2(0x21, 0x31, &[0; 216]), Told::Unknown),
        ] {
            let whole = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(read_all(&whole).await, Ok((expected, b"GET / HTTP/1.1\r\n".to_vec())), "{header:?}");
            for end in 0..header.len() {
                assert_eq!(read_all(&header[..end]).await, Err(io::ErrorKind::UnexpectedEof), "{header:?} to {end}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_header() {
        let long_line = [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat();
        for bytes in [
            &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 1\r\n",
            b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 70000\r\n",
            b"PROXY TCP4 2001:db8::1 2001:db8::2 56324 443\r\n",
            b"PROXY TCP6 192.0.2.1 198.51.100.1 56324 443\r\n",
            b"PROXY TCP5 192.0.2.1 198.51.100.1 56324 443\r\n",
            b"PROXY  TCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
            b"proxy TCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00",
            &long_line,
            &v2(0x11, 0x11, &[0; 12]),
            &v2(0x22, 0x11, &[0; 12]),
            &v2(0x21, 0x11, &[0; 11]),
            &v2(0x21, 0x21, &[0; 35]),
            &v2(0x21, 0x11, &[0; 5000]),
        ] {
            let error = read_all(bytes).await.unwrap_err();
            assert_eq!(error, io::ErrorKind::InvalidData, "{}", String::from_utf8_lossy(bytes));
        }
    }
}
