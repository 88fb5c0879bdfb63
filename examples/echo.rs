//! An echo server over `ws`, the WebSocket code of the real one, for conformance suites: they need a
//! peer that sends back what it gets. For tests only; nothing of it is in the program.
//!
//! `cargo run --example echo` prints its address, and ends when its standard input does.

use std::borrow::Cow;
use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use laravel_echo_server::ws::frame::{self, Decoder, Message};
use laravel_echo_server::ws::{accept_key, deflate};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Suites send messages of 16 MiB.
const MESSAGE_BYTES_MAX: usize = 32 * 1024 * 1024;

/// As much as a shard reads at once.
const READ_BYTES: usize = 16 * 1024;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    // Whoever started it holds the other end; a thread, since a read of standard input cannot be given up.
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        std::process::exit(0);
    });
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async {
            let served = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service_fn(respond))
                .with_upgrades();
            if let Err(error) = served.await {
                eprintln!("{error}");
            }
        });
    }
}

async fn respond(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, Infallible> {
    let mut response = Response::new(Empty::new());
    let accept = accept_key(request.method(), request.headers()).ok().and_then(|accept| accept.parse().ok());
    let Some(accept) = accept else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    };
    let agreed = deflate::agree(request.headers());
    let upgraded = hyper::upgrade::on(&mut request);
    let inflates = agreed.is_some();
    let deflates = agreed.as_ref().is_some_and(|agreed| agreed.deflates);
    tokio::spawn(async move {
        let Ok(upgraded) = upgraded.await else { return };
        let Ok(parts) = upgraded.downcast::<TokioIo<TcpStream>>() else { return };
        // The suite closes as it likes.
        let _ = echo(parts.io.into_inner(), parts.read_buf.to_vec(), inflates, deflates).await;
    });
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if let Some(agreed) = agreed {
        headers.insert(header::SEC_WEBSOCKET_EXTENSIONS, agreed.answer);
    }
    Ok(response)
}

async fn echo(mut stream: TcpStream, mut first: Vec<u8>, inflates: bool, deflates: bool) -> io::Result<()> {
    let mut decoder = Decoder::new(inflates);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let input = match first.len() {
            0 => match stream.read(&mut buffer).await? {
                0 => return Ok(()),
                bytes => &mut buffer[..bytes],
            },
            _ => first.as_mut_slice(),
        };
        let mut out = Vec::new();
        let mut closed = false;
        let fed = decoder.feed(input, MESSAGE_BYTES_MAX, |message| {
            out.push(match message {
                Message::Text(text) => {
                    let plain = frame::encode_text(&text);
                    Some(&plain).filter(|_| deflates).and_then(|plain| frame::deflated(plain)).unwrap_or(plain)
                }
                Message::Binary(payload) => binary(payload),
                Message::Ping(payload) => frame::encode_pong(payload),
                Message::Pong(_) => return true,
                Message::Close(code) => {
                    closed = true;
                    frame::encode_close(code.unwrap_or(1000), "")
                }
            });
            !closed
        });
        if let Err(violation) = fed {
            out.push(frame::encode_close(violation.code(), &violation.to_string()));
            closed = true;
        }
        for frame in out {
            stream.write_all(&frame).await?;
        }
        if closed {
            return stream.shutdown().await;
        }
        first.clear();
    }
}

/// The server never sends a binary message, so `ws` makes none: a text's header, with another opcode.
fn binary(payload: Cow<'_, [u8]>) -> Bytes {
    let placeholder = "x".repeat(payload.len());
    let mut frame = frame::encode_text(&placeholder).to_vec();
    let header_bytes = frame.len() - payload.len();
    frame[0] = 0x82;
    frame[header_bytes..].copy_from_slice(&payload);
    Bytes::from(frame)
}
