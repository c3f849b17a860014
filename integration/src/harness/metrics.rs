//! Reads what a process counts, as Prometheus does.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};

/// Longest wait for metrics.
const WAIT: Duration = Duration::from_secs(2);

/// All metrics of a process, as text.
///
/// # Errors
///
/// When nobody answers there.
pub fn metrics(of: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(of).context("connect to the metrics")?;
    stream.set_read_timeout(Some(WAIT)).context("set a socket")?;
    write!(
        stream,
        "GET /metrics HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n"
    )
    .context("ask for the metrics")?;
    let mut text = String::new();
    stream.read_to_string(&mut text).context("read the metrics")?;
    Ok(text)
}
