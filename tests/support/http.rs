//! Requests to the endpoints of a running `easq`.

use std::io::{Read, Write};
use std::net::TcpStream;

/// The body of the answer to `GET path`, if there is one.
pub fn get(address: &str, path: &str) -> Option<String> {
    answer(address, path).map(|(_, body)| body)
}

/// The status of the answer to `GET path`, and its body.
pub fn answer(address: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).ok()?;
    // Of version 1.0, so that the answer comes in one piece.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split_whitespace().nth(1)?.parse().ok()?;
    answer.split_once("\r\n\r\n").map(|(_, body)| (status, body.to_owned()))
}
