//! WebSocket frames (RFC 6455 section 5): bytes to messages for one connection, and messages to
//! bytes for any number of them. A server's frames are not masked, so the same bytes serve every
//! connection.

use std::borrow::Cow;

use bytes::Bytes;

use super::deflate::{deflate, inflate};

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

const FIN: u8 = 0x80;
/// Set on the first frame of a compressed message.
const RSV1: u8 = 0x40;
const CONTROL_BYTES_MAX: usize = 125;

/// A text message, header included.
pub fn encode_text(text: &str) -> Bytes {
    encode(TEXT, text.as_bytes())
}

/// A text message whose text `write` appends to the buffer it is given: made in one piece, where
/// [`encode_text`] would copy a text that is made only to be sent. `bytes` is about its length.
pub fn build_text(bytes: usize, write: impl FnOnce(&mut String)) -> Bytes {
    // Room for the longest header; the real one is put right before the text.
    const ROOM: &str = "\0\0\0\0\0\0\0\0\0\0";
    let mut buffer = String::with_capacity(ROOM.len() + bytes);
    buffer.push_str(ROOM);
    write(&mut buffer);
    let mut frame = buffer.into_bytes();
    let (header, header_bytes) = header_of(TEXT, frame.len() - ROOM.len());
    let start = ROOM.len() - header_bytes;
    frame[start..ROOM.len()].copy_from_slice(&header[..header_bytes]);
    Bytes::from(frame).slice(start..)
}

/// The text in a frame that [`encode_text`] or [`build_text`] has made.
pub fn text(frame: &[u8]) -> Option<&str> {
    let header = match frame.get(1)? {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    std::str::from_utf8(frame.get(header..)?).ok()
}

/// The compressed form of a frame that [`encode_text`] or [`build_text`] has made, for clients that
/// have agreed to permessage-deflate; `None` where it would save nothing.
pub fn deflated(frame: &[u8]) -> Option<Bytes> {
    deflate(text(frame)?.as_bytes()).map(|payload| encode(TEXT | RSV1, &payload))
}

/// A ping, which the client's WebSocket answers by itself, with the same payload.
pub fn encode_ping(payload: &[u8]) -> Bytes {
    encode(PING, payload)
}

/// The answer to a ping.
pub fn encode_pong(payload: &[u8]) -> Bytes {
    encode(PONG, payload)
}

/// A close frame. The reason is cut to what a control frame holds.
pub fn encode_close(code: u16, reason: &str) -> Bytes {
    let mut end = reason.len().min(CONTROL_BYTES_MAX - 2);
    while !reason.is_char_boundary(end) {
        end -= 1;
    }
    let mut payload = Vec::with_capacity(2 + end);
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend_from_slice(&reason.as_bytes()[..end]);
    encode(CLOSE, &payload)
}

fn encode(opcode: u8, payload: &[u8]) -> Bytes {
    let (header, header_bytes) = header_of(opcode, payload.len());
    let mut frame = Vec::with_capacity(header_bytes + payload.len());
    frame.extend_from_slice(&header[..header_bytes]);
    frame.extend_from_slice(payload);
    Bytes::from(frame)
}

/// A server's frame header, and how long it is.
fn header_of(opcode: u8, payload_bytes: usize) -> ([u8; 10], usize) {
    let mut header = [0; 10];
    header[0] = FIN | opcode;
    match payload_bytes {
        length @ 0..126 => {
            header[1] = length as u8;
            (header, 2)
        }
        length @ 126..=0xffff => {
            header[1] = 126;
            header[2..4].copy_from_slice(&(length as u16).to_be_bytes());
            (header, 4)
        }
        length => {
            header[1] = 127;
            header[2..].copy_from_slice(&(length as u64).to_be_bytes());
            (header, 10)
        }
    }
}

/// The first frame of a piece that was made here.
pub fn first(piece: &Bytes) -> Bytes {
    let Some(Sent::Text(text)) = sent(piece).next() else { return Bytes::new() };
    piece.slice(..text.as_ptr().addr() - piece.as_ptr().addr() + text.len())
}

/// A frame of ours, taken apart again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Sent<'a> {
    /// A text message.
    Text(&'a str),
    /// The end.
    Close,
    /// A pong.
    Other,
}

/// The frames of a piece that was made here, for transports that want the texts alone.
pub fn sent(mut piece: &[u8]) -> impl Iterator<Item = Sent<'_>> {
    std::iter::from_fn(move || {
        let (length_end, length) = match piece.get(1)? {
            126 => (4, usize::from(u16::from_be_bytes(piece.get(2..4)?.try_into().ok()?))),
            127 => (10, u64::from_be_bytes(piece.get(2..10)?.try_into().ok()?) as usize),
            short => (2, usize::from(*short)),
        };
        let opcode = piece[0] & 0x0f;
        let payload = piece.get(length_end..length_end + length)?;
        piece = &piece[length_end + length..];
        Some(match opcode {
            TEXT => std::str::from_utf8(payload).map_or(Sent::Other, Sent::Text),
            CLOSE => Sent::Close,
            _ => Sent::Other,
        })
    })
}

