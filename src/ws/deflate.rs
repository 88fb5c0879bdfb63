//! permessage-deflate (RFC 7692) without context takeover on either side: each message is
//! compressed by itself, so one compressed frame serves every connection, and an idle connection
//! holds no window.

use std::borrow::Cow;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use http::{HeaderMap, header};

use super::frame::Violation;

/// Texts shorter than this, in bytes, go out as they are: little would be saved, and they fit into one packet.
pub const BYTES_MIN: usize = 1024;

/// What a client's offer is answered with, in `Sec-WebSocket-Extensions`.
pub const AGREED: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";

/// What ends a message that was flushed and is cut off on the wire (RFC 7692 section 7.2.1).
const TAIL: [u8; 4] = [0, 0, 0xff, 0xff];

/// Whether the client offers what [`AGREED`] is an answer to. An offer with a parameter that is
/// unknown, or with a smaller window than ours, is passed over.
pub fn is_offered(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::SEC_WEBSOCKET_EXTENSIONS);
    let mut offers = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    offers.any(|offer| {
        let mut parts = offer.split(';').map(str::trim);
        parts.next() == Some("permessage-deflate") && parts.all(is_acceptable)
    })
}

fn is_acceptable(parameter: &str) -> bool {
    let (name, value) = match parameter.split_once('=') {
        Some((name, value)) => (name.trim(), Some(value.trim().trim_matches('"'))),
        None => (parameter, None),
    };
    match name {
        "server_no_context_takeover" | "client_no_context_takeover" => value.is_none(),
        "client_max_window_bits" => {
            value.is_none_or(|bits| bits.parse::<u8>().is_ok_and(|bits| (8..=15).contains(&bits)))
        }
        "server_max_window_bits" => value == Some("15"),
        _ => false,
    }
}

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
    use http::HeaderValue;
    use proptest::prelude::*;

    fn offers(value: &'static str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, HeaderValue::from_static(value));
        is_offered(&headers)
    }

    #[test]
    fn offers_of_browsers_and_libraries() {
        for value in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; server_max_window_bits=15; client_max_window_bits=\"12\"",
            "x-webkit-deflate-frame, permessage-deflate",
            "permessage-deflate; server_max_window_bits=10, permessage-deflate",
        ] {
            assert!(offers(value), "{value}");
        }
        for value in [
            "",
            "x-webkit-deflate-frame",
            "permessage-deflate; server_max_window_bits=10",
            "permessage-deflate; client_max_window_bits=16",
            "permessage-deflate; unknown",
            "permessage-deflate; server_no_context_takeover=1",
        ] {
            assert!(!offers(value), "{value}");
        }
        assert!(!is_offered(&HeaderMap::new()));
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
