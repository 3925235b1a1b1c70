//! What the measured server says of itself: one figure of its `/metrics`.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use super::BenchError;
use crate::metrics::STORE_INDEX_BYTES;

/// How long the server may take for a piece of its answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest answer that is read.
const LONGEST: u64 = 16 << 20;

/// Bytes of the attribute index in memory, asked of the operations listener at `addr` (`host:port`).
pub fn index_bytes(addr: &str) -> Result<u64, BenchError> {
    let failed = |source: io::Error| BenchError::Connect { addr: addr.to_owned(), source: source.into() };
    let text = get(addr).map_err(failed)?;
    of_metrics(&text)
        .ok_or_else(|| failed(io::Error::other(format!("/metrics does not tell {STORE_INDEX_BYTES}"))))
}

fn get(addr: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

fn of_metrics(text: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(STORE_INDEX_BYTES)?.strip_prefix(' '))?;
    value.trim().parse::<f64>().ok().map(|bytes| bytes as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figure_is_found_among_others() {
        let text = format!(
            "# HELP {STORE_INDEX_BYTES} x\n{STORE_INDEX_BYTES}_more 1\n{STORE_INDEX_BYTES} 118130069\n"
        );
        assert_eq!(of_metrics(&text), Some(118_130_069));
        assert_eq!(of_metrics("nothing 1\n"), None);
    }
}
