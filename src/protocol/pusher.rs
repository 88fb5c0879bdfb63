//! Pusher messages, both directions.

/// Why a connection is closed right after its handshake.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// Pusher's close code (protocol section 1, error codes).
    pub code: u16,
    /// Pusher's text for it.
    pub message: &'static str,
}

/// The text of a channel event's message: `data` is put on the wire as a JSON *string* whose
/// content is `data`, byte for byte (protocol section 9).
pub fn channel_event(channel: &str, event: &str, data: &str) -> String {
    let mut text = String::with_capacity(channel.len() + event.len() + data.len() + data.len() / 8 + 48);
    text.push_str("{\"event\":");
    push_json_string(&mut text, event);
    text.push_str(",\"channel\":");
    push_json_string(&mut text, channel);
    text.push_str(",\"data\":");
    push_json_string(&mut text, data);
    text.push('}');
    text
}

/// Appends `value` as a JSON string, quotes included.
pub fn push_json_string(text: &mut String, value: &str) {
    text.push('"');
    let mut plain = 0;
    for (index, byte) in value.bytes().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        text.push_str(&value[plain..index]);
        plain = index + 1;
        match byte {
            b'"' => text.push_str("\\\""),
            b'\\' => text.push_str("\\\\"),
            b'\n' => text.push_str("\\n"),
            b'\r' => text.push_str("\\r"),
            b'\t' => text.push_str("\\t"),
            other => {
                use std::fmt::Write;
                let _ = write!(text, "\\u{other:04x}");
            }
        }
    }
    text.push_str(&value[plain..]);
    text.push('"');
}
