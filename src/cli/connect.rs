//! The connection to a server, and asking again.

use std::future::Future;
use std::time::Duration;

use clap::Args;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use super::failure::{CliError, Failure, Kept};
use crate::proto::attribute_service_client::AttributeServiceClient;

/// The service's client, as all commands use it.
pub type Client = AttributeServiceClient<Channel>;

/// How often a write is sent at most, the first time included.
pub const ATTEMPTS: u32 = 5;

/// A server that asks for a longer pause is left to the caller: the command ends with "try again".
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// The largest message that is taken: several times what a server sends, so that its own bound decides.
const LARGEST_MESSAGE: usize = 64 << 20;

/// Where the server is and how long to wait for it.
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    /// The server's data address.
    #[arg(long, env = "STEADFAST_ADDR", default_value = "http://127.0.0.1:50051", value_name = "URL")]
    pub addr: String,
    /// How long one attempt may take, such as 10s or 500ms.
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = parse_timeout)]
    pub timeout: Duration,
}

/// `10s`, `500ms`, `2m`; from 1 ms to 1 h.
pub fn parse_timeout(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let millis: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        _ => return Err("give a number and a unit: 500ms, 10s, 2m".to_owned()),
    };
    let duration = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(millis)).map(Duration::from_millis);
    duration
        .filter(|d| (1..=3_600_000).contains(&d.as_millis()))
        .ok_or_else(|| "must be between 1ms and 60m".to_owned())
}

impl ServerArgs {
    /// Connects. An error means that nothing was sent.
    pub async fn connect(&self) -> Result<Client, CliError> {
        let channel = channel(&self.addr, self.timeout).await?;
        Ok(AttributeServiceClient::new(channel).max_decoding_message_size(LARGEST_MESSAGE))
    }

    /// A request with this attempt's deadline.
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }
}

/// Connects to `addr`, with or without `http://`. An error means that nothing was sent.
pub async fn channel(addr: &str, timeout: Duration) -> Result<Channel, CliError> {
    let addr = if addr.contains("://") { addr.to_owned() } else { format!("http://{addr}") };
    if !addr.starts_with("http://") {
        return Err(CliError::Usage(format!("--addr {addr}: only http:// is supported")));
    }
    let endpoint = Endpoint::from_shared(addr.clone())
        .map_err(|error| CliError::Usage(format!("--addr {addr}: {error}")))?
        .connect_timeout(timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(20));
    endpoint.connect().await.map_err(|error| CliError::Unreachable { addr, message: innermost(&error) })
}

/// "transport error" alone helps nobody: the cause at the bottom says what happened.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

/// A random request id: 128 bits, 32 hexadecimal digits.
pub fn new_request_id() -> Result<String, CliError> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes)
        .map_err(|error| CliError::file("/dev/urandom", std::io::Error::other(error.to_string())))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

/// How long to wait before the attempt after `attempt` (from 1): what the server asks for, otherwise 0.1 s, 0.2 s,
/// 0.4 s, ... `None`: longer than a command should sit there.
pub fn pause(attempt: u32, asked: Option<Duration>) -> Option<Duration> {
    let own = Duration::from_millis(100 << attempt.saturating_sub(1).min(5));
    let pause = asked.unwrap_or(own);
    (pause <= LONGEST_PAUSE).then_some(pause)
}

/// Sends a write, and sends it again (at most `attempts` times in all, with the same request id) while that may help:
/// the request id makes the server answer what became of the first one instead of writing twice.
///
/// The error's `kept` is about all attempts: once one of them ended in the unknown, a later "not kept" that may pass
/// says nothing about it.
pub async fn write<T, F>(
    request_id: &str,
    attempts: u32,
    mut send: impl FnMut() -> F,
    mut sleep: impl AsyncFnMut(Duration),
) -> Result<T, CliError>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let mut unknown = false;
    let mut attempt = 1;
    loop {
        let status = match send().await {
            Ok(response) => return Ok(response.into_inner()),
            Err(status) => status,
        };
        let mut failure = Failure::of_write(&status);
        unknown |= failure.kept == Some(Kept::Unknown);
        if failure.passes() {
            if let Some(pause) = pause(attempt, failure.retry_after).filter(|_| attempt < attempts) {
                sleep(pause).await;
                attempt += 1;
                continue;
            }
            if unknown {
                failure.kept = Some(Kept::Unknown);
            }
        }
        return Err(CliError::Write {
            failure: Box::new(failure),
            attempts: attempt,
            request_id: request_id.to_owned(),
        });
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tonic::Code;

    use super::*;
    use crate::cli::exit::Exit;
    use crate::cli::failure::tests::status;

    /// Sends against these answers; gives the result, and the pauses made.
    async fn sent(answers: Vec<Result<u32, Status>>, attempts: u32) -> (Result<u32, CliError>, Vec<u64>) {
        let mut answers = VecDeque::from(answers);
        let mut pauses = vec![];
        let send = || {
            let answer = answers.pop_front().expect("no further attempt");
            async move { answer.map(Response::new) }
        };
        let result =
            write("id", attempts, send, async |pause: Duration| pauses.push(pause.as_millis() as u64)).await;
        assert!(answers.is_empty(), "all answers are asked for");
        (result, pauses)
    }

    #[tokio::test]
    async fn a_write_is_sent_again_while_that_may_help() {
        let draining = || Err(status(Code::Unavailable, "DRAINING", "no", None));
        let asked = Err(status(Code::ResourceExhausted, "OVERLOADED", "no", Some(Duration::from_secs(1))));
        let broken = Err(Status::unavailable("connection closed"));
        let (result, pauses) = sent(vec![draining(), asked, broken, Ok(7)], ATTEMPTS).await;
        assert_eq!((result.unwrap(), pauses), (7, vec![100, 1000, 400]));
        let (result, pauses) = sent(vec![draining(), draining()], 2).await;
        assert_eq!((result.unwrap_err().exit(), pauses), (Exit::TryAgain, vec![100]));
    }

    #[tokio::test]
    async fn a_refusal_is_final() {
        let refused = Err(status(Code::InvalidArgument, "TYPE_MISMATCH", "no", None));
        let (result, pauses) = sent(vec![refused], ATTEMPTS).await;
        assert_eq!((result.unwrap_err().exit(), pauses), (Exit::Refused, vec![]));
    }

    #[tokio::test]
    async fn what_one_attempt_left_unknown_stays_so() {
        let unknown = Err(status(Code::DeadlineExceeded, "ACCEPTANCE_UNKNOWN", "unknown", None));
        let later = Err(status(Code::Unavailable, "DRAINING", "no", Some(Duration::from_mins(1))));
        let (result, _) = sent(vec![unknown, later], ATTEMPTS).await;
        assert_eq!(result.unwrap_err().exit(), Exit::Unknown);
    }

    #[test]
    fn timeouts_have_units_and_bounds() {
        assert_eq!(parse_timeout("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_timeout("60m"), Ok(Duration::from_hours(1)));
        for text in ["", "10", "s", "0s", "61m", "1h", "99999999999999999999s", "1.5s"] {
            assert!(parse_timeout(text).is_err(), "{text}");
        }
    }

    #[test]
    fn request_ids_are_new_and_fit() {
        let (one, two) = (new_request_id().unwrap(), new_request_id().unwrap());
        assert_ne!(one, two);
        assert!(one.len() == 32 && one.bytes().all(|b| b.is_ascii_hexdigit()));
    }
}
