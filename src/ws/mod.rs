//! The WebSocket protocol (RFC 6455), server side, as values.

pub mod frame;
