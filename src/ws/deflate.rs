//! permessage-deflate (RFC 7692) without context takeover on either side: each message is
//! compressed by itself, so one compressed frame serves every connection, and an idle connection
//! holds no window.

use std::borrow::Cow;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use http::header::{self, HeaderMap, HeaderValue};

use super::frame::Violation;

/// Texts shorter than this, in bytes, go out as they are: little would be saved, and they fit into one packet.
pub const BYTES_MIN: usize = 1024;

/// What ends a message that was flushed and is cut off on the wire (RFC 7692 section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// What was agreed on with a client: its messages may be compressed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Agreed {
    /// Ours to it may be, too. A client with a window smaller than ours gets them as they are, which it always may.
    pub deflates: bool,
    /// What its offer is answered with, in `Sec-WebSocket-Extensions`.
    pub answer: HeaderValue,
}

/// The answer to the best of a client's offers. One with a parameter that is unknown is passed over.
pub fn agree(headers: &HeaderMap) -> Option<Agreed> {
    let values = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS);
    let offers = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let window = offers.filter_map(window).max()?;
    const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let deflates = window == WINDOW_BITS_MAX;
    let answer = match deflates {
        true => HeaderValue::from_static(ANSWER),
        false => HeaderValue::try_from(format!("{ANSWER}; server_max_window_bits={window}")).ok()?,
    };
    Some(Agreed { deflates, answer })
}

/// The size of the window, as a power of two, that an offer leaves to the server; `None` if it cannot be accepted.
fn window(offer: &str) -> Option<u8> {
    let mut parts = offer.split(';').map(str::trim);
    if parts.next() != Some("permessage-deflate") {
        return None;
    }
    let mut window = WINDOW_BITS_MAX;
    let mut seen = Vec::new();
    for part in parts {
        let (name, value) = match part.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
            None => (part, None),
        };
        if seen.contains(&name) {
            return None;
        }
        seen.push(name);
        let bits = value.and_then(|bits| bits.parse::<u8>().ok()).filter(|bits| (8..=WINDOW_BITS_MAX).contains(bits));
        match name {
            "server_no_context_takeover" | "client_no_context_takeover" if value.is_none() => {}
            "client_max_window_bits" if value.is_none() || bits.is_some() => {}
            "server_max_window_bits" => window = bits?,
            _ => return None,
        }
    }
    Some(window)
}

const WINDOW_BITS_MAX: u8 = 15;

/// Compresses a message; `None` where nothing is saved.
pub(super) fn deflate(text: &[u8]) -> Option<Vec<u8>> {
    if text.len() < BYTES_MIN {
        return None;
    }
    let mut compress = Compress::new(Compression::fast(), false);
    let mut deflated = Vec::with_capacity(text.len() / 2);
    loop {
        let taken = compress.total_in() as usize;
        compress.compress_vec(&text[taken..], &mut deflated, FlushCompress::Sync).ok()?;
        // With room left, all has been flushed.
        if deflated.len() < deflated.capacity() {
            break;
        }
        if deflated.len() >= text.len() {
            return None;
        }
        deflated.reserve(text.len() / 4 + TAIL.len());
    }
    deflated.truncate(deflated.strip_suffix(&TAIL)?.len());
    (deflated.len() < text.len()).then_some(deflated)
}

/// Takes a message apart that is not longer than `limit`, in bytes, when it is.
pub(super) fn inflate<'a>(payload: &[u8], limit: usize) -> Result<Cow<'a, [u8]>, Violation> {
    const BROKEN: Violation = Violation::Protocol("a compressed message is broken");
    let mut decompress = Decompress::new(false);
    let mut inflated = Vec::new();
    for input in [payload, &TAIL] {
        let before = decompress.total_in();
        loop {
            if inflated.len() > limit {
                return Err(Violation::TooBig { bytes: inflated.len() as u64, limit });
            }
            if inflated.len() == inflated.capacity() {
                // One byte over the limit is enough to see that it is.
                let left = limit + 1 - inflated.len();
                inflated.reserve_exact(inflated.len().max(512).min(left));
            }
            let taken = (decompress.total_in() - before) as usize;
            let had = inflated.len();
            let status =
                decompress.decompress_vec(&input[taken..], &mut inflated, FlushDecompress::Sync).map_err(|_| BROKEN)?;
            if status == Status::StreamEnd {
                return finish(inflated, limit);
            }
            let is_all = (decompress.total_in() - before) as usize == input.len();
            // With room left, there is nothing more to come of this input.
            if is_all && inflated.len() < inflated.capacity() {
                break;
            }
            if (decompress.total_in() - before) as usize == taken && inflated.len() == had && !is_all {
                return Err(BROKEN);
            }
        }
    }
    finish(inflated, limit)
}

