//! What Redis sends (RESP2), as far as a subscriber meets it: read in place, without a copy, and
//! without ever holding more than one message of a bounded length.

use std::ops::Range;

/// How much is read at once, in bytes: hundreds of Laravel's events.
const READ_BYTES: usize = 64 * 1024;

/// The longest line, in bytes: a length, or an error's text.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// The most items that an array may have: a message of a pattern has four.
const ITEMS_MAX: usize = 4;

/// One reply.
#[derive(Debug, Eq, PartialEq)]
pub enum Reply<'a> {
    /// `+OK`, or a number.
    Status(&'a [u8]),
    /// `-ERR …`, without the dash.
    Error(&'a [u8]),
    /// A string, or `None` for null.
    Text(Option<&'a [u8]>),
    /// Strings and numbers, as text; null is empty.
    Array(Items<'a>),
    /// An array whose last item has so many bytes that they are skipped, not kept: the items before it.
    TooLong(Items<'a>),
}

/// The items of an array.
#[derive(Debug, Eq, PartialEq)]
pub struct Items<'a> {
    items: [&'a [u8]; ITEMS_MAX],
    len: usize,
}

impl<'a> std::ops::Deref for Items<'a> {
    type Target = [&'a [u8]];

    fn deref(&self) -> &Self::Target {
        &self.items[..self.len]
    }
}

/// These bytes are not what Redis sends.
#[derive(Debug, Eq, PartialEq)]
pub struct Malformed;

/// What has been read and not yet looked at.
#[derive(Debug)]
pub struct Replies {
    bytes: Vec<u8>,
    unread: Range<usize>,
    /// Of a string that is too long: how much is still to be skipped.
    skip: usize,
    text_bytes_max: usize,
}

/// What stands at some place: a value's bytes and where the next one begins.
enum Value {
    Line { kind: u8, text: Range<usize>, next: usize },
    Text { text: Range<usize>, next: usize },
    Null { next: usize },
    TooLong { next: usize },
    Incomplete,
}

impl Replies {
    /// For strings of at most so many bytes; longer ones are told of and skipped.
    pub fn new(text_bytes_max: usize) -> Self {
        Self { bytes: vec![0; READ_BYTES], unread: 0..0, skip: 0, text_bytes_max }
    }

    /// Where to read to; never empty.
    pub fn room(&mut self) -> &mut [u8] {
        if self.unread.is_empty() {
            self.unread = 0..0;
            if self.bytes.len() > READ_BYTES {
                self.bytes = vec![0; READ_BYTES];
            }
        } else if self.unread.end == self.bytes.len() {
            self.bytes.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
            if self.unread.end > self.bytes.len() / 2 {
                self.bytes.resize(self.bytes.len() * 2, 0);
            }
        }
        &mut self.bytes[self.unread.end..]
    }

    /// So many bytes have been read.
    pub fn filled(&mut self, bytes: usize) {
        self.unread.end += bytes;
        let skipped = self.skip.min(self.unread.len());
        self.unread.start += skipped;
        self.skip -= skipped;
    }

    /// The next reply that is here as a whole.
    pub fn next(&mut self) -> Result<Option<Reply<'_>>, Malformed> {
        match self.value(self.unread.start)? {
            Value::Incomplete => Ok(None),
            Value::Line { kind: b'*', text, next } => self.array(text, next),
            Value::Line { kind, text, next } => {
                self.unread.start = next;
                let text = &self.bytes[text];
                Ok(Some(if kind == b'-' { Reply::Error(text) } else { Reply::Status(text) }))
            }
            Value::Text { text, next } => {
                self.unread.start = next;
                Ok(Some(Reply::Text(Some(&self.bytes[text]))))
            }
            Value::Null { next } => {
                self.unread.start = next;
                Ok(Some(Reply::Text(None)))
            }
            Value::TooLong { .. } => Err(Malformed),
        }
    }

    fn array(&mut self, length: Range<usize>, mut next: usize) -> Result<Option<Reply<'_>>, Malformed> {
        let len = match number(&self.bytes[length]).ok_or(Malformed)? {
            -1 => {
                self.unread.start = next;
                return Ok(Some(Reply::Text(None)));
            }
            len => usize::try_from(len).ok().filter(|len| *len <= ITEMS_MAX).ok_or(Malformed)?,
        };
        let mut places = [const { 0..0 }; ITEMS_MAX];
        for (index, place) in places.iter_mut().take(len).enumerate() {
            match self.value(next)? {
                Value::Incomplete => return Ok(None),
                Value::Line { kind: b'*', .. } => return Err(Malformed),
                Value::Line { text, next: after, .. } | Value::Text { text, next: after } => {
                    (*place, next) = (text, after);
                }
                Value::Null { next: after } => next = after,
                // Only what is published is ever so long, and it comes last.
                Value::TooLong { next: after } if index + 1 == len => {
                    self.skip = after - self.unread.end.min(after);
                    self.unread.start = after.min(self.unread.end);
                    return Ok(Some(Reply::TooLong(self.items(places, index))));
                }
                Value::TooLong { .. } => return Err(Malformed),
            }
        }
        self.unread.start = next;
        Ok(Some(Reply::Array(self.items(places, len))))
    }

    fn items(&self, places: [Range<usize>; ITEMS_MAX], len: usize) -> Items<'_> {
        Items { items: places.map(|place| &self.bytes[place]), len }
    }

    /// The value that begins at this index.
    fn value(&self, at: usize) -> Result<Value, Malformed> {
        let unread = &self.bytes[at.min(self.unread.end)..self.unread.end];
        let Some(end) = unread.iter().take(LINE_BYTES_MAX).position(|byte| *byte == b'\r') else {
            return if unread.len() < LINE_BYTES_MAX { Ok(Value::Incomplete) } else { Err(Malformed) };
        };
        match unread.get(end + 1) {
            None => return Ok(Value::Incomplete),
            Some(b'\n') => {}
            Some(_) => return Err(Malformed),
        }
        let (text, next) = (at + 1..at + end, at + end + 2);
        match unread[0] {
            kind @ (b'+' | b'-' | b':' | b'*') => Ok(Value::Line { kind, text, next }),
            b'$' => match number(&self.bytes[text]).ok_or(Malformed)? {
                -1 => Ok(Value::Null { next }),
                length => {
                    let length = usize::try_from(length).map_err(|_| Malformed)?;
                    let end = next.checked_add(length).ok_or(Malformed)?;
                    let after = end.checked_add(2).ok_or(Malformed)?;
                    if length > self.text_bytes_max {
                        return Ok(Value::TooLong { next: after });
                    }
                    if after > self.unread.end {
                        return Ok(Value::Incomplete);
                    }
                    if &self.bytes[end..after] != b"\r\n" {
                        return Err(Malformed);
                    }
                    Ok(Value::Text { text: next..end, next: after })
                }
            },
            _ => Err(Malformed),
        }
    }
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A command, as Redis wants it.
pub fn command(words: &[&str]) -> Vec<u8> {
    let mut command = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        command.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MESSAGES: &[u8] = b"*3\r\n$10\r\npsubscribe\r\n$1\r\n*\r\n:1\r\n\
        *4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$2\r\na\xff\r\n$7\r\n{\"a\r\n\"}\r\n\
        *2\r\n$4\r\npong\r\n$0\r\n\r\n-NOPERM no\r\n+OK\r\n:7\r\n$-1\r\n*-1\r\n$2\r\nhi\r\n*0\r\n";

    const READ: [&str; 10] = [
        "[psubscribe|*|1]",
        "[pmessage|*|a\\xff|{\\\"a\\r\\n\\\"}]",
        "[pong|]",
        "error NOPERM no",
        "OK",
        "7",
        "null",
        "null",
        "hi",
        "[]",
    ];

    fn shown(reply: &Reply<'_>) -> String {
        let list =
            |items: &Items<'_>| items.iter().map(|item| item.escape_ascii().to_string()).collect::<Vec<_>>().join("|");
        match reply {
            Reply::Status(text) | Reply::Text(Some(text)) => text.escape_ascii().to_string(),
            Reply::Error(text) => format!("error {}", text.escape_ascii()),
            Reply::Text(None) => "null".to_owned(),
            Reply::Array(items) => format!("[{}]", list(items)),
            Reply::TooLong(items) => format!("too long [{}]", list(items)),
        }
    }

    /// Feeds the bytes in pieces of these lengths, in turn.
    fn read(max: usize, bytes: &[u8], pieces: &[usize]) -> Result<Vec<String>, Malformed> {
        let mut replies = Replies::new(max);
        let mut all = Vec::new();
        let mut rest = bytes;
        let mut pieces = pieces.iter().cycle();
        while !rest.is_empty() {
            let room = replies.room();
            let piece = room.len().min(rest.len()).min(*pieces.next().unwrap());
            room[..piece].copy_from_slice(&rest[..piece]);
            rest = &rest[piece..];
            replies.filled(piece);
            while let Some(reply) = replies.next()? {
                all.push(shown(&reply));
            }
        }
        if !replies.unread.is_empty() {
            all.push("(more)".to_owned());
        }
        Ok(all)
    }

    proptest! {
        #[test]
        fn any_pieces_give_the_same(pieces in prop::collection::vec(1usize..40, 1..20)) {
            prop_assert_eq!(read(100, MESSAGES, &pieces), Ok(READ.map(str::to_owned).to_vec()));
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(prop_oneof![Just(b'*'), Just(b'$'), Just(b'\r'), Just(b'\n'), Just(b'4'), any::<u8>()], 1..200)) {
            let _ = read(10, &bytes, &[7, 3]);
        }
    }

    #[test]
    fn what_is_too_long_is_skipped_and_told() {
        let long = "x".repeat(300_000);
        let message = |payload: &str| {
            format!("*4\r\n$8\r\npmessage\r\n$1\r\n*\r\n$1\r\nc\r\n${}\r\n{payload}\r\n", payload.len())
        };
        let bytes = [message("a"), message(&long), message("b")].concat();
        for pieces in [&[usize::MAX][..], &[1000], &[1]] {
            let read = read(100_000, bytes.as_bytes(), pieces).unwrap();
            assert_eq!(read, ["[pmessage|*|c|a]", "too long [pmessage|*|c]", "[pmessage|*|c|b]"]);
        }
        // What fits is kept, and the room for it given back.
        let mut replies = Replies::new(1_000_000);
        for byte in message(&long).bytes() {
            replies.room()[0] = byte;
            replies.filled(1);
        }
        assert!(matches!(replies.next(), Ok(Some(Reply::Array(items))) if items[3].len() == long.len()));
        assert_eq!(replies.room().len(), READ_BYTES);
    }

    #[test]
    fn what_is_no_redis() {
        for bytes in [
            &b"HTTP/1.1 400 Bad Request\r\n"[..],
            b"*5\r\n",
            b"*-2\r\n",
            b"*x\r\n",
            b"*1\r\n*0\r\n",
            b"$-5\r\n",
            b"$1\r\nabc",
            b"+O\rK",
            b"\r\n",
            b"*2\r\n$101\r\n",
            b"$101\r\n",
            b"$9223372036854775807\r\n",
            &[b'+'; LINE_BYTES_MAX],
        ] {
            assert_eq!(read(100, bytes, &[usize::MAX]), Err(Malformed), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn commands() {
        assert_eq!(command(&["AUTH", "ü"]), "*2\r\n$4\r\nAUTH\r\n$2\r\nü\r\n".as_bytes());
    }
}