/// What a client said.
#[derive(Debug, Eq, PartialEq)]
pub enum Message<'a> {
    /// A text message.
    Text(Cow<'a, str>),
    /// A binary message.
    Binary(Cow<'a, [u8]>),
    /// A ping, to be answered with the same payload.
    Ping(&'a [u8]),
    /// The answer to [`encode_ping`], with its payload, or one that nobody has asked for: a sign of life.
    Pong(&'a [u8]),
    /// The client closes, with this code if it gave one.
    Close(Option<u16>),
}

impl Message<'_> {
    /// A binary message that is UTF-8 as a text, for which other Pusher servers take it.
    pub fn text_if_it_is_one(self) -> Self {
        match self {
            Self::Binary(Cow::Borrowed(bytes)) => match std::str::from_utf8(bytes) {
                Ok(text) => Self::Text(Cow::Borrowed(text)),
                Err(_) => Self::Binary(Cow::Borrowed(bytes)),
            },
            Self::Binary(Cow::Owned(bytes)) => match String::from_utf8(bytes) {
                Ok(text) => Self::Text(Cow::Owned(text)),
                Err(error) => Self::Binary(Cow::Owned(error.into_bytes())),
            },
            other => other,
        }
    }
}

/// The client broke the protocol: the connection is closed with [`Violation::code`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Violation {
    /// Anything that RFC 6455 forbids.
    #[error("{0}")]
    Protocol(&'static str),
    /// A text message that is not UTF-8.
    #[error("a text message is not UTF-8")]
    NotUtf8,
    /// A message over the limit, known from its header before it is read.
    #[error("a message of {bytes} bytes is over the limit of {limit}")]
    TooBig {
        /// How long it is, or would be.
        bytes: u64,
        /// How long it may be.
        limit: usize,
    },
}

impl Violation {
    /// The close code of RFC 6455 section 7.4.1.
    pub fn code(self) -> u16 {
        match self {
            Self::Protocol(_) => 1002,
            Self::NotUtf8 => 1007,
            Self::TooBig { .. } => 1009,
        }
    }
}

/// One connection's incoming stream. Holds memory only for what is incomplete.
#[derive(Debug, Default)]
pub struct Decoder {
    /// permessage-deflate is agreed on.
    inflates: bool,
    /// The beginning of a frame whose end has not arrived.
    partial: Vec<u8>,
    /// The fragments of a message so far, with the opcode of the first.
    fragments: Option<Box<Fragments>>,
}

#[derive(Debug)]
struct Fragments {
    opcode: u8,
    is_compressed: bool,
    payload: Vec<u8>,
}

struct Header {
    fin: bool,
    is_compressed: bool,
    opcode: u8,
    mask: [u8; 4],
    bytes: usize,
    payload_bytes: usize,
}

impl Decoder {
    /// For a connection that has agreed to permessage-deflate, or has not.
    pub fn new(inflates: bool) -> Self {
        Self { inflates, ..Self::default() }
    }

    /// Takes what was read and calls `each` for every message that is complete now, until it
    /// returns false. `input` is unmasked in place. `limit` bounds a message, in bytes.
    pub fn feed(
        &mut self,
        input: &mut [u8],
        limit: usize,
        mut each: impl FnMut(Message<'_>) -> bool,
    ) -> Result<(), Violation> {
        if self.partial.is_empty() {
            let rest = self.frames(input, limit, &mut each)?;
            self.partial = rest.to_vec();
        } else {
            let mut joined = std::mem::take(&mut self.partial);
            joined.extend_from_slice(input);
            let rest_bytes = self.frames(&mut joined, limit, &mut each)?.len();
            joined.drain(..joined.len() - rest_bytes);
            if joined.is_empty() {
                joined = Vec::new();
            }
            self.partial = joined;
        }
        Ok(())
    }

    /// Handles all complete frames at the start of `input`; gives back the rest.
    fn frames<'a>(
        &mut self,
        mut input: &'a mut [u8],
        limit: usize,
        each: &mut impl FnMut(Message<'_>) -> bool,
    ) -> Result<&'a [u8], Violation> {
        while let Some(header) = header(input, limit, self.inflates)? {
            if input.len() < header.bytes + header.payload_bytes {
                break;
            }
            let (frame, rest) = input.split_at_mut(header.bytes + header.payload_bytes);
            let payload = &mut frame[header.bytes..];
            for (index, byte) in payload.iter_mut().enumerate() {
                *byte ^= header.mask[index & 3];
            }
            input = rest;
            let go_on = match self.message(&header, payload, limit)? {
                Some(message) => each(message),
                None => true,
            };
            if !go_on {
                return Ok(&[]);
            }
        }
        Ok(input)
    }

    fn message<'a>(
        &mut self,
        header: &Header,
        payload: &'a [u8],
        limit: usize,
    ) -> Result<Option<Message<'a>>, Violation> {
        match header.opcode {
            PING => Ok(Some(Message::Ping(payload))),
            PONG => Ok(Some(Message::Pong(payload))),
            CLOSE => close(payload).map(Some),
            TEXT | BINARY if self.fragments.is_some() => {
                Err(Violation::Protocol("a new message began before the fragments of the last one ended"))
            }
            TEXT | BINARY if header.fin => {
                whole(header.opcode, header.is_compressed, Cow::Borrowed(payload), limit).map(Some)
            }
            TEXT | BINARY => {
                let (opcode, is_compressed) = (header.opcode, header.is_compressed);
                self.fragments = Some(Box::new(Fragments { opcode, is_compressed, payload: payload.to_vec() }));
                Ok(None)
            }
            _ => {
                let Some(mut fragments) = self.fragments.take() else {
                    return Err(Violation::Protocol("a continuation frame without a message to continue"));
                };
                let bytes = fragments.payload.len() + payload.len();
                if bytes > limit {
                    return Err(Violation::TooBig { bytes: bytes as u64, limit });
                }
                fragments.payload.extend_from_slice(payload);
                if header.fin {
                    let Fragments { opcode, is_compressed, payload } = *fragments;
                    return whole(opcode, is_compressed, Cow::Owned(payload), limit).map(Some);
                }
                self.fragments = Some(fragments);
                Ok(None)
            }
        }
    }
}

