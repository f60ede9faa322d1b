//! `easq status`: what a running process says of itself, where there is no HTTP client at hand.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::settings::Settings;

/// For the connection, and for each piece of the answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Far more than `/status` ever says.
const MAX_BYTES: u64 = 1 << 20;

/// Print what a running process says of itself (/status); exit code 1 where none answers.
#[derive(clap::Args)]
pub(super) struct StatusArgs {
    /// Where it serves HTTP [default: telemetry.listen, of this machine].
    #[arg(long, value_name = "ADDRESS:PORT")]
    address: Option<SocketAddr>,
}

/// Asks the process and prints its answer.
pub(super) fn status(settings: &Settings, args: &StatusArgs, out: &mut dyn Write) -> Result<()> {
    let address = match args.address {
        Some(address) => address,
        None => listening(settings)?,
    };
    let answer = ask(address).with_context(|| format!("no process of easq answers at {address}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split_whitespace().nth(1) {
        Some("200") => Ok(writeln!(out, "{}", body.trim_end())?),
        _ => bail!("{address} is no process of easq: it answers '{}'", head.lines().next().unwrap_or("")),
    }
}

/// Where a process with these settings is reached from its own machine.
fn listening(settings: &Settings) -> Result<SocketAddr> {
    let Ok(mut address) = settings.telemetry.listen.parse::<SocketAddr>() else {
        bail!("telemetry.listen is empty, so a process with these settings serves nothing: name --address");
    };
    match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    Ok(address)
}

/// All of the answer. HTTP 1.0: it comes in one piece, and the connection ends with it.
fn ask(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET /status HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = String::new();
    match stream.take(MAX_BYTES).read_to_string(&mut answer) {
        // What the system calls a read that took too long.
        Err(error) if error.kind() == ErrorKind::WouldBlock => Err(ErrorKind::TimedOut.into()),
        Err(error) => Err(error),
        Ok(_) => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_listens_everywhere_is_asked_on_this_machine() {
        let at = |listen: &str| {
            let mut settings = Settings::default();
            listen.clone_into(&mut settings.telemetry.listen);
            listening(&settings).map(|address| address.to_string()).map_err(|error| error.to_string())
        };
        assert_eq!(at("0.0.0.0:9464"), Ok("127.0.0.1:9464".to_owned()));
        assert_eq!(at("[::]:9464"), Ok("[::1]:9464".to_owned()));
        assert_eq!(at("10.0.0.7:1"), Ok("10.0.0.7:1".to_owned()));
        assert!(at("").unwrap_err().contains("--address"));
    }
}