fn finish<'a>(inflated: Vec<u8>, limit: usize) -> Result<Cow<'a, [u8]>, Violation> {
    if inflated.len() > limit {
        return Err(Violation::TooBig { bytes: inflated.len() as u64, limit });
    }
    Ok(Cow::Owned(inflated))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn answer(offer: &'static str) -> Option<(bool, String)> {
        let mut headers = HeaderMap::new();
        headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(offer));
        agree(&headers).map(|agreed| (agreed.deflates, agreed.answer.to_str().unwrap().to_owned()))
    }

    #[test]
    fn offers_of_browsers_and_libraries() {
        const ANSWER: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        for offer in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; server_max_window_bits=15; client_max_window_bits=\"12\"",
            "x-webkit-deflate-frame, permessage-deflate",
            "permessage-deflate; server_max_window_bits=10, permessage-deflate",
        ] {
            assert_eq!(answer(offer), Some((true, ANSWER.to_owned())), "{offer}");
        }
        // RFC 7692 section 7.1.2.1: what it is sent must need no larger window, and uncompressed it needs none.
        let small = "permessage-deflate; server_max_window_bits=9, permessage-deflate; server_max_window_bits=\"10\"";
        assert_eq!(answer(small), Some((false, format!("{ANSWER}; server_max_window_bits=10"))));
        for offer in [
            "",
            "x-webkit-deflate-frame",
            "permessage-deflate; server_max_window_bits",
            "permessage-deflate; server_max_window_bits=7",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; client_max_window_bits; client_max_window_bits",
            "permessage-deflate; unknown",
            "permessage-deflate; server_no_context_takeover=1",
        ] {
            assert_eq!(answer(offer), None, "{offer}");
        }
        assert_eq!(agree(&HeaderMap::new()), None);
    }

    /// The example of RFC 7692 section 7.2.3.1, and the one with a final block of 7.2.3.5's form.
    #[test]
    fn hello_of_the_rfc() {
        assert_eq!(*inflate(&[0xf2, 0x48, 0xcd, 0xc9, 0xc9, 0x07, 0x00], 10).unwrap(), *b"Hello");
        assert_eq!(
            *inflate(&[0x00, 0x05, 0x00, 0xfa, 0xff, 0x48, 0x65, 0x6c, 0x6c, 0x6f, 0x00], 10).unwrap(),
            *b"Hello"
        );
        assert_eq!(*inflate(&[0x02, 0x00], 10).unwrap(), *b"");
    }

    #[test]
    fn a_bomb_is_too_big_before_it_is_large() {
        let bomb = deflate(&vec![b'x'; 10_000_000]).unwrap();
        assert!(bomb.len() < 100_000, "{}", bomb.len());
        match inflate(&bomb, 1000) {
            Err(Violation::TooBig { bytes, limit: 1000 }) => assert_eq!(bytes, 1001),
            other => panic!("{other:?}"),
        }
        assert!(inflate(&bomb, 10_000_000).is_ok());
        assert!(matches!(inflate(&bomb, 9_999_999), Err(Violation::TooBig { .. })));
    }

    #[test]
    fn what_is_short_or_noise_stays_as_it_is() {
        assert_eq!(deflate(&[b'x'; BYTES_MIN - 1]), None);
        let mut state = 1u32;
        let noise: Vec<u8> = (0..5000)
            .map(|_| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 24) as u8
            })
            .collect();
        assert_eq!(deflate(&noise), None);
    }

    proptest! {
        #[test]
        fn what_is_compressed_comes_out_again(words in prop::collection::vec("[a-f]{1,6}", 300..900)) {
            let text = words.join(" ");
            if let Some(deflated) = deflate(text.as_bytes()) {
                prop_assert!(deflated.len() < text.len());
                let inflated = inflate(&deflated, text.len()).unwrap();
                prop_assert_eq!(&*inflated, text.as_bytes());
            }
        }

        #[test]
        fn garbage_is_a_violation_or_bounded(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(inflated) = inflate(&payload, 5000) {
                prop_assert!(inflated.len() <= 5000);
            }
        }
    }
}
