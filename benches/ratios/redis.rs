//! Redis: HSET of 8 fields, in pipelines, over its plain text protocol (RESP).

use std::io::Write as _;

use smallvec::smallvec;
use steadfast::bench::measure::{Label, OperationName};
use steadfast::bench::plan::{Answer, Client, Target};
use steadfast::bench::{BenchError, Population};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

/// Connections, as `redis-benchmark` has them; each has one pipeline under way.
pub const CONNECTIONS: usize = 50;
/// Commands of a pipeline.
const PIPELINE: u32 = 16;
const FIELDS: usize = 8;
/// 8 of them are about a profile of 400 bytes.
const VALUE: &str = "0123456789abcdef0123456789abcdef01234567";

/// A Redis.
#[derive(Clone, Debug)]
pub struct Redis {
    addr: String,
    population: Population,
}

/// A connection to it.
pub struct Pipelines {
    population: Population,
    tcp: Mutex<BufReader<TcpStream>>,
}

impl Redis {
    /// The one at `addr`.
    pub fn new(addr: &str, population: &Population) -> Self {
        Self { addr: addr.to_owned(), population: population.clone() }
    }
}

impl Target for Redis {
    type Client = Pipelines;

    async fn connect(&self) -> Result<Pipelines, BenchError> {
        let failed =
            |error: std::io::Error| BenchError::Connect { addr: self.addr.clone(), source: error.into() };
        let tcp = TcpStream::connect(&self.addr).await.map_err(failed)?;
        tcp.set_nodelay(true).map_err(failed)?;
        Ok(Pipelines { population: self.population.clone(), tcp: Mutex::new(BufReader::new(tcp)) })
    }
}

fn bulk(buffer: &mut Vec<u8>, text: &str) {
    // Writing to memory does not fail.
    let _ = write!(buffer, "${}\r\n{text}\r\n", text.len());
}

impl Pipelines {
    async fn pipeline(&self, n: u64) -> std::io::Result<u32> {
        let mut buffer = Vec::with_capacity(PIPELINE as usize * 600);
        for command in 0..u64::from(PIPELINE) {
            let number = n * u64::from(PIPELINE) + command;
            let _ = write!(buffer, "*{}\r\n", 2 + 2 * FIELDS);
            bulk(&mut buffer, "HSET");
            bulk(&mut buffer, &Population::user(self.population.pick(number)));
            for field in 0..FIELDS {
                bulk(&mut buffer, &format!("field_{field}"));
                if field == 0 { bulk(&mut buffer, &number.to_string()) } else { bulk(&mut buffer, VALUE) }
            }
        }
        let mut tcp = self.tcp.lock().await;
        tcp.get_mut().write_all(&buffer).await?;
        let (mut errors, mut line) = (0, Vec::new());
        for _ in 0..PIPELINE {
            line.clear();
            if tcp.read_until(b'\n', &mut line).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            // A number of fields; everything else is an error.
            errors += u32::from(line.first() != Some(&b':'));
        }
        Ok(errors)
    }
}

impl Client for Pipelines {
    fn operation(&self, _: u64) -> OperationName {
        "HSET"
    }

    async fn call(&self, n: u64) -> Answer {
        match self.pipeline(n).await {
            Ok(0) => Answer { items: PIPELINE, ..Answer::one(Label::Good("SET")) },
            Ok(errors) => Answer {
                items: PIPELINE,
                outcomes: smallvec![(Label::Bad("REFUSED".into()), errors)],
                broken: false,
            },
            Err(error) => Answer { broken: true, ..Answer::one(Label::Bad(error.to_string().into())) },
        }
    }
}