/// Reads a frame's header; `None` if it has not arrived whole.
fn header(input: &[u8], limit: usize, inflates: bool) -> Result<Option<Header>, Violation> {
    let [first, second, ..] = *input else { return Ok(None) };
    let (fin, opcode) = (first & FIN != 0, first & 0x0f);
    let is_compressed = first & RSV1 != 0;
    let may_be_compressed = inflates && matches!(opcode, TEXT | BINARY);
    if first & 0x30 != 0 || (is_compressed && !may_be_compressed) {
        return Err(Violation::Protocol("a reserved bit is set, but no extension was agreed on"));
    }
    if !matches!(opcode, CONTINUATION | TEXT | BINARY | CLOSE | PING | PONG) {
        return Err(Violation::Protocol("unknown opcode"));
    }
    if second & 0x80 == 0 {
        return Err(Violation::Protocol("a client's frames must be masked"));
    }
    let (length_end, length) = match second & 0x7f {
        126 => match input.get(2..4) {
            Some(&[a, b]) => (4, u64::from(u16::from_be_bytes([a, b]))),
            _ => return Ok(None),
        },
        127 => match input.get(2..10).and_then(|bytes| bytes.try_into().ok()) {
            Some(bytes) => (10, u64::from_be_bytes(bytes)),
            None => return Ok(None),
        },
        short => (2, u64::from(short)),
    };
    if opcode >= CLOSE && (!fin || length > CONTROL_BYTES_MAX as u64) {
        return Err(Violation::Protocol("a control frame is fragmented or over 125 bytes long"));
    }
    if length > limit.max(CONTROL_BYTES_MAX) as u64 {
        return Err(Violation::TooBig { bytes: length, limit });
    }
    match input.get(length_end..length_end + 4).and_then(|bytes| bytes.try_into().ok()) {
        Some(mask) => {
            Ok(Some(Header { fin, is_compressed, opcode, mask, bytes: length_end + 4, payload_bytes: length as usize }))
        }
        None => Ok(None),
    }
}

fn whole(opcode: u8, is_compressed: bool, payload: Cow<'_, [u8]>, limit: usize) -> Result<Message<'_>, Violation> {
    let payload = if is_compressed { inflate(&payload, limit)? } else { payload };
    match opcode {
        BINARY => Ok(Message::Binary(payload)),
        _ => text_of(payload).map(Message::Text).ok_or(Violation::NotUtf8),
    }
}

/// The text that a payload is, if it is UTF-8.
fn text_of(payload: Cow<'_, [u8]>) -> Option<Cow<'_, str>> {
    match payload {
        Cow::Borrowed(bytes) => std::str::from_utf8(bytes).ok().map(Cow::Borrowed),
        Cow::Owned(bytes) => String::from_utf8(bytes).ok().map(Cow::Owned),
    }
}

fn close(payload: &[u8]) -> Result<Message<'_>, Violation> {
    match payload {
        [] => Ok(Message::Close(None)),
        [_] => Err(Violation::Protocol("a close frame with half a code")),
        [high, low, reason @ ..] => {
            let code = u16::from_be_bytes([*high, *low]);
            if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
                return Err(Violation::Protocol("a close code that must not be sent"));
            }
            match std::str::from_utf8(reason) {
                Ok(_) => Ok(Message::Close(Some(code))),
                Err(_) => Err(Violation::NotUtf8),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 70_000;

    /// What a client would send: FIN (or not), opcode, payload.
    fn client_frame(fin: bool, opcode: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut frame = encode(opcode, payload).to_vec();
        let header = frame.len() - payload.len();
        if !fin {
            frame[0] &= !FIN;
        }
        frame[1] |= 0x80;
        for (index, byte) in frame[header..].iter_mut().enumerate() {
            *byte ^= mask[index & 3];
        }
        frame.splice(header..header, mask);
        frame
    }

    fn said(message: Message<'_>) -> String {
        match message {
            Message::Text(text) => format!("text {text}"),
            Message::Ping(payload) => format!("ping {payload:?}"),
            other => format!("{other:?}"),
        }
    }

    fn decode(chunks: &[&[u8]]) -> Result<Vec<String>, Violation> {
        let mut decoder = Decoder::default();
        let mut heard = Vec::new();
        for chunk in chunks {
            decoder.feed(&mut chunk.to_vec(), LIMIT, |message| {
                heard.push(said(message));
                true
            })?;
        }
        Ok(heard)
    }

    #[test]
    fn encodes_each_length_form() {
        assert_eq!(encode_text("hi").as_ref(), b"\x81\x02hi");
        assert_eq!(encode_text(&"x".repeat(126))[..4], [0x81, 126, 0, 126]);
        assert_eq!(encode_text(&"x".repeat(65_536))[..10], [0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        for length in [0, 1, 125, 126, 65_535, 65_536] {
            let text = "x".repeat(length);
            assert_eq!(build_text(7, |buffer| buffer.push_str(&text)), encode_text(&text));
            assert_eq!(super::text(&encode_text(&text)), Some(text.as_str()));
        }
        assert_eq!(encode_close(4001, "no").as_ref(), b"\x88\x04\x0f\xa1no");
        let cut = encode_close(1000, &"é".repeat(100));
        assert_eq!(cut.len(), 2 + 2 + 122);
        assert!(std::str::from_utf8(&cut[4..]).is_ok());
    }

    #[test]
    fn what_was_sent_comes_apart_again() {
        let texts = ["", "é", &"x".repeat(126), &"y".repeat(70_000)];
        let mut piece = Vec::new();
        for text in texts {
            piece.extend_from_slice(&encode_text(text));
            piece.extend_from_slice(&encode_pong(b"p"));
        }
        piece.extend_from_slice(&encode_close(1012, "soon"));
        let expected: Vec<Sent> =
            texts.iter().flat_map(|text| [Sent::Text(text), Sent::Other]).chain([Sent::Close]).collect();
        assert_eq!(sent(&piece).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn control_frames_may_stand_between_fragments() {
        let mut bytes = client_frame(false, TEXT, b"ab", [1, 2, 3, 4]);
        bytes.extend(client_frame(true, PING, b"p", [0; 4]));
        bytes.extend(client_frame(true, CONTINUATION, b"c", [9; 4]));
        bytes.extend(client_frame(true, CLOSE, &4000u16.to_be_bytes(), [5; 4]));
        assert_eq!(decode(&[&bytes]).unwrap(), ["ping [112]", "text abc", "Close(Some(4000))"]);
    }

    #[test]
    fn violations_have_their_codes() {
        let unmasked = encode_text("x");
        let reserved_bit = [0xc1, 0x80, 0, 0, 0, 0];
        let reserved_opcode = [0x83, 0x80, 0, 0, 0, 0];
        let long_ping = client_frame(true, PING, &[0; 126], [0; 4]);
        let split_ping = client_frame(false, PING, b"", [0; 4]);
        let orphan = client_frame(true, CONTINUATION, b"x", [0; 4]);
        let interleaved = [client_frame(false, TEXT, b"a", [0; 4]), client_frame(true, TEXT, b"b", [0; 4])].concat();
        let half_code = client_frame(true, CLOSE, b"x", [0; 4]);
        let bad_code = client_frame(true, CLOSE, &1005u16.to_be_bytes(), [0; 4]);
        for bytes in [
            &unmasked[..],
            &reserved_bit,
            &reserved_opcode,
            &long_ping,
            &split_ping,
            &orphan,
            &interleaved,
            &half_code,
            &bad_code,
        ] {
            assert_eq!(decode(&[bytes]).unwrap_err().code(), 1002, "{bytes:?}");
        }
        assert_eq!(decode(&[&client_frame(true, TEXT, b"\xff", [7; 4])]).unwrap_err().code(), 1007);
        assert_eq!(decode(&[&client_frame(true, BINARY, b"\xff", [7; 4])]).unwrap(), ["Binary([255])"]);
    }

    #[test]
    fn too_big_is_known_from_the_header_and_across_fragments() {
        let header_only = [0x81, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(decode(&[&header_only]), Err(Violation::TooBig { bytes: u64::MAX, limit: LIMIT }));
        let half = client_frame(false, TEXT, &vec![b'x'; LIMIT / 2 + 1], [0; 4]);
        let other = client_frame(true, CONTINUATION, &vec![b'x'; LIMIT / 2 + 1], [0; 4]);
        assert_eq!(decode(&[&half, &other]).unwrap_err().code(), 1009);
    }

    #[test]
    fn compressed_messages_if_agreed_on() {
        let text = "news ".repeat(1000);
        let frame = deflated(&encode_text(&text)).unwrap();
        assert_eq!(frame[0], FIN | RSV1 | TEXT);
        let payload = &frame[if frame[1] == 126 { 4 } else { 2 }..];
        let (first, rest) = payload.split_at(5);
        for frames in [
            vec![client_frame(true, RSV1 | TEXT, payload, [7; 4])],
            vec![client_frame(false, RSV1 | TEXT, first, [7; 4]), client_frame(true, CONTINUATION, rest, [9; 4])],
        ] {
            let mut heard = Vec::new();
            let each = |message: Message<'_>| {
                heard.push(said(message));
                true
            };
            Decoder::new(true).feed(&mut frames.concat(), LIMIT, each).unwrap();
            assert_eq!(heard, [format!("text {text}")]);
            assert_eq!(decode(&[&frames.concat()]).unwrap_err().code(), 1002, "it was not agreed on");
        }
        for (opcode, payload, code) in [
            (RSV1 | PING, &b"x"[..], 1002),
            (RSV1 | CONTINUATION, b"x", 1002),
            (0x20 | TEXT, b"x", 1002),
            (RSV1 | TEXT, b"\xff\xff", 1002),
        ] {
            let mut bytes = client_frame(true, opcode, payload, [1; 4]);
            assert_eq!(Decoder::new(true).feed(&mut bytes, LIMIT, |_| true).unwrap_err().code(), code, "{opcode:x}");
        }
        let mut bytes = client_frame(true, RSV1 | TEXT, payload, [1; 4]);
        assert_eq!(Decoder::new(true).feed(&mut bytes, 1000, |_| true).unwrap_err().code(), 1009);
    }

    #[test]
    fn stops_when_told_to() {
        let mut bytes = [client_frame(true, TEXT, b"1", [0; 4]), client_frame(true, TEXT, b"2", [0; 4])].concat();
        let mut heard = Vec::new();
        let mut decoder = Decoder::default();
        decoder
            .feed(&mut bytes, LIMIT, |message| {
                heard.push(said(message));
                false
            })
            .unwrap();
        assert_eq!(heard, ["text 1"]);
    }

    proptest! {
        /// However the stream is cut, the same messages come out.
        #[test]
        fn any_cut_gives_the_same_messages(
            texts in prop::collection::vec(".{0,200}", 1..6),
            mask in any::<[u8; 4]>(),
            cuts in prop::collection::vec(0usize..2000, 0..8),
        ) {
            let bytes: Vec<u8> = texts.iter().flat_map(|text| client_frame(true, TEXT, text.as_bytes(), mask)).collect();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut % (bytes.len() + 1)).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let chunks: Vec<&[u8]> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
            let expected: Vec<String> = texts.iter().map(|text| format!("text {text}")).collect();
            prop_assert_eq!(decode(&chunks).unwrap(), expected);
        }

        /// Whatever arrives, it is messages or a violation, and memory stays bounded.
        #[test]
        fn garbage_never_panics(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..8)) {
            let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
            let _ = decode(&chunks);
        }
    }
}
